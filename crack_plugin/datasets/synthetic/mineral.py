"""Surfaces without joints: concrete, asphalt, plaster and terrazzo."""

import math

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.noise import (
    fine_grain,
    fractal_noise,
    log_uniform,
    patches,
    shaded_relief,
    shifted,
    smooth_noise,
    stone_cells,
    turned_streaks,
)
from crack_plugin.datasets.synthetic.scene import Scene


def tinted(rng: np.random.Generator, tone: np.ndarray, saturation: float) -> np.ndarray:
    """A grey reflectance (H, W) in the colour of a mineral surface: (3, H, W), BGR."""
    warm = rng.normal(0, saturation)
    tint = np.array([1 - warm, 1 + rng.normal(0, saturation / 4), 1 + warm], np.float32)
    return tone * np.clip(tint, 0.4, 1.6)[:, None, None]


def add_pores(rng: np.random.Generator, tone: np.ndarray, light: float) -> None:
    """Holes that air bubbles left, with a lit rim."""
    height, width = tone.shape
    layer = np.zeros((height * 2, width * 2), np.uint8)
    largest = log_uniform(rng, 1.2, 4)
    for _ in range(int(log_uniform(rng, 4, 250) * height * width / 336**2)):
        x, y = rng.integers(0, (width * 2, height * 2))
        radius = 1 + int(rng.exponential(largest))
        axes = (radius, max(1, int(radius * rng.uniform(0.6, 1))))
        cv2.ellipse(layer, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, int(rng.uniform(90, 255)), -1)
    holes = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    tone *= 1 - rng.uniform(0.2, 0.75) * holes
    rim = shifted(holes, math.cos(light), math.sin(light))
    tone *= 1 + rng.uniform(0, 0.25) * np.clip(rim - holes, 0, 1)


def add_aggregate(rng: np.random.Generator, tone: np.ndarray, light: float, strength: float) -> None:
    """Stones, binder and relief on a grey reflectance, with ``strength`` from 0 (none) to 1 (bare aggregate)."""
    size = tone.shape
    cell = log_uniform(rng, 1.6, 7)
    stone, inside = stone_cells(rng, size, cell)
    spread = strength * rng.uniform(0.04, 0.26)
    binder = 1 - strength * rng.uniform(-0.08, 0.3)
    tone *= inside * np.maximum(1 + spread * stone, 0.2) + (1 - inside) * binder
    if rng.random() < 0.7:
        height = inside + rng.uniform(0.2, 0.8) * fine_grain(rng, size, log_uniform(rng, 0.7, 2))
        tone *= np.maximum(1 + strength * rng.uniform(0.03, 0.14) * shaded_relief(height, light), 0.2)
    if rng.random() < 0.7:
        # Single bright or dark stones and pits: far tails that normal noise does not have.
        spots, inside = stone_cells(rng, size, log_uniform(rng, 5, 18))
        small = np.clip(inside * 1.6 - 0.6, 0, 1)
        chosen = np.where(np.abs(spots) > 1.1, spots, 0)
        tone *= 1 + strength * rng.uniform(0.08, 0.35) * np.clip(chosen, -2, 3) * small


def concrete(rng: np.random.Generator, scene: Scene) -> None:
    """From light plaster to dark speckled slabs; cast against boards, broomed, weathered or painted."""
    size, light = scene.size, scene.light
    coarse = rng.random() < 0.65
    level = rng.uniform(0.25, 0.62) if coarse else rng.uniform(0.35, 0.85)
    tone = np.full(size, level, np.float32)
    tone *= 1 + log_uniform(rng, 0.005, 0.09) * fractal_noise(
        rng, size, log_uniform(rng, 20, 160), rng.uniform(0.4, 0.8)
    )
    tone *= np.maximum(1 + rng.uniform(0.015, 0.12) * fine_grain(rng, size, log_uniform(rng, 0.45, 1.1)), 0.2)
    if coarse:
        add_aggregate(rng, tone, light, rng.uniform(0.3, 1))
    elif rng.random() < 0.5:
        rough = fractal_noise(rng, size, log_uniform(rng, 5, 30))
        tone *= np.maximum(1 + log_uniform(rng, 0.01, 0.1) * shaded_relief(rough, light), 0.2)
    if rng.random() < 0.45:
        add_pores(rng, tone, light)
    if rng.random() < 0.2:
        _add_grooves(rng, tone, light)
    if not coarse and rng.random() < 0.4:
        _add_board_marks(rng, scene, tone)
    scene.image[:] = tinted(rng, tone, 0.04 if rng.random() < 0.75 else 0.15)
    if rng.random() < 0.25:
        _weather(rng, scene)
    if rng.random() < 0.08:
        _paint_over(rng, scene)


def asphalt(rng: np.random.Generator, scene: Scene) -> None:
    """New and black, or old, grey and bare."""
    size = scene.size
    old, even = rng.random() < 0.7, rng.random() < 0.5
    tone = np.full(size, rng.uniform(0.25, 0.52) if old else rng.uniform(0.12, 0.3), np.float32)
    tone *= 1 + rng.uniform(0.01, 0.03 if even else 0.07) * fractal_noise(rng, size, log_uniform(rng, 30, 160))
    if even:
        # Its stones are no larger than a pixel, as a camera on a car sees most roads.
        tone *= np.maximum(1 + log_uniform(rng, 0.03, 0.12) * fine_grain(rng, size, log_uniform(rng, 0.35, 0.8)), 0.2)
        if rng.random() < 0.5:
            add_aggregate(rng, tone, scene.light, rng.uniform(0.05, 0.3))
    else:
        tone *= 1 + rng.uniform(0.02, 0.1) * fine_grain(rng, size, log_uniform(rng, 0.5, 1.1))
        add_aggregate(rng, tone, scene.light, rng.uniform(0.6, 1.25) if old else rng.uniform(0.4, 0.9))
    if not even and rng.random() < 0.15:
        # Stones have come out.
        lost = stone_cells(rng, size, log_uniform(rng, 4, 9))
        tone *= 1 - rng.uniform(0.2, 0.5) * np.where(lost[0] > rng.uniform(0.8, 2), lost[1], 0)
    scene.image[:] = tinted(rng, tone, 0.03)
    if rng.random() < 0.1:
        # Single coloured stones.
        hue, inside = stone_cells(rng, size, log_uniform(rng, 4, 14))
        scene.image[2] *= 1 + 0.25 * np.where(hue > 1, inside, 0)


def plaster(rng: np.random.Generator, scene: Scene) -> None:
    """Walls that were rendered and painted: smooth or bumpy, in any colour, peeling here and there."""
    size, light = scene.size, scene.light
    tone = np.full(size, rng.uniform(0.45, 0.88), np.float32)
    tone *= 1 + log_uniform(rng, 0.004, 0.05) * fractal_noise(rng, size, log_uniform(rng, 30, 200), 0.6)
    tone *= 1 + log_uniform(rng, 0.005, 0.05) * fine_grain(rng, size, log_uniform(rng, 0.5, 1.5))
    kind = rng.random()
    if kind < 0.35:
        bumps = fractal_noise(rng, size, log_uniform(rng, 5, 25), rng.uniform(0.3, 0.7))
        tone *= np.maximum(1 + log_uniform(rng, 0.02, 0.14) * shaded_relief(bumps, light), 0.2)
    elif kind < 0.55:
        grain = stone_cells(rng, size, log_uniform(rng, 3, 8))[1]
        tone *= np.maximum(
            1 + rng.uniform(0.02, 0.12) * shaded_relief(cv2.GaussianBlur(grain, (0, 0), 0.8), light), 0.2
        )
    elif kind < 0.7:
        strokes = turned_streaks(rng, size, log_uniform(rng, 2, 5), rng.uniform(6, 25))
        tone *= np.maximum(1 + rng.uniform(0.01, 0.06) * strokes, 0.2)
    if rng.random() < 0.3:
        add_pores(rng, tone, light)
    scene.image[:] = tone * pastel(rng)[:, None, None]
    if rng.random() < 0.3:
        _peel(rng, scene)
    if rng.random() < 0.3:
        _weather(rng, scene)


def terrazzo(rng: np.random.Generator, scene: Scene) -> None:
    """Polished chips of several colours in a smooth binder."""
    size = scene.size
    binder = pastel(rng) * rng.choice([rng.uniform(0.25, 0.5), rng.uniform(0.55, 0.9)])
    image = np.broadcast_to(binder[:, None, None], (3, *size)).copy()
    colours = [pastel(rng) * rng.uniform(0.15, 0.95) for _ in range(rng.integers(2, 5))]
    cell = log_uniform(rng, 6, 22)
    for i in range(2):
        tone, inside = stone_cells(rng, size, max(3.0, cell / (1 + 1.5 * i)))
        which = np.clip((tone + 1.5) / 3 * len(colours), 0, len(colours) - 1).astype(int)
        chips = np.stack(colours)[which].transpose(2, 0, 1) * (1 + 0.05 * tone)
        image += inside * (chips.astype(np.float32) - image)
    image *= 1 + rng.uniform(0.005, 0.03) * fine_grain(rng, size, 0.8)
    image *= 1 + rng.uniform(0.01, 0.05) * fractal_noise(rng, size, 80)
    scene.image[:] = np.clip(image, 0.02, 1)


def pastel(rng: np.random.Generator) -> np.ndarray:
    """The colour of a paint or a stone, BGR of about 1, shape (3,), float32."""
    if rng.random() < 0.4:
        return (1 + rng.normal(0, 0.02, 3)).astype(np.float32)
    hue, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.22)
    if rng.random() < 0.6:
        hue = rng.normal(0.6, 0.35)  # ochre, the most frequent
    red = 1 + chroma * math.cos(hue)
    green = 1 + 0.6 * chroma * math.sin(hue)
    return np.array([1 - chroma * (0.8 * math.cos(hue) + 0.6 * math.sin(hue)), green, red], np.float32)


def paint_colour(rng: np.random.Generator) -> np.ndarray:
    """The reflectance of a coat of paint, grey more often than bright, BGR, shape (3,), float32."""
    grey = rng.uniform(0.15, 0.85)
    return (grey + rng.beta(1, 2) * (rng.uniform(0.08, 0.85, 3) - grey)).astype(np.float32)


def _add_grooves(rng: np.random.Generator, tone: np.ndarray, light: float) -> None:
    """Long streaks in one direction: a trowel, a broom, or the tines that roughen a road."""
    streaks = turned_streaks(rng, tone.shape, log_uniform(rng, 1.5, 6), rng.uniform(12, 40))
    if rng.random() < 0.4:
        groove = np.clip(streaks - rng.uniform(0.3, 1.2), 0, 1)
        tone *= 1 - rng.uniform(0.1, 0.45) * groove
    else:
        tone *= np.maximum(1 + rng.uniform(0.01, 0.08) * streaks, 0.2)


def _add_board_marks(rng: np.random.Generator, scene: Scene, tone: np.ndarray) -> None:
    """The prints of formwork boards: strips of slightly different tone with wood grain, and a line between them."""
    upright = rng.random() < 0.5
    height, width = tone.shape if upright else tone.shape[::-1]
    n_boards = int(rng.integers(2, 9))
    edges = np.linspace(0, width, n_boards + 1) + rng.uniform(-0.2, 0.2, n_boards + 1) * width / n_boards
    board = np.searchsorted(edges[1:-1], np.arange(width))
    profile = 1 + rng.uniform(0.01, 0.06) * rng.standard_normal(n_boards)[board]
    grain = smooth_noise(rng, (height, width), 2, (rng.uniform(10, 40), 1))
    marks = profile.astype(np.float32) * (1 + rng.uniform(0, 0.03) * grain)
    if rng.random() < 0.7:
        half = 0.5 * max(1.6 * scene.view.scale, log_uniform(rng, 1, 4))
        line = np.clip(half + 0.5 - np.abs(np.arange(width)[:, None] - edges[1:-1]).min(axis=1), 0, 1)
        shown = np.broadcast_to(line.astype(np.float32), (height, width)).copy()
        marks = marks * (1 + rng.choice([-rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.3)], p=[0.75, 0.25]) * shown)
        scene.mark('joint', shown if upright else shown.T.copy())
    tone *= marks if upright else marks.T


def _weather(rng: np.random.Generator, scene: Scene) -> None:
    """Dark growth and dirt in speckles and patches."""
    size = scene.size
    where = patches(rng, size, rng.uniform(0.1, 0.7), log_uniform(rng, 20, 150), rng.uniform(0.2, 1.5))
    speckle = np.clip(fractal_noise(rng, size, log_uniform(rng, 4, 15), 0.8) + rng.uniform(-0.8, 0.8), 0, 1)
    colour = np.array([rng.uniform(0.5, 0.8), rng.uniform(0.6, 0.85), rng.uniform(0.55, 0.85)], np.float32)
    scene.image *= 1 - (where * speckle * rng.uniform(0.4, 1)) * (1 - colour)[:, None, None]


def _paint_over(rng: np.random.Generator, scene: Scene) -> None:
    colour = paint_colour(rng)
    texture = scene.image.mean(axis=0)
    texture = texture / texture.mean()
    where = patches(rng, scene.size, rng.uniform(0.6, 1), 40, 0.1)
    scene.blend(where * rng.uniform(0.7, 1), colour[:, None, None] * (1 + 0.5 * (texture - 1)))


def _peel(rng: np.random.Generator, scene: Scene) -> None:
    """The coat has come off in flakes: other colour below, and a thin shadow at the edge."""
    where = patches(rng, scene.size, rng.uniform(0.03, 0.35), log_uniform(rng, 15, 90), 0.06)
    below = scene.image.mean(axis=(1, 2)) * rng.uniform(0.55, 1.1) * rng.normal(1, 0.06, 3)
    rough = 1 + rng.uniform(0.03, 0.12) * fine_grain(rng, scene.size, log_uniform(rng, 0.6, 1.5))
    scene.blend(where, below.astype(np.float32)[:, None, None] * rough)
    edge = shaded_relief(-cv2.GaussianBlur(where, (0, 0), 0.8), scene.light)
    scene.image *= np.maximum(1 + rng.uniform(0.02, 0.07) * np.clip(edge, -4, 4), 0.2)
