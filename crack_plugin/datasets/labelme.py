"""LabelMe's JSON files (https://github.com/wkentaro/labelme), one for each image, to YOLO labels.

A shape covers what a polygon of a YOLO label would (see ``polygons``), and a later shape is on top of an earlier one.
X-AnyLabeling writes the same format.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from crack_plugin.datasets.conversion import (
    ConversionError,
    LabelledImage,
    Tally,
    agree_on_size,
    check_names,
    check_points,
    check_targets,
    earlier_names,
    find_image,
    image_size,
    raise_faults,
    read_json,
    write_split,
)
from crack_plugin.datasets.labelme_shapes import BOXES, LINES, POINT_COUNTS, POINTS, Shape, draw, extent, parse
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES
from crack_plugin.datasets.polygons import Boxes, Outside, check_boxes, check_outside, format_labels

Unannotated = Literal['skip', 'background']


class Options(NamedTuple):
    """What to do with shapes that are not areas, or that reach far outside the image.

    Attributes:
        boxes: With rectangles: 'error', 'fill' or 'drop'.
        outside: With points far outside the image: 'error', or 'clip' the shape at the edge.
        line_width: Width in pixels that lines are drawn with. None: they are an error.
        drop_shapes: Kinds to leave out.
    """

    boxes: Boxes = 'error'
    outside: Outside = 'error'
    line_width: int | None = None
    drop_shapes: Sequence[str] = ()


_DEFAULTS = Options()


class _Label(NamedTuple):
    """The result of one file: its image, and by name of the class the content of a YOLO label file of class 0."""

    image: Path
    file: Path
    polygons: dict[str, str]


def convert_labelme(
    source: Path,
    out: Path,
    split: str = 'train',
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    class_map: Mapping[str, str | None] | None = None,
    unannotated: Unannotated = 'skip',
    overwrite: bool = False,
    options: Options = _DEFAULTS,
) -> tuple[int, list[str]]:
    """Convert LabelMe files to one split of a YOLO dataset.

    Args:
        source: One ``.json`` file, or a folder with files, subfolders included.
        out: Folder of the dataset.
        split: Name of the split.
        images: Where to look for the images as well, besides the folder of each file.
        classes: The names of the classes. By default those of an earlier split, or else the labels that occur, sorted.
        class_map: Label to class, or to None to leave its shapes out.
        unannotated: Images beside the files that have none are left out ('skip'), or are 'background'.
        overwrite: Whether to replace labels that exist.
        options: What to do with shapes that are not areas, or that reach far outside the image.

    Returns:
        The number of images, and a sentence on each kind of shape that was changed or left out.

    Raises:
        ConversionError: Some of the files cannot be converted; nothing was written.
        DatasetError: An option is unknown, or the ``data.yaml`` of an earlier split cannot be read.
    """
    check_boxes(options.boxes)
    check_outside(options.outside)
    files = sorted(source.rglob('*.json')) if source.is_dir() else [source]
    if not files and any(source.rglob('*.xml')):
        raise ConversionError(
            f"{source} has .xml files and no .json: they are of LabelMe's former web version, as CVAT exports them. "
            'Export COCO, and convert it with tools/convert_coco_to_yolo.py.'
        )
    if not files:
        raise ConversionError(f'there is no .json file in {source}. Correct the path.')
    faults, notes = Tally(), Tally()
    labels: dict[Path, _Label] = {}
    for file in tqdm(files, desc='Reading the files', unit=' files', delay=2):
        label = _read_label(file, images, class_map or {}, options, faults, notes)
        if label is not None and label.image in labels:
            faults.add('pairs of files for one image', f'{labels[label.image].file} and {file}', 'Delete one of each.')
        elif label is not None:
            labels[label.image] = label
    found = {name: label.file for label in labels.values() for name in label.polygons}
    names = list(classes or earlier_names(out) or sorted(found))
    for name in sorted(found.keys() - set(names)):
        faults.add(
            'labels that are none of the classes',
            f'{name!r} in {found[name]}',
            f'The classes are {names}: name all with --classes, or say with --class-map what a label stands for.',
        )
    if names or not faults:  # files that cannot be read may hold the labels
        check_names(names, out, faults)
    backgrounds = _unannotated({file.parent for file in files} | ({images} if images else set()), labels)
    if unannotated == 'skip':
        for image in backgrounds:
            notes.add(
                'images without a .json, which were left out',
                image.name,
                '`--unannotated background` takes them as free of cracks.',
            )
        backgrounds = []
    check_targets([*labels, *backgrounds], out / split, overwrite, faults)
    raise_faults(faults, source)
    samples = [LabelledImage(image, _with_class_ids(label.polygons, names)) for image, label in labels.items()]
    samples += [LabelledImage(image, '') for image in backgrounds]
    write_split(samples, names, out, split)
    return len(samples), notes.lines()


def _read_label(
    file: Path,
    images: Path | None,
    class_map: Mapping[str, str | None],
    options: Options,
    faults: Tally,
    notes: Tally,
) -> _Label | None:
    """The drawn shapes of one file, None if it is at fault."""
    try:
        content = read_json(file)
    except ConversionError as error:
        faults.add('files that cannot be read', str(error).removesuffix('.'))
        return None
    annotations = parse(content, file.name, faults)
    if annotations is None:
        return None
    image = _find_image(annotations.image, file, images, notes)
    if image is None:
        faults.add(
            'images that do not exist',
            f'{annotations.image} of {file.name}',
            'Copy them beside the .json files, or name their folder with --images.',
        )
        return None
    try:
        found = image_size(image)
    except ConversionError as error:
        faults.add('images that cannot be read', str(error).removesuffix('.'), 'Copy them again.')
        return None
    told = annotations.told or found
    if not agree_on_size(told, found, image.name, faults, notes):
        return None
    label_map = np.zeros(found, np.uint16)
    names: list[str] = []
    for shape in annotations.shapes:
        name = class_map.get(shape.label, shape.label)
        if name is None:
            notes.add(f'shapes labelled {shape.label!r}, which were left out', shape.place)
        elif _is_area(shape, told, options, faults, notes):
            mask = draw(shape, told, found, options.line_width or 1)
            if not mask.any():
                notes.add('shapes that cover no pixel', shape.place)
            names = names if name in names else [*names, name]
            label_map[mask] = names.index(name) + 1
    return _Label(image, file, {name: format_labels(label_map == i) for i, name in enumerate(names, start=1)})


def _find_image(name: str, file: Path, images: Path | None, notes: Tally) -> Path | None:
    """The image that an annotation file names, or else the image of its own name."""
    folders = [file.parent, *([images] if images else [])]
    path = find_image(name, folders)
    if path is not None:
        return _absolute(path)
    for folder in folders:
        # Sorted, so that of several the choice is the same everywhere.
        for candidate in sorted(folder.glob('*')):
            if candidate.stem == file.stem and candidate.suffix.lower() in IMAGE_SUFFIXES:
                notes.add(
                    'images found by the name of the .json, as the image named in it does not exist', str(candidate)
                )
                return _absolute(candidate)
    return None


def _is_area(shape: Shape, told: tuple[int, int], options: Options, faults: Tally, notes: Tally) -> bool:
    """Whether a shape is to be drawn."""
    if shape.kind in options.drop_shapes:
        notes.add(f'shapes of the type {shape.kind}, which were left out', shape.place)
        return False
    least, most = POINT_COUNTS[shape.kind]
    if shape.kind in ('polygon', 'linestrip') and len(shape.points) < least:
        notes.add(f'shapes of the type {shape.kind} with too few points, which were left out', shape.place)
        return False
    if not least <= len(shape.points) <= most or (shape.kind == 'rectangle' and len(shape.points) == 3):
        faults.add(
            f'shapes of the type {shape.kind} with a wrong number of points',
            f'{shape.place} ({len(shape.points)})',
            'Draw them again, or delete them.',
        )
        return False
    if shape.kind in BOXES and options.boxes == 'error':
        faults.add(
            'shapes that are boxes',
            shape.place,
            '`--boxes drop` leaves them out, `--boxes fill` draws them as rectangles; or draw polygons instead.',
        )
        return False
    if shape.kind in BOXES:
        notes.add(
            f'shapes that are boxes, {"left out" if options.boxes == "drop" else "drawn as rectangles"}', shape.place
        )
        if options.boxes == 'drop':
            return False
    if shape.kind in LINES and options.line_width is None:
        faults.add(
            'shapes that are lines, which cover no area',
            shape.place,
            '`--line-width PIXELS` draws them with this width, `--drop-shapes line linestrip` leaves them out.',
        )
        return False
    if shape.kind in POINTS:
        faults.add(
            'shapes that are points, which cover no area', shape.place, '`--drop-shapes point points` leaves them out.'
        )
        return False
    return check_points(extent(shape), told, options.outside, shape.place, faults, notes)


def _unannotated(folders: set[Path], labels: Mapping[Path, object]) -> list[Path]:
    """The images in the folders that have no label."""
    found = {
        _absolute(path) for folder in folders for path in folder.glob('*') if path.suffix.lower() in IMAGE_SUFFIXES
    }
    return sorted(found - labels.keys())


def _absolute(path: Path) -> Path:
    """One path for each file, in which links keep their own names."""
    return path.parent.resolve() / path.name


def _with_class_ids(polygons: Mapping[str, str], names: Sequence[str]) -> str:
    """Join the label files of single classes, in which every line begins with class 0, to one with class ids."""
    return ''.join(
        re.sub('^0 ', f'{class_id} ', polygons.get(name, ''), flags=re.MULTILINE) for class_id, name in enumerate(names)
    )
