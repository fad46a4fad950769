"""Length, width, orientation and density of the cracks in a mask: pure functions on arrays.

The skeleton of the mask is taken as a graph: its pixels are the nodes, steps between neighbours the edges. Lengths and
directions come from the edges, widths from the distance of the nodes to the background.
"""

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import cKDTree
from skimage import morphology

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


class Skeleton(NamedTuple):
    """A skeleton as a graph.

    Attributes:
        pixels: Row and column, shape (n, 2), int.
        edges: Pairs of nodes, shape (m, 2), int.
    """

    pixels: np.ndarray
    edges: np.ndarray

    @property
    def adjacency(self) -> sparse.csr_array:
        """1 where an edge joins two nodes, shape (n, n)."""
        start, end = self.edges.T
        ones = np.ones(2 * len(self.edges))
        shape = (len(self.pixels), len(self.pixels))
        return sparse.coo_array((ones, (np.r_[start, end], np.r_[end, start])), shape=shape).tocsr()

    def without(self, nodes: np.ndarray) -> 'Skeleton':
        """The graph without some nodes."""
        kept = np.ones(len(self.pixels), bool)
        kept[nodes] = False
        number = np.cumsum(kept) - 1
        return Skeleton(self.pixels[kept], number[self.edges[kept[self.edges].all(axis=1)]])


def measure_cracks(mask: np.ndarray) -> CrackGeometry:
    """Measure the cracks of a mask.

    - Skeleton: thinning by Lee, Kashyap and Chu (CVGIP 1994, by scikit-image), which leaves no forks at blunt ends.
      Branches shorter than the crack is wide where they begin are bumps of the outline, and dropped.
    - Length: pixels of a straight line zigzag, so that the sum of steps (1, or sqrt 2 for diagonal ones) is up to 8 %
      too long at 22.5 degrees (Vossepoel and Smeulders, CGIP 1982). The path is smoothed first; then its steps are
      summed. A skeleton ends about half a width before the crack does, and is extended in its direction up to the
      outline.
    - Width: the largest disc around a place of the skeleton that holds no background is w = 2 d - 1 wide, d being the
      distance from its centre to the nearest background pixel's: the outline runs half a pixel before that pixel's
      centre on both sides. Centres are tried half a pixel around the skeleton too, because the middle of an even number
      of pixels lies between two of them. Within 0.25 px for cracks along the axes, within 0.7 px for any other.
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
    skeleton = skeleton_graph(morphology.skeletonize(mask, method='lee').astype(bool))
    background = cKDTree(np.argwhere(_outside(mask)))
    skeleton = _without_bumps(skeleton, background.query(skeleton.pixels)[0])
    path = _smoothed(skeleton)
    steps = path[skeleton.edges[:, 1]] - path[skeleton.edges[:, 0]]
    # As complex numbers, right and up (rows grow downwards): the square of a direction has twice its angle.
    steps = steps[:, 1] - 1j * steps[:, 0]
    lengths = np.abs(steps)
    resultant = np.sum(steps**2 / np.maximum(lengths, 1e-9))
    alignment = float(abs(resultant) / max(lengths.sum(), 1e-9))

    widths = _widths(skeleton.pixels, background)
    # Half of each step belongs to either of its nodes.
    shares = np.bincount(skeleton.edges.ravel(), np.repeat(lengths, 2) / 2, minlength=len(widths))
    shares = shares + _lengths_to_tips(skeleton, path, widths, mask)
    length = float(shares.sum())
    return CrackGeometry(
        length=length,
        mean_width=float(np.average(widths, weights=shares)),
        max_width=float(widths.max()),
        orientation=float(np.degrees(np.angle(resultant)) / 2 % 180) if alignment > 1e-6 else None,
        alignment=alignment,
        density=length / mask.size,
    )


def skeleton_graph(skeleton: np.ndarray) -> Skeleton:
    """Join the pixels of a skeleton with their neighbours.

    A diagonal step is none where two straight ones lead the same way: mixed adjacency (Gonzalez and Woods, Digital
    Image Processing, section 2.5), without which corners and junctions would be counted twice.

    Args:
        skeleton: Shape (H, W), bool.

    Example:
        >>> corner = np.array([[1, 1], [0, 1]], bool)
        >>> skeleton_graph(corner).edges.tolist()  # two straight steps, and no diagonal beside them
        [[1, 2], [0, 1]]
    """
    pixels = np.argwhere(skeleton)
    # One more column than the image has: no pixel is beside one of the next row.
    width = skeleton.shape[1] + 1
    keys = pixels[:, 0] * width + pixels[:, 1]
    nodes = np.arange(len(keys))

    def neighbours(down: int, right: int) -> np.ndarray:
        """The node that lies so many rows and columns from each; -1 for none."""
        wanted = keys + down * width + right
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[place] == wanted, place, -1)

    below, beside, before = neighbours(1, 0), neighbours(0, 1), neighbours(0, -1)
    ends = [
        below,
        beside,
        np.where((below < 0) & (beside < 0), neighbours(1, 1), -1),
        np.where((below < 0) & (before < 0), neighbours(1, -1), -1),
    ]
    return Skeleton(pixels, np.concatenate([np.stack([nodes, end], axis=1)[end >= 0] for end in ends]))


def _outside(mask: np.ndarray) -> np.ndarray:
    """Background pixels that touch the foreground: the nearest to any place inside is one of them."""
    return (cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~mask


def _widths(pixels: np.ndarray, background: cKDTree) -> np.ndarray:
    """Width of the crack at each pixel (n, 2) of its skeleton, shape (n,)."""
    shifts = itertools.product((-0.5, 0.0, 0.5), repeat=2)
    return 2 * np.max([background.query(pixels + shift)[0] for shift in shifts], axis=0) - 1


def _without_bumps(skeleton: Skeleton, radii: np.ndarray) -> Skeleton:
    """Drop branches from a junction to an end that are shorter than the crack is wide at the junction."""
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    dropped: list[int] = []
    for end in np.flatnonzero(degrees == 1):
        branch = _walk(graph, degrees, int(end), steps=int(2 * radii.max()) + 1)
        last = branch[-1]
        if degrees[last] > 2 and len(branch) - 1 < 2 * radii[last]:
            dropped += branch[:-1]
    return skeleton.without(np.array(dropped, int))


def _walk(graph: sparse.csr_array, degrees: np.ndarray, end: int, steps: int) -> list[int]:
    """Nodes from an end inwards, up to the next junction or end, so many steps at most."""
    visited = [end]
    while len(visited) <= steps:
        around = graph.indices[graph.indptr[visited[-1]] : graph.indptr[visited[-1] + 1]]
        onwards = [int(node) for node in around if len(visited) < 2 or node != visited[-2]]
        if not onwards:
            break
        visited.append(onwards[0])
        if degrees[onwards[0]] != 2:
            break
    return visited


def _smoothed(skeleton: Skeleton) -> np.ndarray:
    """Places of the nodes after averaging along the path; ends and junctions stay. Shape (n, 2)."""
    graph = skeleton.adjacency
    inner = np.diff(graph.indptr) == 2
    step = sparse.diags_array(np.where(inner, 0.25, 0.0)) @ graph + sparse.diags_array(np.where(inner, 0.5, 1.0))
    places = skeleton.pixels.astype(float)
    for _ in range(SMOOTHING):
        places = step @ places
    return places


def _lengths_to_tips(skeleton: Skeleton, path: np.ndarray, widths: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the skeleton lacks to the tips of the cracks, at its ends; 0 at other nodes. Shape (n,)."""
    graph = skeleton.adjacency
    degrees = np.diff(graph.indptr)
    # A blob that shrank to a pixel is as long as it is wide.
    lacking = np.where(degrees == 0, widths, 0.0)
    for end in np.flatnonzero(degrees == 1):
        inwards = _walk(graph, degrees, int(end), steps=max(3, round(widths[end] / 2)))
        direction = path[end] - path[inwards[-1]]
        distances = np.arange(0, widths[end] + 2, 0.05)
        places = path[end] + distances[:, None] * direction / np.hypot(*direction)
        # Between the centres of pixels the mask is bilinear, so that the outline is where it passes a half.
        inside = ndimage.map_coordinates(mask, places.T, output=float, order=1, mode='grid-constant') >= 0.5
        lacking[end] = distances[max(0, int(np.argmin(inside)) - 1)] if not inside.all() else distances[-1]
    return lacking
