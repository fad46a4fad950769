"""What is wrong with a dataset, and what is in it: found before hours are spent on training.

Nothing here stops at the first fault. What training would stop at is an error; what it would take, but is seldom
meant, or makes the scores look better than they are, is a warning.
"""

import re
import traceback
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

from crack_plugin.datasets.foreground import describe_absence
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
# What differs between two messages of one cause: what is quoted, and words with a digit.
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\S*\d\S*""")


class Problem(NamedTuple):
    """Attributes:
    severity: 'error' or 'warning'.
    split: The split it was found in; both of a pair.
    text: File, line, fault and remedy.
    cause: The same for all problems of one kind, in whatever file; '' if this is the only one of its kind.
    file: The image or label file; None for a problem of a whole split.
    line: The line in ``file``; None if the fault is not in a line.
    """

    severity: Literal['error', 'warning']
    split: str
    text: str
    cause: str = ''
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """File and line, as messages name them; the split without a file."""
        if self.file is None:
            return self.split
        return self.file if self.line is None else f'{self.file}, line {self.line}'

    @property
    def fault(self) -> str:
        """``text`` without the place."""
        return self.text.replace(self.place, '') if self.file is not None else self.text


@dataclass(frozen=True)
class Sample:
    """An image and its label, as they were found.

    Attributes:
        split: The split it belongs to.
        image: Path of the image.
        shape: (H, W) in pixels, EXIF orientation applied.
        polygons: Number of readable polygons by name of their class, and of what is not drawn: polygons of a class
            that is left out, and boxes that are dropped. With masks, empty.
        foreground: Share of the pixels that belong to any foreground class, in [0, 1].
        present: The foreground classes that have a pixel.
        is_whole: Whether all of the label could be read.
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
    present: frozenset[str] = frozenset()
    is_whole: bool = True

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
    taken = '' if severity == 'error' else ' and is taken as background'
    problems = [
        Problem(
            severity,
            split,
            f'{image} has no label file{taken}. Add one, empty if nothing is to be seen.',
            cause='no label file',
            file=image,
        )
        for image in files.unlabelled
    ]
    problems += [
        Problem(
            'warning',
            split,
            f'{label} is a label without an image. Add the image or delete the label.',
            cause='no image',
            file=label,
        )
        for label in files.orphans
    ]
    problems += [
        Problem(
            'warning',
            split,
            f'{file} lies beside the images and is none that can be read. If it is an image, convert it.',
            cause='other file',
            file=file,
        )
        for file in files.others
    ]
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
    except (ImageError, OSError) as error:
        return None, [_problem(error, split, info['img_path'])]
    shape = image.shape[:2]
    try:
        polygons, errors, label_map = _read_label(info, shape)
    except OSError as error:
        return None, [_problem(error, split, info['label_path'])]
    foreground = float((label_map > 0).mean())
    classes = enumerate(dataset.metainfo['classes'])
    sample = Sample(
        split=split,
        image=info['img_path'],
        shape=shape,
        polygons=_count_by_name(info, polygons),
        foreground=foreground,
        widths=crack_widths(label_map > 0),
        hashes=perceptual_hashes(image),
        present=frozenset(name for label, name in classes if label and (label_map == label).any()),
        is_whole=not errors,
    )
    problems = [_problem(error, split, info['label_path']) for error in errors]
    problems += _doubts(split, info['label_path'], polygons, foreground)
    return sample, [*problems, *_covered(dataset, info, polygons, sample.present)]


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


def find_absent_classes(samples: Sequence[Sample], classes: Sequence[str]) -> list[Problem]:
    """Foreground classes that have no pixel in a split; labels with faults are left out, for they may have some.

    Args:
        samples: Of one or more splits.
        classes: The foreground classes.
    """
    problems = []
    for split in dict.fromkeys(sample.split for sample in samples):
        own = [sample for sample in samples if sample.split == split]
        whole = [sample for sample in own if sample.is_whole]
        present = frozenset().union(*(sample.present for sample in own))
        absent = [name for name in classes if name not in present]
        if whole and absent:
            images = f'{len(own)} images'
            if len(whole) < len(own):
                images = f'the {len(whole)} of {len(own)} images whose labels have no faults'
            problems.append(Problem('warning', split, describe_absence(absent, classes, images)))
    return problems


def group_by_cause(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Put problems of one cause together, errors first, and of those the most frequent.

    Args:
        problems: In any order.
    """
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.cause or problem.text].append(problem)
    return sorted(groups.values(), key=lambda group: (group[0].severity, -len(group)))


CAUSES = ('severity', 'split', 'count', 'files', 'problem, with examples')
"""Names of the columns of :func:`describe_cause`."""


def describe_cause(problems: Sequence[Problem], examples: int = 3) -> tuple[str, ...]:
    """All problems of one cause as a row under ``CAUSES``.

    Args:
        problems: A group of :func:`group_by_cause`.
        examples: How many to show, if possible such as differ by more than their place, and of several files.
    """
    by_fault = {problem.fault: problem for problem in reversed(problems)}
    by_file = {problem.file: problem for problem in reversed(problems)}
    differing = [problem for problem in problems if problem is by_fault[problem.fault]]
    elsewhere = [problem for problem in problems if problem is by_file[problem.file]]
    first, *others = list(dict.fromkeys([*differing, *elsewhere, *problems]))[:examples]
    known, texts = {first.fault}, [first.text]
    for other in others:
        texts.append(f'also {other.place if other.fault in known else other.text}')
        known.add(other.fault)
    files = len({problem.file for problem in problems if problem.file is not None})
    splits = dict.fromkeys(problem.split for problem in problems)
    return first.severity, ', '.join(splits), str(len(problems)), str(files or ''), '\n'.join(texts)


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


def _problem(error: Exception, split: str, file: str) -> Problem:
    """An exception that was raised for a file, as an error of the check.

    Faults have one cause if one statement found them, and told them in the same words.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f'{file} cannot be read: {error.strerror}. Restore it, or delete it.'
    statement = traceback.extract_tb(error.__traceback__)[-1]
    line = error.line if isinstance(error, LabelError) else None
    problem = Problem('error', split, text, file=file, line=line)
    words = re.sub(r'# (?:# )+', '# ', _VALUE.sub('#', problem.fault))
    return problem._replace(cause=f'{statement.filename}:{statement.lineno}: {words}')


def _read_label(info: dict[str, Any], shape: tuple[int, int]) -> tuple[list[Polygon], list[LabelError], np.ndarray]:
    """The polygons of a label, what is wrong with it, and its label map of the given shape (H, W)."""
    if info['annotations'] == 'masks':
        try:
            return [], [], LoadYOLOPolygons()({**info, 'ori_shape': shape})['gt_seg_map']
        except LabelError as error:
            return [], [error], np.zeros(shape, np.uint8)
    content = _label_content(info['label_path'])
    polygons, errors = parse_lines(
        content, shape, info['yolo_names'], info['boxes'], info['label_path'], info['outside']
    )
    return polygons, errors, rasterize(polygons, shape, info['yolo_labels'])


def _count_by_name(info: dict[str, Any], polygons: Sequence[Polygon]) -> Counter[str]:
    """The polygons of a label by class, and what the dataset's options leave out of it."""
    names, labels = info['yolo_names'], info['yolo_labels']
    counts: Counter[str] = Counter()
    for polygon in polygons:
        is_drawn = labels[polygon.class_id] is not None
        counts[names[polygon.class_id] if is_drawn else f'{names[polygon.class_id]} (left out)'] += 1
    if info['boxes'] == 'drop' and info['annotations'] == 'polygons':
        # A line of five values is a box, whatever its numbers are.
        boxes = sum(len(line.split()) == 5 for line in _label_content(info['label_path']).splitlines())
        counts += Counter({'boxes (dropped)': boxes})
    return counts


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
            'warning',
            split,
            f'{label} is the label of {len(images)} images: {listed(images)}. Keep or rename one.',
            cause='label of several images',
            file=label,
        )
        for label, images in images_of.items()
        if len(images) > 1
    ]


def _doubts(split: str, label_path: str, polygons: Sequence[Polygon], foreground: float) -> list[Problem]:
    """Warnings for a label that can be read but is seldom meant."""
    found = {}
    repeated = len(polygons) - len({(polygon.class_id, polygon.points.tobytes()) for polygon in polygons})
    if repeated:
        found['repetitions'] = f'{repeated} polygons repeat another one of the file. Delete the repetitions.'
    joined = sum(polygon.joined for polygon in polygons)
    if joined:
        found['joined'] = (
            f'{joined} joined parts. Lines walked there and back join them, as JSON2YOLO writes objects of several '
            'parts; the parts are drawn without these lines. See in --html whether that is right.'
        )
    if foreground > 0.5:
        found['swapped'] = f'{foreground:.0%} of the image is foreground. Are crack and background swapped?'
    return [Problem('warning', split, f'{label_path}: {text}', cause, label_path) for cause, text in found.items()]


def _covered(
    dataset: YOLOCrackDataset, info: dict[str, Any], polygons: Sequence[Polygon], present: frozenset[str]
) -> list[Problem]:
    """Warnings for classes that have polygons in a label, but not one pixel in its label map."""
    labels = {info['yolo_labels'][polygon.class_id] for polygon in polygons} - {None}
    lost = sorted({dataset.metainfo['classes'][label] for label in labels} - present)
    return [
        Problem(
            'warning',
            dataset.split,
            f'{info["label_path"]}: the polygons of {name} leave no pixel, as other classes in later lines cover them. '
            'Move their lines to the end of the file.',
            cause='covered',
            file=info['label_path'],
        )
        for name in lost
    ]


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
                cause='looks like another',
                file=sample.image,
            )
        elif '.rf.' in Path(sample.image).name and source_name(sample.image) in named:
            like = [other.image for other in named[source_name(sample.image)]]
            yield Problem(
                'warning',
                where,
                f'{sample.image} has the source name of {listed(like)}. If they come from one picture, keep them in '
                'one split.',
                cause='source of another',
                file=sample.image,
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
