"""A crack as polygons along the edges of its pixels: exact in area, and simple in the sense of OGC's Simple Features.

All is done on runs of pixels, so that memory follows the outline of the crack, and not the rectangle around it.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from crack_plugin.datasets.mask_polygons import cover_intervals

# Directions of edges, with the foreground on their right as seen on the picture.
_RIGHT, _DOWN, _LEFT, _UP = range(4)


class Outline(NamedTuple):
    """A polygon, whose rings are closed: the first point is the last.

    Points are (x, y) of corners of pixels: pixel (row, column) covers x from column to column + 1 and y from row to
    row + 1.

    Attributes:
        shell: Around it, clockwise on the picture, shape (n, 2), int64.
        holes: Around its holes, counterclockwise.
    """

    shell: np.ndarray
    holes: list[np.ndarray]


class _Edges(NamedTuple):
    """Parts of the outline, from corner to corner, each with the run that it bounds.

    Attributes:
        starts: First corners (x, y), shape (n, 2).
        ends: Last corners.
        directions: Shape (n,).
        runs: Index of the run to the right of each, shape (n,).
    """

    starts: np.ndarray
    ends: np.ndarray
    directions: np.ndarray
    runs: np.ndarray


def outlines(runs: np.ndarray) -> list[Outline]:
    """The polygons that cover pixels and nothing else.

    Pixels that touch at a corner only belong to different polygons, which touch there, and so do holes. No ring
    meets itself, so that GIS programs take the polygons as valid.

    Args:
        runs: Row, first column and column after the last of pixels beside each other, in the order of rows and
            columns, as long as can be, shape (n, 3), int64: :attr:`~crack_plugin.inspection.bands.Crack.runs`.

    Example:
        >>> runs = np.array([[0, 0, 2], [1, 2, 3]])
        >>> [outline.shell.tolist() for outline in outlines(runs)]
        [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]], [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]
    """
    # Parts that touch at sides. Each has one shell.
    count, parts = _parts(runs)
    edges = _edges(runs)
    shells: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {part: [] for part in range(count)}
    for cycle in _cycles(_following(edges)):
        part = int(parts[edges.runs[cycle[0]]])
        for ring in _without_touching(edges.starts[cycle]):
            # Twice the area; clockwise on a picture, where y points down, is positive.
            x, y = ring.T
            if np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0:
                shells[part] = ring
            else:
                holes[part].append(ring)
    return [Outline(shells[part], holes[part]) for part in range(count)]


def shells_without_holes(runs: np.ndarray) -> list[np.ndarray]:
    """The same as polygons without holes, which formats of annotations do not have: cut along rows through the holes.

    Returns:
        Closed rings, each of shape (n, 2), int64.
    """
    holes = [hole for outline in outlines(runs) for hole in outline.holes]
    cuts = cover_intervals([(int(hole[:, 1].min()), int(hole[:, 1].max())) for hole in holes])
    pieces = np.split(runs, np.searchsorted(runs[:, 0], cuts))
    return [outline.shell for piece in pieces if len(piece) for outline in outlines(piece)]


def _parts(runs: np.ndarray) -> tuple[int, np.ndarray]:
    """How many parts there are whose pixels touch at sides, and the part of each run."""
    rows, starts, stops = runs.T
    width = int(stops.max()) + 1
    # The runs of the next row that do not end before this one begins, and do not begin after it ends.
    first = np.searchsorted(rows * width + stops, (rows + 1) * width + starts, side='right')
    last = np.searchsorted(rows * width + starts, (rows + 1) * width + stops, side='left')
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(runs)), counts)
    below = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    graph = sparse.coo_array((np.ones(len(above)), (above, below)), shape=(len(runs), len(runs)))
    return sparse.csgraph.connected_components(graph, directed=False)


def _edges(runs: np.ndarray) -> _Edges:
    """The sides of pixels between them and the background; along a row they are as long as can be."""
    rows, starts, stops = runs.T
    number = np.arange(len(runs))
    width = int(stops.max()) + 1
    # Where pixels below (1) and above (2) a line y begin and end along it.
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    x = np.concatenate([starts, stops, starts, stops])
    change = np.repeat([1, -1, 2, -2], len(runs))
    order = np.argsort(y * width + x, kind='stable')
    y, x, covered = y[order], x[order], np.cumsum(change[order])
    # What holds up to the next place; of several changes at a place, what the last leaves.
    y, left, right, covered = y[:-1], x[:-1], x[1:], covered[:-1]
    longer = right > left
    upper, lower = longer & (covered == 1), longer & (covered == 2)

    def run_at(line: np.ndarray, column: np.ndarray) -> np.ndarray:
        return np.searchsorted(rows * width + starts, line * width + column, side='right') - 1

    def corners(column: np.ndarray, line: np.ndarray) -> np.ndarray:
        return np.stack([column, line], axis=1)

    return _Edges(
        starts=np.concatenate(
            [
                corners(left[upper], y[upper]),
                corners(stops, rows),
                corners(right[lower], y[lower]),
                corners(starts, rows + 1),
            ]
        ),
        ends=np.concatenate(
            [
                corners(right[upper], y[upper]),
                corners(stops, rows + 1),
                corners(left[lower], y[lower]),
                corners(starts, rows),
            ]
        ),
        directions=np.repeat([_RIGHT, _DOWN, _LEFT, _UP], [upper.sum(), len(runs), lower.sum(), len(runs)]),
        runs=np.concatenate([run_at(y[upper], left[upper]), number, run_at(y[lower] - 1, left[lower]), number]),
    )


def _following(edges: _Edges) -> np.ndarray:
    """The edge that comes after each: at a corner where two begin, the one around the same pixel."""
    width = int(edges.starts[:, 0].max()) + 1
    corner, end = (points[:, 1] * width + points[:, 0] for points in (edges.starts, edges.ends))
    keys = corner * 4 + edges.directions
    order = np.argsort(keys)
    keys = keys[order]
    following = np.full(len(keys), -1)
    # To the right is around the same pixel.
    for turn in (1, 0, 3):
        wanted = end * 4 + (edges.directions + turn) % 4
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = (keys[place] == wanted) & (following < 0)
        following[found] = order[place[found]]
    return following


def _cycles(following: np.ndarray) -> list[list[int]]:
    onwards = following.tolist()
    seen = bytearray(len(onwards))
    cycles = []
    for first in range(len(onwards)):
        if seen[first]:
            continue
        cycle, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            cycle.append(edge)
            edge = onwards[edge]
        cycles.append(cycle)
    return cycles


def _without_touching(corners: np.ndarray) -> list[np.ndarray]:
    """A closed way along corners (x, y), shape (n, 2), as closed rings of which none passes a corner twice."""
    rings = []
    way: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for x, y in [*corners.tolist(), corners[0].tolist()]:
        start = places.setdefault((x, y), len(way))
        if start == len(way):
            way.append((x, y))
            continue
        rings.append(_straightened(np.array([*way[start:], (x, y)])))
        for left in way[start + 1 :]:
            del places[left]
        del way[start + 1 :]
    return rings


def _straightened(ring: np.ndarray) -> np.ndarray:
    """A closed ring without the points on straight lines."""
    steps = np.sign(np.diff(ring, axis=0))
    turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
    kept = ring[:-1][turns]
    return np.concatenate([kept, kept[:1]])
