"""The shapes in LabelMe's JSON files (https://github.com/wkentaro/labelme), and the pixels they cover.

X-AnyLabeling writes the same format.
"""

import base64
import binascii
import io
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from crack_plugin.datasets.conversion import Tally, clip_polygon, is_number, scale_mask, whole_number
from crack_plugin.datasets.polygons import Polygon, rasterize

BOXES = ('rectangle', 'oriented_rectangle', 'rotation')
LINES = ('line', 'linestrip')
POINTS = ('point', 'points')
KINDS = ('polygon', 'circle', 'mask', *BOXES, *LINES, *POINTS)
"""The types of shapes: LabelMe's, and X-AnyLabeling's 'rotation'."""

# How many points there are: at least, at most.
POINT_COUNTS = {
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


def parse(content: Any, place: str, faults: Tally) -> Annotations | None:
    """Read the content of one file and check it.

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


def extent(shape: Shape) -> np.ndarray:
    """Points that reach as far as the shape does, shape (n, 2)."""
    if shape.kind == 'circle':
        center, radius = shape.points[0], np.linalg.norm(shape.points[1] - shape.points[0])
        return np.array([center - radius, center + radius])
    if shape.mask is not None:
        height, width = shape.mask.shape
        return np.array([shape.points[0], shape.points[0] + (width, height)])
    return shape.points


def _parse_shape(shape: Any, place: str, faults: Tally) -> Shape | None:
    if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
        faults.add('shapes without a label', place, 'Label or delete them.')
        return None
    # Old versions knew polygons only, and wrote no type.
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
