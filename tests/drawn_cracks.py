"""Cracks drawn from their formula: the pixels whose centres lie within half a width of a line."""

import numpy as np


def line(shape: tuple[int, int], points: list[tuple[float, float]], width: float) -> np.ndarray:
    """A crack with round ends along straight pieces between points (row, column), shape (H, W), bool."""
    places = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).astype(float)
    mask = np.zeros(shape, bool)
    for start, end in zip(np.array(points, float), np.array(points[1:], float), strict=False):
        along = end - start
        share = np.clip((places - start) @ along / (along @ along), 0, 1)
        mask |= np.hypot(*np.moveaxis(places - start - share[..., None] * along, -1, 0)) <= width / 2
    return mask


def length(points: list[tuple[float, float]], width: float) -> float:
    """From tip to tip."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum()) + width
