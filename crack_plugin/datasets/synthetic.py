"""Procedural pictures of cracked surfaces with exact labels: for the demo, tests and pretraining of small models.

A picture is made as a photograph comes to be: a surface with its texture, what lies on it, the defects, and then light
and camera. The label is drawn from the same curves as the crack, a little wider than the dark line, as people annotate.
Nothing bends the picture after that, so label and picture agree to the pixel.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from scipy.signal import lfilter
from scipy.spatial import Voronoi
from tqdm import tqdm

from crack_plugin.datasets.polygons import Polygon, format_labels, mask_to_polygons

DEFECTS = ('crack', 'spalling', 'rust stain')
SPLITS = ('train', 'valid')

REQUEST_FILE = 'synthetic.json'
# Part of the request, so that a folder drawn by an older version is not taken for a new one: raise it with any change
# to the pictures.
DRAWING_VERSION = 1

# Curves are drawn this many times larger and averaged down, because crack widths are fractions of pixels.
_SUPERSAMPLING = 3

Range = tuple[float, float]


class Picture(NamedTuple):
    """One synthetic picture.

    Attributes:
        image: Shape (H, W, 3), uint8, BGR as in OpenCV.
        polygons: Class ids and (n, 2) points as fractions of width and height. Rasterised, they give ``mask``.
        mask: Shape (H, W), uint8: 0 is background, class id + 1 a defect.
    """

    image: np.ndarray
    polygons: list[Polygon]
    mask: np.ndarray


class Stroke(NamedTuple):
    """A curve of changing width.

    Attributes:
        points: Shape (n, 2): x and y in pixels.
        widths: Shape (n,), pixels.
        depths: Shape (n,): 0 is invisible, 1 as dark as the curve gets.
    """

    points: np.ndarray
    widths: np.ndarray
    depths: np.ndarray


@dataclass(frozen=True)
class Request:
    """What ``write_dataset`` was asked for; see there for the fields."""

    n_train: int
    n_valid: int
    size: tuple[int, int]
    surfaces: tuple[str, ...]
    defects: tuple[str, ...]
    seed: int
    negative_share: float
    label_margin: Range
    drawing_version: int = DRAWING_VERSION

    def __post_init__(self) -> None:
        if self.n_train < 0 or self.n_valid < 0 or self.n_train + self.n_valid == 0:
            raise ValueError(f'n_train={self.n_train}, n_valid={self.n_valid}: ask for at least one picture')
        if self.seed < 0:
            raise ValueError(f'seed={self.seed}: a seed is a whole number from 0')
        if not 0 <= self.negative_share <= 1:
            raise ValueError(f'negative_share={self.negative_share}: a share is a number from 0 to 1')
        if not self.surfaces:
            raise ValueError(f'no surface named: choose from {", ".join(SURFACES)}')
        for surface in self.surfaces:
            _check(self.size, surface, self.defects, self.label_margin)
        if not self.defects and self.negative_share < 1:
            raise ValueError(f'no defect named: choose from {", ".join(map(repr, DEFECTS))}')


def draw(
    rng: np.random.Generator,
    size: tuple[int, int] = (336, 336),
    surface: str = 'concrete',
    defects: Sequence[str] = ('crack',),
    label_margin: float | Range = (0.2, 1.2),
) -> Picture:
    """Draw one picture.

    Args:
        rng: The only source of chance: the same state gives the same picture.
        size: (H, W) in pixels, both at least 32.
        surface: 'concrete' (from light plaster to dark speckled slabs), 'asphalt' or 'masonry'.
        defects: Any of 'crack', 'spalling' and 'rust stain'; the class id is the place in this sequence. Of several,
            a picture shows a random choice, at least one. Empty: a picture without defects.
        label_margin: How far the label of a crack reaches over the dark line on either side, in pixels: a number, or
            a range from which each picture takes its own. Labels are at least 1.6 pixels wide.

    Returns:
        Picture, polygons and label map. Every pixel where cracks, spalling and rust meet has one label: crack before
        spalling before rust stain.

    Raises:
        ValueError: An argument is none of the above.
    """
    low, high = margin = _as_range(label_margin)
    _check(size, surface, tuple(defects), margin)
    light = rng.uniform(0, 2 * np.pi)
    image = SURFACES[surface](rng, size, light)
    _add_distractors(rng, image, surface, before=True)

    mask = np.zeros(size, np.uint8)
    shown = rng.permutation(len(defects))[: rng.integers(1, len(defects) + 1)] if defects else ()
    for kind in reversed(DEFECTS):
        if kind in defects and defects.index(kind) in shown:
            region = _PAINTERS[kind](rng, image, light, rng.uniform(low, high))
            mask[region] = defects.index(kind) + 1
    _add_distractors(rng, image, surface, before=False)
    return Picture(_photograph(rng, image), _polygons(mask), mask)


def draw_item(request: Request, split: str, index: int) -> Picture:
    """Draw one picture of a dataset alone; it depends on the request's seed, the split and the index only.

    Args:
        request: As given to ``write_dataset``.
        split: 'train' or 'valid'.
        index: The picture's number, from 0.

    Returns:
        The picture as it is written.
    """
    rng = np.random.default_rng([request.seed, SPLITS.index(split), index])
    # Spread evenly over the indices: any run of pictures holds the share, small splits included.
    is_negative = int((index + 1) * request.negative_share + 0.5) > int(index * request.negative_share + 0.5)
    surface = request.surfaces[rng.integers(len(request.surfaces))]
    return draw(rng, request.size, surface, () if is_negative else request.defects, request.label_margin)


def write_dataset(
    root: str | Path,
    n_train: int = 120,
    n_valid: int = 40,
    size: tuple[int, int] = (336, 336),
    surfaces: str | Sequence[str] = 'concrete',
    defects: Sequence[str] = ('crack',),
    seed: int = 0,
    negative_share: float = 0.18,
    label_margin: float | Range = (0.2, 1.2),
    workers: int = 1,
) -> bool:
    """Write pictures and YOLO polygon labels in Roboflow's layout, with their ``data.yaml``.

    The same request gives the same files (with the same library versions), and is not drawn again where ``root``
    holds it already.

    Args:
        root: The folder to write, new or empty: it appears once all is written.
        n_train: Number of pictures in ``train/images``.
        n_valid: Number of pictures in ``valid/images``.
        size: (H, W) in pixels.
        surfaces: One or several of ``SURFACES``; each picture takes one by chance.
        defects: The classes, in the order of their ids; see ``draw``.
        seed: Whole number, from 0.
        negative_share: Share of pictures without defects.
        label_margin: See ``draw``.
        workers: Number of processes; it does not change the pictures.

    Returns:
        False where ``root`` held this very dataset already, True if it was drawn.

    Raises:
        FileExistsError: ``root`` holds something else.
        ValueError: An argument is out of range.
    """
    root = Path(root)
    surfaces = (surfaces,) if isinstance(surfaces, str) else tuple(surfaces)
    margin = _as_range(label_margin)
    request = Request(n_train, n_valid, size, surfaces, tuple(defects), seed, negative_share, margin)
    if workers < 1:
        raise ValueError(f'workers={workers}: at least one process draws')
    if _is_written(root, request):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f'.{root.name}-') as temporary:
        folder = Path(temporary, root.name)
        _write(folder, request, workers)
        folder.replace(root)
    return True


def _write(folder: Path, request: Request, workers: int) -> None:
    for split in SPLITS:
        Path(folder, split, 'images').mkdir(parents=True)
        Path(folder, split, 'labels').mkdir()
    items = [(split, i) for split, n in _counts(request).items() for i in range(n)]
    write_item = partial(_write_item, folder, request)
    bar = partial(tqdm, total=len(items), desc='Drawing', unit=' pictures', delay=2)
    if workers == 1:
        for _ in bar(map(write_item, items)):
            pass
    else:
        # A forked process can hang in OpenCV or torch where the parent had threads, so each starts afresh.
        fresh = get_context('spawn')
        with ProcessPoolExecutor(workers, fresh, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            for _ in bar(pool.map(write_item, items, chunksize=16)):
                pass
    description = {
        'train': 'train/images',
        'val': 'valid/images',
        'nc': len(request.defects),
        'names': list(request.defects),
    }
    Path(folder, 'data.yaml').write_text(yaml.safe_dump(description, sort_keys=False), encoding='utf-8')
    Path(folder, REQUEST_FILE).write_text(_request_text(request), encoding='utf-8')


def _write_item(folder: Path, request: Request, item: tuple[str, int]) -> None:
    split, index = item
    picture = draw_item(request, split, index)
    name = f'{index:06d}'
    path = Path(folder, split, 'images', f'{name}.jpg')
    path.write_bytes(cv2.imencode('.jpg', picture.image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    labels = (format_labels(picture.mask == i + 1, i) for i in range(len(request.defects)))
    Path(folder, split, 'labels', f'{name}.txt').write_text(''.join(labels), encoding='utf-8')


def _counts(request: Request) -> dict[str, int]:
    return dict(zip(SPLITS, (request.n_train, request.n_valid), strict=True))


def _request_text(request: Request) -> str:
    return json.dumps(asdict(request), indent=2) + '\n'


def _is_written(root: Path, request: Request) -> bool:
    """Whether ``root`` holds this dataset; raises ``FileExistsError`` where it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    file = root / REQUEST_FILE
    remedy = 'Name another folder, or delete this one to have it drawn anew.'
    if not file.is_file():
        raise FileExistsError(f'{root} is not empty and not a synthetic dataset (it has no {REQUEST_FILE}). {remedy}')
    if file.read_text(encoding='utf-8') != _request_text(request):
        raise FileExistsError(f'{root} holds a synthetic dataset of another request (see {file}). {remedy}')
    for split, count in _counts(request).items():
        for folder, suffix in (('images', 'jpg'), ('labels', 'txt')):
            found = len(list(Path(root, split, folder).glob(f'*.{suffix}')))
            if found != count:
                raise FileExistsError(
                    f'{Path(root, split, folder)} holds {found} .{suffix} files, {count} were written: the dataset '
                    f'was changed. {remedy}'
                )
    return True


def _as_range(value: float | Range) -> Range:
    return (value[0], value[1]) if isinstance(value, Sequence) else (value, value)


def _check(size: tuple[int, int], surface: str, defects: Sequence[str], margin: Range) -> None:
    if min(size) < 32:
        raise ValueError(f'size={size}: height and width are at least 32 pixels')
    if surface not in SURFACES:
        raise ValueError(f'unknown surface {surface!r}: choose from {", ".join(SURFACES)}')
    if not set(defects) <= set(DEFECTS) or len(set(defects)) < len(defects):
        raise ValueError(f'defects={defects}: any of {", ".join(map(repr, DEFECTS))}, each once')
    if not 0 <= margin[0] <= margin[1]:
        raise ValueError(f'label_margin={margin}: pixels from 0, the lower bound first')


def _polygons(mask: np.ndarray) -> list[Polygon]:
    height, width = mask.shape
    return [
        Polygon(label - 1, points / (width, height))
        for label in range(1, int(mask.max()) + 1)
        for points in mask_to_polygons(mask == label)
    ]


# ---- noise


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(
    rng: np.random.Generator, size: tuple[int, int], scale: float, stretch: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 with features of ``scale`` pixels, (H, W) float32."""
    cells = [scale * s for s in stretch]
    shape = [math.ceil(n / cell) + 2 for n, cell in zip(size, cells, strict=True)]
    grid = rng.standard_normal(shape, np.float32)
    height, width = (round(n * cell) for n, cell in zip(shape, cells, strict=True))
    # The random offset keeps the grid's nodes from standing at the same pixels in every picture.
    top, left = rng.integers(0, (height - size[0] + 1, width - size[1] + 1))
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)[top : top + size[0], left : left + size[1]]
    return _normalised(field)


def _grain(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Noise of mean 0 and deviation 1 with features of a few pixels, (H, W) float32."""
    return _normalised(cv2.GaussianBlur(rng.standard_normal(size, np.float32), (0, 0), sigma))


def _fractal(rng: np.random.Generator, size: tuple[int, int], scale: float, gain: float = 0.55) -> np.ndarray:
    """Noise of mean 0 and deviation 1 that sums octaves from ``scale`` down to 3 pixels, (H, W) float32."""
    field = np.zeros(size, np.float32)
    amplitude = 1.0
    while scale >= 3:
        field += amplitude * _noise(rng, size, scale)
        scale, amplitude = scale / 2.1, amplitude * gain
    return _normalised(field)


def _normalised(field: np.ndarray) -> np.ndarray:
    mean, deviation = cv2.meanStdDev(field)
    return (field - np.float32(mean[0, 0])) * np.float32(1 / (deviation[0, 0] + 1e-9))


def _shifted(field: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """A field moved by a fraction of pixels, 0 where nothing was, (H, W)."""
    return cv2.warpAffine(field, np.array([[1, 0, dx], [0, 1, dy]], np.float32), field.shape[::-1])


def _wander(rng: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    """A first-order autoregressive series of deviation 1 that forgets within ``correlation`` steps, (n,)."""
    rho = np.exp(-1 / correlation)
    start = [rho * rng.standard_normal()]
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], rng.standard_normal(n), zi=start)[0]


def _relief(height: np.ndarray, light: float) -> np.ndarray:
    """Brightness of a rough surface lit from the angle ``light``: the slope of ``height``, deviation 1, (H, W)."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    return _normalised(math.cos(light) * dx + math.sin(light) * dy)


def _stones(rng: np.random.Generator, size: tuple[int, int], cell: float) -> tuple[np.ndarray, np.ndarray]:
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
        distance += 0.14 * cell * _grain(rng, size, 0.22 * cell)
    inside = np.clip(radius[labels] - distance + 0.5, 0, 1)
    return tone[labels], inside


# ---- surfaces: reflectance from 0 to 1, (3, H, W) float32 in the order BGR; planes first, because that is many times
# faster to multiply by one (H, W) layer after another


def _coloured(rng: np.random.Generator, tone: np.ndarray, saturation: float) -> np.ndarray:
    """A grey reflectance (H, W) in the colour of a mineral surface: (3, H, W), BGR."""
    warm = rng.normal(0, saturation)
    tint = np.array([1 - warm, 1 + rng.normal(0, saturation / 4), 1 + warm], np.float32)
    return tone * tint[:, None, None]


def _add_pores(rng: np.random.Generator, tone: np.ndarray, light: float) -> None:
    height, width = tone.shape
    layer = np.zeros((height * 2, width * 2), np.uint8)
    for _ in range(int(_log_uniform(rng, 4, 250) * height * width / 336**2)):
        x, y = rng.integers(0, (width * 2, height * 2))
        radius = 1 + int(rng.exponential(1.6))
        axes = (radius, max(1, int(radius * rng.uniform(0.6, 1))))
        cv2.ellipse(layer, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, int(rng.uniform(90, 255)), -1)
    holes = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    tone *= 1 - rng.uniform(0.2, 0.7) * holes
    rim = _shifted(holes, math.cos(light), math.sin(light))
    tone *= 1 + rng.uniform(0, 0.25) * np.clip(rim - holes, 0, 1)


def _add_aggregate(rng: np.random.Generator, tone: np.ndarray, light: float, strength: float) -> None:
    """Stones, binder and relief on a grey reflectance, with ``strength`` from 0 (none) to 1 (bare aggregate)."""
    size = tone.shape
    cell = _log_uniform(rng, 2, 7)
    stone, inside = _stones(rng, size, cell)
    spread = strength * rng.uniform(0.04, 0.24)
    binder = 1 - strength * rng.uniform(-0.08, 0.25)
    tone *= inside * (1 + spread * stone) + (1 - inside) * binder
    if rng.random() < 0.7:
        height = inside + rng.uniform(0.2, 0.8) * _grain(rng, size, _log_uniform(rng, 0.7, 2))
        tone *= 1 + strength * rng.uniform(0.03, 0.13) * _relief(height, light)
    if rng.random() < 0.7:
        # Single bright or dark stones and pits: far tails that normal noise does not have.
        spots, inside = _stones(rng, size, _log_uniform(rng, 7, 20))
        small = np.clip(inside * 1.6 - 0.6, 0, 1)
        chosen = np.where(np.abs(spots) > 1.1, spots, 0)
        tone *= 1 + strength * rng.uniform(0.08, 0.3) * np.clip(chosen, -2, 3) * small


def _concrete(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    coarse = rng.random() < 0.75
    level = rng.uniform(0.25, 0.62) if coarse else rng.uniform(0.35, 0.85)
    tone = np.full(size, level, np.float32)
    tone *= 1 + _log_uniform(rng, 0.005, 0.09) * _fractal(rng, size, _log_uniform(rng, 20, 160), rng.uniform(0.4, 0.8))
    tone *= 1 + rng.uniform(0.015, 0.08) * _grain(rng, size, _log_uniform(rng, 0.45, 1.3))
    if coarse:
        _add_aggregate(rng, tone, light, rng.uniform(0.3, 1))
    elif rng.random() < 0.5:
        tone *= 1 + rng.uniform(0.01, 0.06) * _relief(_fractal(rng, size, _log_uniform(rng, 5, 30)), light)
    if rng.random() < 0.45:
        _add_pores(rng, tone, light)
    if rng.random() < 0.15:
        _add_trowel_marks(rng, tone)
    if not coarse and rng.random() < 0.3:
        _add_board_marks(rng, tone)
    return _coloured(rng, tone, 0.05)


def _add_trowel_marks(rng: np.random.Generator, tone: np.ndarray) -> None:
    """Long faint streaks in one direction, bent like the swing of an arm or a broom."""
    height, width = tone.shape
    streaks = _noise(rng, (height * 2, width * 2), _log_uniform(rng, 1.5, 5), (1, rng.uniform(15, 40)))
    turn = cv2.getRotationMatrix2D((width, height), rng.uniform(0, 180), 1)
    turn[:, 2] -= width / 2, height / 2
    tone *= 1 + rng.uniform(0.01, 0.06) * cv2.warpAffine(streaks, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _add_board_marks(rng: np.random.Generator, tone: np.ndarray) -> None:
    """The prints of formwork boards: strips of slightly different tone with wood grain."""
    height, width = tone.shape
    n_boards = int(rng.integers(3, 9))
    edges = np.linspace(0, width, n_boards + 1) + rng.uniform(-0.2, 0.2, n_boards + 1) * width / n_boards
    board = np.searchsorted(edges[1:-1], np.arange(width))
    profile = 1 + rng.uniform(0.01, 0.06) * rng.standard_normal(n_boards)[board]
    profile[np.flatnonzero(np.diff(board))] *= rng.uniform(0.7, 1.15)
    grain = _noise(rng, (height, width), 2, (rng.uniform(10, 40), 1))
    marks = profile.astype(np.float32) * (1 + rng.uniform(0, 0.03) * grain)
    tone *= marks if rng.random() < 0.5 else cv2.resize(marks.T, (width, height))


def _asphalt(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    tone = np.full(size, rng.uniform(0.2, 0.5), np.float32)
    tone *= 1 + rng.uniform(0.01, 0.07) * _fractal(rng, size, _log_uniform(rng, 30, 160))
    tone *= 1 + rng.uniform(0.02, 0.06) * _grain(rng, size, _log_uniform(rng, 0.5, 1.2))
    _add_aggregate(rng, tone, light, rng.uniform(0.6, 1.2))
    return _coloured(rng, tone, 0.03)


def _masonry(rng: np.random.Generator, size: tuple[int, int], light: float) -> np.ndarray:
    height, width = size
    course = rng.uniform(28, 70)
    length, joint = course * rng.uniform(1.6, 3.2), rng.uniform(3, 8)
    wobble = rng.uniform(0.3, 1.2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y += wobble * _noise(rng, size, 12) + rng.uniform(0, course)
    x += wobble * _noise(rng, size, 12) + rng.uniform(0, length)
    row = np.floor(y / course).astype(np.int32)
    x += (row % 2) * np.float32(length / 2)
    column = np.floor(x / length).astype(np.int32)
    to_edge = np.minimum.reduce([y % course, course - y % course, x % length, length - x % length])
    brick = np.clip(to_edge - joint / 2 + 0.5, 0, 1)
    tones = rng.standard_normal((int(row.max()) + 1, int(column.max()) + 1), np.float32)
    rough = rng.uniform(0.02, 0.07) * _fractal(rng, size, _log_uniform(rng, 6, 30), 0.8)
    rough += rng.uniform(0.02, 0.05) * _grain(rng, size, 0.7)
    red = rng.random() < 0.65
    colour = np.array(
        rng.uniform((0.18, 0.22, 0.34), (0.27, 0.32, 0.5)) if red else np.full(3, rng.uniform(0.35, 0.75))
    )
    face = colour.astype(np.float32)[:, None, None] * (1 + rough + rng.uniform(0.03, 0.14) * tones[row, column])
    mortar = _coloured(rng, np.float32(rng.uniform(0.35, 0.75)) * (1 + 2 * rough), 0.04)
    image = brick * face + (1 - brick) * mortar
    shade = cv2.GaussianBlur(brick, (0, 0), 1.2)
    image *= 1 + rng.uniform(0.05, 0.12) * _relief(shade, light)
    return image


# ---- curves


def _walk(
    rng: np.random.Generator, start: np.ndarray, heading: float, length: float, wavy: float, jagged: float
) -> np.ndarray:
    """A random walk that keeps its heading: slow bends and fast jags around it, and a kink now and then, (n, 2)."""
    step = 2.0
    n = max(4, int(length / step))
    kinks = np.cumsum(rng.normal(0, 0.45, n) * (rng.random(n) < 0.015))
    angle = heading + kinks + wavy * _wander(rng, n, 14) + jagged * _wander(rng, n, 1.6)
    steps = step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _until_outside(points: np.ndarray, size: tuple[int, int], margin: float = 4) -> np.ndarray:
    height, width = size
    outside = ((points < -margin) | (points > (width + margin, height + margin))).any(axis=1)
    return points[: max(2, int(outside.argmax()))] if outside.any() else points


def _as_stroke(rng: np.random.Generator, points: np.ndarray, width: float, depth: float, taper: float) -> Stroke:
    """Give a curve a crack's uneven width and darkness; ``taper`` is the share of its length that thins out."""
    n = len(points)
    end = np.clip((n - np.arange(n)) / max(1, taper * n), 0.35, 1)
    widths = width * end * np.exp(0.3 * _wander(rng, n, 12) + 0.25 * _wander(rng, n, 1))
    depths = depth * np.sqrt(end) * np.exp(0.15 * _wander(rng, n, 8))
    # Where sand fills the crack, it fades or breaks off; people annotate it all the same.
    faint = _wander(rng, n, 10) > rng.uniform(0.9, 2.5)
    depths = np.where(cv2.blur(faint.astype(np.float32), (1, 5))[:, 0] > 0.5, rng.uniform(0.2, 0.7) * depths, depths)
    return Stroke(points, np.clip(widths, 0.8, 8), np.clip(depths, 0, 1))


def _branching_crack(rng: np.random.Generator, size: tuple[int, int], width: float, depth: float) -> list[Stroke]:
    """A crack with its branches, the trunk last."""
    height, width_px = size
    wavy, jagged = rng.uniform(0.15, 0.5), rng.uniform(0.2, 0.7)
    length = max(size) * rng.uniform(0.5, 2)
    if rng.random() < 0.75:
        side, along = rng.integers(4), rng.uniform(0.08, 0.92)
        start = np.array([(along, 0), (1, along), (along, 1), (0, along)])[side] * (width_px, height)
        headings = [(np.pi / 2, np.pi, -np.pi / 2, 0)[side] + rng.normal(0, 0.35)]
    else:
        start = rng.uniform(0.15, 0.85, 2) * (width_px, height)
        heading = rng.uniform(0, 2 * np.pi)
        headings = [heading, heading + np.pi]
        length /= 2
    strokes, parents = [], []
    for heading in headings:
        # The longest of a few, because a walk from the edge may leave at once and would show no crack.
        walks = [_until_outside(_walk(rng, start, heading, length, wavy, jagged), size) for _ in range(3)]
        trunk = max(walks, key=len)
        strokes.append(_as_stroke(rng, trunk, width, depth, rng.uniform(0.02, 0.5)))
        parents.append((trunk, width))
    for _ in range(rng.poisson(1.3)):
        parent, parent_width = parents[rng.integers(len(parents))]
        i = int(rng.integers(1, len(parent)))
        tangent = np.arctan2(*(parent[i] - parent[max(0, i - 6)])[::-1])
        turn = rng.uniform(0.4, 1.3) * rng.choice([-1, 1])
        reach = max(size) * rng.uniform(0.08, 0.6)
        branch = _until_outside(_walk(rng, parent[i], tangent + turn, reach, wavy, jagged), size)
        branch_width = parent_width * rng.uniform(0.5, 0.95)
        strokes.append(_as_stroke(rng, branch, branch_width, depth * rng.uniform(0.7, 1), rng.uniform(0.2, 0.7)))
        parents.append((branch, branch_width))
    return strokes[::-1]


def _crack_network(rng: np.random.Generator, size: tuple[int, int], width: float, depth: float) -> list[Stroke]:
    """Alligator cracking: jagged cell borders (a Voronoi diagram) within an irregular zone."""
    height, width_px = size
    cell = max(12.0, rng.uniform(0.09, 0.25) * math.sqrt(height * width_px))
    xs, ys = np.meshgrid(np.arange(-cell, width_px + cell, cell), np.arange(-cell, height + cell, cell))
    seeds = np.stack([xs.ravel(), ys.ravel()], axis=1) + rng.normal(0, 0.3 * cell, (xs.size, 2))
    diagram = Voronoi(seeds)
    zone = _fractal(rng, size, 0.4 * max(size)) + rng.uniform(-1.2, 0.7)
    zone[tuple(rng.integers(0, size))] = np.inf
    peak = np.array(np.unravel_index(int(zone.argmax()), size))[::-1]
    jagged = rng.uniform(0.25, 0.6)
    strokes = []
    ends = np.array([diagram.vertices[list(ridge)] for ridge in diagram.ridge_vertices if -1 not in ridge])
    # The outermost cells reach far beyond the picture.
    ends = ends[np.hypot(*(ends[:, 1] - ends[:, 0]).T) < 2 * cell]
    middles = ends.mean(axis=1)
    pixels = np.clip(middles.astype(int), 0, (width_px - 1, height - 1))
    chosen = (zone[pixels[:, 1], pixels[:, 0]] > 0) & (rng.random(len(ends)) < 0.9)
    chosen[np.argmin(((middles - peak) ** 2).sum(axis=1))] = True
    for start, end in ends[chosen]:
        length = float(np.hypot(*(end - start)))
        walk = _walk(rng, start, float(np.arctan2(*(end - start)[::-1])), length, 0.3, jagged)
        share = np.linspace(0, 1, len(walk))[:, None]
        points = walk + share * (end - walk[-1])
        strokes.append(_as_stroke(rng, points, width * rng.uniform(0.5, 1.2), depth * rng.uniform(0.5, 1), 0))
    return strokes


def _render(strokes: Sequence[Stroke], size: tuple[int, int], margin: float | None = None) -> np.ndarray:
    """Coverage of curves times their depth; with a ``margin`` in pixels, of widened curves without it.

    Returns:
        Shape (H, W), float32 from 0 to 1.
    """
    canvas = np.zeros((size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), np.uint8)
    for points, widths, depths in strokes:
        # Four fractional bits: `shift` of cv2.line.
        pixels = np.rint((points * _SUPERSAMPLING) * 16).astype(int).tolist()
        if margin is None:
            thickness, values = widths, depths
        else:
            smooth = cv2.blur(widths[:, None], (1, 9))[:, 0]
            # A hairline's label would fall apart into pixels.
            thickness, values = np.maximum(smooth + 2 * margin, 1.6), np.ones_like(depths)
        pens = np.maximum(1, np.rint(thickness * _SUPERSAMPLING)).astype(int).tolist()
        greys = np.rint(values * 255).astype(int).tolist()
        for start, end, pen, grey in zip(pixels, pixels[1:], pens, greys, strict=False):
            cv2.line(canvas, start, end, grey, pen, cv2.LINE_8, 4)
    return cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


# ---- defects: each paints into a reflectance image and returns its label region, (H, W) bool


def _paint_cracks(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    depth = rng.uniform(0.5, 1)
    width = _log_uniform(rng, 0.8, 4.2)
    if rng.random() < 0.12:
        strokes = _crack_network(rng, size, min(width, 2.5), depth)
    else:
        n_cracks = 1 + int(rng.random() < 0.3) + int(rng.random() < 0.1)
        strokes = [
            s for _ in range(n_cracks) for s in _branching_crack(rng, size, width * rng.uniform(0.6, 1.1), depth)
        ]
    alpha = _render(strokes, size)
    _shade_cracks(rng, image, alpha, light)
    return _render(strokes, size, margin) >= 0.5


def _shade_cracks(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, light: float) -> None:
    size = alpha.shape
    # Stones bridge the gap here and there.
    alpha = np.clip(alpha * (1 + rng.uniform(0, 0.35) * _grain(rng, size, _log_uniform(rng, 0.7, 1.5))), 0, 1)
    lit = _shifted(alpha, 1.2 * math.cos(light), 1.2 * math.sin(light))
    image *= 1 + rng.uniform(0, 0.35) * np.clip(lit - alpha, 0, 1)
    if rng.random() < 0.4:
        # Dirt, damp or lime beside old cracks.
        halo = np.clip(2 * cv2.GaussianBlur(alpha, (0, 0), rng.uniform(2, 7)), 0, 1)
        image *= 1 + rng.uniform(-0.25, 0.12) * halo
    floor = image.mean(axis=(1, 2)) * rng.uniform(0.1, 0.5) * rng.normal(1, 0.05, 3)
    image += alpha * np.minimum(floor.astype(np.float32)[:, None, None] - image, 0)


def _blob(rng: np.random.Generator, size: tuple[int, int], radius: Range, rough: float) -> np.ndarray:
    """Signed distance in pixels to the edge of an irregular blob, positive within, (H, W) float32."""
    height, width = size
    r = _log_uniform(rng, *radius) * min(size)
    cy, cx = rng.uniform(0.1, 0.9, 2) * size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1, 2)
    u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) * aspect
    wobble = np.clip(_fractal(rng, size, max(6, r)), -2, 2)
    return (r * (1 + rough * wobble) - np.hypot(u, v)).astype(np.float32)


def _paint_spalling(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    region = np.zeros(size, bool)
    for _ in range(1 + rng.poisson(0.4)):
        inside = _blob(rng, size, (0.08, 0.28), rng.uniform(0.15, 0.3))
        region |= inside > 0
        alpha = np.clip(inside + 0.5, 0, 1)
        level = float(image.mean()) * rng.uniform(0.6, 1.1)
        broken = np.full(size, level, np.float32) * (1 + rng.uniform(0.05, 0.15) * _fractal(rng, size, 20))
        _add_aggregate(rng, broken, light, rng.uniform(0.8, 1.3))
        depth = np.clip(inside / rng.uniform(4, 12), 0, 1)
        broken *= 1 + rng.uniform(0.1, 0.25) * np.clip(_relief(-cv2.GaussianBlur(depth, (0, 0), 1.5), light), -3, 3)
        image += alpha * (_coloured(rng, broken, 0.06) - image)
    return region


def _paint_rust(rng: np.random.Generator, image: np.ndarray, light: float, margin: float) -> np.ndarray:
    size = image.shape[1:]
    density = np.zeros(size, np.float32)
    for _ in range(1 + rng.poisson(0.7)):
        r = rng.uniform(4, 14)
        source = np.clip(_blob(rng, size, (0.03, 0.16), 0.3) / r, 0, 1)
        source /= source.max()
        if rng.random() < 0.6:
            # Water carries it down.
            reach = int(rng.uniform(0.1, 0.5) * size[0])
            down = np.concatenate([np.zeros(reach, np.float32), np.linspace(1, 0, reach, dtype=np.float32)])
            run = cv2.filter2D(source, -1, down[::-1, None].copy(), borderType=cv2.BORDER_CONSTANT)
            streaks = np.clip(1 + 0.5 * _noise(rng, size, 3, (20, 1)), 0, 1.6)
            source = np.maximum(source, np.clip(run / (run.max() + 1e-6), 0, 1) * streaks)
        density = np.maximum(density, source)
    density = np.clip(density * (1 + 0.25 * _fractal(rng, size, 25)), 0, 1)
    colour = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.38, 0.6), rng.uniform(0.75, 1)], np.float32)
    image *= 1 - rng.uniform(0.6, 0.95) * density * (1 - colour)[:, None, None]
    # Rust is a coat of its own colour too: on a dark ground it is lighter.
    image += rng.uniform(0.15, 0.4) * density * (np.float32(0.5) * colour[:, None, None] - image)
    region = density > 0.3
    region[np.unravel_index(int(density.argmax()), size)] = True
    return region


_PAINTERS: dict[str, Callable[[np.random.Generator, np.ndarray, float, float], np.ndarray]] = {
    'crack': _paint_cracks,
    'spalling': _paint_spalling,
    'rust stain': _paint_rust,
}


# ---- what is on the surface and is no defect


def _add_distractors(rng: np.random.Generator, image: np.ndarray, surface: str, before: bool) -> None:
    """Paint things that are no defects: ``before`` the defects those they may cut through, then those on top."""
    for chance, painter in _DISTRACTORS[before]:
        if painter in _TRAFFIC:
            chance *= {'asphalt': 5, 'masonry': 0}.get(surface, 1)
        if rng.random() < chance:
            painter(rng, image)


def _stain(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    field = _fractal(rng, size, _log_uniform(rng, 30, 200), rng.uniform(0.4, 0.75)) - rng.uniform(0.2, 1.5)
    edge = np.clip(field * _log_uniform(rng, 1, 8), 0, 1)
    tint = rng.uniform(0.6, 1.25) + rng.normal(0, 0.025, 3).astype(np.float32)
    image *= 1 + edge * (tint - 1)[:, None, None]


def _spots(rng: np.random.Generator, image: np.ndarray) -> None:
    """Drops, chewing gum, small debris."""
    height, width = image.shape[1:]
    for _ in range(1 + rng.poisson(2)):
        radius = _log_uniform(rng, 1.5, 9)
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
    soft = np.clip(_blob(rng, size, (0.05, 0.25), 0.25) / rng.uniform(2, 15), 0, 1)
    image *= 1 - soft * rng.uniform(0.2, 0.6)


def _straight_line(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two points outside the picture whose line crosses it, (2, 2)."""
    height, width = size
    through = rng.uniform(0.1, 0.9, 2) * (width, height)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    reach = 1.5 * max(size) * np.array([math.cos(angle), math.sin(angle)])
    return np.stack([through - reach, through + reach])


def _line_stroke(ends: np.ndarray, width: float, depth: float = 1) -> Stroke:
    return Stroke(ends, np.full(len(ends), width), np.full(len(ends), depth))


def _joint(rng: np.random.Generator, image: np.ndarray) -> None:
    """A saw cut, an expansion gap or the edge between two pours: straight and even, unlike a crack."""
    size = image.shape[1:]
    ends = _straight_line(rng, size)
    width = _log_uniform(rng, 1.2, 9)
    alpha = _render([_line_stroke(ends, width)], size)
    if rng.random() < 0.3:
        normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
        side = np.concatenate([ends, ends[::-1] + 3 * normal])
        layer = np.zeros(size, np.uint8)
        cv2.fillPoly(layer, [np.rint(side).astype(np.int32)], 1)
        image *= 1 + layer.astype(np.float32) * rng.uniform(-0.25, 0.25)
    alpha = np.clip(alpha * (1 + rng.uniform(0, 0.25) * _grain(rng, size, 1)), 0, 1)
    filling = float(image.mean()) * (rng.uniform(0.15, 0.7) if rng.random() < 0.8 else rng.uniform(1.1, 1.4))
    image += alpha * rng.uniform(0.5, 1) * (filling - image)


def _scratches(rng: np.random.Generator, image: np.ndarray) -> None:
    """Bright scratches and chalk: thin light lines, straight or bent."""
    size = image.shape[1:]
    strokes = []
    for _ in range(1 + rng.poisson(1.5)):
        start = rng.uniform(0, 1, 2) * size[::-1]
        points = _walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.8) * max(size), 0.12, 0.02)
        strokes.append(_as_stroke(rng, points, _log_uniform(rng, 0.7, 3), rng.uniform(0.3, 1), 0.3))
    alpha = _render(strokes, size)
    image *= 1 + alpha * rng.uniform(0.2, 0.8)


def _pencil(rng: np.random.Generator, image: np.ndarray) -> None:
    """A drawn line: dark and thin as a crack, but smooth and even."""
    size = image.shape[1:]
    start = rng.uniform(0, 1, 2) * size[::-1]
    points = _walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9) * max(size), 0.2, 0)
    alpha = _render([_line_stroke(points, _log_uniform(rng, 0.7, 1.8), rng.uniform(0.3, 0.7))], size)
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
        points = _walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5) * max(size), 0.15, 0.02)
        widths = _log_uniform(rng, 1, 4) * np.sqrt(np.linspace(1, 0.1, len(points)))
        strokes.append(Stroke(points, widths, np.ones(len(points))))
    alpha = _render(strokes, size)
    shadow = _shifted(alpha, rng.uniform(-3, 3), rng.uniform(-3, 3))
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 1.5))
    image *= 1 - rng.uniform(0, 0.5) * shadow
    image += alpha * (colour[:, None, None] - image)


def _tyre_marks(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    ends = _straight_line(rng, size)
    soft = cv2.GaussianBlur(_render([_line_stroke(ends, rng.uniform(15, 60))], size), (0, 0), rng.uniform(2, 8))
    worn = np.clip(0.8 + 0.3 * _fractal(rng, size, 12), 0, 1)
    image *= 1 - rng.uniform(0.1, 0.4) * (soft * worn)


def _lane_marking(rng: np.random.Generator, image: np.ndarray) -> None:
    size = image.shape[1:]
    band = _render([_line_stroke(_straight_line(rng, size), rng.uniform(20, 90))], size)
    worn = np.clip(
        rng.uniform(0.5, 3) + rng.uniform(0.6, 1.5) * _fractal(rng, size, _log_uniform(rng, 5, 40), 0.9), 0, 1
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
        ends = _straight_line(rng, size)
        normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
        layer = np.zeros(size, np.float32)
        cv2.fillPoly(layer, [np.rint(np.concatenate([ends, ends[::-1] + 3 * normal])).astype(np.int32)], 1)
    elif kind < 0.75:
        layer = _render([_line_stroke(_straight_line(rng, size), _log_uniform(rng, 3, 60))], size)
    else:
        layer = np.clip(4 * (_fractal(rng, size, rng.uniform(25, 90), 0.6) - rng.uniform(-0.5, 0.8)), 0, 1)
    image *= 1 - rng.uniform(0.15, 0.6) * cv2.GaussianBlur(layer, (0, 0), _log_uniform(rng, 0.6, 12))


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

SURFACES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    'concrete': _concrete,
    'asphalt': _asphalt,
    'masonry': _masonry,
}


# ---- light and camera


def _photograph(rng: np.random.Generator, reflectance: np.ndarray) -> np.ndarray:
    """Light, lens, sensor and compression: (3, H, W) reflectance to (H, W, 3) uint8."""
    height, width = size = reflectance.shape[1:]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    slope_x, slope_y = rng.normal(0, 0.07), rng.normal(0, 0.07)
    light = 1 + slope_x * x + slope_y * y - abs(rng.normal(0, 0.06)) * (x * x + y * y)
    cold, green = rng.normal(0, 0.05 if rng.random() < 0.7 else 0.11), rng.normal(0, 0.015)
    cast = np.exp(np.array([cold, green, -cold], np.float32))
    exposed = reflectance * (light * cast[:, None, None])
    # An auto-exposing camera brings most scenes near the middle of the range.
    exposed *= (rng.uniform(0.3, 0.65) / float(exposed.mean())) ** rng.uniform(0, 1)
    image = cv2.merge(list(cv2.pow(np.clip(exposed, 0.004, 1.2), rng.uniform(0.75, 1.15))))
    middle = float(image.mean())
    image = middle + (image - middle) * rng.uniform(0.6, 1.15)
    if rng.random() < 0.55:
        image = cv2.GaussianBlur(image, (0, 0), _log_uniform(rng, 0.35, 1.2))
    if rng.random() < 0.3:
        image += rng.uniform(0.2, 0.8) * (image - cv2.GaussianBlur(image, (0, 0), 1.2))
    sensor = rng.standard_normal(size, np.float32) * np.float32(_log_uniform(rng, 0.002, 0.025))
    picture = cv2.add(image, cv2.merge([sensor] * 3))
    picture = cv2.convertScaleAbs(np.maximum(picture, 0), alpha=255)
    quality = int(rng.uniform(45, 98))
    return np.asarray(
        cv2.imdecode(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    )
