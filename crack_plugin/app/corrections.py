"""What was corrected by hand, as a dataset to train on: masks that count, and labels that are written from them."""

import filecmp
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from crack_plugin.app.limits import AppError, Limits
from crack_plugin.app.photographs import Photograph
from crack_plugin.files import write_atomically
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.preannotations import LABELS, Annotated, write_preannotations
from crack_plugin.prediction.pictures import read_mask, write_mask

FORMATS = ('yolo', 'coco')
_IMAGES, _MASKS = 'images', 'masks'


def checked_name(name: str) -> str:
    """A name for a folder.

    Raises:
        AppError: It has other characters than letters, digits, ``-`` and ``_``.
    """
    if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]{0,39}', name):
        raise AppError(f'{name!r} is no name for a folder: up to 40 letters, digits, - and _.')
    return name


def yolo_folder(dataset: Path) -> Path:
    """What ``tools/train.py`` takes as ``data_root``."""
    return dataset / LABELS / 'yolo'


def save(
    photographs: Sequence[Photograph],
    dataset: Path,
    threshold: float,
    class_name: str,
    limits: Limits,
    formats: Sequence[str] = FORMATS,
) -> list[str]:
    """Add photographs to a dataset: ``images``, ``masks``, and labels of the formats beside them.

    Photographs that are there get their new masks. Labels of all photographs are written anew from the masks.

    Args:
        photographs: As their owner has looked at them, corrected or not.
        dataset: Its folder, which is made if it is not there.
        threshold: A crack is what is more probable, or was marked by hand.
        class_name: Of what is labelled.
        limits: Of the disk.
        formats: Some of :data:`FORMATS`.

    Returns:
        Lines that say what there is.

    Raises:
        CrackPluginError: There is nothing to save, another photograph has the same name, or there is no room.
    """
    if not photographs:
        raise AppError('nothing was corrected yet: mark cracks with the brush, or erase what is none.')
    dataset.mkdir(parents=True, exist_ok=True)
    limits.check_disk(dataset, sum(photograph.file.stat().st_size for photograph in photographs))
    targets = [_target(photograph, dataset) for photograph in photographs]
    for photograph, target in zip(photographs, targets, strict=True):
        if not target.exists():
            write_atomically(target, partial(shutil.copyfile, photograph.file))
        write_mask(_mask_of(dataset, target), photograph.labels(threshold), 1)
    # All that are there: a COCO file, and a list of training images, are of all photographs.
    write_preannotations(_annotated(dataset), dataset, formats, [class_name], overwrite=True)
    saved, there = (
        '1 photograph' if number == 1 else f'{number} photographs' for number in (len(targets), count(dataset))
    )
    return [
        f'{saved} saved',
        f'{dataset} has {there}',
        f'data_root for tools/train.py: {yolo_folder(dataset)}',
    ]


def count(dataset: Path) -> int:
    """How many photographs a dataset has."""
    return sum(1 for _ in (dataset / _MASKS).glob('*.png'))


def _target(photograph: Photograph, dataset: Path) -> Path:
    target = dataset / _IMAGES / photograph.name
    others = [path for path in (dataset / _IMAGES).glob('*') if path.stem == target.stem and path != target]
    if others or (target.exists() and not filecmp.cmp(photograph.file, target, shallow=False)):
        raise AppError(
            f'{dataset.name} has another photograph named {(others or [target])[0].name}. Rename yours, or choose '
            'another dataset.'
        )
    return target


def _annotated(dataset: Path) -> Iterator[Annotated]:
    for image in sorted((dataset / _IMAGES).glob('*')):
        mask = _mask_of(dataset, image)
        # Hidden files are what a killed process left unfinished.
        if not image.name.startswith('.') and mask.is_file():
            labels = read_mask(mask, 1)
            yield Annotated(image, image.stem, labels, find_cracks([Band(labels)]), 0.0)


def _mask_of(dataset: Path, image: Path) -> Path:
    return dataset / _MASKS / f'{image.stem}.png'
