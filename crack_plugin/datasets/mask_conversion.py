"""Masks to YOLO labels: which files of a folder are masks, and what is found while they are converted."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.mask_polygons import format_labels
from crack_plugin.datasets.masks import MASK_SUFFIXES, read_mask
from crack_plugin.datasets.names import listed
from crack_plugin.datasets.polygons import LabelError
from crack_plugin.files import write_atomically


class MaskFiles(NamedTuple):
    """The image files of a folder.

    Attributes:
        masks: Those that are masks.
        photographs: The others.
    """

    masks: list[Path]
    photographs: list[Path]


class Findings(NamedTuple):
    """What was found in the masks that were converted.

    Attributes:
        failures: A message for each mask that cannot be read.
        colored: The masks in colour.
        colors: The colours in them that became foreground, RGB.
        mostly_foreground: The masks of which more than half is foreground.
    """

    failures: list[str]
    colored: list[Path]
    colors: set[tuple[int, int, int]]
    mostly_foreground: list[Path]


def find_masks(folder: Path, mask_suffix: str = '') -> MaskFiles:
    """Tell the masks in a folder from the photographs beside them.

    Files without the ``mask_suffix`` are photographs. Without a suffix, where several files have one name, only PNG
    files are masks.

    Args:
        folder: The folder; subfolders are left out.
        mask_suffix: What follows an image's name in its mask's: '_mask' for ``NAME_mask.png``.

    Raises:
        DatasetError: There is no mask, or several masks have one name.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in MASK_SUFFIXES and path.name[0] != '.')
    masks = named = [path for path in files if path.stem.endswith(mask_suffix)]
    if not mask_suffix and len({path.stem for path in named}) < len(named):
        # Photographs lie beside masks. One without a mask is no mask either.
        masks = [path for path in named if path.suffix.lower() == '.png']
    counts = Counter(path.stem for path in masks or named)
    repeated = [path.name for path in masks or named if counts[path.stem] > 1]
    if repeated:
        raise DatasetError(f'{folder} has several files of one name, and which are the masks? {listed(repeated)}')
    if not masks:
        wanted = ', '.join(f'{mask_suffix}{suffix}' for suffix in MASK_SUFFIXES)
        raise DatasetError(f'no mask ({wanted}) in {folder}')
    return MaskFiles(masks, [path for path in files if path not in set(masks)])


def convert_masks(targets: Iterable[tuple[Path, Path]], class_id: int = 0, threshold: int | None = None) -> Findings:
    """Write the YOLO label of each mask; masks that cannot be read do not stop the others.

    Args:
        targets: Each mask and the label file to write for it.
        class_id: The class id of all polygons.
        threshold: As for ``read_mask``.
    """
    findings = Findings([], [], set(), [])
    for path, target in targets:
        try:
            mask = read_mask(path, threshold)
        except LabelError as error:
            findings.failures.append(str(error))
            continue
        write_atomically(target, format_labels(mask.foreground, class_id).encode())
        if mask.rule == 'colour':
            findings.colored.append(path)
            findings.colors.update(mask.colors)
        if mask.foreground.mean() > 0.5:
            findings.mostly_foreground.append(path)
    return findings
