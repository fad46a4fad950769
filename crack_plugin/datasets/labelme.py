"""LabelMe's JSON files (https://github.com/wkentaro/labelme), one for each image, to YOLO labels.

A shape covers what a polygon of a YOLO label would (see ``polygons``), and a later shape is on top of an earlier one.
X-AnyLabeling writes the same format.
"""

import base64
import binascii
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from crack_plugin.datasets.conversion import (
    ConversionError,
    Sample,
    Tally,
    agree_on_size,
    check_names,
    check_points,
    check_targets,
    clip_polygon,
    earlier_names,
    find_image,
    image_size,
    is_number,
    raise_faults,
    read_json,
    scale_mask,
    whole_number,
    write_split,
)
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES
from crack_plugin.datasets.polygons import Boxes, Outside, Polygon, check_boxes, check_outside, format_labels, rasterize

Unannotated = Literal['skip', 'background']

BOXES = ('rectangle', 'oriented_rectangle', 'rotation')
LINES = ('line', 'linestrip')
POINTS = ('point', 'points')
KINDS = ('polygon', 'circle', 'mask', *BOXES, *LINES, *POINTS)
"""The types of shapes: LabelMe's, and X-AnyLabeling's 'rotation'."""

# How many points there are: at least, at most.
_POINT_COUNTS = {
    'polygon': (3, math.inf),
    'circle': (2, 2),
    'mask': (1, 2),
    'rectangle': (2, 4),
    'oriented_rectangle': (4, 4),
    'rotation': (4, 4),
    'line': (2, 2),
    'linestrip': (2, math.inf),
    'point': (1, 1),
    'points': (1, math.inf),
}


class Shape(NamedTuple):
    """One annotated object.

    Attributes:
        label: Its name.
        kind: One of ``KINDS``.
        points: Shape (n, 2), float64: (x, y) in pixels. Of a mask, the pixel of its upper left corner.
        mask: Shape (h, w), bool, for a mask; None for any other.
        place: Where it is, for messages.
    """

    label: str
    kind: str
    points: np.ndarray
    mask: np.ndarray | None
    place: str


class Annotations(NamedTuple):
    """Content of one file.

    Attributes:
        image: The image's name, as it stands there.
        told: (H, W) of the image as annotated, None if the file does not say.
        shapes: The objects, in the order of the file.
    """

    image: str
    told: tuple[int, int] | None
    shapes: list[Shape]


class Options(NamedTuple):
    """What to do with shapes that are no areas, or reach far outside.

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
    """What one file comes to: its image, and by name of the class, the content of a YOLO label file of class 0."""

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
        options: What to do with shapes that are no areas, or reach far outside.

    Returns:
        The number of images, and a sentence on each kind of shape that was changed or left out.

    Raises:
        ConversionError: Some of the files cannot be converted; nothing was written.
        ValueError: An option is unknown, or the ``data.yaml`` of an earlier split cannot be read.
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
    if names or not faults:  # files at fault may have had the labels
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
    samples = [Sample(image, _with_class_ids(label.polygons, names)) for image, label in labels.items()]
    samples += [Sample(image, '') for image in backgrounds]
    write_split(samples, names, out, split)
    return len(samples), notes.lines()


def parse(content: Any, place: str, faults: Tally) -> Annotations | None:
    """Check and take over the content of one file.

    Args:
        content: As ``json`` reads it. The image in it (``imageData``) is ignored.
        place: The file's name, for messages.
        faults: Gains what is wrong with it.

    Returns:
        The annotations, without the shapes at fault; None if it is no LabelMe file.
    """
    if not (
        isinstance(content, dict)
        and isinstance(content.get('shapes'), list)
        and isinstance(content.get('imagePath'), str)
    ):
        faults.add("files without LabelMe's `shapes` and `imagePath`", place, 'Move files of other tools away.')
        return None
    sides = [content.get(key) for key in ('imageHeight', 'imageWidth')]
    height, width = map(whole_number, sides)
    told = (height, width) if height and width and min(height, width) > 0 else None
    if told is None and sides != [None, None]:
        faults.add('files without a proper imageHeight and imageWidth', f'{place} ({sides})', 'Save them again.')
    shapes = [
        _parse_shape(shape, f'shape {number} of {place}', faults)
        for number, shape in enumerate(content['shapes'], start=1)
    ]
    return Annotations(content['imagePath'], told, [shape for shape in shapes if shape is not None])


def draw(shape: Shape, told: tuple[int, int], found: tuple[int, int], line_width: int = 1) -> np.ndarray:
    """The pixels that a shape covers.

    Args:
        shape: Any but points.
        told: (H, W) of the image that it was drawn on.
        found: (H, W) of the image to draw on, the same or about the same.
        line_width: Of lines, in pixels.

    Returns:
        Shape ``found``, bool.
    """
    if shape.mask is not None:
        return scale_mask(_place(shape.mask, shape.points[0], told), found)
    points = shape.points * np.divide(found, told)[::-1]
    if shape.kind in LINES:
        canvas = np.zeros(found, np.uint8)
        pixels = np.rint(points).astype(np.int32)
        return cv2.polylines(canvas, [pixels], isClosed=False, color=1, thickness=line_width) > 0
    if shape.kind == 'circle':
        points = _circle(points)
    elif shape.kind == 'rectangle':
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _fill(points, found)


def _parse_shape(shape: Any, place: str, faults: Tally) -> Shape | None:
    if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
        faults.add('shapes without a label', place, 'Label or delete them.')
        return None
    # Old versions had nothing but polygons.
    kind = shape.get('shape_type') or 'polygon'
    if kind not in KINDS:
        faults.add('shapes of an unknown shape_type', f'{place} ({kind!r})', f'Known are {", ".join(KINDS)}.')
        return None
    points = _points(shape.get('points'))
    if points is None:
        faults.add('shapes whose points are no list of [x, y]', place, 'Draw them again, or delete them.')
        return None
    mask = None
    if kind == 'mask':
        mask = _decode(shape.get('mask'))
        if mask is None:
            faults.add('masks that are no PNG image in base64', place, 'Draw them again, or delete them.')
            return None
    return Shape(shape['label'], kind, points, mask, place)


def _points(points: Any) -> np.ndarray | None:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    if not all(is_number(value) for point in points for value in point):
        return None
    return np.array(points, np.float64).reshape(-1, 2)


def _decode(text: Any) -> np.ndarray | None:
    """A mask from the text of a PNG file in base64: foreground is what is not 0."""
    if not isinstance(text, str):
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text.rpartition(',')[2])), formats=('PNG',)) as image:
            values = np.asarray(image)
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # what Python and Pillow raise for text that is no base64, and for data that is no PNG
    return values != 0 if values.ndim == 2 else np.any(values[..., :3], axis=2, keepdims=False)


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
    folders = [file.parent, *([images] if images else [])]
    path = find_image(name, folders)
    if path is not None:
        return _absolute(path)
    for folder in folders:
        # Sorted, so that of several the choice is the same everywhere.
        for candidate in sorted(folder.glob('*')):
            if candidate.stem == file.stem and candidate.suffix.lower() in IMAGE_SUFFIXES:
                notes.add('images found by the name of the .json, for want of the one it tells', str(candidate))
                return _absolute(candidate)
    return None


def _is_area(shape: Shape, told: tuple[int, int], options: Options, faults: Tally, notes: Tally) -> bool:
    """Whether a shape is to be drawn."""
    if shape.kind in options.drop_shapes:
        notes.add(f'shapes of the type {shape.kind}, which were left out', shape.place)
        return False
    least, most = _POINT_COUNTS[shape.kind]
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
    return check_points(_extent(shape), told, options.outside, shape.place, faults, notes)


def _extent(shape: Shape) -> np.ndarray:
    """Points that reach as far as the shape does, shape (n, 2)."""
    if shape.kind == 'circle':
        center, radius = shape.points[0], np.linalg.norm(shape.points[1] - shape.points[0])
        return np.array([center - radius, center + radius])
    if shape.mask is not None:
        height, width = shape.mask.shape
        return np.array([shape.points[0], shape.points[0] + (width, height)])
    return shape.points


def _circle(points: np.ndarray) -> np.ndarray:
    """A polygon with corners about a pixel apart, for a circle given by its centre and a point on it."""
    center, radius = points[0], float(np.linalg.norm(points[1] - points[0]))
    angles = np.linspace(0, 2 * np.pi, min(max(16, math.ceil(2 * np.pi * radius)), 10_000), endpoint=False)
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fill a polygon of shape (n, 2), in pixels, as one of a YOLO label is; what lies outside is cut off."""
    size = np.array(shape[::-1])
    if ((points >= -1) & (points <= size + 1)).all():
        points = points.clip(0, size)
    else:
        # Nothing is drawn onto the edge for what lies wholly outside.
        if not len(clip_polygon(points, (0, 0), tuple(size))):
            return np.zeros(shape, bool)
        points = clip_polygon(points, tuple(-size), tuple(2 * size))
    return rasterize([Polygon(0, points / size)], shape) > 0


def _place(mask: np.ndarray, corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put a mask onto an image of the given (H, W), its upper left pixel at a corner (x, y)."""
    placed = np.zeros(shape, bool)
    x, y = np.rint(corner).astype(int).tolist()
    part = mask[max(-y, 0) :, max(-x, 0) :]
    target = placed[max(y, 0) :, max(x, 0) :][: part.shape[0], : part.shape[1]]
    target |= part[: target.shape[0], : target.shape[1]]
    return placed


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
    """The content of a label file, from that of its classes, each line of which begins with class 0."""
    return ''.join(
        re.sub('^0 ', f'{class_id} ', polygons.get(name, ''), flags=re.MULTILINE) for class_id, name in enumerate(names)
    )
