"""What is on a surface and is no defect."""

from collections.abc import Callable

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.curves import (
    Stroke,
    crack_stroke,
    even_stroke,
    random_walk,
    render_strokes,
    straight_line,
)
from crack_plugin.datasets.synthetic.noise import blob_distance, fine_grain, fractal_noise, log_uniform, shifted


def add_distractors(rng: np.random.Generator, image: np.ndarray, surface: str, before: bool) -> None:
    """Paint things that are no defects: ``before`` the defects those they may cut through, then those on top."""
    for chance, painter in _DISTRACTORS[before]:
        if painter in _TRAFFIC:
            chance *= {'asphalt': 5, 'masonry': 0}.get(surface, 1)
        if rng.random() < chance:
            painter(rng, image)


def _stain(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    field = fractal_noise(rng, size, log_uniform(rng, 30, 200), rng.uniform(0.4, 0.75)) - rng.uniform(0.2, 1.5)
    edge = np.clip(field * log_uniform(rng, 1, 8), 0, 1)
    tint = rng.uniform(0.6, 1.25) + rng.normal(0, 0.025, 3).astype(np.float32)
    image *= 1 + edge * (tint - 1)[:, None, None]


def _spots(rng: np.random.Generator, image: np.ndarray) -> None:
    """Drops, chewing gum, small debris."""
    height, width = image.shape[1:]
    for _ in range(1 + rng.poisson(2)):
        radius = log_uniform(rng, 1.5, 9)
        x, y = rng.uniform((0, 0), (width, height))
        layer = np.zeros((height, width), np.uint8)
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        r = radius * rng.uniform(0.6, 1.3, 14)
        points = np.stack([x + r * np.cos(angles), y + r * rng.uniform(0.5, 1) * np.sin(angles)], axis=1)
        cv2.fillPoly(layer, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.5, 1.5)).astype(np.float32) / 255
        image *= 1 + soft * (rng.choice([rng.uniform(0.3, 0.75), rng.uniform(1.1, 1.5)], p=[0.75, 0.25]) - 1)


def _oil(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    soft = np.clip(blob_distance(rng, size, (0.05, 0.25), 0.25) / rng.uniform(2, 15), 0, 1)
    image *= 1 - soft * rng.uniform(0.2, 0.6)


def _joint(rng: np.random.Generator, image: np.ndarray) -> None:
    """A saw cut, an expansion gap or the edge between two pours: straight and even, unlike a crack."""
    size = image.shape[1:]
    ends = straight_line(rng, size)
    width = log_uniform(rng, 1.2, 9)
    alpha = render_strokes([even_stroke(ends, width)], size)
    if rng.random() < 0.3:
        normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
        side = np.concatenate([ends, ends[::-1] + 3 * normal])
        layer = np.zeros(size, np.uint8)
        cv2.fillPoly(layer, [np.rint(side).astype(np.int32)], 1)
        image *= 1 + layer.astype(np.float32) * rng.uniform(-0.25, 0.25)
    alpha = np.clip(alpha * (1 + rng.uniform(0, 0.25) * fine_grain(rng, size, 1)), 0, 1)
    filling = float(image.mean()) * (rng.uniform(0.15, 0.7) if rng.random() < 0.8 else rng.uniform(1.1, 1.4))
    image += alpha * rng.uniform(0.5, 1) * (filling - image)


def _scratches(rng: np.random.Generator, image: np.ndarray) -> None:
    """Bright scratches and chalk: thin light lines, straight or bent."""
    size = image.shape[1:]
    strokes = []
    for _ in range(1 + rng.poisson(1.5)):
        start = rng.uniform(0, 1, 2) * size[::-1]
        points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.8) * max(size), 0.12, 0.02)
        strokes.append(crack_stroke(rng, points, log_uniform(rng, 0.7, 3), rng.uniform(0.3, 1), 0.3))
    alpha = render_strokes(strokes, size)
    image *= 1 + alpha * rng.uniform(0.2, 0.8)


def _pencil(rng: np.random.Generator, image: np.ndarray) -> None:
    """A drawn line: dark and thin as a crack, but smooth and even."""
    size = image.shape[1:]
    start = rng.uniform(0, 1, 2) * size[::-1]
    points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9) * max(size), 0.2, 0)
    alpha = render_strokes([even_stroke(points, log_uniform(rng, 0.7, 1.8), rng.uniform(0.3, 0.7))], size)
    colour = rng.choice([0.2, 0.25, 0.6], 3, p=[0.6, 0.3, 0.1]).astype(np.float32)
    image += alpha * ((colour * float(image.mean()))[:, None, None] - image)


def _plants(rng: np.random.Generator, image: np.ndarray) -> None:
    """Grass blades, twigs, needles and wires with the shadow they throw."""
    size = image.shape[1:]
    colours = [
        (0.15, 0.45, 0.3),
        (0.2, 0.4, 0.5),
        (0.3, 0.5, 0.6),
        (0.1, 0.15, 0.2),
        (0.55, 0.65, 0.7),
        (0.12, 0.12, 0.12),
    ]
    colour = np.array(colours[rng.integers(len(colours))], np.float32) * rng.uniform(0.7, 1.3)
    strokes = []
    for _ in range(1 + rng.poisson(1.5)):
        start = rng.uniform(0, 1, 2) * size[::-1]
        points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5) * max(size), 0.15, 0.02)
        widths = log_uniform(rng, 1, 4) * np.sqrt(np.linspace(1, 0.1, len(points)))
        strokes.append(Stroke(points, widths, np.ones(len(points))))
    alpha = render_strokes(strokes, size)
    shadow = shifted(alpha, rng.uniform(-3, 3), rng.uniform(-3, 3))
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 1.5))
    image *= 1 - rng.uniform(0, 0.5) * shadow
    image += alpha * (colour[:, None, None] - image)


def _tyre_marks(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    ends = straight_line(rng, size)
    soft = cv2.GaussianBlur(render_strokes([even_stroke(ends, rng.uniform(15, 60))], size), (0, 0), rng.uniform(2, 8))
    worn = np.clip(0.8 + 0.3 * fractal_noise(rng, size, 12), 0, 1)
    image *= 1 - rng.uniform(0.1, 0.4) * (soft * worn)


def _lane_marking(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    band = render_strokes([even_stroke(straight_line(rng, size), rng.uniform(20, 90))], size)
    worn = np.clip(
        rng.uniform(0.5, 3) + rng.uniform(0.6, 1.5) * fractal_noise(rng, size, log_uniform(rng, 5, 40), 0.9), 0, 1
    )
    colour = rng.choice([[0.8, 0.82, 0.82], [0.3, 0.65, 0.8]], p=[0.8, 0.2]) * rng.uniform(0.7, 1.05)
    texture = image / image.mean(axis=(1, 2))[:, None, None]
    paint = colour.astype(np.float32)[:, None, None] * (1 + rng.uniform(0.3, 0.8) * (texture - 1))
    image += (band * worn * rng.uniform(0.5, 0.95)) * (paint - image)


def _shadow(rng: np.random.Generator, image: np.ndarray) -> None:
    """The shadow of a building, a pole, a wire or of leaves, with a soft or a hard edge."""
    size = image.shape[1:]
    kind = rng.random()
    if kind < 0.4:
        ends = straight_line(rng, size)
        normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
        layer = np.zeros(size, np.float32)
        cv2.fillPoly(layer, [np.rint(np.concatenate([ends, ends[::-1] + 3 * normal])).astype(np.int32)], 1)
    elif kind < 0.75:
        layer = render_strokes([even_stroke(straight_line(rng, size), log_uniform(rng, 3, 60))], size)
    else:
        layer = np.clip(4 * (fractal_noise(rng, size, rng.uniform(25, 90), 0.6) - rng.uniform(-0.5, 0.8)), 0, 1)
    image *= 1 - rng.uniform(0.15, 0.6) * cv2.GaussianBlur(layer, (0, 0), log_uniform(rng, 0.6, 12))


# Keyed by "before the defects": those come below the cracks, the others lie on top.
_DISTRACTORS: dict[bool, list[tuple[float, Callable[[np.random.Generator, np.ndarray], None]]]] = {
    True: [
        (0.28, _stain),
        (0.05, _oil),
        (0.04, _tyre_marks),
        (0.05, _lane_marking),
        (0.12, _joint),
        (0.08, _scratches),
        (0.06, _pencil),
    ],
    False: [(0.25, _spots), (0.12, _plants), (0.18, _shadow)],
}


_TRAFFIC = (_lane_marking, _tyre_marks, _oil)
