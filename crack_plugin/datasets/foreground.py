"""Which foreground classes occur in a split, found without reading all of it.

A split without any crack trains a model to predict nothing, and gives it perfect scores for that.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crack_plugin.datasets.masks import read_mask
from crack_plugin.datasets.polygons import LabelError, parse_lines

LOOKED_AT = {'polygons': 10_000, 'masks': 500}
"""The most label files, by kind of annotation, that ``find_absent`` reads: text is read fast, masks are decoded."""


def find_absent(info: Callable[[int], Mapping[str, Any]], size: int, labels: Sequence[int]) -> tuple[list[int], int]:
    """Look for each label until it is found, in label files drawn at random, always the same ones.

    Where every class is frequent that takes a few files; it never takes more than ``LOOKED_AT``. No image is read.

    Args:
        info: Number of a sample to what ``YOLOCrackDataset.get_data_info`` gives for it.
        size: Number of samples.
        labels: The foreground labels, as they are in the label maps.

    Returns:
        The labels that were not found, and how many label files were looked at. No label counts as absent if a
        file cannot be read: it may hold all of them, and the training will stop at it.
    """
    absent = set(labels)
    limit = LOOKED_AT[info(0)['annotations']] if size else 0
    looked_at = 0
    for index in np.random.default_rng(0).permutation(size)[:limit].tolist():
        if not absent:
            break
        found = _labels_of(info(index))
        looked_at += 1
        absent = set() if found is None else absent - found
    return sorted(absent), looked_at


def describe_absence(absent: Sequence[str], classes: Sequence[str], images: str) -> str:
    """What it means that foreground classes do not occur, for a message.

    Args:
        absent: The classes that do not occur, at least one.
        classes: All foreground classes.
        images: In which images, such as '6 images'.
    """
    names = ', '.join(map(repr, absent))
    all_absent = len(absent) == len(classes)
    fault = f'no foreground ({names}), all is background,' if all_absent else f'nothing of the class {names}'
    score = 'crack/IoU' if all_absent else ' and '.join(f'crack/IoU/{name}' for name in absent)
    return (
        f'there is {fault} in {images}. A model learns from them to predict none of it, and scores 1.0 in {score} for '
        'that. Check whether the labels were exported, and whether class_map or boxes leave them out.'
    )


def _labels_of(info: Mapping[str, Any]) -> set[int] | None:
    """The foreground labels that an image has; None if its label file cannot be read."""
    path = Path(info['label_path'])
    if not os.path.lexists(path):
        return set()
    try:
        if info['annotations'] == 'masks':
            drawn: set[int | None] = {1} if read_mask(path, info['mask_threshold']).foreground.any() else set()
        else:
            # The size of the image decides where a polygon is, not of which class.
            polygons, errors = parse_lines(path.read_bytes(), (1, 1), info['yolo_names'], info['boxes'], str(path))
            if errors:
                return None
            drawn = {info['yolo_labels'][polygon.class_id] for polygon in polygons}
    except (LabelError, OSError):
        return None
    label_map = info['label_map'] or {}
    return {label_map.get(label, label) for label in drawn if label is not None}
