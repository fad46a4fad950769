"""What has become of the cracks between two registered photographs: new, gone, widened; pure functions.

The centrelines of the first photograph are carried into the second one, widths with them. Pieces of a centreline that
have none of the other date beside them are new or gone; along the others the widths are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from crack_plugin.inspection.bands import Band, Crack, find_cracks
from crack_plugin.inspection.branches import branches
from crack_plugin.inspection.features import EDGE_UNCERTAINTY
from crack_plugin.inspection.measuring import measure
from crack_plugin.inspection.registration import Registration, jacobians, map_places

MIN_LENGTH = 10.0
"""What is shorter is part of its surroundings, in pixels: tips and gaps of masks may be off by that."""

_SMOOTHING = 200
"""Rounds of averaging the change of width: a Gaussian of 10 px standard deviation along the crack."""


NEW, GONE, WIDENED, NARROWED, UNCHANGED, OUTSIDE = KINDS = range(1, 7)
"""What has become of a piece of a crack; ``OUTSIDE`` is where the other photograph does not reach."""

KIND_NAMES = dict(zip(KINDS, ('new', 'gone', 'widened', 'narrowed', 'unchanged', 'outside'), strict=True))


class Change(NamedTuple):
    """A piece of a crack, in pixels of the second photograph.

    Attributes:
        kind: What has become of it: one of ``KINDS``.
        label: Its class, from 1.
        before: Number of the crack in the first photograph, from 1, as ``find_cracks`` has them; None if it was not
            there.
        after: The same in the second photograph.
        length: Of its centrelines.
        width_before: Mean along it; 0 for what is new, None for what lies outside of the first photograph.
        width_after: The same in the second photograph.
        uncertainty: How far the difference may be off: half a pixel at each edge in either photograph.
        place: (x, y) where the width has changed most, or is largest if there is nothing to compare; the upper left
            corner is (0, 0).
    """

    kind: int
    label: int
    before: int | None
    after: int | None
    length: float
    width_before: float | None
    width_after: float | None
    uncertainty: float
    place: tuple[float, float]

    @property
    def change(self) -> float | None:
        """Of the mean width; None for what cannot be compared."""
        if self.width_before is None or self.width_after is None:
            return None
        return self.width_after - self.width_before


class Comparison(NamedTuple):
    """All that has changed.

    Attributes:
        changes: New ones first, then gone, widened, narrowed, unchanged and outside; the longest of each first.
        kinds: What each pixel of a crack in the second photograph is part of, and of what is gone, one of ``KINDS``;
            0 for the background, shape (H', W'), uint8.
    """

    changes: list[Change]
    kinds: np.ndarray


@dataclass(frozen=True, eq=False)
class _Lines:
    """The centrelines of all cracks of a class, as a graph in pixels of the second photograph.

    Attributes:
        places: (x, y) of the nodes, tips included, shape (n, 2).
        edges: Pairs of nodes, shape (m, 2).
        widths: At the nodes, shape (n,).
        errors: How far these may be off, shape (n,).
        cracks: Number of the crack of each, shape (n,).
    """

    places: np.ndarray
    edges: np.ndarray
    widths: np.ndarray
    errors: np.ndarray
    cracks: np.ndarray

    @property
    def graph(self) -> sparse.csr_array:
        ends = np.concatenate([self.edges, self.edges[:, ::-1]]).T
        n = len(self.places)
        return sparse.csr_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(n, n))

    @property
    def shares(self) -> np.ndarray:
        """Length that belongs to each node: half of every step from it."""
        steps = np.hypot(*(self.places[self.edges[:, 1]] - self.places[self.edges[:, 0]]).T)
        return np.bincount(self.edges.ravel(), np.repeat(steps, 2) / 2, minlength=len(self.places))


def compare(before: np.ndarray, after: np.ndarray, registration: Registration) -> Comparison:
    """Compare the cracks of two photographs.

    A place on a centreline has a counterpart where the other date's crack covers it, give or take a pixel and twice
    the registration's residual; beyond the tip of a crack there is none. A width that has changed by less than its
    uncertainty is unchanged: that of a difference is the root of the sum of squares of both.

    Args:
        before: Labels of the first photograph: 0 for the background, from 1 the classes, shape (H, W), uint8.
        after: The same of the second, shape (H', W').
        registration: How they lie on each other.
    """
    cracks_before, cracks_after = find_cracks([Band(before)]), find_cracks([Band(after)])
    kinds = np.zeros(after.shape, np.uint8)
    kinds_before = np.zeros(before.shape, np.uint8)
    changes: list[Change] = []
    for label in sorted({crack.label for crack in (*cracks_before, *cracks_after)}):
        unmapped = _lines(cracks_before, label, before.shape)
        first, second = _mapped(unmapped, registration.matrix), _lines(cracks_after, label, after.shape)
        back = map_places(np.linalg.inv(registration.matrix), second.places - 0.5) + 0.5
        tolerance = 1 + 2 * registration.residual
        pair_after = _pair(second, first, _view(back, before == label, tolerance), tolerance)
        pair_before = _pair(first, second, _view(first.places, after == label, tolerance), tolerance)
        compared = _compare_widths(second, first, pair_after)
        missing = np.where(pair_before.is_seen, GONE, OUTSIDE)
        missing[pair_before.has] = UNCHANGED
        changes += _pieces(second, compared, label, first, pair_after.nearest)
        changes += [piece for piece in _pieces(first, missing, label) if piece.kind != UNCHANGED]
        _paint(kinds, cracks_after, second, compared)
        _paint(kinds_before, cracks_before, unmapped, missing)
    size = (after.shape[1], after.shape[0])
    gone = cv2.warpPerspective(kinds_before, registration.matrix, size, flags=cv2.INTER_NEAREST) == GONE
    kinds[gone & (kinds == 0)] = GONE
    return Comparison(sorted(changes, key=lambda each: (each.kind, -each.length)), kinds)


def _lines(cracks: Sequence[Crack], label: int, shape: tuple[int, int]) -> _Lines:
    places, edges, widths, numbers = [np.zeros((0, 2))], [np.zeros((0, 2), int)], [np.zeros(0)], [np.zeros(0, int)]
    count = 0
    for number, crack in enumerate(cracks, start=1):
        if crack.label != label:
            continue
        for branch in branches(measure(crack, shape)):
            places.append(branch.points)
            widths.append(branch.widths)
            numbers.append(np.full(len(branch.points), number))
            steps = count + np.arange(len(branch.points))
            edges.append(np.stack([steps[:-1], steps[1:]], axis=1))
            count += len(branch.points)
    # Branches meet in places that they share.
    unique, first, node = np.unique(np.concatenate(places), axis=0, return_index=True, return_inverse=True)
    joined = node.reshape(-1)[np.concatenate(edges)]
    joined = joined[joined[:, 0] != joined[:, 1]]
    own = np.concatenate(widths)[first]
    return _Lines(unique, joined, own, np.full(len(own), 2 * EDGE_UNCERTAINTY), np.concatenate(numbers)[first])


def _mapped(lines: _Lines, matrix: np.ndarray) -> _Lines:
    """Lines in the other photograph. A homography stretches widths by its change of area over that of length."""
    jacobian = jacobians(matrix, lines.places - 0.5)
    area = np.linalg.det(jacobian)
    ends = lines.edges.ravel()
    steps = np.repeat(lines.places[lines.edges[:, 1]] - lines.places[lines.edges[:, 0]], 2, axis=0)
    before = np.hypot(*steps.T)
    along = np.hypot(*np.einsum('nij,nj->in', jacobian[ends], steps))
    shares = np.bincount(ends, before, minlength=len(area))
    # Along a line, the mean over the two steps from a node.
    stretch = np.bincount(ends, area[ends] / along * before**2, minlength=len(area)) / np.maximum(shares, 1e-9)
    places = map_places(matrix, lines.places - 0.5) + 0.5
    return _Lines(places, lines.edges, lines.widths * stretch, lines.errors * stretch, lines.cracks)


class _View(NamedTuple):
    """What the other photograph has at the nodes: whether it shows the place, and whether that is crack there."""

    is_seen: np.ndarray
    is_crack: np.ndarray


def _view(places: np.ndarray, mask: np.ndarray, margin: float) -> _View:
    size = np.array(mask.shape[::-1])
    is_seen = np.all((places >= margin) & (places <= size - margin), axis=1)
    is_crack = np.all((places >= 0) & (places < size), axis=1)
    columns, rows = np.floor(places[is_crack]).astype(int).T
    is_crack[is_crack] = mask[rows, columns]
    return _View(is_seen, is_crack)


class _Pair(NamedTuple):
    """Which nodes have a counterpart.

    Attributes:
        nearest: Number of the nearest node of the other date; 0 if there is none at all.
        has: Whether the crack was there at the other date.
        is_seen: Whether the other photograph shows the place.
    """

    nearest: np.ndarray
    has: np.ndarray
    is_seen: np.ndarray


def _pair(lines: _Lines, others: _Lines, view: _View, tolerance: float) -> _Pair:
    limits = np.full(len(lines.places), MIN_LENGTH)
    is_seen = view.is_seen | _short(lines, ~view.is_seen, limits, view.is_seen)
    if not len(others.places) or not len(lines.places):
        none = np.zeros(len(lines.places), int)
        return _Pair(none, none > 0, is_seen)
    distances, nearest = cKDTree(others.places).query(lines.places)
    reach = tolerance + np.maximum(lines.widths, others.widths[nearest]) / 2
    # Where another crack has come close, the centreline of both is elsewhere.
    has = view.is_crack | ((distances <= reach) & ~_is_beyond_tip(lines.places, others, nearest))
    is_line = np.diff(lines.graph.indptr) <= 2
    # The first pixels of a new branch lie in the old crack that it comes from.
    has &= ~_short(lines, has & is_line, reach + 1, ~has & is_seen)
    has |= _short(lines, ~has & is_seen, limits, has)
    return _Pair(nearest, has, is_seen)


def _is_beyond_tip(places: np.ndarray, others: _Lines, nearest: np.ndarray) -> np.ndarray:
    graph = others.graph
    degrees = np.diff(graph.indptr)
    tips = np.flatnonzero(degrees == 1)
    directions = np.zeros_like(others.places)
    directions[tips] = others.places[tips] - others.places[graph.indices[graph.indptr[tips]]]
    # More than rounding, for nodes that are the tip themselves.
    return np.sum((places - others.places[nearest]) * directions[nearest], axis=1) > 1e-9


def _components(lines: _Lines, kinds: np.ndarray) -> tuple[int, np.ndarray]:
    """Number the connected nodes of one kind."""
    edges = lines.edges[kinds[lines.edges[:, 0]] == kinds[lines.edges[:, 1]]]
    n = len(kinds)
    graph = sparse.coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return sparse.csgraph.connected_components(graph, directed=False) if n else (0, np.zeros(0, int))


def _short(lines: _Lines, chosen: np.ndarray, limits: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Which of the chosen nodes are in connected pieces shorter than a limit that touch nodes of another choice."""
    count, piece = _components(lines, chosen)
    lengths = np.bincount(piece, lines.shares, minlength=count)
    largest = np.zeros(count)
    np.maximum.at(largest, piece, limits)
    touches = np.zeros(count, bool)
    for one, other in (lines.edges.T, lines.edges.T[::-1]):
        touches[piece[one[beside[other]]]] = True
    return chosen & (touches & (lengths < largest))[piece]


def _compare_widths(lines: _Lines, others: _Lines, pair: _Pair) -> np.ndarray:
    """The kind of each node of the second photograph."""
    kinds = np.where(pair.is_seen, NEW, OUTSIDE)
    if not pair.has.any():
        return kinds
    kinds[pair.has] = UNCHANGED
    change, uncertainty = _change(lines, others, pair.nearest)
    smooth = _smoothed(lines, change, pair.has)
    for kind, sign in ((WIDENED, 1), (NARROWED, -1)):
        kinds[pair.has & (sign * smooth > uncertainty)] = kind
        limits = np.full(len(kinds), MIN_LENGTH)
        kinds[_short(lines, kinds == kind, limits, kinds == UNCHANGED)] = UNCHANGED
        kinds[_short(lines, kinds == UNCHANGED, limits, kinds == kind)] = kind
        count, piece = _components(lines, kinds)
        total = np.bincount(piece, (sign * change - uncertainty) * lines.shares, minlength=count)
        kinds[(kinds == kind) & (total <= 0)[piece]] = UNCHANGED
    return kinds


def _change(lines: _Lines, others: _Lines, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much wider each node is than that of the first date, and how far that may be off."""
    return lines.widths - others.widths[nearest], np.hypot(lines.errors, others.errors[nearest])


def _smoothed(lines: _Lines, values: np.ndarray, has: np.ndarray) -> np.ndarray:
    graph = lines.graph
    keep = sparse.diags_array(has.astype(float))
    graph = keep @ graph @ keep
    degrees = graph.sum(axis=1)
    # At most 1, so that nodes where many lines meet do not swing.
    share = min(0.25, 1 / max(float(degrees.max(initial=0)), 1.0))
    for _ in range(_SMOOTHING):
        values = values + share * (graph @ values - degrees * values)
    return values


def _pieces(
    lines: _Lines, kinds: np.ndarray, label: int, others: _Lines | None = None, nearest: np.ndarray | None = None
) -> list[Change]:
    """Rows of the connected nodes of one kind; without the lines of the first date, these are of it."""
    count, piece = _components(lines, kinds)
    weights = lines.shares
    totals = np.bincount(piece, weights, minlength=count)

    def means(values: np.ndarray) -> list[float]:
        return (np.bincount(piece, values * weights, minlength=count) / np.maximum(totals, 1e-9)).tolist()

    widths, errors, widths_before, errors_both = means(lines.widths), means(lines.errors), [], []
    # Where there is nothing to compare, a piece is shown at its widest place.
    ranks = lines.widths
    cracks_before = np.zeros(len(kinds), int)
    if others is not None and nearest is not None and len(others.places):
        change, uncertainty = _change(lines, others, nearest)
        widths_before, errors_both = means(others.widths[nearest]), means(uncertainty)
        cracks_before = others.cracks[nearest]
        compared = (kinds == WIDENED) | (kinds == NARROWED) | (kinds == UNCHANGED)
        ranks = np.where(compared, np.abs(_smoothed(lines, change, compared)), ranks)
    changes = []
    for number, nodes in enumerate(np.split(np.argsort(piece, kind='stable'), np.cumsum(np.bincount(piece))[:-1])):
        if not len(nodes):
            continue
        kind, crack, own, error = int(kinds[nodes[0]]), int(lines.cracks[nodes[0]]), widths[number], errors[number]
        missing = None if kind == OUTSIDE else 0.0
        before: int | None = None
        after: int | None = crack
        width_before: float | None = missing
        width_after: float | None = own
        if others is None:
            before, after, width_before, width_after = crack, None, own, missing
        elif kind not in (NEW, OUTSIDE):
            before = int(np.bincount(cracks_before[nodes]).argmax())
            width_before, error = widths_before[number], errors_both[number]
        x, y = lines.places[nodes[np.argmax(ranks[nodes])]].tolist()
        length = float(totals[number])
        changes.append(Change(kind, label, before, after, length, width_before, width_after, error, (x, y)))
    return changes


def _paint(kinds: np.ndarray, cracks: Sequence[Crack], lines: _Lines, of_nodes: np.ndarray) -> None:
    """Give each pixel of the cracks the kind of the nearest node of its crack."""
    order = np.argsort(lines.cracks, kind='stable')
    for own in np.split(order, np.flatnonzero(np.diff(lines.cracks[order])) + 1):
        if len(own):
            pixels = cracks[lines.cracks[own[0]] - 1].pixels()
            nearest = cKDTree(lines.places[own]).query(pixels[:, ::-1] + 0.5)[1]
            kinds[pixels[:, 0], pixels[:, 1]] = of_nodes[own[nearest]]
