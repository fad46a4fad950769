"""Random fields that textures are made of, and shapes cut from them."""

import math

import cv2
import numpy as np
from scipy.signal import lfilter

Range = tuple[float, float]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], scale: float, stretch: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 with features of ``scale`` pixels, (H, W) float32."""
    return _normalised(_smooth(rng, size, scale, stretch))


def _smooth(
    rng: np.random.Generator, size: tuple[int, int], scale: float, stretch: tuple[float, float] = (1, 1)
) -> np.ndarray:
    cells = [scale * s for s in stretch]
    shape = [math.ceil(n / cell) + 2 for n, cell in zip(size, cells, strict=True)]
    grid = rng.standard_normal(shape, np.float32)
    height, width = (round(n * cell) for n, cell in zip(shape, cells, strict=True))
    # The random offset keeps the grid's nodes from standing at the same pixels in every picture.
    top, left = rng.integers(0, (height - size[0] + 1, width - size[1] + 1))
    field: np.ndarray = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return field[top : top + size[0], left : left + size[1]]


def fine_grain(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Noise of mean 0 and deviation 1 with features of a few pixels, (H, W) float32."""
    return _normalised(cv2.GaussianBlur(rng.standard_normal(size, np.float32), (0, 0), sigma))


def fractal_noise(rng: np.random.Generator, size: tuple[int, int], scale: float, gain: float = 0.55) -> np.ndarray:
    """Noise of mean 0 and deviation 1 that sums octaves from ``scale`` down to 3 pixels, (H, W) float32."""
    amplitude = 1.0
    height, width = size
    # Slow octaves are summed on half the resolution.
    coarse = np.zeros(((height + 1) // 2, (width + 1) // 2), np.float32)
    while scale >= 12:
        coarse += np.float32(amplitude) * _smooth(rng, (coarse.shape[0], coarse.shape[1]), scale / 2)
        scale, amplitude = scale / 2.1, amplitude * gain
    field: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    while scale >= 3:
        field += np.float32(amplitude) * _smooth(rng, size, scale)
        scale, amplitude = scale / 2.1, amplitude * gain
    return _normalised(field)


def _normalised(field: np.ndarray) -> np.ndarray:
    mean, deviation = cv2.meanStdDev(field)
    return (field - np.float32(mean[0, 0])) * np.float32(1 / (deviation[0, 0] + 1e-9))


def shifted(field: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """A field moved by a fraction of pixels, 0 where nothing was, (H, W)."""
    return cv2.warpAffine(field, np.array([[1, 0, dx], [0, 1, dy]], np.float32), field.shape[::-1])


def autoregressive(rng: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    """A first-order autoregressive series of deviation 1 that forgets within ``correlation`` steps, (n,)."""
    rho = np.exp(-1 / correlation)
    start = [rho * rng.standard_normal()]
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], rng.standard_normal(n), zi=start)[0]


def shaded_relief(height: np.ndarray, light: float) -> np.ndarray:
    """Brightness of a rough surface lit from the angle ``light``: the slope of ``height``, deviation 1, (H, W)."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    return _normalised(math.cos(light) * dx + math.sin(light) * dy)


def stone_cells(rng: np.random.Generator, size: tuple[int, int], cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Aggregate: a cell for each stone.

    Returns:
        Two (H, W) float32 arrays: each stone's own tone (deviation 1), and how much a pixel belongs to the stone
        rather than to the binder between stones, from 0 to 1.
    """
    height, width = size
    n = max(4, int(height * width / cell**2))
    seeds = np.ones(size, np.uint8)
    seeds[rng.integers(0, height, n), rng.integers(0, width, n)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    count = int(labels.max()) + 1
    radius = (cell * rng.uniform(0.15, 0.75, count)).astype(np.float32)
    tone = rng.standard_normal(count, np.float32)
    if cell > 3.5:
        distance += 0.14 * cell * fine_grain(rng, size, 0.22 * cell)
    inside = np.clip(radius[labels] - distance + 0.5, 0, 1)
    return tone[labels], inside


def cell_edges(
    rng: np.random.Generator, seeds: np.ndarray, size: tuple[int, int], warp: float, feature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Irregular cells around seeds, their borders displaced by up to about ``warp`` pixels.

    Args:
        rng: Source of chance.
        seeds: Shape (n, 2): x and y, in the picture or beside it.
        size: (H, W).
        warp: Displacement in pixels.
        feature: Size of the borders' bends, pixels.

    Returns:
        Shape (H, W), int32: a number for each cell; and (H, W) float32: pixels to the border.
    """
    height, width = size
    pad = int(2 * warp) + 2
    low = seeds.min(axis=0)
    origin = np.floor(np.minimum(low, -pad)).astype(int)
    extent = np.ceil(np.maximum(seeds.max(axis=0), (width + pad, height + pad))).astype(int) - origin + 1
    free = np.ones(extent[::-1], np.uint8)
    pixels = np.rint(seeds).astype(int) - origin
    free[pixels[:, 1], pixels[:, 0]] = 0
    nearest = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += np.float32(warp) * smooth_noise(rng, size, feature) - np.float32(origin[0])
    y += np.float32(warp) * smooth_noise(rng, size, feature) - np.float32(origin[1])
    cells = cv2.remap(nearest.astype(np.float32), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    inner = np.ones(size, np.uint8)
    inner[:, 1:] &= cells[:, 1:] == cells[:, :-1]
    inner[1:] &= cells[1:] == cells[:-1]
    return cells.astype(np.int32), cv2.distanceTransform(inner, cv2.DIST_L2, 5)


def turned_streaks(rng: np.random.Generator, size: tuple[int, int], scale: float, stretch: float) -> np.ndarray:
    """Long streaks in one direction, of mean 0 and deviation 1, (H, W) float32."""
    height, width = size
    side = math.ceil(math.hypot(height, width)) + 2
    streaks = smooth_noise(rng, (side, side), scale, (1, stretch))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 180), 1)
    turn = turn - np.array([[0, 0, (side - width) / 2], [0, 0, (side - height) / 2]])
    return cv2.warpAffine(streaks, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def patches(rng: np.random.Generator, size: tuple[int, int], share: float, scale: float, soft: float) -> np.ndarray:
    """Irregular patches over about a ``share`` of the area, with edges ``soft`` deviations wide, (H, W) from 0 to 1."""
    field = fractal_noise(rng, size, scale, 0.6)
    level = float(np.quantile(field[::4, ::4], 1 - share))
    return np.clip((field - level) / max(soft, 1e-3) + 0.5, 0, 1)


def blob_distance(rng: np.random.Generator, size: tuple[int, int], radius: Range, rough: float) -> np.ndarray:
    """Signed distance in pixels to the edge of an irregular blob, positive within, (H, W) float32."""
    height, width = size
    r = log_uniform(rng, *radius) * min(size)
    cy, cx = rng.uniform(0.1, 0.9, 2) * size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1, 2)
    u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) * aspect
    wobble = np.clip(fractal_noise(rng, size, max(6, r)), -2, 2)
    return (r * (1 + rough * wobble) - np.hypot(u, v)).astype(np.float32)
