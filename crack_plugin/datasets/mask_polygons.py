"""Masks as YOLO polygons: a mask to polygons, and to the text of a label file, without loss.

``polygons`` reads the text back and rasterises it to the identical mask.
"""

import cv2
import numpy as np

from crack_plugin.datasets.errors import DatasetError


def mask_to_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Cover a mask exactly by polygons, each of them without a hole.

    A region with holes is cut along rows or columns through its holes, because a YOLO polygon cannot have any.

    Args:
        mask: Shape (H, W), any type; foreground is what is not 0.

    Returns:
        Arrays of shape (n, 2), int32: (x, y) pixels. A region of one or two points, or a straight line, repeats its
        last point so that n >= 3.

    Raises:
        DatasetError: ``mask`` is not two-dimensional.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[1:4, 2:6] = True
        >>> [polygon.tolist() for polygon in mask_to_polygons(mask)]
        [[[2, 1], [2, 3], [5, 3], [5, 1]]]
        >>> mask[2, 3] = False  # a hole, through which the region is cut in two
        >>> len(mask_to_polygons(mask))
        2
    """
    if mask.ndim != 2:
        raise DatasetError(f'a mask has the shape (H, W), this one has {mask.shape}')
    # Two levels: the outlines of the 8-connected regions, and under each the outlines of its 4-connected holes.
    outlines, hierarchy = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return []
    holes: dict[int, list[np.ndarray]] = {i: [] for i, parent in enumerate(hierarchy[0, :, 3]) if parent < 0}
    for outline, parent in zip(outlines, hierarchy[0, :, 3].tolist(), strict=True):
        if parent >= 0:
            holes[parent].append(outline)
    pieces: list[np.ndarray] = []
    for i, inner in holes.items():
        pieces += _cut_through_holes(outlines[i], inner) if inner else [outlines[i]]
    return [_at_least_three_points(piece[:, 0]) for piece in pieces]


def format_labels(mask: np.ndarray, class_id: int = 0) -> str:
    """Write a mask as the content of a YOLO label file that gives the identical mask when it is read and rasterised.

    Args:
        mask: Shape (H, W), any type; foreground is what is not 0.
        class_id: The class id of every line.

    Returns:
        One line a polygon, each ended by a newline; empty for an empty mask. Coordinates have 6 decimals, or one more
        than the longer side has digits, so that rounding moves a point by less than 0.05 pixels.

    Raises:
        DatasetError: ``mask`` is not two-dimensional.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[1:4, 2:6] = True
        >>> print(format_labels(mask), end='')
        0 0.250000 0.166667 0.250000 0.500000 0.625000 0.500000 0.625000 0.166667
    """
    polygons = mask_to_polygons(mask)
    height, width = mask.shape
    decimals = max(6, len(str(max(height, width))) + 1)
    lines = []
    for pixels in polygons:
        values = (pixels / (width, height)).ravel().tolist()
        lines.append(' '.join([str(class_id), *(f'{value:.{decimals}f}' for value in values)]) + '\n')
    return ''.join(lines)


def _cut_through_holes(outline: np.ndarray, holes: list[np.ndarray]) -> list[np.ndarray]:
    """Cut a region so that a cut passes through each of its holes; what remains has none.

    A hole that is cut opens towards the cut, and a straight cut closes no new one.
    """
    left, top, width, height = cv2.boundingRect(outline)
    region = np.zeros((height, width), np.uint8)
    cv2.fillPoly(region, [outline, *holes], 1, offset=(-left, -top))
    # A hole's outline runs on the foreground around it, so the hole itself lies one pixel further in.
    boxes = np.array([cv2.boundingRect(hole) for hole in holes]) - (left, top, 0, 0)
    rows = cover_intervals([(y + 1, y + h - 1) for _, y, _, h in boxes.tolist()])
    columns = cover_intervals([(x + 1, x + w - 1) for x, _, w, _ in boxes.tolist()])
    axis, cuts = (0, rows) if len(rows) <= len(columns) else (1, columns)
    pieces: list[np.ndarray] = []
    for start, band in zip([0, *cuts], np.split(region, cuts, axis), strict=True):
        offset = (left, top + start) if axis == 0 else (left + start, top)
        pieces += cv2.findContours(
            np.ascontiguousarray(band), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=offset
        )[0]
    return pieces


def cover_intervals(intervals: list[tuple[int, int]]) -> list[int]:
    """The fewest positions, ascending, that touch every closed interval."""
    positions: list[int] = []
    for first, last in sorted(intervals, key=lambda interval: interval[1]):
        if not positions or positions[-1] < first:
            positions.append(last)
    return positions


def _at_least_three_points(points: np.ndarray) -> np.ndarray:
    return np.pad(points, ((0, max(0, 3 - len(points))), (0, 0)), mode='edge')
