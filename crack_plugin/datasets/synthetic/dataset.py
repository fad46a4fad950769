"""Datasets of synthetic pictures, written in Roboflow's layout."""

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import yaml
from tqdm import tqdm

from crack_plugin.datasets.errors import DatasetError, DatasetExistsError
from crack_plugin.datasets.polygons import format_labels
from crack_plugin.datasets.synthetic.defects import DEFECTS
from crack_plugin.datasets.synthetic.noise import Range
from crack_plugin.datasets.synthetic.picture import Picture, as_range, check_picture, draw, paint
from crack_plugin.datasets.synthetic.surfaces import SURFACES

SPLITS = ('train', 'valid')

REQUEST_FILE = 'synthetic.json'
# Part of the request, so that a folder drawn by an older version is not taken for a new one: raise it with any change
# to the pictures.
DRAWING_VERSION = 4


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
    max_size: tuple[int, int] | None = None
    drawing_version: int = DRAWING_VERSION

    def __post_init__(self) -> None:
        if self.n_train < 0 or self.n_valid < 0 or self.n_train + self.n_valid == 0:
            raise DatasetError(f'n_train={self.n_train}, n_valid={self.n_valid}: ask for at least one picture')
        if self.seed < 0:
            raise DatasetError(f'seed={self.seed}: a seed is a whole number from 0')
        if not 0 <= self.negative_share <= 1:
            raise DatasetError(f'negative_share={self.negative_share}: a share is a number from 0 to 1')
        if self.max_size is not None and not all(a <= b for a, b in zip(self.size, self.max_size, strict=True)):
            raise DatasetError(f'max_size={self.max_size}: height and width are at least those of size={self.size}')
        if not self.surfaces:
            raise DatasetError(f'no surface named: choose from {", ".join(SURFACES)}')
        for surface in self.surfaces:
            check_picture(self.size, surface, self.defects, self.label_margin)
        if not self.defects and self.negative_share < 1:
            raise DatasetError(f'no defect named: choose from {", ".join(map(repr, DEFECTS))}')


def draw_item(request: Request, split: str, index: int) -> Picture:
    """Draw one picture of a dataset alone; it depends on the request's seed, the split and the index only.

    Args:
        request: As given to ``write_dataset``.
        split: 'train' or 'valid'.
        index: The picture's number, from 0.

    Returns:
        The picture as it is written.
    """
    return draw(*_arguments(request, split, index))


def _arguments(
    request: Request, split: str, index: int
) -> tuple[np.random.Generator, tuple[int, int], str, tuple[str, ...], Range, bool]:
    rng = np.random.default_rng([request.seed, SPLITS.index(split), index])
    # Spread evenly over the indices: any run of pictures holds the share, small splits included.
    is_negative = int((index + 1) * request.negative_share + 0.5) > int(index * request.negative_share + 0.5)
    surface = request.surfaces[rng.integers(len(request.surfaces))]
    size = request.size
    if request.max_size is not None:
        size = (
            int(rng.integers(size[0], request.max_size[0] + 1)),
            int(rng.integers(size[1], request.max_size[1] + 1)),
        )
    return rng, size, surface, request.defects, request.label_margin, is_negative


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
    max_size: tuple[int, int] | None = None,
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
        negative_share: Share of pictures without defects. What belongs to a surface is labelled in them, too, where
            it is among ``defects``: joints of masonry, rust of corroded steel.
        label_margin: See ``draw``.
        workers: Number of processes; it does not change the pictures.
        max_size: (H, W): each picture takes a height and a width between ``size`` and this. None: all have ``size``.

    Returns:
        False where ``root`` held this very dataset already, True if it was drawn.

    Raises:
        DatasetExistsError: ``root`` holds something else.
        DatasetError: An argument is out of range.
    """
    root = Path(root)
    surfaces = (surfaces,) if isinstance(surfaces, str) else tuple(surfaces)
    margin = as_range(label_margin)
    request = Request(n_train, n_valid, size, surfaces, tuple(defects), seed, negative_share, margin, max_size)
    if workers < 1:
        raise DatasetError(f'workers={workers}: at least one process draws')
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
    image, mask = paint(*_arguments(request, split, index))
    name = f'{index:06d}'
    path = Path(folder, split, 'images', f'{name}.jpg')
    path.write_bytes(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    labels = (format_labels(mask == i + 1, i) for i in range(len(request.defects)))
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
        raise DatasetExistsError(
            f'{root} is not empty and not a synthetic dataset (it has no {REQUEST_FILE}). {remedy}'
        )
    if file.read_text(encoding='utf-8') != _request_text(request):
        raise DatasetExistsError(f'{root} holds a synthetic dataset of another request (see {file}). {remedy}')
    for split, count in _counts(request).items():
        for folder, suffix in (('images', 'jpg'), ('labels', 'txt')):
            found = len(list(Path(root, split, folder).glob(f'*.{suffix}')))
            if found != count:
                raise DatasetExistsError(
                    f'{Path(root, split, folder)} holds {found} .{suffix} files, {count} were written: the dataset '
                    f'was changed. {remedy}'
                )
    return True
