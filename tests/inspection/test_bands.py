"""Connected cracks of an image in bands, against those of scipy on the whole image."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from crack_plugin.inspection.bands import Band, Box, cracks_in_order, find_cracks, join_bands

SHAPE = (23, 31)


def cut(labels: np.ndarray, probability: np.ndarray, cuts: np.ndarray) -> list[Band]:
    return [Band(*rows) for rows in zip(np.split(labels, cuts), np.split(probability, cuts), strict=True)]


@pytest.mark.parametrize('seed', range(16))
def test_cracks_do_not_depend_on_the_bands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ((rng.random(SHAPE) < rng.uniform(0.05, 0.6)) * rng.integers(1, 3, SHAPE)).astype(np.uint8)
    probability = rng.random(SHAPE)
    cuts = np.sort(rng.choice(np.arange(1, SHAPE[0]), rng.integers(0, 9), replace=False))
    found = find_cracks(cut(labels, probability, cuts))
    expected = []
    for label in (1, 2):
        numbers, count = ndimage.label(labels == label, np.ones((3, 3)))
        expected += [(np.argwhere(numbers == i), label, probability[numbers == i].mean()) for i in range(1, count + 1)]
    expected.sort(key=lambda crack: tuple(crack[0][0]))
    assert len(found) == len(expected)
    for crack, (pixels, label, score) in zip(found, expected, strict=True):
        assert crack.label == label
        assert crack.score == pytest.approx(score)
        assert crack.area == len(pixels)
        np.testing.assert_array_equal(crack.pixels(), pixels)
        np.testing.assert_array_equal(np.argwhere(crack.mask()) + crack.box[:2], pixels)
        np.testing.assert_array_equal(np.argwhere(crack.mask(Box(-2, -3, 30, 40))) - (2, 3), pixels)
        window = np.zeros(SHAPE, bool)
        window[tuple(pixels.T)] = True
        np.testing.assert_array_equal(crack.mask(Box(5, 7, 12, 30)), window[5:12, 7:30])


def _bands(image: np.ndarray, seen: list[int]) -> Iterator[Band]:
    """Ten rows at a time; ``seen`` gets the first row of each band that is asked for."""
    for start in range(0, len(image), 10):
        seen.append(start)
        yield Band(image[start : start + 10])


def test_a_crack_comes_as_soon_as_it_is_complete() -> None:
    image = np.zeros((40, 10), np.uint8)
    image[2:15, 3] = 1
    image[5:35, 7] = 1
    seen: list[int] = []
    cracks = join_bands(_bands(image, seen))
    assert next(cracks).area == 13
    assert seen == [0, 10]
    assert next(cracks).area == 30
    assert [*cracks] == []


def test_cracks_in_order_wait_for_those_that_begin_before_them_alone() -> None:
    image = np.zeros((60, 12), np.uint8)
    image[2:5, 1] = 1
    image[4:35, 3] = 1
    image[6:8, 5] = 1
    image[33:50, 7] = 1
    seen: list[int] = []
    cracks = [(crack.area, seen[-1]) for crack in cracks_in_order(_bands(image, seen))]
    assert cracks == [(3, 0), (31, 30), (2, 30), (17, 50)]


def test_two_arms_that_meet_below_are_one_crack() -> None:
    image = np.zeros((9, 9), np.uint8)
    image[:8, [1, 7]] = 1
    image[8, 2:7] = 1
    assert [crack.area for crack in find_cracks(Band(row[None]) for row in image)] == [21]


def test_nothing() -> None:
    assert find_cracks([]) == []
    assert find_cracks([Band(np.zeros((3, 4), np.uint8))] * 3) == []
