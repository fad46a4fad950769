"""Straight and even lines that people make: joints, lane markings, tyre marks, drawn lines, wires."""

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.cracks import branching_crack, crack_stroke
from crack_plugin.datasets.synthetic.curves import (
    Stroke,
    even_stroke,
    random_walk,
    render_labels,
    render_strokes,
    straight_line,
)
from crack_plugin.datasets.synthetic.noise import fine_grain, fractal_noise, log_uniform, shifted
from crack_plugin.datasets.synthetic.scene import Scene


def half_plane(ends: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """1 on one side of the line through two points ``ends``, (H, W) float32."""
    normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
    side = np.concatenate([ends, ends[::-1] + 3 * normal])
    layer = np.zeros(size, np.uint8)
    cv2.fillPoly(layer, [np.rint(side).astype(np.int32)], 255, cv2.LINE_AA)
    return layer.astype(np.float32) / 255


def paint_joints(rng: np.random.Generator, scene: Scene) -> None:
    """A saw cut, an expansion gap or the edge between two pours: straight and even, unlike a crack."""
    size, image, texture = scene.size, scene.image, scene.contrast()
    # On a coarse texture nobody would have marked what is narrow or faint.
    width = max(log_uniform(rng, 1.2, 12) * max(0.6, scene.view.scale), (0.5 + 4.5 * texture) * scene.view.scale)
    first = straight_line(rng, size)
    lines = [first]
    direction = first[1] - first[0]
    normal = np.array([-direction[1], direction[0]]) / np.hypot(*direction)
    kind = rng.random()
    if kind < 0.15:
        # Two close by, as a sealed joint has; or several at equal distances.
        lines.append(first + normal * width * rng.uniform(2.5, 6))
    elif kind < 0.35:
        pitch = rng.uniform(0.25, 0.6) * max(size)
        lines += [first + normal * pitch * k for k in (-2, -1, 1, 2)]
    if rng.random() < 0.2:
        middle = first.mean(axis=0) + rng.normal(0, 0.2, 2) * size[::-1]
        lines.append(np.stack([middle - 2 * max(size) * normal, middle + 2 * max(size) * normal]))
    strokes = [even_stroke(ends, width) for ends in lines]
    alpha = render_strokes(strokes, size)
    if rng.random() < 0.3:
        image *= 1 + half_plane(first, size) * rng.uniform(-0.25, 0.25)
    grain = np.clip(1 + rng.uniform(0, 0.3) * fine_grain(rng, size, log_uniform(rng, 0.7, 2)), 0, 1.6)
    is_dark = texture > 0.1 or rng.random() < 0.8
    share = rng.uniform(0.1, 1 - min(0.8, max(0.3, 3 * texture))) if is_dark else rng.uniform(1.1, 1.5)
    filling = image.mean(axis=(1, 2)) * share * rng.normal(1, 0.05, 3)
    opacity: float | np.ndarray = rng.uniform(min(0.9, 0.5 + 2 * texture), 1)
    if rng.random() < 0.25:
        # Worn or dusty in parts.
        opacity = opacity * np.clip(0.8 + 0.4 * fractal_noise(rng, size, 50), 0.25, 1)
    scene.blend(alpha * opacity, filling.astype(np.float32)[:, None, None] * grain)
    if width > 3 and rng.random() < 0.5:
        edge = np.clip(alpha - shifted(alpha, 1, 1), 0, 1)
        image *= 1 - rng.uniform(0.2, 0.7) * edge
    scene.mark('joint', render_labels(strokes, scene.view, 0))


def paint_lane_marking(rng: np.random.Generator, scene: Scene) -> None:
    """A band of white or yellow paint, whole, dashed or worn off; sometimes two."""
    size = scene.size
    ends = straight_line(rng, size)
    width = rng.uniform(14, 90)
    along = ends[1] - ends[0]
    along = along / np.hypot(*along)
    normal = np.array([-along[1], along[0]])
    bands = [ends] if rng.random() < 0.75 else [ends, ends + normal * width * rng.uniform(1.7, 3)]
    if rng.random() < 0.3:
        dash = rng.uniform(0.3, 0.8) * max(size)
        middle = ends.mean(axis=0)
        bands = [np.stack([middle + along * dash * k, middle + along * dash * (k + 0.6)]) for k in (-2, -1, 0, 1)]
    layer = np.zeros(size, np.uint8)
    for start, end in bands:
        # Flat ends: a polygon, where cv2.line would round them.
        corners = np.array([start - normal * width / 2, start + normal * width / 2])
        corners = np.concatenate([corners, corners[::-1] + (end - start)])
        cv2.fillPoly(layer, [np.rint(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    band = layer.astype(np.float32) / 255
    worn = np.clip(
        rng.uniform(0.5, 3) + rng.uniform(0.6, 1.5) * fractal_noise(rng, size, log_uniform(rng, 5, 40), 0.9), 0, 1
    )
    colour = rng.choice([[0.8, 0.82, 0.82], [0.3, 0.65, 0.8]], p=[0.8, 0.2]) * rng.uniform(0.7, 1.05)
    texture = scene.image / scene.image.mean(axis=(1, 2))[:, None, None]
    paint = colour.astype(np.float32)[:, None, None] * np.maximum(1 + rng.uniform(0.2, 0.8) * (texture - 1), 0.3)
    scene.blend(band * worn * rng.uniform(0.6, 0.95), paint)
    scene.mark('lane marking', band)


def paint_tyre_marks(rng: np.random.Generator, scene: Scene) -> None:
    size = scene.size
    ends = straight_line(rng, size)
    soft = cv2.GaussianBlur(render_strokes([even_stroke(ends, rng.uniform(15, 60))], size), (0, 0), rng.uniform(2, 8))
    worn = np.clip(0.8 + 0.3 * fractal_noise(rng, size, 12), 0, 1)
    scene.image *= 1 - rng.uniform(0.1, 0.4) * (soft * worn)


def paint_scratches(rng: np.random.Generator, scene: Scene) -> None:
    """Bright scratches and chalk: thin light lines, straight or bent."""
    size = scene.size
    strokes = []
    for _ in range(1 + rng.poisson(1.5)):
        start = rng.uniform(0, 1, 2) * size[::-1]
        points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.8) * max(size), 0.12, 0.02)
        strokes.append(crack_stroke(rng, points, log_uniform(rng, 0.7, 3), rng.uniform(0.3, 1), 0.3))
    alpha = render_strokes(strokes, size)
    scene.image *= 1 + alpha * rng.uniform(0.2, 0.8)


def paint_drawn_lines(rng: np.random.Generator, scene: Scene) -> None:
    """Pencil, felt pen and chalk: thin as a crack, but smooth and even."""
    size = scene.size
    start = rng.uniform(0, 1, 2) * size[::-1]
    points = random_walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9) * max(size), 0.2, 0)
    alpha = render_strokes([even_stroke(points, log_uniform(rng, 0.7, 4), rng.uniform(0.3, 0.8))], size)
    colour = rng.choice([0.2, 0.25, 0.6], 3, p=[0.6, 0.3, 0.1]).astype(np.float32)
    if rng.random() < 0.3:
        colour = rng.uniform(0.9, 1.8, 3).astype(np.float32)
    scene.blend(alpha, (colour * float(scene.image.mean()))[:, None, None])


def paint_wires(rng: np.random.Generator, scene: Scene) -> None:
    """Cables and pipes with a lit back and a shadow beside them: opaque, smooth, as wide all along."""
    size = scene.size
    width = log_uniform(rng, 1.2, 14)
    points = _smooth_line(rng, size)
    strokes = [even_stroke(points, width)]
    alpha = render_strokes(strokes, size)
    away = width * rng.uniform(0.2, 1.5)
    shadow = cv2.GaussianBlur(shifted(alpha, away, away * rng.uniform(-1, 1)), (0, 0), max(0.5, 0.2 * width))
    scene.image *= 1 - rng.uniform(0.1, 0.6) * shadow
    colour = (rng.uniform(0.04, 0.75) * rng.normal(1, 0.08, 3)).astype(np.float32)
    body = colour[:, None, None]
    if width > 3:
        back = render_strokes([even_stroke(points - 0.15 * width, 0.35 * width)], size)
        body = body * (1 + rng.uniform(0, 0.8) * cv2.GaussianBlur(back, (0, 0), 0.15 * width))
    scene.blend(alpha, body)
    scene.hide(alpha)


def paint_sealing(rng: np.random.Generator, scene: Scene) -> None:
    """Bitumen poured over a former crack: a dark, smooth band with even edges."""
    size = scene.size
    width = log_uniform(rng, 5, 28)
    strokes = branching_crack(rng, size, width, 1, branches=0.6)
    strokes = [
        Stroke(s.points, np.full(len(s.points), width * rng.uniform(0.85, 1.1)), s.depths * 0 + 1) for s in strokes
    ]
    band = render_strokes(strokes, size)
    texture = 1 + rng.uniform(0.01, 0.08) * fractal_noise(rng, size, 15)
    # Lighter than the depth of a crack.
    colour = scene.image.mean(axis=(1, 2)) * rng.uniform(0.4, 0.7) * rng.normal(1, 0.03, 3)
    scene.blend(band * rng.uniform(0.7, 0.95), colour.astype(np.float32)[:, None, None] * texture)
    scene.hide(band)


def _smooth_line(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    if rng.random() < 0.5:
        return straight_line(rng, size)
    start = rng.uniform(-0.1, 1.1, 2) * size[::-1]
    centre = np.array(size[::-1]) / 2
    heading = float(np.arctan2(*(centre - start)[::-1])) + rng.normal(0, 0.3)
    return random_walk(rng, start, heading, 1.6 * max(size), 0.1, 0)
