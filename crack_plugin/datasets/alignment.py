"""Whether a label lies on what it marks, or beside it, as after a picture was cropped or resized without its label."""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.signal import correlate

_SIDE = 1024
"""Larger pictures are reduced to this many pixels on their longer side."""

_NEAREST, _FARTHEST = 1 / 64, 1 / 12
"""Offsets that are looked for, in longer sides of the picture. Smaller ones are how exactly people draw."""

_SURROUNDINGS = 1 / 30
"""Standard deviation of the Gaussian that a pixel is compared with, in longer sides of the picture."""

_FIT, _SIGNAL = 0.5, 5.0
"""A label is beside what it marks where it fits less than half as well as elsewhere, and the difference is no accident:
five times the root mean square of the fit over all offsets (measured by benchmarks/label_offsets.py)."""


class Offset(NamedTuple):
    """Where a label fits its picture better.

    Attributes:
        right, down: How far the label would have to be moved, in pixels.
        fit: How well it fits where it is, by how well it would there, in [0, 1].
    """

    right: int
    down: int
    fit: float


def find_offset(image: np.ndarray, mask: np.ndarray) -> Offset | None:
    """Find where a label of cracks lies on what it marks, if that is beside where it is.

    Cracks are darker or paler than what surrounds them. The fit of a label is the mean of that difference over its
    pixels, whatever the sign; the best one is found by a matched filter (Turin, IRE Transactions on Information Theory,
    1960), which is a correlation.

    Args:
        image: Shape (H, W, 3), uint8.
        mask: Whether a pixel is marked, shape (H, W), bool.

    Returns:
        None if the label fits where it is, nowhere within a twelfth of the longer side, or is empty.

    Example:
        >>> image = np.full((200, 300, 3), 150, np.uint8)
        >>> image[100:103, 50:250] = 60
        >>> mask = np.zeros((200, 300), bool)
        >>> mask[88:91, 58:258] = True
        >>> find_offset(image, mask)
        Offset(right=-8, down=12, fit=0.2)
    """
    if not mask.any():
        return None
    side = max(mask.shape)
    scale = max(1.0, side / _SIDE)
    size = (max(1, round(mask.shape[1] / scale)), max(1, round(mask.shape[0] / scale)))
    marked = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    fits = np.abs(correlate(_contrast(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), marked, 'same', 'fft'))
    row, column = fits.shape[0] // 2, fits.shape[1] // 2
    reach = round(_FARTHEST * max(size))
    near = fits[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    here, best, noise = fits[row, column], near.max(), np.sqrt(np.mean(fits**2))
    down, right = np.argwhere(near == best)[0] - (min(row, reach), min(column, reach))
    if here >= _FIT * best or best - here < _SIGNAL * noise or np.hypot(down, right) < _NEAREST * max(size):
        return None
    return Offset(round(right * scale), round(down * scale), round(float(here / best), 2))


def _contrast(image: np.ndarray) -> np.ndarray:
    """How much darker or paler each pixel is than its surroundings, in standard deviations; 3 at most."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    difference = grey - cv2.GaussianBlur(grey, (0, 0), _SURROUNDINGS * max(grey.shape))
    return np.clip(difference / max(float(difference.std()), 1e-6), -3, 3)
