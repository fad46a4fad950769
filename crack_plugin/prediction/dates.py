"""Two photographs of a place in a folder of results: masks, ``changes.csv``, and pictures to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from crack_plugin.datasets.masks import read_mask
from crack_plugin.datasets.photographs import read_photograph
from crack_plugin.errors import CrackPluginError
from crack_plugin.inspection.change_picture import change_picture
from crack_plugin.inspection.changes import KIND_NAMES, Change, Comparison, compare
from crack_plugin.inspection.registration import Registration, register
from crack_plugin.inspection.scale import Scales
from crack_plugin.prediction.pictures import write_image, write_mask
from crack_plugin.prediction.tables import write_csv

CHANGES = 'changes.csv'
RESULTS = (CHANGES, 'changes.jpg', 'before_registered.jpg', 'before_mask.png', 'after_mask.png')
CHANGE_COLUMNS = [
    'id',
    'kind',
    'class_name',
    'crack_before',
    'crack_after',
    'unit',
    'length',
    'width_before',
    'width_after',
    'change',
    'change_uncertainty',
    'x',
    'y',
]


class DatesError(CrackPluginError, ValueError):
    """A mask that is not of its photograph."""


def read_labels(mask: Path, image: Path) -> np.ndarray:
    """The labels of a photograph from a mask that is there already: white is crack.

    Args:
        mask: Its mask.
        image: The photograph.

    Returns:
        Shape (H, W), uint8.

    Raises:
        LabelError: The mask cannot be read, or is none.
        DatesError: It is not of the photograph's size.
    """
    labels = read_mask(mask).foreground.astype(np.uint8)
    height, width = read_photograph(str(image)).shape[:2]
    if labels.shape != (height, width):
        raise DatesError(
            f'{image} has {width} x {height} pixels, and its mask {mask} {labels.shape[1]} x {labels.shape[0]}. '
            'Give the mask of this photograph, at its size.'
        )
    return labels


def compare_dates(
    images: tuple[Path, Path],
    labels_of: Sequence[Callable[[Path], np.ndarray]],
    class_names: Sequence[str],
    out: Path,
    scales: Scales,
) -> list[str]:
    """Compare two photographs of a place, and write what has changed.

    Args:
        images: The first and the second photograph.
        labels_of: What gives the labels of either photograph: 0 for the background, from 1 the classes, shape (H, W),
            uint8. Asked only once the photographs are registered.
        class_names: Of the classes.
        out: Folder for ``changes.csv``, ``changes.jpg``, ``before_registered.jpg``, ``before_mask.png`` and
            ``after_mask.png``.
        scales: That of the second photograph is taken; without one, sizes are in pixels.

    Returns:
        Lines that say what there is.

    Raises:
        ImageError: A photograph cannot be read.
        RegistrationError: They cannot be registered.
        ScaleError: See :meth:`~crack_plugin.inspection.scale.Scales.of`.
    """
    if scales.table is not None:
        scales.require([images[1]], '--mm-per-pixel with a table')
    mm_per_pixel = scales.of(images[1])
    photographs = [read_photograph(str(image)) for image in images]
    registration = register(photographs[0], photographs[1], (str(images[0]), str(images[1])))
    labels = [read(image) for read, image in zip(labels_of, images, strict=True)]
    comparison = compare(labels[0], labels[1], registration)
    for name, own in zip(('before_mask.png', 'after_mask.png'), labels, strict=True):
        write_mask(out / name, own, len(class_names))
    size = (photographs[1].shape[1], photographs[1].shape[0])
    write_image(out / 'before_registered.jpg', cv2.warpPerspective(photographs[0], registration.matrix, size))
    write_image(out / 'changes.jpg', change_picture(photographs[1][..., ::-1], comparison)[..., ::-1])
    unit, scale = ('px', 1.0) if mm_per_pixel is None else ('mm', mm_per_pixel)
    rows = [_cells(number, each, class_names, unit, scale) for number, each in enumerate(comparison.changes, start=1)]
    write_csv(out / CHANGES, CHANGE_COLUMNS, rows)
    return [_registered(registration), *_summary(comparison, unit, scale)]


def _cells(number: int, change: Change, class_names: Sequence[str], unit: str, scale: float) -> list[object]:
    sizes = (change.length, change.width_before, change.width_after, change.change, change.uncertainty)
    return [
        number,
        KIND_NAMES[change.kind],
        class_names[change.label - 1],
        '' if change.before is None else change.before,
        '' if change.after is None else change.after,
        unit,
        *('' if size is None else round(size * scale, 4) for size in sizes),
        *(round(place, 2) for place in change.place),
    ]


def _registered(registration: Registration) -> str:
    return (
        f'registered: {registration.inliers} of {registration.matches} matching features agree, '
        f'{registration.residual:.2f} px apart; {registration.overlap:.0%} of AFTER is in BEFORE'
    )


def _summary(comparison: Comparison, unit: str, scale: float) -> list[str]:
    lines = []
    for kind, name in KIND_NAMES.items():
        lengths = [change.length * scale for change in comparison.changes if change.kind == kind]
        lines.append(f'{name}: {len(lengths):,}, {sum(lengths):,.1f} {unit} long in all')
    return lines
