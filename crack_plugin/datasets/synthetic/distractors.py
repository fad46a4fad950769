"""What is on a surface and is no defect."""

from collections.abc import Callable

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.curves import Stroke, even_stroke, random_walk, render_strokes, straight_line
from crack_plugin.datasets.synthetic.lines import (
    half_plane,
    paint_drawn_lines,
    paint_joints,
    paint_lane_marking,
    paint_scratches,
    paint_sealing,
    paint_tyre_marks,
    paint_wires,
)
from crack_plugin.datasets.synthetic.noise import (
    blob_distance,
    fine_grain,
    fractal_noise,
    log_uniform,
    shifted,
    smooth_noise,
)
from crack_plugin.datasets.synthetic.scene import Scene


def add_distractors(rng: np.random.Generator, scene: Scene, surface: str, before: bool) -> None:
    """Paint things that are no defects: ``before`` the defects those they may cut through, then those on top."""
    for chance, painter in _DISTRACTORS[before]:
        factor = _ONLY_ON.get(painter, {}).get(surface, 0.3 if painter in _ONLY_ON else 1)
        if rng.random() < chance * factor:
            painter(rng, scene)


def _stain(rng: np.random.Generator, scene: Scene) -> None:
    size = scene.size
    field = fractal_noise(rng, size, log_uniform(rng, 30, 200), rng.uniform(0.4, 0.75)) - rng.uniform(0.2, 1.5)
    edge = np.clip(field * log_uniform(rng, 1, 8), 0, 1)
    tint = rng.uniform(0.6, 1.25) + rng.normal(0, 0.025, 3).astype(np.float32)
    scene.image *= 1 + edge * (tint - 1)[:, None, None]


def _streaks(rng: np.random.Generator, scene: Scene) -> None:
    """Water that ran down a wall, dark or with lime."""
    height, width = scene.size
    streaks = smooth_noise(rng, scene.size, log_uniform(rng, 4, 20), (rng.uniform(15, 40), 1)) - rng.uniform(0.3, 1.2)
    start = rng.uniform(-0.5, 0.5) * height + 0.15 * height * smooth_noise(rng, (1, width), 12)
    y = np.arange(height, dtype=np.float32)[:, None]
    fade = np.clip((y - start) / 6, 0, 1) * np.exp(-np.maximum(y - start, 0) / (rng.uniform(0.2, 1.5) * height))
    scene.image *= 1 + (rng.uniform(-0.5, -0.1) if rng.random() < 0.7 else 0.3) * np.clip(streaks, 0, 1) * fade


def _spots(rng: np.random.Generator, scene: Scene) -> None:
    """Drops, chewing gum, small debris."""
    height, width = scene.size
    for _ in range(1 + rng.poisson(2)):
        radius = log_uniform(rng, 1.5, 9)
        x, y = rng.uniform((0, 0), (width, height))
        layer = np.zeros((height, width), np.uint8)
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        r = radius * rng.uniform(0.6, 1.3, 14)
        points = np.stack([x + r * np.cos(angles), y + r * rng.uniform(0.5, 1) * np.sin(angles)], axis=1)
        cv2.fillPoly(layer, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.5, 1.5)).astype(np.float32) / 255
        scene.image *= 1 + soft * (rng.choice([rng.uniform(0.3, 0.75), rng.uniform(1.1, 1.5)], p=[0.75, 0.25]) - 1)


def _oil(rng: np.random.Generator, scene: Scene) -> None:
    soft = np.clip(blob_distance(rng, scene.size, (0.05, 0.25), 0.25) / rng.uniform(2, 15), 0, 1)
    scene.image *= 1 - soft * rng.uniform(0.2, 0.6)


def _patch(rng: np.random.Generator, scene: Scene) -> None:
    """A rectangle that was mended: another tone, its texture finer, a seam around it."""
    size = scene.size
    height, width = size
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    box = cv2.boxPoints((centre.tolist(), (rng.uniform(0.2, 0.9, 2) * (width, height)).tolist(), rng.normal(0, 8)))
    layer = np.zeros(size, np.uint8)
    cv2.fillPoly(layer, [np.rint(box * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    inside = layer.astype(np.float32) / 255
    tone = scene.image.mean(axis=(1, 2)) * rng.uniform(0.6, 1.25)
    own = tone.astype(np.float32)[:, None, None] * (
        1 + rng.uniform(0.02, 0.12) * fine_grain(rng, size, rng.uniform(0.6, 2))
    )
    scene.blend(inside * rng.uniform(0.6, 1), own)
    scene.hide(inside)
    if rng.random() < 0.6:
        outline = np.concatenate([box, box[:1]]).astype(float)
        seam = render_strokes([even_stroke(outline, log_uniform(rng, 1, 6), rng.uniform(0.3, 1))], size)
        scene.image *= 1 - rng.uniform(0.3, 0.75) * seam


def _plants(rng: np.random.Generator, scene: Scene) -> None:
    """Grass blades, twigs and needles with the shadow they throw."""
    size = scene.size
    colour = np.array(_PLANT_COLOURS[rng.integers(len(_PLANT_COLOURS))], np.float32) * rng.uniform(0.7, 1.3)
    strokes = []
    for _ in range(1 + rng.poisson(2)):
        start = rng.uniform(0, 1, 2) * size[::-1]
        points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5) * max(size), 0.15, 0.02)
        widths = log_uniform(rng, 1, 5) * np.sqrt(np.linspace(1, 0.1, len(points)))
        strokes.append(Stroke(points, widths, np.ones(len(points))))
    alpha = render_strokes(strokes, size)
    shadow = shifted(alpha, rng.uniform(-3, 3), rng.uniform(-3, 3))
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 1.5))
    scene.image *= 1 - rng.uniform(0, 0.5) * shadow
    scene.blend(alpha, colour[:, None, None])


def _leaves(rng: np.random.Generator, scene: Scene) -> None:
    """Fallen leaves and scraps, opaque."""
    height, width = scene.size
    layer = np.zeros((height, width), np.uint8)
    size = log_uniform(rng, 5, 40)
    for _ in range(1 + rng.poisson(2)):
        t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        r = size * rng.uniform(0.6, 1.4)
        x, y = r * np.cos(t), r * rng.uniform(0.25, 0.6) * np.sin(t) * (1 + 0.25 * np.sin(3 * t + rng.uniform(0, 6)))
        turn = rng.uniform(0, 2 * np.pi)
        points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)
        points += rng.uniform(0, 1, 2) * (width, height)
        cv2.fillPoly(layer, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    alpha = layer.astype(np.float32) / 255
    colours = [(0.1, 0.25, 0.4), (0.1, 0.4, 0.55), (0.13, 0.28, 0.2), (0.75, 0.75, 0.75), (0.08, 0.15, 0.22)]
    colour = np.array(colours[rng.integers(len(colours))], np.float32) * rng.uniform(0.7, 1.2)
    away = rng.uniform(1, 4)
    shadow = cv2.GaussianBlur(shifted(alpha, away, away), (0, 0), 1.2)
    scene.image *= 1 - rng.uniform(0.1, 0.5) * shadow
    scene.blend(alpha, colour[:, None, None] * (1 + 0.12 * fractal_noise(rng, scene.size, 12)))
    scene.hide(alpha)


def _writing(rng: np.random.Generator, scene: Scene) -> None:
    """Letters and figures: sprayed, written with a pen or chalk, or a faint watermark."""
    height, width = scene.size
    layer = np.zeros((height, width), np.uint8)
    signs = 'ABCDEFGHKLMNPRSTUVXZabcdeghknopqrst0123456789-+#'
    for _ in range(1 + rng.poisson(0.5)):
        text = ''.join(rng.choice(list(signs), int(rng.integers(1, 9))))
        place = tuple(int(c) for c in rng.uniform((-0.1 * width, 0.1 * height), (0.8 * width, height)))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
        cv2.putText(layer, text, place, font, log_uniform(rng, 0.4, 3), 255, int(rng.integers(1, 6)), cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 20), 1)
    alpha = cv2.warpAffine(layer, turn, (width, height)).astype(np.float32) / 255
    ground = float(scene.image.mean())
    colour = ground * (rng.uniform(0.2, 0.6, 3) if rng.random() < 0.5 else rng.uniform(1.2, 1.8, 3))
    scene.blend(alpha * log_uniform(rng, 0.15, 0.9), np.minimum(colour, 0.95).astype(np.float32)[:, None, None])


def _verge(rng: np.random.Generator, scene: Scene) -> None:
    """Where the surface ends: grass, soil, a kerb or another material, with nothing to be found in it."""
    size = scene.size
    ends = straight_line(rng, size)
    centre = np.array(size[::-1]) / 2
    away = ends.mean(axis=0) - centre
    distance = float(np.hypot(*away)) + 1e-6
    # Not through the middle: most of the picture is the surface.
    ends = ends + away / distance * max(0.0, rng.uniform(0.2, 0.48) * min(size) - distance)
    beyond = half_plane(ends, size)
    if beyond[size[0] // 2, size[1] // 2] > 0.5:
        beyond = 1 - beyond
    if rng.random() < 0.6:
        beyond = np.clip(
            4 * (cv2.GaussianBlur(beyond, (0, 0), 6) + 0.12 * fractal_noise(rng, size, 20, 0.7) - 0.4), 0, 1
        )
    colours = [(0.15, 0.24, 0.2), (0.2, 0.28, 0.36), (0.5, 0.52, 0.54), (0.85, 0.8, 0.75), (0.1, 0.1, 0.1)]
    colour = (np.array(colours[rng.choice(5, p=[0.35, 0.25, 0.2, 0.1, 0.1])]) * rng.uniform(0.6, 1.3)).astype(
        np.float32
    )
    texture = fractal_noise(rng, size, log_uniform(rng, 6, 40), 0.85)
    own = colour[:, None, None] * np.clip(1 + rng.uniform(0.02, 0.35) * texture, 0.1, 2.5)
    scene.blend(beyond, own)
    scene.hide(beyond)


def _shadow(rng: np.random.Generator, scene: Scene) -> None:
    """The shadow of a building, a pole, a wire or of leaves, with a soft or a hard edge."""
    size = scene.size
    kind = rng.random()
    if kind < 0.35:
        layer = half_plane(straight_line(rng, size), size)
    elif kind < 0.7:
        lines = [even_stroke(straight_line(rng, size), log_uniform(rng, 2, 60)) for _ in range(1 + rng.poisson(0.4))]
        layer = render_strokes(lines, size)
    elif kind < 0.85:
        strokes = []
        for _ in range(2 + rng.poisson(3)):
            start = rng.uniform(-0.1, 1.1, 2) * size[::-1]
            points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9) * max(size), 0.25, 0.05)
            strokes.append(Stroke(points, np.linspace(log_uniform(rng, 2, 12), 1, len(points)), np.ones(len(points))))
        layer = render_strokes(strokes, size)
    else:
        layer = np.clip(4 * (fractal_noise(rng, size, rng.uniform(25, 90), 0.6) - rng.uniform(-0.5, 0.8)), 0, 1)
    blurred = cv2.GaussianBlur(layer, (0, 0), log_uniform(rng, 0.6, 12))
    sky = np.array([0.85, 1, 1.06], np.float32)[:, None, None] if rng.random() < 0.5 else np.float32(1)
    scene.image *= 1 - rng.uniform(0.15, 0.6) * blurred * sky


_PLANT_COLOURS = (
    (0.16, 0.34, 0.26),
    (0.2, 0.4, 0.5),
    (0.3, 0.5, 0.6),
    (0.1, 0.15, 0.2),
    (0.55, 0.65, 0.7),
    (0.12, 0.12, 0.12),
)

# Keyed by "before the defects": those come below the cracks, the others lie on top.
_DISTRACTORS: dict[bool, list[tuple[float, Callable[[np.random.Generator, Scene], None]]]] = {
    True: [
        (0.28, _stain),
        (0.1, _streaks),
        (0.05, _oil),
        (0.05, _patch),
        (0.04, paint_tyre_marks),
        (0.05, paint_lane_marking),
        (0.1, paint_joints),
        (0.03, paint_sealing),
        (0.09, paint_scratches),
        (0.07, paint_drawn_lines),
        (0.05, _writing),
    ],
    False: [
        (0.25, _spots),
        (0.1, _plants),
        (0.06, _leaves),
        (0.07, paint_wires),
        (0.05, _verge),
        (0.2, _shadow),
    ],
}

# What belongs on some surfaces: factors of its chance there; elsewhere it is rare.
_ROAD = {'asphalt': 4.0, 'concrete': 1.0}
_WALL = {'concrete': 1.0, 'plaster': 2.0, 'masonry': 1.5, 'stone masonry': 1.0, 'steel': 1.0}
_ONLY_ON: dict[Callable[[np.random.Generator, Scene], None], dict[str, float]] = {
    _oil: _ROAD,
    _patch: _ROAD,
    paint_tyre_marks: _ROAD,
    paint_lane_marking: _ROAD,
    paint_sealing: {'asphalt': 3.0, 'concrete': 1.0},
    paint_joints: {'concrete': 1.3, 'asphalt': 1.0, 'plaster': 1.0, 'steel': 1.0, 'terrazzo': 1.0},
    _streaks: _WALL,
}
