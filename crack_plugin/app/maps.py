"""Maps of a photograph, a byte a pixel, as server and browser both read them: pure functions.

``static-files/view.js`` decides by the same rules; ``tests/app/test_browser.py`` compares the two.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from crack_plugin.app.limits import AppError
from crack_plugin.inspection.features import Feature

MARKED, ERASED = 1, 2
"""Values of a map of corrections; 0 leaves a pixel to the model."""

_PIXELS_AT_ONCE = 1_000_000


def to_bytes(probability: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1] as whole 255ths, uint8."""
    return np.rint(255 * probability).astype(np.uint8)


def cut(threshold: float) -> int:
    """The largest byte that is not above a threshold.

    Example:
        >>> cut(0.5), cut(0.2)
        (127, 51)

    Raises:
        AppError: It is no probability.
    """
    if not 0 <= threshold < 1:
        raise AppError(f'the threshold is {threshold}, wanted is a number from 0 to below 1.')
    # Products of decimals differ from the whole number in the last digit.
    return math.floor(255 * threshold + 1e-9)


def labels_of(probability: np.ndarray, threshold: float, corrections: np.ndarray | None = None) -> np.ndarray:
    """1 where a pixel is a crack, 0 elsewhere.

    Args:
        probability: As of :func:`to_bytes`, shape (H, W).
        threshold: A crack is what is more probable.
        corrections: By hand, which count more, shape (H, W); None without.

    Returns:
        Shape (H, W), uint8.
    """
    labels = (probability > cut(threshold)).astype(np.uint8)
    if corrections is not None:
        labels[corrections == MARKED] = 1
        labels[corrections == ERASED] = 0
    return labels


def check_corrections(content: bytes, shape: tuple[int, int]) -> np.ndarray:
    """A map of corrections as a browser sends it, row by row.

    Raises:
        AppError: It is of another size, or has other values.
    """
    height, width = shape
    if len(content) != height * width:
        raise AppError(f'the corrections have {len(content)} pixels, the photograph has {height * width}.')
    corrections = np.frombuffer(content, np.uint8).reshape(shape)
    if corrections.max(initial=0) > ERASED:
        raise AppError(f'the corrections have the value {corrections.max()}: 0, {MARKED} and {ERASED} have a meaning.')
    return corrections


def width_map(labels: np.ndarray, features: Sequence[Feature]) -> tuple[np.ndarray, float]:
    """The width of the crack at each of its pixels: that at the nearest place of a centreline.

    Args:
        labels: Shape (H, W).
        features: The cracks in them.

    Returns:
        255ths of the largest width, 0 off the cracks and at least 1 on them, shape (H, W), uint8; and the largest width
        in the unit of the features.
    """
    found = np.zeros(labels.shape, np.uint8)
    branches = [branch for feature in features for branch in feature.branches if len(branch.points)]
    if not branches:
        return found, 0.0
    widths = np.concatenate([branch.widths for branch in branches])
    # A branch's points are corners of pixels, half a pixel from the centres.
    tree = cKDTree(np.concatenate([branch.points for branch in branches]) - 0.5)
    largest = float(widths.max())
    rows, columns = np.nonzero(labels)
    for start in range(0, len(rows), _PIXELS_AT_ONCE):
        part = np.s_[start : start + _PIXELS_AT_ONCE]
        nearest = tree.query(np.stack([columns[part], rows[part]], axis=1))[1]
        found[rows[part], columns[part]] = np.maximum(np.rint(255 * widths[nearest] / largest), 1)
    return found, largest * features[0].scale


def scale_of(points: Sequence[Sequence[float]], length: float) -> float:
    """Millimetres a pixel from two places that are a known length apart.

    Args:
        points: Two (x, y), in pixels.
        length: In mm.

    Raises:
        AppError: The places are one, or the length is none.
    """
    if len(points) != 2 or any(len(point) != 2 for point in points):
        raise AppError('a scale is measured between two places.')
    distance = math.dist(*points)
    if not (math.isfinite(distance) and distance >= 1):
        raise AppError('the two places are less than a pixel apart: click on the two ends of what you know.')
    return checked_scale(length / distance, 'the length')


def checked_scale(value: float, what: str = 'the scale') -> float:
    """A scale in millimetres a pixel.

    Raises:
        AppError: It is not positive, or not a number.
    """
    if not (math.isfinite(value) and value > 0):
        raise AppError(f'{what} is a number of millimetres above 0.')
    return value
