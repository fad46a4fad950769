"""Cracks of an image that comes band by band: connected pixels, joined across the borders of the bands.

A crack is kept as runs of pixels along rows. Only cracks that reach the last row of a band wait for the next one, so
that memory follows the cracks, not the image, and the result does not depend on where the bands are cut.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from scipy import sparse


class Band(NamedTuple):
    """Some rows of an image, all columns.

    Attributes:
        labels: 0 for the background, from 1 the classes, shape (h, W), uint8.
        probability: Of the class of each pixel, where it has one, shape (h, W), float; None if it is not known.
    """

    labels: np.ndarray
    probability: np.ndarray | None = None


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the last of each left out."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, eq=False)
class Crack:
    """The connected pixels of one class: those that touch at a side or a corner.

    Attributes:
        label: The class, from 1.
        runs: Row, first column and column after the last of the pixels that are beside each other, in the order of
            rows and columns, shape (n, 3), int64.
        score: Mean probability of its pixels; None if it is not known.
    """

    label: int
    runs: np.ndarray
    score: float | None = None

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.runs[:, 2] - self.runs[:, 1]).sum())

    @cached_property
    def box(self) -> Box:
        """The smallest rectangle that holds it."""
        rows, starts, stops = self.runs.T
        return Box(int(rows[0]), int(starts.min()), int(rows[-1]) + 1, int(stops.max()))

    def mask(self, box: Box | None = None) -> np.ndarray:
        """Its pixels in a rectangle, which may reach out of the image.

        Args:
            box: None for :attr:`box`.

        Returns:
            Shape (bottom - top, right - left), bool.
        """
        box = self.box if box is None else box
        first, last = np.searchsorted(self.runs[:, 0], (box.top, box.bottom))
        rows, starts, stops = self.runs[first:last].T
        width = box.right - box.left
        starts, stops = np.clip(starts - box.left, 0, width), np.clip(stops - box.left, 0, width)
        # +1 where a run begins and -1 after it, in rows with a column more, add up to the pixels.
        steps = np.zeros((box.bottom - box.top, width + 1), np.int8)
        np.add.at(steps, (rows - box.top, starts), 1)
        np.add.at(steps, (rows - box.top, stops), -1)
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1] > 0

    def pixels(self) -> np.ndarray:
        """Row and column of each of its pixels, shape (area, 2), int64."""
        rows, starts, stops = self.runs.T
        lengths = stops - starts
        before = np.cumsum(lengths) - lengths
        columns = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
        return np.stack([np.repeat(rows, lengths), columns], axis=1)


@dataclass(eq=False)
class _Part:
    """What is known of a crack: its runs band by band, the sum of its probabilities, and its first pixel."""

    label: int
    runs: list[np.ndarray]
    total: float
    first: tuple[int, int]

    def joined(self, has_score: bool) -> Crack:
        runs = np.concatenate(self.runs)
        runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
        crack = Crack(self.label, runs)
        return Crack(self.label, runs, self.total / crack.area) if has_score else crack


def find_cracks(bands: Iterable[Band]) -> list[Crack]:
    """The cracks of an image, in the order of their first pixels.

    Args:
        bands: From the top down, without gaps.

    Example:
        >>> image = np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], np.uint8)
        >>> [crack.area for crack in find_cracks([Band(image)])]
        [2, 2]
        >>> [crack.area for crack in find_cracks([Band(image[:1]), Band(image[1:2]), Band(image[2:])])]
        [2, 2]
    """
    return list(cracks_in_order(bands))


def cracks_in_order(bands: Iterable[Band]) -> Iterator[Crack]:
    """Those of :func:`find_cracks`, each as soon as it and all that begin before it are complete.

    Args:
        bands: As for :func:`join_bands`.
    """
    waiting: list[tuple[tuple[int, int], Crack]] = []
    for complete, open_parts in _completed(bands):
        for crack in complete:
            heapq.heappush(waiting, ((int(crack.runs[0, 0]), int(crack.runs[0, 1])), crack))
        first = min((part.first for part in open_parts), default=None)
        while waiting and (first is None or waiting[0][0] < first):
            yield heapq.heappop(waiting)[1]


def join_bands(bands: Iterable[Band]) -> Iterator[Crack]:
    """The cracks of an image, each as soon as a band shows that it is complete.

    Args:
        bands: From the top down, without gaps, all of one width, all with probabilities or all without.
    """
    for complete, _ in _completed(bands):
        yield from complete


def _completed(bands: Iterable[Band]) -> Iterator[tuple[list[Crack], list[_Part]]]:
    """After each band, and after the last, the cracks that are complete now, and what is known of the others."""
    top = 0
    open_parts: list[_Part] = []
    above = np.zeros(0, np.int64)
    has_score = False
    for band in bands:
        parts, components = _parts_of(band, top)
        has_score = band.probability is not None
        top += len(band.labels)
        pairs = _touching(above, components[0]) if len(above) else np.zeros((0, 2), np.int64)
        pairs = np.array([pair for pair in pairs if open_parts[pair[0]].label == parts[pair[1]].label], int)
        groups = _unite(open_parts + parts, pairs.reshape(-1, 2) + np.array([0, len(open_parts)]))
        reaching = {len(open_parts) + number for number in np.unique(components[-1]).tolist() if number >= 0}
        complete: list[Crack] = []
        waiting: list[_Part] = []
        place = np.full(len(parts), -1)
        for members, part in groups:
            if reaching.isdisjoint(members):
                complete.append(part.joined(has_score))
                continue
            own = [member - len(open_parts) for member in members if member >= len(open_parts)]
            place[own] = len(waiting)
            waiting.append(part)
        above = np.where(components[-1] >= 0, place[components[-1]], -1) if parts else components[-1]
        open_parts = waiting
        yield complete, open_parts
    yield [part.joined(has_score) for part in open_parts], []


def _parts_of(band: Band, top: int) -> tuple[list[_Part], np.ndarray]:
    """The cracks inside a band, and which of them each pixel belongs to: -1 for none, shape (h, W), int."""
    labels = band.labels
    components = np.zeros(labels.shape, np.int32)
    classes = [0]
    for label in range(1, int(labels.max(initial=0)) + 1):
        count, found = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        components += np.where(found > 0, found + (len(classes) - 1), 0)
        classes += [label] * (count - 1)
    components -= 1
    if len(classes) == 1:
        return [], components
    inside = components >= 0
    # Pixels of a class that are beside each other belong together, so that a run ends where the number changes.
    changes = components[:, 1:] != components[:, :-1]
    edge = np.ones((len(labels), 1), bool)
    rows, starts = np.nonzero(inside & np.concatenate([edge, changes], axis=1))
    stops = np.nonzero(inside & np.concatenate([changes, edge], axis=1))[1] + 1
    numbers = components[rows, starts]
    order = np.argsort(numbers, kind='stable')
    runs = np.stack([rows + top, starts, stops], axis=1)[order]
    pieces = np.split(runs, np.cumsum(np.bincount(numbers))[:-1])
    probability = None if band.probability is None else band.probability[inside]
    totals = np.bincount(components[inside], probability, minlength=len(pieces)).tolist()
    firsts = [(row, column) for row, column in (piece[0, :2].tolist() for piece in pieces)]
    parts = [_Part(classes[number + 1], [piece], totals[number], firsts[number]) for number, piece in enumerate(pieces)]
    return parts, components


def _touching(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pairs of numbers, of two rows one above the other, that touch at a side or a corner; shape (n, 2)."""
    shifted = [(above, below), (above[1:], below[:-1]), (above[:-1], below[1:])]
    pairs = np.concatenate([np.stack([a, b], axis=1)[(a >= 0) & (b >= 0)] for a, b in shifted])
    return np.unique(pairs, axis=0)


def _unite(parts: list[_Part], pairs: np.ndarray) -> list[tuple[list[int], _Part]]:
    """The parts that pairs of numbers lead to one another, each group as one part."""
    graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(len(parts), len(parts)))
    count, groups = sparse.csgraph.connected_components(graph, directed=False) if parts else (0, [])
    members: list[list[int]] = [[] for _ in range(count)]
    for number, group in enumerate(groups):
        members[group].append(number)
    return [(own, _united([parts[number] for number in own])) for own in members]


def _united(parts: list[_Part]) -> _Part:
    runs = [run for part in parts for run in part.runs]
    return _Part(parts[0].label, runs, sum(part.total for part in parts), min(part.first for part in parts))
