"""Defects: each paints into a reflectance image and returns its label region, (H, W) bool."""

import math
from collections.abc import Callable

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.curves import branching_crack, crack_network, render_strokes
from crack_plugin.datasets.synthetic.noise import (
    blob_distance,
    fine_grain,
    fractal_noise,
    log_uniform,
    shaded_relief,
    shifted,
    smooth_noise,
)
from crack_plugin.datasets.synthetic.surfaces import add_aggregate, tinted


def _paint_cracks(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    depth = rng.uniform(0.5, 1)
    width = log_uniform(rng, 0.8, 4.2)
    if rng.random() < 0.12:
        strokes = crack_network(rng, size, min(width, 2.5), depth)
    else:
        n_cracks = 1 + int(rng.random() < 0.3) + int(rng.random() < 0.1)
        strokes = [s for _ in range(n_cracks) for s in branching_crack(rng, size, width * rng.uniform(0.6, 1.1), depth)]
    alpha = render_strokes(strokes, size)
    _shade_cracks(rng, image, alpha, light)
    return render_strokes(strokes, size, margin) >= 0.5


def _shade_cracks(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, light: float) -> None:
    size = alpha.shape
    # Stones bridge the gap here and there.
    alpha = np.clip(alpha * (1 + rng.uniform(0, 0.35) * fine_grain(rng, size, log_uniform(rng, 0.7, 1.5))), 0, 1)
    lit = shifted(alpha, 1.2 * math.cos(light), 1.2 * math.sin(light))
    image *= 1 + rng.uniform(0, 0.35) * np.clip(lit - alpha, 0, 1)
    if rng.random() < 0.4:
        # Dirt, damp or lime beside old cracks.
        halo = np.clip(2 * cv2.GaussianBlur(alpha, (0, 0), rng.uniform(2, 7)), 0, 1)
        image *= 1 + rng.uniform(-0.25, 0.12) * halo
    floor = image.mean(axis=(1, 2)) * rng.uniform(0.1, 0.5) * rng.normal(1, 0.05, 3)
    image += alpha * np.minimum(floor.astype(np.float32)[:, None, None] - image, 0)


def _paint_spalling(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    region = np.zeros(size, bool)
    for _ in range(1 + rng.poisson(0.4)):
        inside = blob_distance(rng, size, (0.08, 0.28), rng.uniform(0.15, 0.3))
        region |= inside > 0
        alpha = np.clip(inside + 0.5, 0, 1)
        level = float(image.mean()) * rng.uniform(0.6, 1.1)
        broken = np.full(size, level, np.float32) * (1 + rng.uniform(0.05, 0.15) * fractal_noise(rng, size, 20))
        add_aggregate(rng, broken, light, rng.uniform(0.8, 1.3))
        depth = np.clip(inside / rng.uniform(4, 12), 0, 1)
        broken *= 1 + rng.uniform(0.1, 0.25) * np.clip(
            shaded_relief(-cv2.GaussianBlur(depth, (0, 0), 1.5), light), -3, 3
        )
        image += alpha * (tinted(rng, broken, 0.06) - image)
    return region


def _paint_rust(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    density = np.zeros(size, np.float32)
    for _ in range(1 + rng.poisson(0.7)):
        r = rng.uniform(4, 14)
        source = np.clip(blob_distance(rng, size, (0.03, 0.16), 0.3) / r, 0, 1)
        source /= source.max()
        if rng.random() < 0.6:
            # Water carries it down.
            reach = int(rng.uniform(0.1, 0.5) * size[0])
            down = np.concatenate([np.zeros(reach, np.float32), np.linspace(1, 0, reach, dtype=np.float32)])
            run = cv2.filter2D(source, -1, down[::-1, None].copy(), borderType=cv2.BORDER_CONSTANT)
            streaks = np.clip(1 + 0.5 * smooth_noise(rng, size, 3, (20, 1)), 0, 1.6)
            source = np.maximum(source, np.clip(run / (run.max() + 1e-6), 0, 1) * streaks)
        density = np.maximum(density, source)
    density = np.clip(density * (1 + 0.25 * fractal_noise(rng, size, 25)), 0, 1)
    colour = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.38, 0.6), rng.uniform(0.75, 1)], np.float32)
    image *= 1 - rng.uniform(0.6, 0.95) * density * (1 - colour)[:, None, None]
    # Rust is a coat of its own colour too: on a dark ground it is lighter.
    image += rng.uniform(0.15, 0.4) * density * (np.float32(0.5) * colour[:, None, None] - image)
    region = density > 0.3
    region[np.unravel_index(int(density.argmax()), size)] = True
    return region


PAINTERS: dict[str, Callable[[np.random.Generator, np.ndarray, float, float], np.ndarray]] = {
    'crack': _paint_cracks,
    'spalling': _paint_spalling,
    'rust stain': _paint_rust,
}
