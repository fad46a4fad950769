"""New, gone and widened cracks between two dates: against cracks drawn in both, with a camera that has moved."""

from functools import cache

import numpy as np
import pytest
from two_dates import Cracks, camera, masks, moved_points, scale_at

from crack_plugin.inspection.change_picture import COLORS, change_picture
from crack_plugin.inspection.changes import (
    GONE,
    NARROWED,
    NEW,
    OUTSIDE,
    UNCHANGED,
    WIDENED,
    Change,
    Comparison,
    compare,
)
from crack_plugin.inspection.registration import Registration

SHAPE = (360, 460)
CAMERAS = {
    'shift, turn and scale': camera(9, 0.9, (60.2, -20.7)),
    'tilt': camera(5, 1.05, (10, -20), (1e-4, -1e-4)),
}
BEFORE: Cracks = {
    'same': ([(60, 60), (90, 220), (80, 380)], 4.2),
    'widens': ([(145, 60.5), (151, 380)], 3.3),
    'grows': ([(200, 80), (220, 230)], 5.2),
    'heals': ([(300, 100), (285, 360)], 3.4),
}
AFTER: Cracks = {
    'same': BEFORE['same'],
    'widens': (BEFORE['widens'][0], 6.1),
    'grows': ([(200, 80), (220, 230), (250, 370)], 5.2),
    'new': ([(330, 90), (322, 330)], 3.1),
}


def registered(matrix: np.ndarray, residual: float = 0.2) -> Registration:
    return Registration(matrix / matrix[2, 2], 100, 100, residual, 1.0)


def drawn_length(points: list[tuple[float, float]], matrix: np.ndarray) -> float:
    # In pieces: under a tilt, the scale changes along the line.
    fine = [tuple(a + (b - a) * t) for a, b in zip(*_ends(points), strict=True) for t in np.linspace(0, 1, 20)]
    return float(np.hypot(*np.diff(moved_points(fine, matrix), axis=0).T).sum())


def _ends(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(points[:-1], float), np.array(points[1:], float)


def only(changes: list[Change], kind: int) -> Change:
    (found,) = (change for change in changes if change.kind == kind)
    return found


@cache
def compared(name: str) -> Comparison:
    return compare(*masks(BEFORE, AFTER, CAMERAS[name], SHAPE), registered(CAMERAS[name]))


@pytest.mark.parametrize('name', CAMERAS)
def test_changes_are_those_drawn_within_a_pixel(name: str) -> None:
    matrix, changes = CAMERAS[name], compared(name).changes
    assert [change.kind for change in changes] == [NEW] * 2 + [GONE, WIDENED] + [UNCHANGED] * 2
    new, grown = changes[:2]
    gone, widened = only(changes, GONE), only(changes, WIDENED)
    same, old = changes[4:]

    def size(crack: str, cracks: Cracks = AFTER) -> tuple[float, float]:
        points, width = cracks[crack]
        return drawn_length(points, matrix) + width * scale_at(points[0], matrix), width * scale_at(points[-1], matrix)

    for found, (length, width) in ((new, size('new')), (same, size('same')), (widened, size('widens'))):
        assert found.length == pytest.approx(length, abs=1.0)
        assert found.width_after == pytest.approx(width, abs=1.0)
    assert (gone.length, gone.width_before) == pytest.approx(size('heals', BEFORE), abs=1.0)
    assert gone.width_after == 0 and gone.after is None and gone.change == -gone.width_before
    # Growth begins at the tip of what was there.
    assert grown.length == pytest.approx(drawn_length([(220, 230), (250, 370)], matrix), abs=1.0)
    assert (grown.after, grown.before, grown.width_before) == (old.after, None, 0)
    assert widened.width_before == pytest.approx(3.3 * scale_at((148, 220), matrix), abs=0.5)
    assert widened.change == pytest.approx(2.8 * scale_at((148, 220), matrix), abs=1.0)
    assert abs(same.change) < 0.5 and abs(old.change) < 0.5
    scale = scale_at((80, 220), matrix)
    assert same.uncertainty == pytest.approx(np.hypot(1, scale), abs=0.05)


def test_crack_that_widened_in_part_has_a_row_for_the_part_and_its_place() -> None:
    whole = ([(100, 40), (110, 400)], 3.2)
    # 80 px of it, in the middle.
    part = ([(104, 184), (106.2, 263)], 7.2)
    changes = compare(*masks({'a': whole}, {'a': whole, 'b': part}, np.eye(3), SHAPE), registered(np.eye(3))).changes
    widened = only(changes, WIDENED)
    assert widened.length == pytest.approx(79 + 7.2, abs=8)
    assert widened.change == pytest.approx(4, abs=1)
    assert 190 < widened.place[0] < 260 and 95 < widened.place[1] < 115
    assert [change.kind for change in changes] == [WIDENED, UNCHANGED, UNCHANGED]
    assert sum(change.length for change in changes) == pytest.approx(np.hypot(10, 360) + 3.2, abs=1)
    backwards = compare(*masks({'a': whole, 'b': part}, {'a': whole}, np.eye(3), SHAPE), registered(np.eye(3))).changes
    assert only(backwards, NARROWED).change == pytest.approx(-4, abs=1)


def test_branch_is_new_from_the_crack_that_it_leaves() -> None:
    old = ([(100, 40), (104, 400)], 5.2)
    branch = ([(102, 220), (250, 300)], 3.2)
    changes = compare(*masks({'a': old}, {'a': old, 'b': branch}, np.eye(3), SHAPE), registered(np.eye(3))).changes
    new, unchanged = changes
    assert (new.kind, unchanged.kind) == (NEW, UNCHANGED)
    # From the side of the old crack to the tip.
    assert new.length == pytest.approx(np.hypot(148, 80) - 5.2 / 2 + 3.2 / 2, abs=2)
    assert unchanged.length == pytest.approx(365, abs=2)
    assert new.after == unchanged.after == unchanged.before == 1


def test_what_the_other_photograph_does_not_show_is_neither_new_nor_gone() -> None:
    matrix = camera(0, 1, (-200, 0))
    crack = ([(100, 40), (110, 440)], 4.2)
    first, second = masks({'a': crack}, {'a': ([(100, 40), (113, 560)], 4.2)}, matrix, SHAPE)
    changes = compare(first, second, registered(matrix)).changes
    assert [change.kind for change in changes] == [NEW, UNCHANGED, OUTSIDE, OUTSIDE]
    new, same, *outside = changes
    # The first photograph ends at 460.
    assert new.length == pytest.approx(16, abs=4)
    assert same.length == pytest.approx(442 - 200, abs=2)
    assert {(each.before, each.after) for each in outside} == {(None, 1), (1, None)}
    assert [each.change for each in outside] == [None, None]


def test_doubtful_registration_and_gaps_make_no_changes() -> None:
    # Two pixels off, with a gap that the second mask does not have.
    crack: Cracks = {'a': ([(100, 40), (110, 400)], 3.2)}
    first, second = masks(crack, crack, np.eye(3), SHAPE)
    first[:, 200:206] = 0
    changes = compare(first, np.roll(second, 2, axis=0), registered(np.eye(3), residual=0.8)).changes
    assert [change.kind for change in changes] == [UNCHANGED]


@pytest.mark.parametrize('which', [0, 1])
def test_empty_masks(which: int) -> None:
    mask = masks({'a': BEFORE['same']}, {}, np.eye(3), SHAPE)[0]
    given = [np.zeros_like(mask) if number == which else mask for number in (0, 1)]
    kinds = {change.kind for change in compare(*given, registered(np.eye(3))).changes}
    assert kinds == {(NEW, GONE)[which]}
    assert compare(given[which], given[which], registered(np.eye(3))).changes == []


def test_classes_are_compared_apart() -> None:
    mask = masks({'a': BEFORE['same']}, {}, np.eye(3), SHAPE)[0]
    changes = compare(mask, 2 * mask, registered(np.eye(3))).changes
    assert [(change.kind, change.label) for change in changes] == [(NEW, 2), (GONE, 1)]


def test_picture_has_each_kind_in_its_colour_and_a_legend() -> None:
    comparison = compared('shift, turn and scale')
    second = masks({}, AFTER, CAMERAS['shift, turn and scale'], SHAPE)[1]
    assert ((comparison.kinds > 0) & (comparison.kinds != GONE) == (second > 0)).all()
    picture = change_picture(np.zeros((*SHAPE, 3), np.uint8), comparison)
    assert picture.shape[1] == SHAPE[1] and len(picture) > SHAPE[0]
    for kind in (NEW, GONE, WIDENED, UNCHANGED):
        color = np.array([int(COLORS[kind][place : place + 2], 16) for place in (1, 3, 5)])
        painted = picture[: SHAPE[0]][comparison.kinds == kind]
        # 0.6 of it on black, but for what the numbers hide.
        assert np.mean(np.abs(painted - 0.6 * color).max(axis=1) <= 1) > 0.8
        assert (picture[SHAPE[0] :] == color).all(axis=2).any()
    plain = change_picture(np.zeros((*SHAPE, 3), np.uint8), Comparison([], np.zeros(SHAPE, np.uint8)))
    assert not plain[: SHAPE[0]].any()
