"""What can be asked for, by name: each painter changes the scene's image and marks what it covers."""

from collections.abc import Callable

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.crack_look import paint_cracks
from crack_plugin.datasets.synthetic.lines import paint_joints, paint_lane_marking
from crack_plugin.datasets.synthetic.mineral import add_aggregate, tinted
from crack_plugin.datasets.synthetic.noise import (
    blob_distance,
    fractal_noise,
    log_uniform,
    shaded_relief,
    smooth_noise,
)
from crack_plugin.datasets.synthetic.scene import Scene

DEFECTS = ('crack', 'spalling', 'rust stain', 'lane marking', 'joint')
"""The classes. Where several cover a pixel, it has the first of them in this order."""


def _paint_spalling(rng: np.random.Generator, scene: Scene) -> None:
    size, light, image = scene.size, scene.light, scene.image
    small = rng.random() < 0.3
    for _ in range(1 + rng.poisson(3 if small else 0.4)):
        inside = blob_distance(rng, size, (0.02, 0.09) if small else (0.08, 0.3), rng.uniform(0.15, 0.4))
        alpha = np.clip(inside + 0.5, 0, 1)
        if not alpha.any():
            continue
        colour = image.mean(axis=(1, 2)) * rng.uniform(0.65, 1.15)
        broken = np.ones(size, np.float32) * (1 + rng.uniform(0.05, 0.15) * fractal_noise(rng, size, 20))
        add_aggregate(rng, broken, light, rng.uniform(0.6, 1.3))
        depth = np.clip(inside / log_uniform(rng, 2, 14), 0, 1)
        rough = -depth + rng.uniform(0, 0.15) * fractal_noise(rng, size, log_uniform(rng, 6, 30), 0.7)
        relief = shaded_relief(cv2.GaussianBlur(rough, (0, 0), 1.2), light)
        broken *= np.maximum(1 + rng.uniform(0.1, 0.25) * np.clip(relief, -3, 3), 0.15)
        scene.blend(alpha, tinted(rng, broken, 0.05) * colour.astype(np.float32)[:, None, None])
        # The broken edge itself: lit on one side, in shadow on the other.
        rim = shaded_relief(-np.clip(inside, -1.5, 1.5), light)
        image *= np.maximum(1 + rng.uniform(0.02, 0.12) * np.clip(rim, -4, 4), 0.15)
        scene.mark('spalling', alpha)


def _paint_rust(rng: np.random.Generator, scene: Scene) -> None:
    size, image = scene.size, scene.image
    density = np.zeros(size, np.float32)
    for _ in range(1 + rng.poisson(0.7)):
        r = rng.uniform(4, 14)
        source = np.clip(blob_distance(rng, size, (0.02, 0.16), 0.3) / r, 0, 1)
        source /= source.max() + 1e-6
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
    scene.blend(rng.uniform(0.15, 0.4) * density, np.float32(0.5) * colour[:, None, None])
    # A pixel is rust from a density of 0.3 on; coverage counts from 0.5 on.
    scene.mark('rust stain', np.clip((density - 0.3) * 5 + 0.5, 0, 1))


PAINTERS: dict[str, Callable[[np.random.Generator, Scene], None]] = {
    'crack': paint_cracks,
    'spalling': _paint_spalling,
    'rust stain': _paint_rust,
    'lane marking': paint_lane_marking,
    'joint': paint_joints,
}
