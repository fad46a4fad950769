"""Read a dataset and collect all that is wrong with it, before hours are spent on training.

Nothing here stops at the first fault.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from torch.utils.data import DataLoader, Dataset

from crack_plugin.datasets.alignment import find_offset
from crack_plugin.datasets.data_yaml import read_data_yaml
from crack_plugin.datasets.duplicates import perceptual_hashes
from crack_plugin.datasets.errors import DatasetError, DatasetNotFoundError
from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.names import listed
from crack_plugin.datasets.photographs import ImageError
from crack_plugin.datasets.polygons import LabelError, Polygon, parse_lines, rasterize
from crack_plugin.datasets.problems import Problem, problem_of
from crack_plugin.datasets.samples import Sample
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.datasets.yolo_layout import find_split
from crack_plugin.skeleton import crack_widths


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
    except (DatasetError, DatasetNotFoundError) as error:
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
        return None, [problem_of(error, split, info['img_path'])]
    shape = image.shape[:2]
    try:
        polygons, errors, label_map = _read_label(info, shape)
    except OSError as error:
        return None, [problem_of(error, split, info['label_path'])]
    foreground = float((label_map > 0).mean())
    classes = enumerate(dataset.metainfo['classes'])
    sample = Sample(
        split=split,
        image=info['img_path'],
        shape=shape,
        polygons=_count_by_name(info, polygons),
        foreground=foreground,
        widths=_thin_and_median(label_map > 0),
        hashes=perceptual_hashes(image),
        present=frozenset(name for label, name in classes if label and (label_map == label).any()),
        is_complete=not errors,
    )
    problems = [problem_of(error, split, info['label_path']) for error in errors]
    problems += _doubts(split, info['label_path'], polygons, foreground)
    problems += _beside(split, info['label_path'], image, label_map > 0)
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


def _thin_and_median(mask: np.ndarray) -> tuple[float, float] | None:
    """10th percentile and median of the crack width in a mask, in pixels; None for an empty mask."""
    widths = crack_widths(mask)
    if not widths.size:
        return None
    thin, median = np.percentile(widths, [10, 50]).tolist()
    return thin, median


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
    # A missing file has been reported with its split already; a broken link has not, and raises an error here.
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


def _beside(split: str, label_path: str, image: np.ndarray, foreground: np.ndarray) -> list[Problem]:
    """A warning for a label that lies beside what it marks."""
    offset = find_offset(image, foreground)
    if offset is None:
        return []
    ways = ((offset.right, ('left', 'right')), (offset.down, ('up', 'down')))
    moved = ' and '.join(f'{abs(pixels)} pixels {names[pixels > 0]}' for pixels, names in ways if pixels)
    text = (
        f'{label_path} lies beside what it marks: moved {moved}, it would fit the image '
        f'{1 / max(offset.fit, 0.01):.1f} times as well. Was the image cropped, resized or padded after it was '
        'labelled? See in --html, and label it again.'
    )
    return [Problem('warning', split, text, cause='beside', file=label_path)]


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
