"""Single cracks, found band by band and measured, against drawn ones of known length, width and direction."""

import cv2
import numpy as np
import pytest
from drawn_cracks import length, line

from crack_plugin.evaluation.geometry import measure_cracks
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.measuring import Measured, measure

SHAPE = (700, 900)


def measured(mask: np.ndarray, height: int = 64, **tiles: int) -> list[Measured]:
    bands = (Band(mask[top : top + height].astype(np.uint8)) for top in range(0, len(mask), height))
    return [measure(crack, mask.shape, **tiles) for crack in find_cracks(bands)]


def test_cracks_across_bands_are_one_each_of_the_drawn_length_and_width() -> None:
    drawn = [
        ([(20.3, 30.7), (675.2, 280.4)], 2.2),  # thin, through all bands
        ([(40.1, 300.6), (660.9, 380.2)], 20.4),  # wide
        ([(60.6, 420.1), (67.3, 690.4)], 5.3),  # flat, over the border of two bands
        ([(640.2, 420.8), (120.7, 700.3)], 3.1),  # rising diagonal
        ([(90.5, 750.3), (300.1, 800.8), (450.6, 760.1), (650.4, 860.7)], 7.5),  # bent
    ]
    masks = [line(SHAPE, *crack) for crack in drawn]
    found = measured(np.any(masks, axis=0))
    assert len(found) == len(drawn)
    for (points, width), mask in zip(drawn, masks, strict=True):
        (own,) = (each for each in found if mask[tuple(np.rint(each.path[0]).astype(int))])
        assert own.length == pytest.approx(length(points, width), rel=0.02)
        # Its round ends are narrower.
        assert own.mean_width == pytest.approx(mask.sum() / length(points, width), rel=0.02)
        assert own.mean_width == pytest.approx(width, rel=0.03)
        # Flat cracks have places of a whole row more.
        assert own.max_width == pytest.approx(width, abs=0.8)
        whole = measure_cracks(mask)
        assert own.length == pytest.approx(whole.length, rel=1e-3)
        assert abs((own.orientation - whole.orientation + 90) % 180 - 90) < 0.1


@pytest.mark.parametrize('width', [2.2, 5.1, 12.3])
def test_branching_crack_is_one_and_its_arms_add_up(width: float) -> None:
    arms = [[(350.3, 450.2), end] for end in ((30.1, 200.4), (60.7, 800.3), (670.2, 430.8))]
    mask = np.any([line(SHAPE, arm, width) for arm in arms], axis=0)
    (fork,) = measured(mask)
    total = sum(length(arm, width / 2) for arm in arms)
    assert fork.length == pytest.approx(total, rel=0.02)
    assert fork.mean_width == pytest.approx(width, rel=0.02)
    # The mean of the arms where they meet; a disc would be wider.
    assert fork.max_width == pytest.approx(width, abs=0.6)


@pytest.mark.parametrize(('tile', 'halo'), [(64, 32), (150, 40)])
@pytest.mark.parametrize('width', [2.2, 5.1, 12.3])
def test_tiles_measure_as_the_whole(tile: int, halo: int, width: float) -> None:
    shape = (400, 500)
    points = [(20.3, 30.7), (210.8, 180.2), (190.4, 300.6), (370.9, 480.2)]
    mask = line(shape, points, width) | line(shape, [(172.7, 150.3), (30.9, 400.2)], width)
    (whole,), (tiled,) = measured(mask), measured(mask, tile=tile, halo=halo)
    assert tiled.length == pytest.approx(whole.length, rel=0.005)
    assert tiled.mean_width == pytest.approx(whole.mean_width, rel=0.005)
    assert tiled.max_width == pytest.approx(whole.max_width, rel=0.05)
    assert tiled.orientation == pytest.approx(whole.orientation, abs=0.5)
    # No end at a border of tiles: each would be extended to the outline.
    assert (tiled.lacking > 0).sum() == (whole.lacking > 0).sum()


@pytest.mark.parametrize('tile', [64, 2048])
def test_a_crack_with_holes_is_as_long_and_nearly_as_wide_as_without(tile: int) -> None:
    """Each pixel that is missing would be led around on both sides."""
    solid = line((400, 500), [(20.3, 30.7), (210.8, 180.2), (190.4, 300.6), (370.9, 480.2)], 12.3)
    holes = solid & (np.random.default_rng(0).random(solid.shape) > 0.01)
    (whole,), (porous,) = measured(solid), measured(holes, tile=tile, halo=40)
    assert porous.length == pytest.approx(whole.length, rel=0.01)
    assert porous.mean_width == pytest.approx(whole.mean_width, rel=0.02)


def test_skeletons_that_miss_each_other_at_a_border_of_tiles_are_joined() -> None:
    """As with a crack that is wider than tiles see around them."""
    shape = (400, 500)
    mask = line(shape, [(20.3, 30.7), (210.8, 180.2), (190.4, 300.6), (370.9, 480.2)], 12.3)
    (crack,) = measured(mask, tile=64, halo=4)
    assert (crack.lacking > 0).sum() == 2


@pytest.mark.parametrize('radius', [2.5, 4, 9])
@pytest.mark.parametrize('width', [1.5, 3])
def test_loops_are_as_long_and_wide_as_they_are(radius: float, width: float) -> None:
    """Smoothing that draws a loop together would make it short, and wide where its pixels were."""
    rows, columns = np.mgrid[:60, :200]
    ring = np.abs(np.hypot(rows - 30.3, columns - 120 - radius) - radius) <= width / 2
    (alone,) = measured(ring)
    assert alone.length == pytest.approx(2 * np.pi * radius, rel=0.1)
    (loop,) = measured(ring | line((60, 200), [(30, 20), (30.5, 120)], width))
    assert loop.length == pytest.approx(100 + width / 2 + 2 * np.pi * radius, rel=0.03)
    assert loop.max_width < width + 0.7


def test_a_bulge_is_no_wider_than_what_fits_into_it() -> None:
    """Arms too short for a branch have an area, and add no length."""
    mask = line((200, 300), [(100, 20), (100.4, 280)], 8)
    for column in (100, 112, 124):
        mask |= line((200, 300), [(94.3, column), (106.2, column + 0.3)], 4)
    (crack,) = measured(mask)
    assert crack.length == pytest.approx(268, rel=0.02)
    assert crack.max_width < 10
    assert crack.mean_width == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize('seed', range(4))
def test_any_shape_has_a_length_and_widths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.standard_normal((60, 60)), (0, 0), rng.uniform(0.5, 3))
    mask = soft > np.quantile(soft, rng.uniform(0.5, 0.95))
    cracks = find_cracks([Band(mask.astype(np.uint8))])
    for crack in cracks:
        own = measure(crack, mask.shape)
        extent = np.hypot(crack.box.bottom - crack.box.top, crack.box.right - crack.box.left)
        assert own.length > 0.3 * extent
        assert own.length * own.mean_width <= crack.area + 1e-6
        assert own.mean_width <= own.max_width + 1e-6 <= extent + 1e-6


def test_a_widening_crack_has_its_width_everywhere() -> None:
    rows, columns = np.mgrid[:101, :441] - np.array([50, 20])[:, None, None]
    mask = (columns >= 0) & (columns <= 400) & (np.abs(rows) <= 2 + columns / 50)
    (crack,) = measured(mask)
    inner = (crack.path[:, 1] > 40) & (crack.path[:, 1] < 400)
    # Width 5 at the left and 21 at the right end, with the middle row.
    expected = 2 * (2 + (crack.path[inner, 1] - 20) / 50)
    assert np.abs(crack.widths[inner] - expected).max() < 1.2
    assert np.abs(np.mean(crack.widths[inner] - expected)) < 0.1


def test_a_crack_through_the_picture_ends_at_its_border() -> None:
    mask = np.zeros((30, 100), bool)
    mask[10:15] = True
    (crack,) = measured(mask)
    assert crack.length == pytest.approx(100, abs=0.2)
    assert crack.mean_width == pytest.approx(5, rel=0.01)
    assert crack.max_width == pytest.approx(5, abs=0.1)


def test_specks_and_whole_pictures() -> None:
    speck = np.zeros((9, 9), bool)
    speck[4, 5] = True
    (crack,) = measured(speck)
    assert (crack.length, crack.mean_width, crack.max_width, crack.orientation) == (1, 1, 1, None)
    (whole,) = measured(np.ones((30, 40), bool))
    assert whole.length == pytest.approx(40, abs=1)
    assert whole.mean_width == pytest.approx(30, abs=1)
