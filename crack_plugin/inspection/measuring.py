"""Length, width and direction of one crack of any size, and its centreline: pure functions."""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from crack_plugin.evaluation.geometry import SMOOTHING, is_inside, lengths_to_tips, smoothed_path
from crack_plugin.inspection.bands import Box, Crack
from crack_plugin.skeleton import Skeleton, centreline, pixel_graph, walk, without_pinholes

TILE, HALO = 2048, 128
"""The skeleton of a crack that a square of ``TILE`` pixels does not hold is made in such tiles. Each sees ``HALO`` more
pixels around it, so that cracks of up to half of that width have the skeleton they would have as a whole."""

_LOOP = 50
"""Pixels of a loop, or of a line between two junctions, that is smoothed like a line with a tip."""

_DISC_ERROR = 0.75
"""How much a straight crack may be wider than the largest disc in it, in pixels."""

_PIXELS_AT_ONCE = 1_000_000


@dataclass(frozen=True, eq=False)
class Measured:
    """A crack as a graph along its centreline, in pixels; its pixels' centres have whole numbers as places.

    Attributes:
        length: Of the centrelines, branches included, from tip to tip.
        mean_width: Over the length.
        max_width: Largest of ``widths``.
        orientation: Mean direction in degrees, in [0, 180): 0 is horizontal, 45 rises to the right, 90 is vertical.
            None for a speck, and where all directions balance.
        path: Row and column of the nodes, shape (n, 2), float64.
        edges: Pairs of nodes, shape (m, 2), int.
        widths: At the nodes, shape (n,).
        lacking: How far the tip of the crack is from the node, in the direction of the path; 0 but at ends. Shape (n,).
    """

    length: float
    mean_width: float
    max_width: float
    orientation: float | None
    path: np.ndarray
    edges: np.ndarray
    widths: np.ndarray
    lacking: np.ndarray


def measure(crack: Crack, shape: tuple[int, int], tile: int = TILE, halo: int = HALO) -> Measured:
    """Measure a crack.

    Length and direction are those of :func:`~crack_plugin.evaluation.geometry.measure_cracks`. Widths are areas by
    lengths: each pixel of the crack belongs to the nearest node of the skeleton, and a node's width is the number of
    its pixels by its share of the length, both averaged along the crack (a Gaussian of 3 px standard deviation). The
    area of a drawn shape is that of its pixels on average, whatever its direction, so that the mean width of a straight
    crack is right to a few hundredths of a pixel; the largest disc that fits, by which whole images are measured, is
    up to 0.7 px off. At junctions at right angles it is about the mean of the branches' widths, where a disc would be
    wider than each; at acute angles it is more, because the branches run into one another. Where the crack bulges, it
    is no wider than a disc may be.

    Args:
        crack: Its pixels.
        shape: (H, W) of the image, whose border does not end a crack.
        tile: See :data:`TILE`.
        halo: See :data:`HALO`.
    """
    skeleton, discs = _centreline(crack, shape, tile, halo)
    path = smoothed_path(skeleton, _smoothing(skeleton))
    lacking = lengths_to_tips(skeleton, path, discs, lambda places: _is_inside(crack, places))
    steps = path[skeleton.edges[:, 1]] - path[skeleton.edges[:, 0]]
    # As complex numbers, right and up (rows grow downwards): the square of a direction has twice its angle.
    directions = steps[:, 1] - 1j * steps[:, 0]
    lengths = np.abs(directions)
    resultant = np.sum(directions**2 / np.maximum(lengths, 1e-9))
    if len(path) == 1:
        # A blob that shrank to a pixel: the largest disc in it is shorter than it is long.
        lacking = np.maximum(lacking, max(crack.box.bottom - crack.box.top, crack.box.right - crack.box.left))
    # Half of each step belongs to either of its nodes.
    shares = np.bincount(skeleton.edges.ravel(), np.repeat(lengths, 2) / 2, minlength=len(path)) + lacking
    areas, around, fitting = (_along(skeleton, each) for each in (_areas(crack, skeleton), shares, discs))
    # What is too short for a branch has an area, and no length.
    widths = np.minimum(areas / np.maximum(around, 1e-9), fitting + _DISC_ERROR)
    length = float(shares.sum())
    return Measured(
        length=length,
        mean_width=float(np.average(widths, weights=around)),
        max_width=float(widths.max()),
        orientation=float(np.degrees(np.angle(resultant)) / 2 % 180) if abs(resultant) > 1e-6 * length else None,
        path=path,
        edges=skeleton.edges,
        widths=widths,
        lacking=lacking,
    )


def _smoothing(skeleton: Skeleton) -> np.ndarray:
    """Strength of the smoothing at each node, shape (n,): less on short loops, which it would draw together.

    A ring of radius r shrinks by exp(-s^2 / 2 r^2) under a Gaussian of standard deviation s.
    """
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    on_line = np.flatnonzero(degrees <= 2)
    count, lines = sparse.csgraph.connected_components(graph[on_line][:, on_line], directed=False)
    has_tip = np.bincount(lines, degrees[on_line] < 2, minlength=count) > 0
    strengths = np.where(has_tip, 1.0, np.minimum(1.0, (np.bincount(lines, minlength=count) / _LOOP) ** 2))
    strength = np.ones(len(degrees))
    strength[on_line] = strengths[lines]
    return strength


def _centreline(crack: Crack, shape: tuple[int, int], tile: int, halo: int) -> tuple[Skeleton, np.ndarray]:
    """Skeleton, in places of the image, and widths of the discs on it."""
    top, left, bottom, right = crack.box
    if (bottom - top) * (right - left) <= tile**2:
        return _centreline_in(crack, crack.box, shape, 1)
    pixels, widths = [], []
    for row, column in itertools.product(range(top, bottom, tile), range(left, right, tile)):
        core = Box(row, column, min(row + tile, bottom), min(column + tile, right))
        if not crack.mask(core).any():
            continue
        part, own = _centreline_in(crack, core, shape, halo)
        inside = ((part.pixels >= core[:2]) & (part.pixels < core[2:])).all(axis=1)
        pixels.append(part.pixels[inside])
        widths.append(own[inside])
    every = np.concatenate(pixels)
    order = np.lexsort((every[:, 1], every[:, 0]))
    skeleton = pixel_graph(every[order])
    return _joined_at_seams(skeleton, (top, left), tile), np.concatenate(widths)[order]


def _centreline_in(crack: Crack, box: Box, shape: tuple[int, int], margin: int) -> tuple[Skeleton, np.ndarray]:
    """The same of what a rectangle and a margin around it hold, as far as the image reaches."""
    window = Box(
        max(box.top - margin, 0),
        max(box.left - margin, 0),
        min(box.bottom + margin, shape[0]),
        min(box.right + margin, shape[1]),
    )
    mask = crack.mask(window)
    if mask.all():
        # Nothing else ends this crack than the window does.
        mask, window = np.pad(mask, 1), Box(window.top - 1, window.left - 1, window.bottom + 1, window.right + 1)
    skeleton, widths = centreline(without_pinholes(mask))
    return Skeleton(skeleton.pixels + window[:2], skeleton.edges), widths


def _joined_at_seams(skeleton: Skeleton, origin: tuple[int, int], tile: int) -> Skeleton:
    """Join ends at the borders of tiles, where two skeletons may miss each other by a pixel or two."""
    offset = (skeleton.pixels - origin) % tile
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    ends = np.flatnonzero((degrees < 2) & ((offset < 2) | (offset >= tile - 2)).any(axis=1))
    if not len(ends):
        return skeleton
    numbers = (skeleton.pixels - origin) // tile
    near = np.flatnonzero(((offset < 4) | (offset >= tile - 4)).any(axis=1))
    tree = cKDTree(skeleton.pixels[near])
    joined = []
    for end, around in zip(ends, tree.query_ball_point(skeleton.pixels[ends], 3), strict=True):
        # The nodes behind the tip of a crack are no continuation of it.
        own = walk(graph, degrees, int(end), steps=6)
        others = [int(near[i]) for i in around if (numbers[near[i]] != numbers[end]).any() and near[i] not in own]
        if others:
            nearest = min(others, key=lambda node: float(np.sum((skeleton.pixels[node] - skeleton.pixels[end]) ** 2)))
            joined.append(sorted((int(end), nearest)))
    if not joined:
        return skeleton
    edges = np.concatenate([np.sort(skeleton.edges, axis=1), np.array(joined)])
    return Skeleton(skeleton.pixels, np.unique(edges, axis=0))


def _is_inside(crack: Crack, places: np.ndarray) -> np.ndarray:
    # As far around as the places reach, which is as the crack is wide: a hole is told by what surrounds it.
    margin = int(np.ptp(places, axis=0).max()) + 2
    top, left = np.floor(places.min(axis=0)).astype(int) - margin
    bottom, right = np.ceil(places.max(axis=0)).astype(int) + margin
    return is_inside(without_pinholes(crack.mask(Box(top, left, bottom, right))), places - (top, left))


def _areas(crack: Crack, skeleton: Skeleton) -> np.ndarray:
    """How many pixels of the crack are nearer to a node of its skeleton than to any other, shape (n,)."""
    tree = cKDTree(skeleton.pixels)
    areas = np.zeros(len(skeleton.pixels))
    pixels = crack.pixels()
    for start in range(0, len(pixels), _PIXELS_AT_ONCE):
        nearest = tree.query(pixels[start : start + _PIXELS_AT_ONCE])[1]
        areas += np.bincount(nearest, minlength=len(areas))
    return areas


def _along(skeleton: Skeleton, values: np.ndarray) -> np.ndarray:
    """Spread values of the nodes, shape (n,), along the path; their sum stays."""
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    for _ in range(SMOOTHING):
        values = values + 0.25 * (graph @ values - degrees * values)
    return values
