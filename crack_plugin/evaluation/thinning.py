"""Thinning, of which scikit-image looks at every pixel in every pass; here only at those that may have changed."""

import cv2
import numpy as np

_CROSS_AND_DIAGONALS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Rows and columns of the neighbours P2 to P9, clockwise from above."""


_AS_IN_SCIKIT_IMAGE = {
    **dict.fromkeys((24, 192), (0, 0)),
    **dict.fromkeys((3, 6, 7, 67, 97, 99, 129, 133, 193, 208), (1, 0)),
    **dict.fromkeys((12, 13, 28, 48, 52, 54, 88, 96, 112), (0, 1)),
    **dict.fromkeys((5, 20, 65, 80), (1, 1)),
}
"""Where scikit-image's ``skeletonize`` does not follow the paper: by neighbours, whether it removes the pixel in the
first and in the second subiteration. Found by comparing results, in scikit-image 0.26."""


def _removable() -> np.ndarray:
    """Whether a pixel is removed, by subiteration and the neighbours that are set (P2 is bit 0), shape (2, 256)."""
    neighbours = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    count = neighbours.sum(axis=1)
    risings = (~neighbours & np.roll(neighbours, -1, axis=1)).sum(axis=1)
    above, right, below, left = neighbours[:, ::2].T
    border = (count >= 2) & (count <= 6) & (risings == 1)
    first = border & ~(above & right & below) & ~(right & below & left)
    second = border & ~(above & right & left) & ~(above & below & left)
    table = np.stack([first, second])
    for code, removed in _AS_IN_SCIKIT_IMAGE.items():
        table[:, code] = removed
    return table


_REMOVABLE = _removable()


def thin(mask: np.ndarray) -> np.ndarray:
    """One pixel wide skeleton of a mask, by the rules of Zhang and Suen (CACM 1984).

    The pixels of ``skimage.morphology.skeletonize``. What stayed in a subiteration stays in the next of its kind unless
    a neighbour was removed in between, so that nothing else is looked at again.

    Args:
        mask: Shape (H, W), bool.

    Returns:
        Shape (H, W), bool.

    Example:
        >>> bar = np.zeros((5, 9), bool)
        >>> bar[1:4, 1:8] = True
        >>> int(thin(bar).sum(axis=0).max())  # one pixel wide
        1
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    stride = width + 2
    offsets = np.array([row * stride + column for row, column in _CROSS_AND_DIAGONALS], np.int32)
    pixels = padded.ravel()
    # Inside, where all neighbours are set, nothing is removed.
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))
    border = np.flatnonzero((padded != inner).ravel()).astype(np.int32)
    order = np.empty(padded.size, np.int32)
    # Those to be looked at in this subiteration and the next.
    now, later = border, border
    step = 0
    while now.size or later.size:
        now = now[pixels[now] > 0]
        code = np.zeros(now.size, np.uint8)
        for bit, offset in enumerate(offsets):
            code |= pixels[now + offset] << np.uint8(bit)
        removed = now[_REMOVABLE[step][code]]
        pixels[removed] = 0
        changed = _once(_neighbours(removed, offsets, pixels), order)
        now, later = _once(np.concatenate([later, changed]), order), changed
        step = 1 - step
    return padded[1:-1, 1:-1].astype(bool)


def _neighbours(removed: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    around = (removed[:, None] + offsets).ravel()
    return around[pixels[around] > 0]


def _once(places: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The places, each once; ``order`` is room for a number at each place of the image, whatever is in it."""
    numbers = np.arange(places.size, dtype=np.int32)
    order[places] = numbers
    return places[order[places] == numbers]
