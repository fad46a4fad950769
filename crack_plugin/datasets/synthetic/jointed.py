"""Surfaces that are laid of pieces, with the joints between them: bricks, stones, tiles and planks."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.mineral import pastel, tinted
from crack_plugin.datasets.synthetic.noise import (
    cell_edges,
    fine_grain,
    fractal_noise,
    log_uniform,
    patches,
    shaded_relief,
    shifted,
    smooth_noise,
)
from crack_plugin.datasets.synthetic.scene import Scene


class _Pieces(NamedTuple):
    """Pieces of a wall.

    Attributes:
        number: Shape (H, W), int32: a number for each piece.
        distance: Shape (H, W), float32: pixels to the edge of the cell that piece and half a joint fill.
    """

    number: np.ndarray
    distance: np.ndarray


def brick_masonry(rng: np.random.Generator, scene: Scene) -> None:
    """Bricks in several bonds and colours, with flush, raked, pale or dark joints; sometimes painted over."""
    size = scene.size
    course = log_uniform(rng, 11, 80)
    length = course * rng.uniform(1.8, 3.4)
    joint = max(1.2, course * rng.uniform(0.07, 0.2))
    pieces = _running_bond(
        rng, size, course, length, rng.choice([0.5, 0.5, 0.5, 0.33, 0.25, 0]), rng.uniform(0, 0.025) * course
    )
    edge = pieces.distance - joint / 2 + min(0.2 * joint, 1.5) * smooth_noise(rng, size, max(3, 0.15 * course))
    brick = np.clip(edge + 0.5, 0, 1)
    tones = rng.standard_normal(int(pieces.number.max()) + 1, np.float32)[pieces.number]
    rough = _roughness(rng, size)
    if rng.random() < 0.65:
        green = rng.uniform(0.55, 0.8)
        colour = rng.uniform(0.28, 0.5) * np.array([green * rng.uniform(0.72, 1), green, 1])
        hue = np.array([rng.uniform(-0.1, 0.1), 0, rng.uniform(-0.05, 0.15)], np.float32)
    else:
        colour = pastel(rng) * rng.uniform(0.25, 0.75)
        hue = np.zeros(3, np.float32)
    variety = rng.uniform(0.03, 0.2)
    face = colour.astype(np.float32)[:, None, None] * np.maximum(1 + rough + variety * tones, 0.25)
    face *= 1 + hue[:, None, None] * (tones * 0.5)
    _join(rng, scene, face, brick, edge, rough, joint)
    if rng.random() < 0.18:
        _whitewash(rng, scene)
    if rng.random() < 0.25:
        # Salts on single bricks and across them.
        lime = patches(rng, size, rng.uniform(0.05, 0.4), 60, 0.8) * np.clip(0.6 + 0.5 * tones, 0, 1)
        scene.blend(lime * rng.uniform(0.2, 0.7), min(0.9, float(scene.image.mean()) * 1.7))


def stone_masonry(rng: np.random.Generator, scene: Scene) -> None:
    """Rubble, ashlar or setts: irregular cells, wide mortar or dark gaps."""
    size = scene.size
    cell = log_uniform(rng, 20, 110)
    joint = max(1.5, cell * log_uniform(rng, 0.05, 0.25))
    if rng.random() < 0.5:
        number, distance = _rubble(rng, size, cell)
    else:
        number, distance = _coursed(rng, size, cell, rng.uniform(0.02, 0.1) * cell)
    edge = distance - joint / 2 + min(0.3 * joint, 3) * smooth_noise(rng, size, max(3, 0.12 * cell))
    stone = np.clip(edge + 0.5, 0, 1)
    tones = rng.standard_normal((2, int(number.max()) + 1), np.float32)
    rough = _roughness(rng, size) * rng.uniform(1, 2)
    colour = (pastel(rng) * rng.uniform(0.25, 0.7))[:, None, None]
    warm = np.array([-1, 0, 1], np.float32)[:, None, None] * (rng.uniform(0, 0.12) * tones[1][number])
    face = colour * np.maximum(1 + rough + rng.uniform(0.05, 0.2) * tones[0][number], 0.2) * (1 + warm)
    # Stones bulge.
    dome = cv2.GaussianBlur(np.minimum(np.maximum(edge, 0), 0.3 * cell), (0, 0), max(1, 0.05 * cell))
    face *= np.maximum(1 + rng.uniform(0.02, 0.12) * shaded_relief(dome, scene.light), 0.2)
    _join(rng, scene, face, stone, edge, rough, joint)


def tiles(rng: np.random.Generator, scene: Scene) -> None:
    """Glazed or stone tiles and slabs, in a grid or in bond."""
    size = scene.size
    tile = log_uniform(rng, 25, 260)
    joint = max(1.2, min(9, tile * rng.uniform(0.015, 0.06)))
    shift = rng.choice([0, 0, 0, 0.5])
    pieces = _running_bond(rng, size, tile, tile * rng.choice([1, 1, 2, 1.5]), shift, 0)
    tones = rng.standard_normal(int(pieces.number.max()) + 1, np.float32)[pieces.number]
    edge = pieces.distance - joint / 2
    face_part = np.clip(edge + 0.5, 0, 1)
    tone = 1 + rng.uniform(0.005, 0.05) * tones + log_uniform(rng, 0.003, 0.02) * fine_grain(rng, size, 0.7)
    if rng.random() < 0.45:
        clouds = fractal_noise(rng, size, log_uniform(rng, 30, 120), 0.6)
        tone += rng.uniform(0.01, 0.06) * clouds
        if rng.random() < 0.5:
            # Marble: veins where the clouds change sign.
            tone -= rng.uniform(0.05, 0.3) * np.exp(-((clouds / rng.uniform(0.04, 0.12)) ** 2))
    face = (pastel(rng) * rng.uniform(0.3, 0.88))[:, None, None] * np.maximum(tone, 0.2)
    _join(rng, scene, face, face_part, edge, 0.4 * _roughness(rng, size), joint)
    if rng.random() < 0.35:
        # A lamp or a window is mirrored.
        glare = np.exp(-((smooth_noise(rng, size, 150) - rng.uniform(1, 2)) ** 2) * 2)
        scene.blend(rng.uniform(0.1, 0.5) * glare * face_part, 0.95)


def wood(rng: np.random.Generator, scene: Scene) -> None:
    """Planks with their grain and knots, fresh, stained or grey from the weather."""
    size = scene.size
    plank = log_uniform(rng, 35, 160)
    upright = rng.random() < 0.5
    height, width = size if upright else size[::-1]
    edges = rng.uniform(0, plank) + plank * np.arange(-1, math.ceil(width / plank) + 1)
    x = np.arange(width, dtype=np.float32)
    number = np.searchsorted(edges, x)
    offsets = rng.uniform(-50, 50, len(edges) + 2)[number].astype(np.float32)
    # Rings are cut lengthwise: long wavy lines, which part around knots.
    bend = 9 * smooth_noise(rng, (height, width), 25, (rng.uniform(4, 9), 1))
    y = np.arange(height, dtype=np.float32)[:, None]
    across = (x + offsets)[None] + bend
    for _ in range(rng.poisson(1.2)):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 9)
        near = np.exp(-(((x[None] - cx) / (2.5 * r)) ** 2 + ((y - cy) / (6 * r)) ** 2))
        across = across + 2.5 * r * near * np.sign(x[None] - cx)
    rings = np.sin(across * rng.uniform(0.25, 0.9))
    fibre = smooth_noise(rng, (height, width), log_uniform(rng, 1.1, 2), (rng.uniform(15, 50), 1))
    tone = 1 + rng.uniform(0.03, 0.12) * rings + rng.uniform(0.03, 0.12) * fibre
    tone += rng.uniform(0.02, 0.12) * rng.standard_normal(len(edges) + 2, np.float32)[number]
    joint = max(1.2, plank * rng.uniform(0.01, 0.06))
    gap = np.clip(joint / 2 + 0.5 - np.abs(x[:, None] - edges).min(axis=1), 0, 1).astype(np.float32)
    gap = np.broadcast_to(gap, (height, width)).copy()
    tone *= 1 - rng.uniform(0.5, 0.9) * gap
    if not upright:
        tone, gap = np.ascontiguousarray(tone.T), np.ascontiguousarray(gap.T)
    colours = [(0.25, 0.42, 0.6), (0.12, 0.22, 0.36), (0.42, 0.45, 0.48), (0.4, 0.58, 0.72)]
    colour = np.array(colours[rng.integers(4)]) * rng.uniform(0.75, 1.2)
    scene.image[:] = colour.astype(np.float32)[:, None, None] * np.clip(tone, 0.05, 1.6).astype(np.float32)
    scene.mark('joint', gap)
    scene.grain = np.pi / 2 if upright else 0.0


def _running_bond(
    rng: np.random.Generator, size: tuple[int, int], course: float, length: float, shift: float, wobble: float
) -> _Pieces:
    """Rectangles in courses, each course moved by the share ``shift`` of a length against the one above."""
    height, width = size
    y = np.arange(height, dtype=np.float32)[:, None] + np.zeros((1, width), np.float32)
    x = np.arange(width, dtype=np.float32)[None] + np.zeros((height, 1), np.float32)
    if wobble:
        y += wobble * smooth_noise(rng, size, 0.8 * course)
        x += wobble * smooth_noise(rng, size, 0.8 * course)
    y += np.float32(rng.uniform(0, course))
    x += np.float32(rng.uniform(0, length))
    row = np.floor(y / np.float32(course)).astype(np.int32)
    # A wobbling first course can reach above 0.
    row -= row.min()
    if shift in (0, 0.5):
        x += (row % 2) * np.float32(shift * length)
    else:
        x += row * np.float32(shift * length)
    column = np.floor(x / np.float32(length)).astype(np.int32)
    column -= column.min()
    in_row, in_column = y % np.float32(course), x % np.float32(length)
    distance = np.minimum(np.minimum(in_row, course - in_row), np.minimum(in_column, length - in_column))
    return _Pieces(row * (int(column.max()) + 1) + column, distance.astype(np.float32))


def _rubble(rng: np.random.Generator, size: tuple[int, int], cell: float) -> _Pieces:
    """Stones of any form, wider than high."""
    aspect = rng.uniform(1, 1.8)
    n = math.ceil((size[0] + 2 * cell) * (size[1] + 2 * cell) / (cell**2 * aspect))
    low, high = (-cell, -cell), (size[1] / aspect + cell, size[0] + cell)
    # Of several places the one farthest from the others: stones of about one size.
    seeds = rng.uniform(low, high, (n, 2))
    spread = rng.uniform(0.3, 0.5) * cell
    close = np.hypot(*(seeds[:, None] - seeds[None]).transpose(2, 0, 1)) < spread
    seeds = seeds[~np.tril(close, -1).any(axis=1)]
    narrow = (size[0], math.ceil(size[1] / aspect))
    number, distance = cell_edges(rng, seeds, narrow, rng.uniform(0.03, 0.1) * cell, rng.uniform(0.25, 0.7) * cell)
    number = cv2.resize(number.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    return _Pieces(number, cv2.resize(distance, size[::-1], interpolation=cv2.INTER_LINEAR))


def _coursed(rng: np.random.Generator, size: tuple[int, int], course: float, wobble: float) -> _Pieces:
    """Courses of different heights, of stones of different lengths."""
    height, width = size
    n_rows = math.ceil(height / course) + 4
    tops = np.cumsum(course * np.exp(rng.normal(0, 0.25, n_rows))) - 3 * course
    n_columns = math.ceil(width / course) + 6
    lengths = course * rng.uniform(1, 2) * np.exp(rng.normal(0, 0.35, (n_rows + 1, n_columns)))
    starts = np.cumsum(lengths, axis=1) - 3 * course - rng.uniform(0, course, (n_rows + 1, 1))
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(wobble) * smooth_noise(rng, size, 0.7 * course)
    x = np.arange(width, dtype=np.float32)[None] + np.float32(wobble) * smooth_noise(rng, size, 0.7 * course)
    row = np.searchsorted(tops, y).clip(1, n_rows - 1)
    # All rows in one search: each row's stones lie beyond those of the row before.
    span = float(starts.max() - starts.min()) + width + 10 * course
    flat = (starts + span * np.arange(n_rows + 1)[:, None]).ravel()
    place = x + span * row
    number = np.searchsorted(flat, place).clip(1, len(flat) - 1)
    distance = np.minimum.reduce([y - tops[row - 1], tops[row] - y, place - flat[number - 1], flat[number] - place])
    return _Pieces(number.astype(np.int32), distance.astype(np.float32))


def _roughness(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    rough = rng.uniform(0.02, 0.08) * fractal_noise(rng, size, log_uniform(rng, 6, 30), 0.8)
    rough += rng.uniform(0.02, 0.06) * fine_grain(rng, size, log_uniform(rng, 0.5, 1.2))
    return rough


def _join(
    rng: np.random.Generator,
    scene: Scene,
    face: np.ndarray,
    alpha: np.ndarray,
    edge: np.ndarray,
    rough: np.ndarray,
    joint: float,
) -> None:
    """Lay pieces in mortar: ``face`` of shape (3, H, W) where ``alpha`` is 1, and between them what joins them."""
    size = scene.size
    kind = rng.random()
    ground = float(face.mean())
    if kind < 0.55:
        mortar = tinted(rng, np.float32(rng.uniform(0.35, 0.8)) * np.maximum(1 + 2 * rough, 0.2), 0.05)
    elif kind < 0.8:
        mortar = tinted(rng, np.float32(ground * rng.uniform(0.75, 1.2)) * np.maximum(1 + 2 * rough, 0.2), 0.05)
    else:
        # Raked out, or no mortar at all.
        mortar = tinted(rng, np.float32(ground * rng.uniform(0.15, 0.5)) * np.maximum(1 + 2 * rough, 0.2), 0.05)
    if rng.random() < 0.2:
        # Some of the mortar has fallen out.
        lost = patches(rng, size, rng.uniform(0.05, 0.35), max(12, 5 * joint), 0.3)
        mortar *= 1 - rng.uniform(0.3, 0.75) * lost
    scene.image[:] = mortar + alpha * (face - mortar)
    if joint > 2.5:
        # The shadow of the pieces above on the mortar.
        reach = rng.uniform(0.1, 0.3) * joint
        shade = shifted(alpha, reach * math.cos(scene.light), reach * math.sin(scene.light))
        scene.image *= 1 - rng.uniform(0, 0.35) * shade * (1 - alpha)
    relief = cv2.GaussianBlur(np.clip(edge, -1, 2), (0, 0), 1.1)
    scene.image *= np.maximum(1 + rng.uniform(0.02, 0.12) * shaded_relief(relief, scene.light), 0.2)
    scene.mark('joint', np.where(edge < -joint / 2 + 0.8 * scene.view.scale, 1, 1 - alpha).astype(np.float32))


def _whitewash(rng: np.random.Generator, scene: Scene) -> None:
    """One paint over bricks and joints: the relief alone tells them apart."""
    texture = scene.image.mean(axis=0)
    smooth = cv2.GaussianBlur(texture, (0, 0), 4)
    colour = (pastel(rng) * rng.uniform(0.4, 0.92))[:, None, None]
    where = patches(rng, scene.size, rng.uniform(0.7, 1), 50, 0.15) * rng.uniform(0.8, 1)
    scene.blend(where, colour * np.clip(1 + rng.uniform(0.3, 0.7) * (texture - smooth) / (smooth + 1e-3), 0.3, 1.5))
