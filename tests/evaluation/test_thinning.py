"""The skeleton is scikit-image's, pixel for pixel."""

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize

from crack_plugin.evaluation.thinning import thin


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (5, 4), (40, 31), (120, 90)])
@pytest.mark.parametrize('blur', [0, 1, 3])
def test_random_masks(shape: tuple[int, int], blur: int) -> None:
    """All neighbourhoods, thin and thick, at the image's border as well."""
    rng = np.random.default_rng(0)
    for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1):
        mask = rng.random(shape) < share
        if blur:
            mask = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), blur) > 0.5
        given = mask.copy()
        np.testing.assert_array_equal(thin(mask), skeletonize(mask))
        np.testing.assert_array_equal(mask, given)


def test_cracks_that_cross() -> None:
    rng = np.random.default_rng(0)
    drawn = np.zeros((400, 500), np.uint8)
    for width in (1, 2, 3, 5, 9, 16):
        points = np.cumsum(rng.normal(0, 30, (30, 2)), axis=0) + np.array([250, 200])
        cv2.polylines(drawn, [points.astype(np.int32)], False, 1, width)
    skeleton = thin(drawn > 0)
    np.testing.assert_array_equal(skeleton, skeletonize(drawn > 0))
    assert skeleton.sum() > 1000
