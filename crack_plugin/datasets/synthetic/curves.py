"""Curves of changing width: cracks, lines, and how they are drawn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.noise import autoregressive
from crack_plugin.datasets.synthetic.view import View

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
    rng: np.random.Generator,
    start: np.ndarray,
    heading: float,
    length: float,
    wavy: float,
    jagged: float,
    step: float = 2.0,
) -> np.ndarray:
    """A random walk that keeps its heading: slow bends and jags, with these a kink now and then, (n, 2)."""
    n = max(4, int(length / step))
    kinks = np.cumsum(rng.normal(0, 0.45, n) * (rng.random(n) < (0.015 if jagged else 0)))
    angle = heading + kinks + wavy * autoregressive(rng, n, 14) + jagged * autoregressive(rng, n, 1.6)
    steps = step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def until_outside(points: np.ndarray, size: tuple[int, int], margin: float = 4) -> np.ndarray:
    height, width = size
    outside = ((points < -margin) | (points > (width + margin, height + margin))).any(axis=1)
    return points[: max(2, int(outside.argmax()))] if outside.any() else points


def render_strokes(strokes: Sequence[Stroke], size: tuple[int, int]) -> np.ndarray:
    """Coverage of curves times their depth.

    Returns:
        Shape (H, W), float32 from 0 to 1.
    """
    return _render([(s.points, s.widths, s.depths) for s in strokes], size)


def render_labels(strokes: Sequence[Stroke], view: View, margin: float) -> np.ndarray:
    """Coverage of curves that are widened by ``margin`` pixels of the picture on either side.

    Returns:
        Shape (H, W) of the canvas, float32 from 0 to 1.
    """
    curves = []
    for points, widths, _ in strokes:
        mean, largest = view.spacing(points)
        smooth = cv2.blur(widths[:, None], (1, 9))[:, 0]
        # A hairline's label would fall apart into pixels.
        curves.append((points, np.maximum(smooth + 2 * margin * mean, 1.6 * largest), np.ones(len(points))))
    return _render(curves, view.canvas)


def _render(curves: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    if not curves:
        return np.zeros(size, np.float32)
    # Fractions of a pixel do not show in a wide curve.
    finest = min(float(np.median(widths)) for _, widths, _ in curves)
    factor = _SUPERSAMPLING if finest < 6 else 2 if finest < 16 else 1
    canvas = np.zeros((size[0] * factor, size[1] * factor), np.uint8)
    for points, widths, values in curves:
        # Four fractional bits: `shift` of cv2.line.
        pixels = np.rint(((points + 0.5) * factor - 0.5) * 16).astype(int).tolist()
        pens = np.maximum(1, np.rint(widths * factor)).astype(int).tolist()
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
