"""What a crack looks like: hairline or gaping, dark, pale or filled, with broken edges and dirt beside it."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.cracks import branching_crack, crack_network, joint_crack
from crack_plugin.datasets.synthetic.curves import Stroke, render_labels, render_strokes
from crack_plugin.datasets.synthetic.noise import (
    fine_grain,
    fractal_noise,
    log_uniform,
    shaded_relief,
    shifted,
    smooth_noise,
)
from crack_plugin.datasets.synthetic.scene import Scene

CORE = 'the crack itself'
"""What of cracks is seen, whatever the margin of their label."""

# Pixels from which on a crack has an inside to look into.
_WIDE = 5.0


def paint_cracks(rng: np.random.Generator, scene: Scene) -> None:
    """One or several cracks of one kind; marks 'crack', and 'spalling' where the edges broke away."""
    texture = scene.contrast()
    # A crack that is narrower than the gaps between stones, or hardly darker, is none that anyone would have marked.
    width = max(_crack_width(rng, scene), (0.5 + 4.5 * texture) * scene.view.scale)
    # What is thin and faint could not be told from the texture.
    faintest = 0.75 if width < 1.5 * scene.view.scale else 0.5 if width < _WIDE else 0.85
    depth = rng.uniform(min(0.95, faintest + 2 * texture), 1)
    strokes = _courses(rng, scene, width, depth)
    alpha = render_strokes(strokes, scene.size)
    label = render_labels(strokes, scene.view, scene.margin)
    if width > 3:
        alpha, label = _roughened(rng, [alpha, label], width)
    if width > 2 and rng.random() < 0.25:
        _break_edges(rng, scene, alpha, width)
    kind = rng.choice(['dark', 'filled', 'pale'], p=[0.67, 0.26, 0.07])
    if width > 12 * scene.view.scale and rng.random() < 0.7:
        kind = 'dark'
    if kind == 'dark':
        _shade_dark(rng, scene, alpha, width, texture)
    elif kind == 'filled':
        _shade_filled(rng, scene, alpha, width, texture)
    else:
        _shade_pale(rng, scene, alpha, width)
    scene.mark('crack', label)
    scene.mark(CORE, (alpha > 0.2).astype(np.float32))


def _crack_width(rng: np.random.Generator, scene: Scene) -> float:
    """Pixels of the canvas: most cracks are thin; a few gape over a good part of the picture."""
    kind = rng.random()
    side = min(scene.view.size)
    if kind < 0.72:
        width = log_uniform(rng, 0.7, 3.5)
    elif kind < 0.93:
        width = log_uniform(rng, 3.5, 0.06 * side) if side > 100 else log_uniform(rng, 1, 4)
    else:
        width = log_uniform(rng, 0.05, 0.4) * side
    # Seen from afar, thin cracks are thinner; those that could not be seen at all are left out.
    return max(0.8, width * scene.view.scale)


def _courses(rng: np.random.Generator, scene: Scene, width: float, depth: float) -> list[Stroke]:
    size = scene.size
    joints = scene.coverage.get('joint')
    if joints is not None and rng.random() < _share_along(scene, joints, width):
        return [s for _ in range(1 + rng.poisson(0.2)) for s in joint_crack(rng, joints, width, depth)]
    if width < 8 and rng.random() < 0.13:
        return crack_network(rng, size, min(width, 4.0), depth)
    grain = scene.grain if rng.random() < 0.8 else None
    n_cracks = 1 + (int(rng.random() < 0.3) + int(rng.random() < 0.1) if width < 0.1 * min(size) else 0)
    widths = width * rng.uniform(0.6, 1.1, n_cracks)
    return [
        s for w in widths for s in branching_crack(rng, size, float(w), depth, 1.3 if grain is None else 0.5, grain)
    ]


def _share_along(scene: Scene, joints: np.ndarray, width: float) -> float:
    """How often a crack follows these joints: seldom where they are as dark as a crack, and it could not be seen."""
    inside = joints > 0.5
    if scene.grain is not None or width > 0.08 * min(scene.size) or inside.mean() < 0.02:
        return 0.0
    return 0.55 if scene.image[1][inside].mean() > 0.7 * scene.image[1][~inside].mean() else 0.12


def _roughened(rng: np.random.Generator, layers: Sequence[np.ndarray], width: float) -> list[np.ndarray]:
    """Displace layers alike, so that both edges of a wide crack are broken, each in its own way."""
    height, width_px = layers[0].shape
    reach = min(width, 60)
    amplitude = np.float32(rng.uniform(0.06, 0.25) * reach)
    feature = max(3.0, log_uniform(rng, 0.5, 2.5) * reach)
    x, y = np.meshgrid(np.arange(width_px, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += amplitude * fractal_noise(rng, (height, width_px), feature, 0.6)
    y += amplitude * fractal_noise(rng, (height, width_px), feature, 0.6)
    return [cv2.remap(layer, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for layer in layers]


def _shade_dark(rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float, texture: float) -> None:
    image, size, light = scene.image, scene.size, scene.light
    # Stones bridge a narrow gap here and there.
    bridges = rng.uniform(0, 0.35) / max(1, width / 3)
    alpha = np.clip(alpha * (1 + bridges * fine_grain(rng, size, log_uniform(rng, 0.7, 1.5))), 0, 1)
    reach = 1.2 * max(1, width / 10)
    lit = shifted(alpha, reach * math.cos(light), reach * math.sin(light))
    image *= 1 + rng.uniform(0, 0.35) * np.clip(lit - alpha, 0, 1)
    if rng.random() < 0.4:
        _stain_sides(rng, scene, alpha, width)
    # As faint as people still mark: a few times what the texture varies by.
    brightest = 1 - min(0.8, max(0.25, (7 if width < 1.5 * scene.view.scale else 5) * texture))
    share = (rng.uniform(0.06, brightest) * rng.normal(1, 0.06, 3)).astype(np.float32)
    if width < _WIDE:
        floor = scene.surroundings() * share[:, None, None]
        image += alpha * np.minimum(floor - image, 0)
        return
    inside = _look_inside(rng, scene, alpha, width, share)
    image += alpha * (inside - image)


def _look_inside(
    rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float, share: np.ndarray
) -> np.ndarray:
    """The bottom, the wall that the light falls on, and what has fallen in: (3, H, W)."""
    size, light = scene.size, scene.light
    ground = scene.image.mean(axis=(1, 2))
    # The less light, the deeper.
    floor = ground * np.minimum(share, 0.3) * log_uniform(rng, 0.25, 1)
    distance = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    half = max(2.0, 0.5 * min(width, float(distance.max()) * 2))
    deep = np.clip(distance / (rng.uniform(0.2, 0.8) * half), 0, 1)
    # Near the edge there is still light; deeper down there is none.
    tone = 1 + (1 - deep) * rng.uniform(0, 1.5)
    wall = rng.uniform(0.1, 0.5) * half
    shade = shifted(alpha, wall * math.cos(light), wall * math.sin(light))
    lit_wall = cv2.GaussianBlur(np.clip(alpha - shade, 0, 1), (0, 0), max(0.6, 0.12 * half))
    texture = 1 + rng.uniform(0.1, 0.35) * fractal_noise(rng, size, max(6, half), 0.75)
    inside = floor[:, None, None] * (tone * texture)
    wall_colour = ground * rng.uniform(0.3, 0.9) * rng.normal(1, 0.04, 3)
    inside += (rng.uniform(0, 0.8) * lit_wall) * (wall_colour.astype(np.float32)[:, None, None] * texture - inside)
    if rng.random() < 0.3:
        # Rubble, sand, leaves or grass at the bottom.
        lies = np.clip(1.5 * (smooth_noise(rng, size, max(8, width)) - rng.uniform(-0.3, 1.3)), 0, 1)
        colours = [ground * 0.6, ground * 0.9, np.array([0.12, 0.2, 0.28]), np.array([0.3, 0.65, 0.5]) * ground.mean()]
        colour = (colours[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])] * rng.uniform(0.6, 1.1)).astype(np.float32)
        pieces = 1 + 0.4 * fine_grain(rng, size, log_uniform(rng, 0.8, max(1.2, min(6, width / 8))))
        inside += lies * np.clip(deep * 2, 0, 1) * (colour[:, None, None] * pieces - inside)
    return np.maximum(inside, 0.005)


def _stain_sides(rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float) -> None:
    """Dirt, damp or lime beside old cracks."""
    sigma = rng.uniform(2, 7) * max(1, width / 8)
    if rng.random() < 0.5:
        sigma *= 2.5
    halo = np.clip(2 * cv2.GaussianBlur(alpha, (0, 0), min(sigma, 40)), 0, 1)
    halo *= np.clip(1 + 0.5 * fractal_noise(rng, scene.size, 30), 0, 2)
    tint = np.array([rng.uniform(-0.15, 0), 0, rng.uniform(0, 0.1)], np.float32) if rng.random() < 0.3 else np.zeros(3)
    strength = (rng.uniform(-0.3, 0.18) + tint).astype(np.float32)
    scene.image *= np.maximum(1 + halo * strength[:, None, None], 0.1)


def _shade_filled(rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float, texture: float) -> None:
    """Dust, soil, moss or old mortar fill it up to the surface: little contrast, soft edges or a thin dark one."""
    ground = scene.image.mean(axis=(1, 2))
    soil = np.array([rng.uniform(0.1, 0.25), rng.uniform(0.2, 0.32), rng.uniform(0.22, 0.4)])
    moss = np.array([rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.85), rng.uniform(0.45, 0.75)]) * ground.mean()
    colour = [ground * rng.uniform(0.4, 0.75), soil * min(1, float(ground.mean()) * 1.8), moss][
        rng.choice(3, p=[0.5, 0.35, 0.15])
    ]
    level = float(colour.mean() / ground.mean())
    # Of the surface's own brightness it could not be seen; thin and faint, not beside its texture.
    brightest = 1 - min(0.6, max(0.12, (5 if width < _WIDE else 3) * texture))
    if brightest < level < 1.3 or (width < _WIDE and rng.random() < 0.6):
        colour = colour * rng.uniform(0.75 * brightest, brightest) / level
    grain = 1 + rng.uniform(0, 0.15) * fine_grain(rng, scene.size, log_uniform(rng, 0.6, 2))
    worn: np.ndarray = np.clip(alpha * rng.uniform(0.8, 1.1), 0, 1)
    if rng.random() < 0.5:
        worn = cv2.GaussianBlur(worn, (0, 0), rng.uniform(0.4, 1.2))
    if width > _WIDE:
        edge = np.clip(alpha - cv2.erode(alpha, np.ones((3, 3), np.uint8)), 0, 1)
        scene.image *= 1 - rng.uniform(0.2, 0.7) * edge
    scene.blend(worn, colour.astype(np.float32)[:, None, None] * grain)


def _shade_pale(rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float) -> None:
    """Lime that water carried out, or a light filler: brighter than the surface."""
    ground = float(scene.image.mean())
    brightness = min(0.95, ground * rng.uniform(1.15, 1.7) + 0.05)
    bleed = np.clip(rng.uniform(0.8, 2) * cv2.GaussianBlur(alpha, (0, 0), rng.uniform(1, 3.5)), 0, 1)
    bleed *= np.clip(0.5 + 0.4 * fractal_noise(rng, scene.size, 20), 0, 1)
    scene.blend(bleed * rng.uniform(0, 0.5), brightness)
    grain = 1 + 0.06 * fine_grain(rng, scene.size, 0.8)
    scene.blend(np.clip(alpha * rng.uniform(0.7, 1.2), 0, 1), np.float32(brightness) * grain)
    if rng.random() < 0.4 and width > 2:
        core = np.clip(cv2.GaussianBlur(alpha, (0, 0), 1) * 2 - 1.2, 0, 1)
        scene.image *= 1 - rng.uniform(0.2, 0.7) * core


def _break_edges(rng: np.random.Generator, scene: Scene, alpha: np.ndarray, width: float) -> None:
    """The edges broke away along parts of the crack: bare material, rough, a little lower than the surface."""
    size = scene.size
    reach = rng.uniform(0.4, 1.6) * min(width, 25) + 2
    distance = cv2.distanceTransform((alpha < 0.3).astype(np.uint8), cv2.DIST_L2, 3)
    noise = fractal_noise(rng, size, max(6, 2 * reach), 0.65)
    rim = np.clip(reach * (0.8 * noise + rng.uniform(-0.6, 0.3)) - distance * 0.5 + 0.5, 0, 1)
    if not rim.any():
        return
    texture = fine_grain(rng, size, log_uniform(rng, 0.7, 1.8))
    level = scene.image.mean(axis=(1, 2)) * rng.uniform(0.7, 1.3) * rng.normal(1, 0.03, 3)
    bare = level.astype(np.float32)[:, None, None] * (1 + rng.uniform(0.06, 0.2) * texture)
    scene.blend(rim * rng.uniform(0.5, 1), bare)
    relief = shaded_relief(-cv2.GaussianBlur(rim, (0, 0), 1.2), scene.light)
    scene.image *= np.maximum(1 + rng.uniform(0.03, 0.1) * np.clip(relief, -3, 3), 0.2)
    scene.mark('spalling', rim * (alpha < 0.5))
