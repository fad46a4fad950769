"""What is wrong with a dataset, and what is in it: found before hours are spent on training.

Nothing here stops at the first fault. What training would stop at is an error; what it would take, but is seldom
meant, or makes the scores look better than they are, is a warning.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import imagehash
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from skimage.morphology import skeletonize
from torch.utils.data import DataLoader, Dataset

from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.photographs import ImageError
from crack_plugin.datasets.polygons import LabelError, Polygon, parse_lines, rasterize
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.datasets.yolo_layout import find_split, listed, read_data_yaml, source_name

HASH_DISTANCE = 8
"""Two pictures are near-duplicates if at most this many of the 64 bits of their hashes differ.

On the 71 training photographs of CrackForest the nearest two different ones differ in 14 bits. After JPEG compression
at quality 50, a change of brightness by 25 %, noise, blur, a flip, a quarter turn or a resize, 9 in 10 differ from
their original in 8 at most; after a turn by 5 degrees or a crop by 5 %, half of them in 10 at most.
"""

# SAM 3's semantic map has 288 pixels where its input has 1008.
OUTPUT_PER_INPUT = 2 / 7
# Cracks are measured in blocks of this side, so that a picture of 100 megapixels needs no more memory than a small one.
_BLOCK = 2048
_HASHED_SIDE = 32


class Problem(NamedTuple):
    """Attributes:
    severity: 'error' or 'warning'.
    split: The split it was found in; both of a pair.
    text: File, line, fault and remedy.
    """

    severity: Literal['error', 'warning']
    split: str
    text: str


@dataclass(frozen=True)
class Sample:
    """An image and its label, as they were found.

    Attributes:
        split: The split it belongs to.
        image: Path of the image.
        shape: (H, W) in pixels, EXIF orientation applied.
        polygons: Number of readable polygons by name of their class; with masks, empty.
        foreground: Share of the pixels that belong to any foreground class, in [0, 1].
        widths: Thinnest tenth (10th percentile) and median of the width along the centre lines of the foreground, in
            pixels; None without foreground.
        hashes: Perceptual hash of the picture and of its seven flips and turns, shape (8,), uint64.
    """

    split: str
    image: str
    shape: tuple[int, int]
    polygons: Mapping[str, int]
    foreground: float
    widths: tuple[float, float] | None
    hashes: np.ndarray

    def scale(self, image_size: int) -> float:
        """Pixels of a model's square input per pixel of the image, along the side that shrinks more."""
        return image_size / max(self.shape)


def open_split(data_root: Path, split: str, **options: Any) -> tuple[YOLOCrackDataset | None, list[Problem]]:
    """Find the files of a split and what is wrong with their arrangement.

    Args:
        data_root: As for ``YOLOCrackDataset``.
        split: As for ``YOLOCrackDataset``.
        **options: Other arguments of ``YOLOCrackDataset``; with ``missing_label='error'``, missing labels are errors.

    Returns:
        The dataset, ready for ``inspect_samples``, or None if it cannot be built; and the problems.
    """
    severity: Literal['error', 'warning'] = 'error' if options.pop('missing_label', None) == 'error' else 'warning'
    try:
        dataset = YOLOCrackDataset(data_root, split, pipeline=[LoadImageFromFile()], lazy_init=True, **options)
        files = find_split(read_data_yaml(data_root), split, dataset.annotations, dataset.mask_suffix)
        dataset.full_init()
    except (FileNotFoundError, ValueError) as error:
        return None, [Problem('error', split, str(error))]
    problems = []
    if files.unlabelled:
        problems.append(
            Problem(
                severity,
                split,
                f'{len(files.unlabelled)} of {len(files.pairs)} images have no label file and are taken as background: '
                f'{listed(files.unlabelled)}. Add them, as empty files if nothing is to be seen.',
            )
        )
    if files.orphans:
        problems.append(
            Problem('warning', split, f'{files.orphans} label files belong to no image. Add the images or delete them.')
        )
    if files.others:
        kinds = ', '.join(f'{count} {suffix or "without extension"}' for suffix, count in sorted(files.others.items()))
        problems.append(
            Problem(
                'warning', split, f'files beside the images are no images that can be read ({kinds}). Convert them.'
            )
        )
    return dataset, [*problems, *_shared_labels(split, files.pairs)]


def inspect_sample(dataset: YOLOCrackDataset, index: int) -> tuple[Sample | None, list[Problem]]:
    """Read one image with its label, and collect all that is wrong with them.

    Args:
        dataset: As returned by ``open_split``.
        index: Of the sample.

    Returns:
        The sample, None if its image or label file cannot be read at all, and its problems.
    """
    split, info = dataset.split, dataset.get_data_info(index)
    try:
        image = dataset.prepare_data(index)['img']
        polygons, errors, label_map = _read_label(info, image.shape[:2])
    except (ImageError, OSError) as error:
        return None, [Problem('error', split, str(error))]
    shape = image.shape[:2]
    foreground = float((label_map > 0).mean())
    sample = Sample(
        split=split,
        image=info['img_path'],
        shape=shape,
        polygons=Counter(info['yolo_names'][polygon.class_id] for polygon in polygons),
        foreground=foreground,
        widths=crack_widths(label_map > 0),
        hashes=perceptual_hashes(image),
    )
    problems = [Problem('error', split, str(error)) for error in errors]
    return sample, [*problems, *_doubts(split, info['label_path'], polygons, foreground)]


def inspect_samples(dataset: YOLOCrackDataset, workers: int = 0) -> Iterator[tuple[Sample | None, list[Problem]]]:
    """``inspect_sample`` for all samples, in their order.

    Args:
        dataset: As returned by ``open_split``.
        workers: Number of processes to share the work among; 0 for this one alone.
    """
    yield from DataLoader(
        _Inspected(dataset), batch_size=None, num_workers=workers, collate_fn=_identity, worker_init_fn=_one_thread
    )


def crack_widths(mask: np.ndarray) -> tuple[float, float] | None:
    """How wide the foreground is along its centre lines.

    The centre lines are the skeleton (Zhang and Suen, CACM 1984, by scikit-image). The width at one of its pixels is
    the distance to the nearest background in the mask enlarged twofold, which is exact for straight lines of any odd
    or even width.

    Args:
        mask: Shape (H, W), bool.

    Returns:
        10th percentile and median in pixels, None for an empty mask.
    """
    blocks = [
        mask[top : top + _BLOCK, left : left + _BLOCK]
        for top in range(0, mask.shape[0], _BLOCK)
        for left in range(0, mask.shape[1], _BLOCK)
    ]
    widths = [_widths_in(block) for block in blocks if block.any()]
    if not widths:
        return None
    thin, median = np.percentile(np.concatenate(widths), [10, 50]).tolist()
    return thin, median


def perceptual_hashes(image: np.ndarray) -> np.ndarray:
    """Hash of a picture (``imagehash.phash``), and of the seven others that flips and quarter turns make of it.

    Args:
        image: BGR, shape (H, W, 3), uint8.

    Returns:
        Shape (8,), uint64; the picture as it is comes first.
    """
    small = cv2.resize(image, (_HASHED_SIDE, _HASHED_SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    turned = [np.rot90(grey, quarter) for quarter in range(4)]
    views = [np.ascontiguousarray(view) for plain in turned for view in (plain, np.fliplr(plain))]
    bits = np.stack([imagehash.phash(Image.fromarray(view)).hash.ravel() for view in views])
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def find_leaks(samples: Sequence[Sample], max_distance: int = HASH_DISTANCE) -> list[Problem]:
    """Pictures that occur, perhaps flipped, turned, brightened or resized, in two splits.

    A model is then scored on what it was trained on. Found by perceptual hash, and by the name that Roboflow gives all
    augmentations of one picture (``NAME.rf.HASH.jpg``).

    Args:
        samples: Of all splits.
        max_distance: Number of the 64 bits of two hashes that may differ.

    Returns:
        One warning for each picture of the later split that has a like in the earlier one.
    """
    by_split: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_split[sample.split].append(sample)
    return [
        problem
        for first, second in combinations(by_split, 2)
        for problem in _leaks_between(by_split[first], by_split[second], max_distance)
    ]


def find_lost_cracks(samples: Sequence[Sample], image_size: int) -> list[Problem]:
    """Say where cracks are thinner than one pixel of the model's input, and how large tiles have to be.

    Args:
        samples: Of one or more splits.
        image_size: Side of the model's square input in pixels.
    """
    problems = []
    for split in dict.fromkeys(sample.split for sample in samples):
        cracks = [sample for sample in samples if sample.split == split and sample.widths]
        lost = [sample for sample in cracks if _median_width(sample) * sample.scale(image_size) < 1]
        if not lost:
            continue
        thinnest = min(lost, key=_median_width)
        worst = min(lost, key=lambda sample: _median_width(sample) * sample.scale(image_size))
        height, width = worst.shape
        side = int(_median_width(thinnest) * image_size)
        problems.append(
            Problem(
                'warning',
                split,
                f'cracks are lost in {len(lost)} of the {len(cracks)} images that have any: at least half of their '
                f'length is thinner than one pixel of the {image_size} px input. In {worst.image}, '
                f'{width} x {height} pixels, a crack of {_median_width(worst):.1f} px becomes '
                f'{_median_width(worst) * worst.scale(image_size):.2f} px. Train on tiles (RandomCrop) and test on '
                f"tiles (test_cfg mode='slide') of at most {side} x {side} pixels.",
            )
        )
    return problems


SUMMARY = (
    'split',
    'images',
    'without crack',
    'polygons',
    'size in px',
    'crack pixels',
    'crack width in px',
    'at the input',
    'at the output',
)
"""Names of the columns of :func:`summarize`."""


def summarize(samples: Sequence[Sample], image_size: int) -> list[tuple[str, ...]]:
    """What is in the splits, as rows under ``SUMMARY``.

    A width is the median along the cracks of an image; shown are the median over images, least and largest.

    Args:
        samples: Of all splits.
        image_size: Side of the model's square input in pixels; its output has 2/7 of that.
    """
    rows: list[tuple[str, ...]] = []
    for split in dict.fromkeys(sample.split for sample in samples):
        own = [sample for sample in samples if sample.split == split]
        cracks = [sample for sample in own if sample.widths]
        polygons = sum((Counter(sample.polygons) for sample in own), Counter[str]())
        at_file = [_median_width(sample) for sample in cracks]
        at_input = [_median_width(sample) * sample.scale(image_size) for sample in cracks]
        rows.append(
            (
                split,
                str(len(own)),
                str(len(own) - len(cracks)),
                ', '.join(f'{count} {name}' for name, count in sorted(polygons.items())) or '0',
                _sizes(own),
                f'{np.mean([sample.foreground for sample in own]):.2%}',
                _spread(at_file),
                _spread(at_input),
                _spread([OUTPUT_PER_INPUT * width for width in at_input]),
            )
        )
    return rows


class _Inspected(Dataset):
    """``inspect_sample`` for torch's ``DataLoader``."""

    def __init__(self, dataset: YOLOCrackDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Sample | None, list[Problem]]:
        return inspect_sample(self.dataset, index)


def _identity(item: Any) -> Any:
    return item


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _read_label(info: dict[str, Any], shape: tuple[int, int]) -> tuple[list[Polygon], list[LabelError], np.ndarray]:
    """The polygons of a label, what is wrong with it, and its label map of the given shape (H, W)."""
    if info['annotations'] == 'masks':
        try:
            return [], [], LoadYOLOPolygons()({**info, 'ori_shape': shape})['gt_seg_map']
        except LabelError as error:
            return [], [error], np.zeros(shape, np.uint8)
    content = _label_content(info['label_path'])
    polygons, errors = parse_lines(content, shape, info['yolo_names'], info['boxes'], info['label_path'])
    return polygons, errors, rasterize(polygons, shape, info['yolo_labels'])


def _label_content(label_path: str) -> bytes:
    path = Path(label_path)
    # One that is missing has been reported with its split; a link that leads nowhere is another matter.
    return path.read_bytes() if path.is_symlink() or path.exists() else b''


def _shared_labels(split: str, pairs: Sequence[tuple[str, str]]) -> list[Problem]:
    images_of: dict[str, list[str]] = defaultdict(list)
    for image, label in pairs:
        images_of[label].append(image)
    return [
        Problem(
            'warning', split, f'{label} is the label of {len(images)} images: {listed(images)}. Keep or rename one.'
        )
        for label, images in images_of.items()
        if len(images) > 1
    ]


def _doubts(split: str, label_path: str, polygons: Sequence[Polygon], foreground: float) -> list[Problem]:
    """Warnings for a label that can be read but is seldom meant."""
    problems = []
    repeated = len(polygons) - len({(polygon.class_id, polygon.points.tobytes()) for polygon in polygons})
    if repeated:
        problems.append(f'{label_path}: {repeated} polygons repeat another one of the file. Delete the repetitions.')
    if foreground > 0.5:
        problems.append(f'{label_path}: {foreground:.0%} of the image is foreground. Are crack and background swapped?')
    return [Problem('warning', split, problem) for problem in problems]


def _widths_in(mask: np.ndarray) -> np.ndarray:
    """The width at each pixel of the skeleton, shape (n,)."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    region = np.pad(mask[top : top + height, left : left + width], 1)
    enlarged = region.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    distance = cv2.distanceTransform(enlarged, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows, columns = region.shape
    return distance.reshape(rows, 2, columns, 2).max(axis=(1, 3))[skeletonize(region)]


def _leaks_between(first: Sequence[Sample], second: Sequence[Sample], max_distance: int) -> Iterator[Problem]:
    hashes = np.stack([sample.hashes[0] for sample in first])
    named: dict[str, list[Sample]] = defaultdict(list)
    for sample in first:
        named[source_name(sample.image)].append(sample)
    where = f'{first[0].split}, {second[0].split}'
    for sample in second:
        distances = np.bitwise_count(sample.hashes[:, None] ^ hashes).min(axis=0)
        near = np.flatnonzero(distances <= max_distance)
        if near.size:
            nearest = int(distances.argmin())
            yield Problem(
                'warning',
                where,
                f'{sample.image} looks like {len(near)} of the images in {first[0].split}, most like '
                f'{first[nearest].image} ({distances[nearest]} of 64 bits differ). Keep what comes from one picture in '
                'one split.',
            )
        elif '.rf.' in Path(sample.image).name and source_name(sample.image) in named:
            like = [other.image for other in named[source_name(sample.image)]]
            yield Problem(
                'warning',
                where,
                f'{sample.image} has the source name of {listed(like)}. If they come from one picture, keep them in '
                'one split.',
            )


def _median_width(sample: Sample) -> float:
    assert sample.widths is not None
    return sample.widths[1]


def _sizes(samples: Sequence[Sample]) -> str:
    shapes = sorted({sample.shape for sample in samples}, key=lambda shape: shape[0] * shape[1])
    ends = [shapes[0], shapes[-1]] if len(shapes) > 1 else shapes
    return ' to '.join(f'{width} x {height}' for height, width in ends)


def _spread(values: Sequence[float]) -> str:
    return f'{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})' if values else '-'
