"""Surfaces: reflectance from 0 to 1, (3, H, W) float32 in the order BGR.

Planes come first, because that is many times faster to multiply by one (H, W) layer after another.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.noise import (
    fine_grain,
    fractal_noise,
    log_uniform,
    shaded_relief,
    shifted,
    smooth_noise,
    stone_cells,
)


def tinted(rng: np.random.Generator, tone: np.ndarray, saturation: float) -> np.ndarray:
    """A grey reflectance (H, W) in the colour of a mineral surface: (3, H, W), BGR."""
    warm = rng.normal(0, saturation)
    tint = np.array([1 - warm, 1 + rng.normal(0, saturation / 4), 1 + warm], np.float32)
    return tone * tint[:, None, None]


def _add_pores(rng: np.random.Generator, tone: np.ndarray, light: float) -> None:
    height, width = tone.shape
    layer = np.zeros((height * 2, width * 2), np.uint8)
    for _ in range(int(log_uniform(rng, 4, 250) * height * width / 336**2)):
        x, y = rng.integers(0, (width * 2, height * 2))
        radius = 1 + int(rng.exponential(1.6))
        axes = (radius, max(1, int(radius * rng.uniform(0.6, 1))))
        cv2.ellipse(layer, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, int(rng.uniform(90, 255)), -1)
    holes = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    tone *= 1 - rng.uniform(0.2, 0.7) * holes
    rim = shifted(holes, math.cos(light), math.sin(light))
    tone *= 1 + rng.uniform(0, 0.25) * np.clip(rim - holes, 0, 1)


def add_aggregate(rng: np.random.Generator, tone: np.ndarray, light: float, strength: float) -> None:
    """Stones, binder and relief on a grey reflectance, with ``strength`` from 0 (none) to 1 (bare aggregate)."""
    size = tone.shape
    cell = log_uniform(rng, 2, 7)
    stone, inside = stone_cells(rng, size, cell)
    spread = strength * rng.uniform(0.04, 0.24)
    binder = 1 - strength * rng.uniform(-0.08, 0.25)
    tone *= inside * (1 + spread * stone) + (1 - inside) * binder
    if rng.random() < 0.7:
        height = inside + rng.uniform(0.2, 0.8) * fine_grain(rng, size, log_uniform(rng, 0.7, 2))
        tone *= 1 + strength * rng.uniform(0.03, 0.13) * shaded_relief(height, light)
    if rng.random() < 0.7:
        # Single bright or dark stones and pits: far tails that normal noise does not have.
        spots, inside = stone_cells(rng, size, log_uniform(rng, 7, 20))
        small = np.clip(inside * 1.6 - 0.6, 0, 1)
        chosen = np.where(np.abs(spots) > 1.1, spots, 0)
        tone *= 1 + strength * rng.uniform(0.08, 0.3) * np.clip(chosen, -2, 3) * small


def _concrete(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    coarse = rng.random() < 0.75
    level = rng.uniform(0.25, 0.62) if coarse else rng.uniform(0.35, 0.85)
    tone = np.full(size, level, np.float32)
    tone *= 1 + log_uniform(rng, 0.005, 0.09) * fractal_noise(
        rng, size, log_uniform(rng, 20, 160), rng.uniform(0.4, 0.8)
    )
    tone *= 1 + rng.uniform(0.015, 0.08) * fine_grain(rng, size, log_uniform(rng, 0.45, 1.3))
    if coarse:
        add_aggregate(rng, tone, light, rng.uniform(0.3, 1))
    elif rng.random() < 0.5:
        tone *= 1 + rng.uniform(0.01, 0.06) * shaded_relief(fractal_noise(rng, size, log_uniform(rng, 5, 30)), light)
    if rng.random() < 0.45:
        _add_pores(rng, tone, light)
    if rng.random() < 0.15:
        _add_trowel_marks(rng, tone)
    if not coarse and rng.random() < 0.3:
        _add_board_marks(rng, tone)
    return tinted(rng, tone, 0.05)


def _add_trowel_marks(rng: np.random.Generator, tone: np.ndarray) -> None:
    """Long faint streaks in one direction, bent like the swing of an arm or a broom."""
    height, width = tone.shape
    streaks = smooth_noise(rng, (height * 2, width * 2), log_uniform(rng, 1.5, 5), (1, rng.uniform(15, 40)))
    turn = cv2.getRotationMatrix2D((width, height), rng.uniform(0, 180), 1)
    turn[:, 2] -= width / 2, height / 2
    tone *= 1 + rng.uniform(0.01, 0.06) * cv2.warpAffine(streaks, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _add_board_marks(rng: np.random.Generator, tone: np.ndarray) -> None:
    """The prints of formwork boards: strips of slightly different tone with wood grain."""
    height, width = tone.shape
    n_boards = int(rng.integers(3, 9))
    edges = np.linspace(0, width, n_boards + 1) + rng.uniform(-0.2, 0.2, n_boards + 1) * width / n_boards
    board = np.searchsorted(edges[1:-1], np.arange(width))
    profile = 1 + rng.uniform(0.01, 0.06) * rng.standard_normal(n_boards)[board]
    profile[np.flatnonzero(np.diff(board))] *= rng.uniform(0.7, 1.15)
    grain = smooth_noise(rng, (height, width), 2, (rng.uniform(10, 40), 1))
    marks = profile.astype(np.float32) * (1 + rng.uniform(0, 0.03) * grain)
    tone *= marks if rng.random() < 0.5 else cv2.resize(marks.T, (width, height))


def _asphalt(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    tone = np.full(size, rng.uniform(0.2, 0.5), np.float32)
    tone *= 1 + rng.uniform(0.01, 0.07) * fractal_noise(rng, size, log_uniform(rng, 30, 160))
    tone *= 1 + rng.uniform(0.02, 0.06) * fine_grain(rng, size, log_uniform(rng, 0.5, 1.2))
    add_aggregate(rng, tone, light, rng.uniform(0.6, 1.2))
    return tinted(rng, tone, 0.03)


def _masonry(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    height, width = size
    course = rng.uniform(28, 70)
    length, joint = course * rng.uniform(1.6, 3.2), rng.uniform(3, 8)
    wobble = rng.uniform(0.3, 1.2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y += wobble * smooth_noise(rng, size, 12) + rng.uniform(0, course)
    x += wobble * smooth_noise(rng, size, 12) + rng.uniform(0, length)
    row = np.floor(y / course).astype(np.int32)
    x += (row % 2) * np.float32(length / 2)
    column = np.floor(x / length).astype(np.int32)
    to_edge = np.minimum.reduce([y % course, course - y % course, x % length, length - x % length])
    brick = np.clip(to_edge - joint / 2 + 0.5, 0, 1)
    tones = rng.standard_normal((int(row.max()) + 1, int(column.max()) + 1), np.float32)
    rough = rng.uniform(0.02, 0.07) * fractal_noise(rng, size, log_uniform(rng, 6, 30), 0.8)
    rough += rng.uniform(0.02, 0.05) * fine_grain(rng, size, 0.7)
    red = rng.random() < 0.65
    colour = np.array(
        rng.uniform((0.18, 0.22, 0.34), (0.27, 0.32, 0.5)) if red else np.full(3, rng.uniform(0.35, 0.75))
    )
    face = colour.astype(np.float32)[:, None, None] * (1 + rough + rng.uniform(0.03, 0.14) * tones[row, column])
    mortar = tinted(rng, np.float32(rng.uniform(0.35, 0.75)) * (1 + 2 * rough), 0.04)
    image = brick * face + (1 - brick) * mortar
    shade = cv2.GaussianBlur(brick, (0, 0), 1.2)
    image *= 1 + rng.uniform(0.05, 0.12) * shaded_relief(shade, light)
    return image


SURFACES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    'concrete': _concrete,
    'asphalt': _asphalt,
    'masonry': _masonry,
}
