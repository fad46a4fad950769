"""Length, width, orientation and density of the cracks in a mask: pure functions on arrays.

The skeleton of the mask is taken as a graph: its pixels are the nodes, steps between neighbours the edges. Lengths and
directions come from the edges, widths from the distance of the nodes to the background.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import ndimage, sparse

from crack_plugin.skeleton import Skeleton, centreline, skeleton_graph, walk, without_pinholes

__all__ = [
    'SMOOTHING',
    'CrackGeometry',
    'Skeleton',
    'is_inside',
    'lengths_to_tips',
    'measure_cracks',
    'skeleton_graph',
    'smoothed_path',
]

SMOOTHING = 18
"""Rounds of averaging with the neighbours: a Gaussian of 3 px standard deviation along the crack."""


@dataclass(frozen=True)
class CrackGeometry:
    """Of all cracks in an image, in pixels (or whatever :meth:`scaled` makes of them).

    Attributes:
        length: Of the centrelines, branches included, from tip to tip.
        mean_width: Over the length; 0 without a crack.
        max_width: At the widest place; 0 without a crack.
        orientation: Mean direction of the centrelines in degrees, in [0, 180): 0 is horizontal, 45 rises to the right,
            90 is vertical. None without a crack, and where all directions balance.
        alignment: How much the directions agree with ``orientation``, from 0 (all directions, as in map cracking) to 1
            (parallel).
        density: Length by area of the image.
    """

    length: float
    mean_width: float
    max_width: float
    orientation: float | None
    alignment: float
    density: float

    def scaled(self, unit: float) -> 'CrackGeometry':
        """The same with lengths in a unit of which a pixel has ``unit``, such as millimetres."""
        return replace(
            self,
            length=self.length * unit,
            mean_width=self.mean_width * unit,
            max_width=self.max_width * unit,
            density=self.density / unit,
        )


def measure_cracks(mask: np.ndarray) -> CrackGeometry:
    """Measure the cracks of a mask.

    - Skeleton and width: see :func:`crack_plugin.skeleton.centreline`.
    - Length: pixels of a straight line zigzag, so that the sum of steps (1, or sqrt 2 for diagonal ones) is up to 8 %
      too long at 22.5 degrees (Vossepoel and Smeulders, CGIP 1982). The path is smoothed first; then its steps are
      summed. A skeleton ends about half a width before the crack does, and is extended in its direction up to the
      outline.
    - Orientation: the mean of axial data by doubled angles (Mardia and Jupp, Directional Statistics, 2000):
      half the direction of the sum of length * (cos 2 a, sin 2 a); alignment is the length of that sum by the
      length of the cracks.

    Args:
        mask: Whether a pixel is crack, shape (H, W), bool.

    Returns:
        Lengths in pixels.

    Example:
        >>> mask = np.zeros((40, 60), bool)
        >>> mask[20:23, 10:50] = True  # 40 px long, 3 px wide
        >>> cracks = measure_cracks(mask)
        >>> round(cracks.length), round(cracks.mean_width), cracks.orientation
        (40, 3, 0.0)
        >>> round(cracks.scaled(0.5).length)  # at half a millimetre a pixel
        20
    """
    if not mask.any():
        return CrackGeometry(0.0, 0.0, 0.0, None, 0.0, 0.0)
    if mask.all():
        # Nothing else ends this crack than the image does.
        inner = measure_cracks(np.pad(mask, 1))
        return replace(inner, density=inner.length / mask.size)
    filled = without_pinholes(mask)
    skeleton, widths = centreline(filled)
    path = smoothed_path(skeleton)
    steps = path[skeleton.edges[:, 1]] - path[skeleton.edges[:, 0]]
    # As complex numbers, right and up (rows grow downwards): the square of a direction has twice its angle.
    steps = steps[:, 1] - 1j * steps[:, 0]
    lengths = np.abs(steps)
    resultant = np.sum(steps**2 / np.maximum(lengths, 1e-9))
    alignment = float(abs(resultant) / max(lengths.sum(), 1e-9))

    # Half of each step belongs to either of its nodes.
    shares = np.bincount(skeleton.edges.ravel(), np.repeat(lengths, 2) / 2, minlength=len(widths))
    shares = shares + lengths_to_tips(skeleton, path, widths, partial(is_inside, filled))
    length = float(shares.sum())
    return CrackGeometry(
        length=length,
        mean_width=float(np.average(widths, weights=shares)),
        max_width=float(widths.max()),
        orientation=float(np.degrees(np.angle(resultant)) / 2 % 180) if alignment > 1e-6 else None,
        alignment=alignment,
        density=length / mask.size,
    )


def smoothed_path(skeleton: Skeleton, strength: float | np.ndarray = 1.0) -> np.ndarray:
    """Places of the nodes after averaging along the path; ends and junctions stay.

    Args:
        skeleton: With n nodes.
        strength: Of the averaging, from 0 (none) to 1, for all nodes or each, shape (n,).

    Returns:
        Shape (n, 2).
    """
    graph = skeleton.adjacency
    share = np.where(np.diff(graph.indptr) == 2, 0.25 * np.asarray(strength), 0.0)
    step = sparse.diags_array(share) @ graph + sparse.diags_array(1 - 2 * share)
    places = skeleton.pixels.astype(float)
    for _ in range(SMOOTHING):
        places = step @ places
    return places


def lengths_to_tips(
    skeleton: Skeleton, path: np.ndarray, widths: np.ndarray, inside: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What the skeleton lacks to the tips of the cracks, at its ends; 0 at other nodes.

    Args:
        skeleton: With n nodes.
        path: Their places after smoothing, shape (n, 2).
        widths: Of the crack at the nodes, shape (n,).
        inside: Whether places (row, column), shape (m, 2), are in the crack, shape (m,); see :func:`is_inside`.

    Returns:
        Shape (n,).
    """
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    # A blob that shrank to a pixel is as long as it is wide.
    lacking = np.where(degrees == 0, widths, 0.0)
    for end in np.flatnonzero(degrees == 1):
        inwards = walk(graph, degrees, int(end), steps=max(3, round(widths[end] / 2)))
        direction = path[end] - path[inwards[-1]]
        distances = np.arange(0, widths[end] + 2, 0.05)
        places = path[end] + distances[:, None] * direction / np.hypot(*direction)
        within = inside(places)
        lacking[end] = distances[max(0, int(np.argmin(within)) - 1)] if not within.all() else distances[-1]
    return lacking


def is_inside(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Whether places (row, column), shape (m, 2), are in a crack, whose outline runs between the pixels' centres.

    Between them the mask (H, W) is bilinear, so that the outline is where it passes a half.
    """
    return ndimage.map_coordinates(mask, places.T, output=float, order=1, mode='grid-constant') >= 0.5
