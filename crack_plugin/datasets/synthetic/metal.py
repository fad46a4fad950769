"""Steel: bare, painted or corroded."""

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.mineral import paint_colour
from crack_plugin.datasets.synthetic.noise import (
    fine_grain,
    fractal_noise,
    log_uniform,
    patches,
    shaded_relief,
    shifted,
    smooth_noise,
    turned_streaks,
)
from crack_plugin.datasets.synthetic.scene import Scene


def steel(rng: np.random.Generator, scene: Scene) -> None:
    """A plate with its paint, its rolling or grinding marks, bolts, a weld, and rust; marks 'rust stain'."""
    kind = rng.choice(['bare', 'painted', 'corroded'], p=[0.35, 0.35, 0.3])
    if kind == 'painted':
        _painted(rng, scene)
    else:
        _bare(rng, scene)
    if rng.random() < 0.25:
        _weld(rng, scene)
    if rng.random() < 0.2:
        _bolts(rng, scene)
    if kind == 'corroded' or rng.random() < 0.3:
        _corrode(rng, scene, rng.uniform(0.3, 1) if kind == 'corroded' else rng.uniform(0.02, 0.25))


def _bare(rng: np.random.Generator, scene: Scene) -> None:
    size = scene.size
    tone = np.full(size, rng.uniform(0.2, 0.7), np.float32)
    tone *= np.maximum(1 + rng.uniform(0.02, 0.1) * turned_streaks(rng, size, log_uniform(rng, 0.8, 2.5), 30), 0.3)
    tone *= 1 + log_uniform(rng, 0.01, 0.06) * fine_grain(rng, size, log_uniform(rng, 0.5, 1.2))
    # Metal mirrors its surroundings.
    tone *= np.maximum(1 + rng.uniform(0.03, 0.2) * smooth_noise(rng, size, log_uniform(rng, 60, 250)), 0.3)
    tint = np.array([1 + rng.normal(0.02, 0.03), 1, 1 - rng.normal(0.02, 0.03)], np.float32)
    scene.image[:] = tone * tint[:, None, None]


def _painted(rng: np.random.Generator, scene: Scene) -> None:
    size = scene.size
    colour = paint_colour(rng)
    peel = fractal_noise(rng, size, log_uniform(rng, 3, 12))
    tone = 1 + rng.uniform(0.005, 0.04) * shaded_relief(peel, scene.light)
    tone += log_uniform(rng, 0.005, 0.03) * fine_grain(rng, size, 0.8)
    tone += rng.uniform(0.01, 0.06) * fractal_noise(rng, size, 120)
    scene.image[:] = colour[:, None, None] * np.maximum(tone, 0.2)


def _weld(rng: np.random.Generator, scene: Scene) -> None:
    """A bead of scales across the plate."""
    height, width = scene.size
    centre = rng.uniform(0.2, 0.8) * height
    half = log_uniform(rng, 5, 20)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(centre)
    y = y + 0.15 * half * smooth_noise(rng, scene.size, 25)
    x = np.arange(width, dtype=np.float32)[None]
    bead = np.sqrt(np.clip(1 - (y / np.float32(half)) ** 2, 0, 1))
    scales = np.cos(
        (x + (y / np.float32(half)) ** 2 * half * 0.6) * np.float32(2 * np.pi / (half * rng.uniform(0.3, 0.6)))
    )
    relief: np.ndarray = (bead * (1 + 0.12 * scales)).astype(np.float32)
    if rng.random() < 0.5:
        relief = cv2.resize(np.ascontiguousarray(relief.T), (width, height))
    scene.image *= np.maximum(1 + rng.uniform(0.05, 0.16) * shaded_relief(relief, scene.light), 0.2)


def _bolts(rng: np.random.Generator, scene: Scene) -> None:
    """A row of rivets or bolt heads."""
    height, width = scene.size
    radius = log_uniform(rng, 5, 18)
    pitch = radius * rng.uniform(3, 6)
    layer = np.zeros((height, width), np.uint8)
    row = rng.uniform(0.1, 0.9) * height
    for x in np.arange(rng.uniform(0, pitch), width + radius, pitch):
        cv2.circle(layer, (round(x * 16), round(row * 16)), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    heads = cv2.GaussianBlur(layer, (0, 0), 0.25 * radius).astype(np.float32) / 255
    scene.image *= 1 - 0.4 * np.clip(shifted(heads, 0.3 * radius, 0.3 * radius) - heads, 0, 1)
    scene.image *= np.maximum(1 + rng.uniform(0.04, 0.1) * shaded_relief(heads, scene.light), 0.2)


def _corrode(rng: np.random.Generator, scene: Scene, share: float) -> None:
    size = scene.size
    where = patches(rng, size, share, log_uniform(rng, 15, 120), rng.uniform(0.1, 0.6)) if share < 0.95 else None
    density = np.ones(size, np.float32) if where is None else where
    light_rust = np.array([0.14, 0.3, 0.55]) * rng.uniform(0.7, 1.2)
    dark_rust = np.array([0.08, 0.12, 0.2]) * rng.uniform(0.7, 1.4)
    mix = np.clip(0.5 + 0.4 * fractal_noise(rng, size, log_uniform(rng, 6, 50), 0.75), 0, 1)
    rust = (
        dark_rust.astype(np.float32)[:, None, None] + mix * (light_rust - dark_rust).astype(np.float32)[:, None, None]
    )
    rough = fine_grain(rng, size, log_uniform(rng, 0.6, 1.6)) + fractal_noise(rng, size, 12, 0.7)
    rust *= np.maximum(1 + rng.uniform(0.05, 0.16) * shaded_relief(rough, scene.light), 0.2)
    scene.blend(density * rng.uniform(0.75, 1), rust)
    edge = shaded_relief(cv2.GaussianBlur(density, (0, 0), 1), scene.light)
    scene.image *= np.maximum(1 - rng.uniform(0, 0.06) * np.clip(edge, -4, 4), 0.2)
    scene.mark('rust stain', density)
