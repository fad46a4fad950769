"""Maps of a byte a pixel: thresholds, corrections, widths and scales."""

import numpy as np
import pytest

from crack_plugin.app.limits import AppError
from crack_plugin.app.maps import (
    ERASED,
    MARKED,
    check_corrections,
    checked_scale,
    cut,
    labels_of,
    scale_of,
    to_bytes,
    width_map,
)
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.features import Photograph, make_features


def test_thresholded_bytes_are_the_thresholded_probabilities() -> None:
    """But for those within half a 255th of the threshold."""
    probability = np.linspace(0, 1, 100_001)
    for threshold in (0.01, 0.2, 0.5, 0.8, 0.99):
        clear = np.abs(probability - threshold) > 1 / 510 + 1e-9
        found = labels_of(to_bytes(probability)[None], threshold)[0]
        np.testing.assert_array_equal(found[clear], (probability > threshold)[clear])


def test_half_is_where_the_model_has_it() -> None:
    assert labels_of(to_bytes(np.array([[0.498, 0.502]])), 0.5).tolist() == [[0, 1]]


@pytest.mark.parametrize('threshold', [-0.1, 1.0, float('nan')])
def test_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(AppError, match='wanted is a number from 0'):
        cut(threshold)


def test_corrections_count_more_than_the_model() -> None:
    probability = np.array([[0, 255, 0, 255]], np.uint8)
    corrections = np.array([[MARKED, ERASED, 0, 0]], np.uint8)
    for threshold in (0.0, 0.5, 0.99):
        assert labels_of(probability, threshold, corrections).tolist() == [[1, 0, 0, 1]]


def test_corrections_of_another_size_or_value_are_refused() -> None:
    assert check_corrections(bytes([0, 1, 2, 0, 0, 0]), (2, 3)).tolist() == [[0, 1, 2], [0, 0, 0]]
    with pytest.raises(AppError, match='5 pixels, the photograph has 6'):
        check_corrections(bytes(5), (2, 3))
    with pytest.raises(AppError, match='the value 3'):
        check_corrections(bytes([0, 3, 0, 0, 0, 0]), (2, 3))


def test_widths_are_those_of_the_cracks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Two straight bars of 4 and 12 pixels, half a millimetre a pixel."""
    labels = np.zeros((120, 200), np.uint8)
    labels[20:24, 10:190] = 1
    labels[70:82, 10:190] = 1
    photograph = Photograph(tmp_path / 'a.png', 'masks/a.png', labels.shape, ['crack'], mm_per_pixel=0.5)
    values, largest = width_map(labels, make_features(photograph, find_cracks([Band(labels)])))
    assert largest == pytest.approx(6, abs=0.4)
    assert ((values > 0) == (labels > 0)).all()
    assert np.median(values[20:24, 40:160]) * largest / 255 == pytest.approx(2, abs=0.1)
    assert np.median(values[70:82, 40:160]) * largest / 255 == pytest.approx(6, abs=0.3)


def test_without_cracks_there_are_no_widths() -> None:
    values, largest = width_map(np.zeros((4, 5), np.uint8), [])
    assert (values.any(), largest) == (False, 0.0)


def test_scale_of_two_places() -> None:
    assert scale_of([[10, 10], [13, 14]], 20) == pytest.approx(4)
    for points in ([[1, 1]], [[1, 1], [1, 1.5]], [[0, 0], [float('nan'), 0]]):
        with pytest.raises(AppError):
            scale_of(points, 10)
    for length in (0, -1, float('inf')):
        with pytest.raises(AppError, match='the length is a number'):
            scale_of([[0, 0], [10, 0]], length)
    with pytest.raises(AppError, match='the scale is a number'):
        checked_scale(float('nan'))
