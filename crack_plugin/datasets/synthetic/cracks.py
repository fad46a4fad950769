"""The courses that cracks take: branching, braided, mapped, along the joints of a wall."""

import math

import cv2
import numpy as np
from scipy.spatial import Voronoi
from skimage.graph import route_through_array

from crack_plugin.datasets.synthetic.curves import Stroke, random_walk, until_outside
from crack_plugin.datasets.synthetic.noise import autoregressive, fractal_noise, log_uniform


def crack_stroke(rng: np.random.Generator, points: np.ndarray, width: float, depth: float, taper: float) -> Stroke:
    """Give a curve a crack's uneven width and darkness; ``taper`` is the share of its length that thins out."""
    n = len(points)
    end = np.clip((n - np.arange(n)) / max(1, taper * n), min(0.35, 1 / width), 1)
    # The edges of wide cracks are roughened later, all at once.
    fast = 0.25 / max(1, width / 2)
    widths = width * end * np.exp(0.3 * autoregressive(rng, n, 12) + fast * autoregressive(rng, n, 1))
    depths = depth * np.sqrt(np.maximum(end, 0.35)) * np.exp(0.15 * autoregressive(rng, n, 8))
    # Into a wide crack no light falls.
    depths = np.minimum(depths, 1) ** (1 / max(1, width / 4))
    # Where sand fills the crack, it fades or breaks off; people annotate it all the same.
    faint = autoregressive(rng, n, 10) > rng.uniform(0.9, 2.5)
    depths = np.where(cv2.blur(faint.astype(np.float32), (1, 5))[:, 0] > 0.5, rng.uniform(0.2, 0.7) * depths, depths)
    return Stroke(points, np.clip(widths, 0.7, max(8, 2.2 * width)), np.clip(depths, 0, 1))


def branching_crack(
    rng: np.random.Generator,
    size: tuple[int, int],
    width: float,
    depth: float,
    branches: float = 1.3,
    grain: float | None = None,
) -> list[Stroke]:
    """A crack with its branches, the trunk last; along the ``grain`` of the material, if it has one (radians)."""
    height, width_px = size
    wavy, jagged = rng.uniform(0.1, 0.5), rng.uniform(0.15, 0.7)
    if grain is not None:
        wavy, jagged = 0.3 * wavy, 0.3 * jagged
    step = max(2.0, width / 5)
    length = max(size) * rng.uniform(0.5, 2)
    if grain is None and rng.random() < 0.75:
        side, along = rng.integers(4), rng.uniform(0.08, 0.92)
        start = np.array([(along, 0), (1, along), (along, 1), (0, along)])[side] * (width_px, height)
        headings = [(np.pi / 2, np.pi, -np.pi / 2, 0)[side] + rng.normal(0, 0.35)]
        # A wide crack goes on beyond the edge.
        start = start - width * np.array([math.cos(headings[0]), math.sin(headings[0])])
    else:
        start = rng.uniform(0.15, 0.85, 2) * (width_px, height)
        heading = rng.uniform(0, 2 * np.pi) if grain is None else grain + rng.normal(0, 0.04)
        headings = [heading, heading + np.pi]
        length /= 2
    strokes, parents = [], []
    for heading in headings:
        # The longest of a few, because a walk from the edge may leave at once and would show no crack.
        walks = [
            until_outside(random_walk(rng, start, heading, length, wavy, jagged, step), size, 4 + 1.5 * width)
            for _ in range(3)
        ]
        trunk = max(walks, key=len)
        strokes.append(crack_stroke(rng, trunk, width, depth, rng.uniform(0.02, 0.5)))
        parents.append((trunk, width))
    for _ in range(rng.poisson(branches)):
        parent, parent_width = parents[rng.integers(len(parents))]
        i = int(rng.integers(1, len(parent)))
        tangent = np.arctan2(*(parent[i] - parent[max(0, i - 6)])[::-1])
        turn = rng.uniform(0.4, 1.3) * rng.choice([-1, 1])
        reach = max(size) * rng.uniform(0.08, 0.6)
        branch = until_outside(random_walk(rng, parent[i], tangent + turn, reach, wavy, jagged), size)
        branch_width = parent_width * rng.uniform(0.25, 0.95)
        strokes.append(crack_stroke(rng, branch, branch_width, depth * rng.uniform(0.7, 1), rng.uniform(0.2, 0.7)))
        parents.append((branch, branch_width))
    if rng.random() < 0.15:
        strokes += _strands(rng, parents[0][0], width, depth)
    return strokes[::-1]


def _strands(rng: np.random.Generator, trunk: np.ndarray, width: float, depth: float) -> list[Stroke]:
    """Thinner cracks that leave a crack and join it again, and cut islands out of the surface."""
    strokes = []
    for _ in range(1 + rng.poisson(0.8)):
        n = int(rng.uniform(0.05, 0.35) * len(trunk))
        if n < 8:
            continue
        i = int(rng.integers(0, len(trunk) - n))
        piece = trunk[i : i + n]
        along = piece[-1] - piece[0]
        normal = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-6)
        bulge = rng.choice([-1, 1]) * (width + log_uniform(rng, 3, 25))
        shape = np.sin(np.linspace(0, np.pi, n)) ** rng.uniform(0.4, 1) + 0.15 * autoregressive(rng, n, 5)
        points = piece + bulge * shape[:, None] * normal
        strokes.append(crack_stroke(rng, points, width * rng.uniform(0.2, 0.8), depth * rng.uniform(0.6, 1), 0))
    return strokes


def crack_network(rng: np.random.Generator, size: tuple[int, int], width: float, depth: float) -> list[Stroke]:
    """Alligator cracking: jagged cell borders (a Voronoi diagram) within an irregular zone."""
    height, width_px = size
    cell = max(12.0, 3 * width, rng.uniform(0.085, 0.3) * math.sqrt(height * width_px))
    xs, ys = np.meshgrid(np.arange(-cell, width_px + cell, cell), np.arange(-cell, height + cell, cell))
    seeds = np.stack([xs.ravel(), ys.ravel()], axis=1) + rng.normal(0, 0.3 * cell, (xs.size, 2))
    diagram = Voronoi(seeds)
    zone = fractal_noise(rng, size, 0.4 * max(size)) + rng.uniform(-1.2, 0.9)
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
        strokes.append(crack_stroke(rng, points, width * rng.uniform(0.4, 1.2), depth * rng.uniform(0.5, 1), 0))
    return strokes


def joint_crack(rng: np.random.Generator, joints: np.ndarray, width: float, depth: float) -> list[Stroke]:
    """A crack that follows the joints of a wall in steps, and here and there breaks through a stone.

    Args:
        rng: Source of chance.
        joints: Shape (H, W), 0 to 1: the joints' coverage.
        width: Pixels.
        depth: See ``Stroke``.

    Returns:
        One stroke, and sometimes a branch.
    """
    size = joints.shape
    stride = max(1, math.ceil(max(size) / 110))
    height, width_px = size[0] // stride, size[1] // stride
    coarse = cv2.dilate(joints, np.ones((stride, stride), np.uint8))[::stride, ::stride][:height, :width_px]
    through_stone = log_uniform(rng, 2.5, 40)
    cost = np.where(coarse > 0.4, 1.0, through_stone) * np.exp(0.5 * fractal_noise(rng, coarse.shape, 12))
    first = rng.uniform(-0.1, 1.1)
    last = np.clip(first + rng.normal(0, 0.45), 0, 1)
    start, end = [(0, np.clip(first, 0, 1)), (1, last)]
    if rng.random() < 0.35:
        start, end = start[::-1], end[::-1]
    corner = np.array([height - 1, width_px - 1])
    nodes = [tuple(np.rint(np.array(place) * corner).astype(int).tolist()) for place in (start, end)]
    route = np.array(route_through_array(cost, nodes[0], nodes[1])[0], float)[:, ::-1]
    n = len(route)
    if rng.random() < 0.4:
        # It ends within the picture.
        route = route[: max(4, int(rng.uniform(0.35, 0.9) * n))]
    if rng.random() < 0.5:
        route = route[::-1]
    smooth = cv2.blur(route, (1, 3), borderType=cv2.BORDER_REPLICATE)
    dense = np.stack(
        [np.interp(np.arange(0, len(route) - 1, 2 / stride), np.arange(len(route)), smooth[:, k]) for k in (0, 1)],
        axis=1,
    )
    wander = np.stack([autoregressive(rng, len(dense), 5) for _ in range(2)], axis=1)
    points = (dense + 0.5) * stride - 0.5 + 0.4 * stride * wander
    strokes = [crack_stroke(rng, points, width, depth, rng.uniform(0, 0.5))]
    if rng.random() < 0.3:
        heading = rng.uniform(0, 2 * np.pi)
        start_point = points[int(rng.integers(len(points)))]
        branch = until_outside(random_walk(rng, start_point, heading, 0.3 * max(size), 0.3, 0.5), size)
        strokes.append(crack_stroke(rng, branch, 0.7 * width, depth, 0.5))
    return strokes
