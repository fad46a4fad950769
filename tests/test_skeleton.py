"""Width of cracks along their centreline, for the check of a dataset and for the measures of an image."""

import numpy as np
import pytest
from skimage.draw import polygon2mask

from crack_plugin.evaluation.geometry import measure_cracks
from crack_plugin.skeleton import crack_widths, without_pinholes


def slanted(width: float) -> np.ndarray:
    """A line 200 px long that falls 3 in 4."""
    along, across = np.array([0.8, 0.6]), np.array([-0.6, 0.8]) * width / 2
    start, end = np.array([40, 40]), np.array([40, 40]) + 200 * along
    return polygon2mask((240, 240), [start + across, end + across, end - across, start - across])


@pytest.mark.parametrize('width', [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize('axis', [0, 1])
def test_width_of_a_line_along_an_axis(width, axis):
    mask = np.zeros((60, 200), bool)
    mask[20 : 20 + width, 10:190] = True
    widths = crack_widths(mask if axis == 0 else mask.T)
    np.testing.assert_allclose(np.percentile(widths, [10, 50]), width, atol=0.25)


@pytest.mark.parametrize('width', [6, 12])
def test_width_of_a_slanted_line(width):
    assert np.median(crack_widths(slanted(width))) == pytest.approx(width, abs=0.7)


@pytest.mark.parametrize('width', [3, 6, 12])
def test_the_check_of_a_dataset_and_the_measures_of_an_image_agree(width):
    mask = slanted(width)
    assert crack_widths(mask).max() == measure_cracks(mask).max_width


def test_thin_part_of_a_crack_is_told_from_its_median():
    mask = np.zeros((60, 400), bool)
    mask[20:21, :120] = True
    mask[18:23, 120:] = True
    np.testing.assert_allclose(np.percentile(crack_widths(mask), [10, 50]), [1, 5], atol=0.25)


def test_width_across_blocks_and_without_a_crack():
    assert not crack_widths(np.zeros((10, 10), bool)).size
    assert crack_widths(np.ones((9, 9), bool)).max() == pytest.approx(9, abs=0.25)
    mask = np.zeros((30, 5000), bool)
    mask[10:14] = True
    np.testing.assert_allclose(crack_widths(mask), 4, atol=0.25)


@pytest.mark.parametrize(('width', 'hole'), [(3, 1), (8, 2), (20, 5)])
def test_a_crack_with_holes_is_as_long_and_wide_as_without(width, hole):
    mask = np.zeros((60, 200), bool)
    mask[20 : 20 + width, 10:190] = True
    solid = measure_cracks(mask)
    # In the middle, and along an edge of one pixel.
    for row, column in ((20 + (width - hole) // 2, 60), (21, 100), (20 + (width - hole) // 2, 140)):
        mask[row : row + hole, column : column + hole] = False
    assert measure_cracks(mask) == solid
    np.testing.assert_array_equal(crack_widths(mask).max(), solid.max_width)


def test_many_holes_one_beside_the_other():
    """Each is in the way of the others' discs, the small ones least."""
    mask = np.zeros((60, 320), bool)
    mask[20:40, 10:310] = True
    solid = measure_cracks(mask)
    mask[21:39, 11:309] &= np.random.default_rng(0).random((18, 298)) > 0.05
    porous = measure_cracks(mask)
    assert porous.length == pytest.approx(solid.length, rel=0.02)
    assert porous.mean_width == pytest.approx(solid.mean_width, rel=0.02)
    assert crack_widths(mask).max() == porous.max_width
    filled = without_pinholes(mask)
    np.testing.assert_array_equal(without_pinholes(filled), filled)


def test_larger_holes_part_two_branches():
    mask = np.zeros((60, 200), bool)
    mask[20:40, 10:190] = True
    mask[26:34, 100:108] = False  # six pixels of crack on either side
    widths = crack_widths(mask)
    assert len(widths) > 175 and widths.min() == pytest.approx(6, abs=0.5)


def test_the_meshes_of_a_network_are_no_holes():
    """The network would be one large blob without them."""
    mask = np.zeros((101, 101), bool)
    for place in range(0, 100, 10):
        mask[place : place + 3] = mask[:, place : place + 3] = True
    mask = np.pad(mask, 5)
    widths = crack_widths(mask)
    assert np.median(widths) == pytest.approx(3, abs=0.5)
    assert measure_cracks(mask).length > 1500
