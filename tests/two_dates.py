"""Two photographs of a drawn wall: texture and cracks, seen by a camera that has moved by a known homography."""

from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np
from drawn_cracks import line

from crack_plugin.inspection.registration import jacobians, map_places

Cracks = Mapping[str, tuple[list[tuple[float, float]], float]]
"""By name, points (row, column) of a line in the first photograph, and the width there."""


@cache
def texture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Grains of several sizes, BGR, shape (H, W, 3), uint8."""
    noise = np.random.default_rng(seed)
    grains = [cv2.GaussianBlur(noise.normal(size=shape), None, sigma) * sigma for sigma in (2.5, 5.0, 10.0)]
    return np.repeat((128 + 40 * np.sum(grains, axis=0))[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def camera(angle: float, scale: float, shift: tuple[float, float], tilt: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Homography of (x, y): turned by degrees, scaled, shifted, and tilted."""
    turn = np.radians(angle)
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]], [*tilt, 1]])


def seen(image: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What the camera that has moved sees, under another light and with noise; shape (H', W', 3)."""
    # What the first did not show is another texture.
    moved = texture(shape, seed=9).copy()
    cv2.warpPerspective(image, matrix, shape[::-1], moved, cv2.INTER_LANCZOS4, cv2.BORDER_TRANSPARENT)
    noise = np.random.default_rng(1).normal(0, 3, moved.shape)
    return (0.8 * moved + 20 + noise).clip(0, 255).astype(np.uint8)


def moved_points(points: list[tuple[float, float]], matrix: np.ndarray) -> list[tuple[float, float]]:
    """Points (row, column) in the second photograph."""
    return [(y, x) for x, y in map_places(matrix, np.array(points, float)[:, ::-1]).tolist()]


def scale_at(point: tuple[float, float], matrix: np.ndarray) -> float:
    """How many pixels of the second photograph one of the first has become at (row, column)."""
    return float(np.sqrt(np.linalg.det(jacobians(matrix, np.array([point[::-1]], float))[0])))


def masks(before: Cracks, after: Cracks, matrix: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks of both photographs, each drawn from the formula, shape (H, W), uint8."""
    first = [line(shape, points, width) for points, width in before.values()]
    second = [
        line(shape, moved_points(points, matrix), width * scale_at(points[0], matrix))
        for points, width in after.values()
    ]
    empty = np.zeros(shape, bool)
    return np.any([empty, *first], axis=0).astype(np.uint8), np.any([empty, *second], axis=0).astype(np.uint8)
