"""The centreline of a crack as lines from junction to junction or tip, with the width along each."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from crack_plugin.inspection.measuring import Measured
from crack_plugin.skeleton import Skeleton


class Branch(NamedTuple):
    """A line of the centreline.

    Attributes:
        points: (x, y) in pixels, the corner of the picture being (0, 0), shape (n, 2), n >= 2.
        distances: From its first point along it, shape (n,).
        widths: Of the crack there, shape (n,).
    """

    points: np.ndarray
    distances: np.ndarray
    widths: np.ndarray


def branches(crack: Measured) -> list[Branch]:
    """The lines of a crack, extended to its tips; of a speck, a line as long as it is wide."""
    graph = Skeleton(crack.path, crack.edges).adjacency
    neighbours = np.split(graph.indices, graph.indptr[1:-1])
    degrees = np.diff(graph.indptr)
    lines = []
    used: set[tuple[int, int]] = set()
    # Where no line ends, the crack is a ring.
    for start in [*np.flatnonzero(degrees != 2).tolist(), *np.flatnonzero(degrees == 2).tolist()]:
        for onwards in neighbours[start].tolist():
            if (start, onwards) in used or (degrees[start] == 2 and (onwards, start) in used):
                continue
            line = [start, onwards]
            while degrees[line[-1]] == 2 and line[-1] != start:
                one, other = neighbours[line[-1]].tolist()
                line.append(other if one == line[-2] else one)
            used.update(pairwise(line))
            used.update(pairwise(line[::-1]))
            lines.append(line)
    lines += [[node] for node in np.flatnonzero(degrees == 0).tolist()]
    return [_branch(crack, line, degrees) for line in lines]


def _branch(crack: Measured, line: list[int], degrees: np.ndarray) -> Branch:
    # The centre of the first pixel is half a pixel from the corner of the picture.
    points = crack.path[line][:, ::-1] + 0.5
    widths = crack.widths[line]
    if len(line) == 1:
        half = np.array([crack.lacking[line[0]] / 2, 0])
        points, widths = np.stack([points[0] - half, points[0] + half]), np.repeat(widths, 2)
    else:
        # The direction to a tip is that which the length is measured in.
        if degrees[line[0]] == 1:
            points, widths = _extended(points, widths, crack.lacking[line[0]])
        if degrees[line[-1]] == 1:
            points, widths = (each[::-1] for each in _extended(points[::-1], widths[::-1], crack.lacking[line[-1]]))
    distances = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return Branch(points, distances, widths)


def _extended(points: np.ndarray, widths: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    back = points[min(max(3, round(widths[0] / 2)), len(points) - 1)]
    direction = points[0] - back
    tip = points[0] + distance * direction / np.hypot(*direction)
    return np.concatenate([tip[None], points]), np.concatenate([widths[:1], widths])
