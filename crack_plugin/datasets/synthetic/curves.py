"""Curves of changing width: cracks, lines, and how they are drawn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import Voronoi

from crack_plugin.datasets.synthetic.noise import autoregressive, fractal_noise

# Curves are drawn this many times larger and averaged down, because crack widths are fractions of pixels.
_SUPERSAMPLING = 3


class Stroke(NamedTuple):
    """A curve of changing width.

    Attributes:
        points: Shape (n, 2): x and y in pixels.
        widths: Shape (n,), pixels.
        depths: Shape (n,): 0 is invisible, 1 as dark as the curve gets.
    """

    points: np.ndarray
    widths: np.ndarray
    depths: np.ndarray


def random_walk(
    rng: np.random.Generator, start: np.ndarray, heading: float, length: float, wavy: float, jagged: float
) -> np.ndarray:
    """A random walk that keeps its heading: slow bends and fast jags around it, and a kink now and then, (n, 2)."""
    step = 2.0
    n = max(4, int(length / step))
    kinks = np.cumsum(rng.normal(0, 0.45, n) * (rng.random(n) < 0.015))
    angle = heading + kinks + wavy * autoregressive(rng, n, 14) + jagged * autoregressive(rng, n, 1.6)
    steps = step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _until_outside(points: np.ndarray, size: tuple[int, int], margin: float = 4) -> np.ndarray:
    height, width = size
    outside = ((points < -margin) | (points > (width + margin, height + margin))).any(axis=1)
    return points[: max(2, int(outside.argmax()))] if outside.any() else points


def crack_stroke(rng: np.random.Generator, points: np.ndarray, width: float, depth: float, taper: float) -> Stroke:
    """Give a curve a crack's uneven width and darkness; ``taper`` is the share of its length that thins out."""
    n = len(points)
    end = np.clip((n - np.arange(n)) / max(1, taper * n), 0.35, 1)
    widths = width * end * np.exp(0.3 * autoregressive(rng, n, 12) + 0.25 * autoregressive(rng, n, 1))
    depths = depth * np.sqrt(end) * np.exp(0.15 * autoregressive(rng, n, 8))
    # Where sand fills the crack, it fades or breaks off; people annotate it all the same.
    faint = autoregressive(rng, n, 10) > rng.uniform(0.9, 2.5)
    depths = np.where(cv2.blur(faint.astype(np.float32), (1, 5))[:, 0] > 0.5, rng.uniform(0.2, 0.7) * depths, depths)
    return Stroke(points, np.clip(widths, 0.8, 8), np.clip(depths, 0, 1))


def branching_crack(rng: np.random.Generator, size: tuple[int, int], width: float, depth: float) -> list[Stroke]:
    """A crack with its branches, the trunk last."""
    height, width_px = size
    wavy, jagged = rng.uniform(0.15, 0.5), rng.uniform(0.2, 0.7)
    length = max(size) * rng.uniform(0.5, 2)
    if rng.random() < 0.75:
        side, along = rng.integers(4), rng.uniform(0.08, 0.92)
        start = np.array([(along, 0), (1, along), (along, 1), (0, along)])[side] * (width_px, height)
        headings = [(np.pi / 2, np.pi, -np.pi / 2, 0)[side] + rng.normal(0, 0.35)]
    else:
        start = rng.uniform(0.15, 0.85, 2) * (width_px, height)
        heading = rng.uniform(0, 2 * np.pi)
        headings = [heading, heading + np.pi]
        length /= 2
    strokes, parents = [], []
    for heading in headings:
        # The longest of a few, because a walk from the edge may leave at once and would show no crack.
        walks = [_until_outside(random_walk(rng, start, heading, length, wavy, jagged), size) for _ in range(3)]
        trunk = max(walks, key=len)
        strokes.append(crack_stroke(rng, trunk, width, depth, rng.uniform(0.02, 0.5)))
        parents.append((trunk, width))
    for _ in range(rng.poisson(1.3)):
        parent, parent_width = parents[rng.integers(len(parents))]
        i = int(rng.integers(1, len(parent)))
        tangent = np.arctan2(*(parent[i] - parent[max(0, i - 6)])[::-1])
        turn = rng.uniform(0.4, 1.3) * rng.choice([-1, 1])
        reach = max(size) * rng.uniform(0.08, 0.6)
        branch = _until_outside(random_walk(rng, parent[i], tangent + turn, reach, wavy, jagged), size)
        branch_width = parent_width * rng.uniform(0.5, 0.95)
        strokes.append(crack_stroke(rng, branch, branch_width, depth * rng.uniform(0.7, 1), rng.uniform(0.2, 0.7)))
        parents.append((branch, branch_width))
    return strokes[::-1]


def crack_network(rng: np.random.Generator, size: tuple[int, int], width: float, depth: float) -> list[Stroke]:
    """Alligator cracking: jagged cell borders (a Voronoi diagram) within an irregular zone."""
    height, width_px = size
    cell = max(12.0, rng.uniform(0.09, 0.25) * math.sqrt(height * width_px))
    xs, ys = np.meshgrid(np.arange(-cell, width_px + cell, cell), np.arange(-cell, height + cell, cell))
    seeds = np.stack([xs.ravel(), ys.ravel()], axis=1) + rng.normal(0, 0.3 * cell, (xs.size, 2))
    diagram = Voronoi(seeds)
    zone = fractal_noise(rng, size, 0.4 * max(size)) + rng.uniform(-1.2, 0.7)
    zone[tuple(rng.integers(0, size))] = np.inf
    peak = np.array(np.unravel_index(int(zone.argmax()), size))[::-1]
    jagged = rng.uniform(0.25, 0.6)
    strokes = []
    ends = np.array([diagram.vertices[list(ridge)] for ridge in diagram.ridge_vertices if -1 not in ridge])
    # The outermost cells reach far beyond the picture.
    ends = ends[np.hypot(*(ends[:, 1] - ends[:, 0]).T) < 2 * cell]
    middles = ends.mean(axis=1)
    pixels = np.clip(middles.astype(int), 0, (width_px - 1, height - 1))
    chosen = (zone[pixels[:, 1], pixels[:, 0]] > 0) & (rng.random(len(ends)) < 0.9)
    chosen[np.argmin(((middles - peak) ** 2).sum(axis=1))] = True
    for start, end in ends[chosen]:
        length = float(np.hypot(*(end - start)))
        walk = random_walk(rng, start, float(np.arctan2(*(end - start)[::-1])), length, 0.3, jagged)
        share = np.linspace(0, 1, len(walk))[:, None]
        points = walk + share * (end - walk[-1])
        strokes.append(crack_stroke(rng, points, width * rng.uniform(0.5, 1.2), depth * rng.uniform(0.5, 1), 0))
    return strokes


def render_strokes(strokes: Sequence[Stroke], size: tuple[int, int], margin: float | None = None) -> np.ndarray:
    """Coverage of curves times their depth; with a ``margin`` in pixels, of widened curves without it.

    Returns:
        Shape (H, W), float32 from 0 to 1.
    """
    canvas = np.zeros((size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), np.uint8)
    for points, widths, depths in strokes:
        # Four fractional bits: `shift` of cv2.line.
        pixels = np.rint((points * _SUPERSAMPLING) * 16).astype(int).tolist()
        if margin is None:
            thickness, values = widths, depths
        else:
            smooth = cv2.blur(widths[:, None], (1, 9))[:, 0]
            # A hairline's label would fall apart into pixels.
            thickness, values = np.maximum(smooth + 2 * margin, 1.6), np.ones_like(depths)
        pens = np.maximum(1, np.rint(thickness * _SUPERSAMPLING)).astype(int).tolist()
        greys = np.rint(values * 255).astype(int).tolist()
        for start, end, pen, grey in zip(pixels, pixels[1:], pens, greys, strict=False):
            cv2.line(canvas, start, end, grey, pen, cv2.LINE_8, 4)
    return cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def straight_line(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two points outside the picture whose line crosses it, (2, 2)."""
    height, width = size
    through = rng.uniform(0.1, 0.9, 2) * (width, height)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    reach = 1.5 * max(size) * np.array([math.cos(angle), math.sin(angle)])
    return np.stack([through - reach, through + reach])


def even_stroke(ends: np.ndarray, width: float, depth: float = 1) -> Stroke:
    return Stroke(ends, np.full(len(ends), width), np.full(len(ends), depth))
