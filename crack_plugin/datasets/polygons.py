"""YOLO segmentation labels: text to polygons to a label map, and a mask back to text, without loss.

A label file holds one polygon a line, ``class x1 y1 x2 y2 ...``, with x and y as fractions of the image's width and
height (https://docs.ultralytics.com/datasets/segment). The pixel of a point is ``(rint(x * W), rint(y * H))`` (halves
to the even neighbour), and a polygon covers what ``cv2.fillPoly`` fills: its interior, by the even-odd rule, and its
boundary. A polygon that would lie wholly on the pixels behind the right and the lower edge, as a thin crack at x = 1
does, is moved onto the edge: no polygon vanishes. A line that joins several parts of an object by lines walked there
and back is read as these parts (``joined_parts``).
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.joined_parts import split_joined_parts
from crack_plugin.datasets.mask_polygons import format_labels, mask_to_polygons

__all__ = [
    'MAX_CLASSES',
    'Boxes',
    'LabelError',
    'Outside',
    'Polygon',
    'check_boxes',
    'check_outside',
    'format_labels',
    'mask_to_polygons',
    'parse_labels',
    'parse_lines',
    'rasterize',
]

Boxes = Literal['error', 'fill', 'drop']
Outside = Literal['error', 'clip']

MAX_CLASSES = 254
"""Label 0 is the background and 255 the ignored pixels, so an uint8 label map has room for this many classes."""

# How far the 6 decimals of a usual label file can move a coordinate.
_TEXT_PRECISION = 1e-6


class LabelError(DatasetError):
    """A label file that cannot be read as it stands. The message names file, line, fault and remedy.

    Attributes:
        line: The line of the file, counted from 1; None if the fault is not in a line.
    """

    line: int | None = None


class Polygon(NamedTuple):
    """One object of a label file, or one part of it.

    Attributes:
        class_id: The id in the file, counted from 0.
        points: Shape (n, 2), n >= 3, float64: (x, y) as fractions of width and height, each in [0, 1]; in [-1, 2] where
            ``outside='clip'`` lets a polygon reach out of the image.
        joined: Whether it is one of several parts that a line of the file joins by lines walked there and back.
    """

    class_id: int
    points: np.ndarray
    joined: bool = False


def parse_labels(
    content: str | bytes,
    shape: tuple[int, int],
    names: Sequence[str] | None = None,
    boxes: Boxes = 'error',
    source: str = 'label text',
    outside: Outside = 'error',
) -> list[Polygon]:
    """Read the content of a YOLO segmentation label file.

    Blank lines, any kind of line end, repeated blanks, a byte-order mark, scientific notation and class ids written as
    ``0.0`` are fine. By default, coordinates up to one pixel outside the image are moved onto its edge.

    A line of exactly five values, ``class cx cy w h``, is a detection box: a polygon of two points would look the
    same, but covers no area.

    Args:
        content: The file's content; bytes are decoded as UTF-8.
        shape: (H, W) of the image in pixels.
        names: The class names by id. None: any id up to ``MAX_CLASSES - 1`` is taken.
        boxes: What to do with a detection box: 'error', 'fill' it as a rectangle, or 'drop' it.
        source: The file's name, for messages.
        outside: A point more than one pixel outside the image is an 'error', or 'clip' cuts polygons at the edge, as
            if they were drawn on a larger image that is cropped then. Points further outside than the image is long
            are an error in any case: they are pixels and no fractions.

    Returns:
        The polygons in the order of the file; of a line that joins several parts, each part.

    Raises:
        LabelError: The content is not a valid label file for this image.
        DatasetError: ``boxes`` or ``outside`` has an unknown value.

    Example:
        >>> (triangle,) = parse_labels('0 0.25 0.25 0.75 0.25 0.75 0.75', shape=(4, 8))
        >>> triangle.class_id, triangle.points.tolist()
        (0, [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]])
        >>> parse_labels('0 0.25 0.25', shape=(4, 8), source='a.txt')
        Traceback (most recent call last):
            ...
        crack_plugin.datasets.polygons.LabelError: a.txt, line 1: 1 point(s), a polygon has at least three: \
`class x1 y1 x2 y2 x3 y3`. Delete the line, or draw the polygon again.
    """
    polygons, errors = parse_lines(content, shape, names, boxes, source, outside)
    if errors:
        raise errors[0]
    return polygons


def parse_lines(
    content: str | bytes,
    shape: tuple[int, int],
    names: Sequence[str] | None = None,
    boxes: Boxes = 'error',
    source: str = 'label text',
    outside: Outside = 'error',
) -> tuple[list[Polygon], list[LabelError]]:
    """Read what can be read of a label file, and collect what is wrong with each of the other lines.

    Args:
        content: As for ``parse_labels``, like all others.
        shape: (H, W) of the image in pixels.
        names: The class names by id.
        boxes: What to do with a detection box.
        source: The file's name, for messages.
        outside: What to do with a polygon that reaches out of the image.

    Returns:
        The polygons of the good lines and an error for each other line, both in the order of the file.

    Raises:
        DatasetError: ``boxes`` or ``outside`` is none of the known.
    """
    check_boxes(boxes)
    check_outside(outside)
    try:
        text = _decode(content, source)
    except LabelError as error:
        return [], [error]
    polygons: list[Polygon] = []
    errors = []
    for number, line in enumerate(re.split(r'\r\n|\r|\n', text), start=1):
        if not line.strip():
            continue
        try:
            polygons += _parse_line(line, shape, names, boxes, outside)
        except LabelError as error:
            # The traceback goes along: it leads to the statement that found the fault.
            located = LabelError(f'{source}, line {number}: {error}').with_traceback(error.__traceback__)
            located.line = number
            errors.append(located)
    return polygons, errors


def rasterize(
    polygons: Sequence[Polygon], shape: tuple[int, int], labels: Sequence[int | None] | None = None
) -> np.ndarray:
    """Fill polygons into a label map.

    The map is the union of the polygons; where polygons of different classes overlap, the later one covers the
    earlier one.

    Args:
        polygons: As read by ``parse_labels``.
        shape: (H, W) of the label map in pixels.
        labels: The label to draw for each class id, None to leave that class out. By default id i is drawn as i + 1.

    Returns:
        Shape (H, W), uint8: 0 where no polygon reaches.

    Example:
        >>> rasterize(parse_labels('0 0.25 0.25 0.75 0.25 0.75 0.75', shape=(4, 8)), shape=(4, 8))
        array([[0, 0, 0, 0, 0, 0, 0, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 0, 0, 1, 1, 1, 0],
               [0, 0, 0, 0, 0, 0, 1, 0]], dtype=uint8)
    """
    height, width = shape
    label_map = np.zeros(shape, np.uint8)
    for class_id, points, _ in polygons:
        label = class_id + 1 if labels is None else labels[class_id]
        if label is not None:
            pixels = np.rint(points * (width, height)).astype(np.int32)
            if points.min() < 0 or points.max() > 1:
                if _fill_clipped(label_map, pixels, label) or _reaches_out(points, shape).any():
                    continue
                # All of it is outside, but not by more than a pixel.
                pixels = np.rint(points.clip(0, 1) * (width, height)).astype(np.int32)
            if _is_invisible(pixels, shape):
                pixels = np.minimum(pixels, (width - 1, height - 1), dtype=np.int32)
            # One call each: a single call would fill by the even-odd rule over all of them, an exclusive or.
            cv2.fillPoly(label_map, [pixels], label)
    return label_map


def check_boxes(boxes: str) -> None:
    """Raise ``DatasetError`` unless ``boxes`` is a way to treat detection boxes."""
    if boxes not in get_args(Boxes):
        raise DatasetError(f"boxes={boxes!r} is not known: 'error', 'fill' (as rectangles) or 'drop'")


def check_outside(outside: str) -> None:
    """Raise ``DatasetError`` unless ``outside`` is a way to treat polygons that reach out of the image."""
    if outside not in get_args(Outside):
        raise DatasetError(f"outside={outside!r} is not known: 'error' or 'clip' (cut at the edge of the image)")


def _decode(content: str | bytes, source: str) -> str:
    if isinstance(content, str):
        return content.removeprefix('\ufeff')
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise LabelError(
            f'{source}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 text. If this is a label file, '
            'save it as UTF-8 without other characters than digits; if not, take it out of the labels folder.'
        ) from None


def _parse_line(
    line: str, shape: tuple[int, int], names: Sequence[str] | None, boxes: Boxes, outside: Outside
) -> list[Polygon]:
    tokens = line.split()
    values = [_parse_number(token, position) for position, token in enumerate(tokens, start=1)]
    class_id = _class_id(values[0], tokens[0], names)
    if len(values) == 5:
        return _parse_box(class_id, values[1:], tokens, shape, boxes, outside)
    if len(values) % 2 == 0:
        raise LabelError(
            f'{len(values) - 1} coordinates after the class id, an odd number: an x or a y is missing, or one is too '
            'many. Restore the line from the annotation tool, or delete it.'
        )
    if len(values) < 7:
        raise LabelError(
            f'{(len(values) - 1) // 2} point(s), a polygon has at least three: `class x1 y1 x2 y2 x3 y3`. Delete the '
            'line, or draw the polygon again.'
        )
    points = np.array(values[1:]).reshape(-1, 2)
    # Moved points are the same both ways, so that what is joined stays so.
    parts = split_joined_parts(_onto_image(points, shape, outside), shape)
    return [Polygon(class_id, part, len(parts) > 1) for part in parts]


def _parse_number(token: str, position: int) -> float:
    # float() would also take 1_0 and the digits of other scripts.
    plain = token.isascii() and '_' not in token
    try:
        number = float(token) if plain else None
    except ValueError:
        number = None
    if number is None:
        raise LabelError(
            f'value {position} is {_shortened(token)}, which is not a number. A line is `class x1 y1 x2 y2 x3 y3 ...`, '
            'numbers only: correct the value or delete the line.'
        )
    if not math.isfinite(number):
        raise LabelError(
            f'value {position} is {_shortened(token)}, which is not a finite number. Correct it or delete the line.'
        )
    return number


def _class_id(value: float, token: str, names: Sequence[str] | None) -> int:
    if not value.is_integer():
        raise LabelError(
            f'class id {_shortened(token)} is not a whole number. A line begins with the class id, counted from 0: '
            'was it left out?'
        )
    known = MAX_CLASSES if names is None else len(names)
    if not 0 <= value < known:
        if names is None:
            remedy = f'ids from 0 to {known - 1} are possible.'
        else:
            classes = ', '.join(f'{i} {name!r}' for i, name in enumerate(names))
            remedy = f'the known classes are {classes}. Correct the id, or name the class in data.yaml and the config.'
        raise LabelError(f'unknown class id {_shortened(token)}: {remedy}')
    return int(value)


def _parse_box(
    class_id: int, box: list[float], tokens: list[str], shape: tuple[int, int], boxes: Boxes, outside: Outside
) -> list[Polygon]:
    if boxes == 'drop':
        return []
    if boxes == 'error':
        raise LabelError(
            'five values: either a detection box `class cx cy w h` among the polygons, or a polygon of only two '
            "points, which covers no area. For boxes, set the dataset's boxes='fill' (rectangles) or boxes='drop'; a "
            'two-point polygon has to be drawn again or deleted.'
        )
    center_x, center_y, width, height = box
    if width < 0 or height < 0:
        raise LabelError(
            f'a detection box `class cx cy w h` of width {_shortened(tokens[3])} and height {_shortened(tokens[4])}: '
            'neither can be negative. Correct the line or delete it.'
        )
    left, right = center_x - width / 2, center_x + width / 2
    top, bottom = center_y - height / 2, center_y + height / 2
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return [Polygon(class_id, _onto_image(corners, shape, outside))]


def _onto_image(points: np.ndarray, shape: tuple[int, int], outside: Outside) -> np.ndarray:
    """Move points that lie up to one pixel outside onto the edge, unless what is outside will be cut off.

    Raises:
        LabelError: A point lies further outside than ``outside`` allows.
    """
    height, width = shape
    far = ((points < -1) | (points > 2)).any(axis=1)
    if outside == 'clip' and not far.any():
        return points
    beyond = _reaches_out(points, shape)
    if not beyond.any():
        return points.clip(0, 1)
    first = int((far if far.any() else beyond).argmax())
    x, y = points[first].tolist()
    place = (
        f'point {first + 1} of {len(points)} is (x, y) = ({x:g}, {y:g}), more than one pixel outside the image of '
        f'{width} x {height} pixels'
    )
    if far.any():
        raise LabelError(
            f'{place}, and even further than the image is long: coordinates are fractions of width and height, from 0 '
            'to 1. Pixel coordinates have to be divided by the image size.'
        )
    raise LabelError(
        f'{place}: coordinates are fractions of width and height, from 0 to 1. If the label belongs to this image and '
        "was drawn across its edge, have it cut there: outside='clip' of the dataset, --outside clip of the tools."
    )


def _reaches_out(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which points of shape (n, 2) lie more than one pixel outside the image, shape (n,), bool."""
    margin = 1 / np.array(shape[::-1]) + _TEXT_PRECISION
    return np.asarray(((points < -margin) | (points > 1 + margin)).any(axis=1))


def _fill_clipped(label_map: np.ndarray, pixels: np.ndarray, label: int) -> bool:
    """Fill the part in the map of a polygon of shape (n, 2), int32, that reaches out of it; whether there is any.

    ``cv2.fillPoly`` on the map would cut the outline first and round then, which moves it. So it fills a map of the
    polygon's own size.
    """
    left, top, width, height = cv2.boundingRect(pixels)
    region = np.zeros((height, width), np.uint8)
    cv2.fillPoly(region, [pixels], 1, offset=(-left, -top))
    x, y = max(left, 0), max(top, 0)
    target = label_map[y : max(top + height, 0), x : max(left + width, 0)]
    inside = region[y - top :, x - left :][: target.shape[0], : target.shape[1]] > 0
    target[inside] = label
    return bool(inside.any())


def _is_invisible(pixels: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether a polygon of shape (n, 2), int32, covers no pixel of a map of the given (H, W)."""
    # A corner inside is drawn. Without one, the polygon may still reach across the map.
    if not (pixels >= shape[::-1]).any(axis=1).all():
        return False
    return not cv2.fillPoly(np.zeros(shape, np.uint8), [pixels], 1).any()


def _shortened(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + '...')
