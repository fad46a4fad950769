"""The centreline of cracks: the skeleton of a mask as a graph, and the width of the crack at each of its pixels.

The one definition of crack width, for the measures of an image and for the check of a dataset.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from skimage import morphology

_BLOCK = 2048


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


def centreline(mask: np.ndarray) -> tuple[Skeleton, np.ndarray]:
    """The centreline of the cracks in a mask, and their width along it.

    - Skeleton: thinning by Lee, Kashyap and Chu (CVGIP 1994, by scikit-image), which leaves no forks at blunt ends.
      Branches shorter than the crack is wide where they begin are bumps of the outline, and dropped.
    - Width: the largest disc around a place of the skeleton that holds no background is w = 2 d - 1 wide, d being the
      distance from its centre to the nearest background pixel's: the outline runs half a pixel before that pixel's
      centre on both sides. Centres are tried half a pixel around the skeleton too, because the middle of an even number
      of pixels lies between two of them. Within 0.25 px for cracks along the axes, within 0.7 px for any other.

    The border of the image does not end a crack. Thinning leads around each hole on both sides: see
    :func:`without_pinholes`.

    Args:
        mask: Whether a pixel is crack, shape (H, W), bool, with at least one pixel of crack and one of background.

    Returns:
        The skeleton, and the width at each of its n pixels, shape (n,), in pixels.

    Example:
        >>> mask = np.zeros((20, 60), bool)
        >>> mask[8:11, 10:50] = True
        >>> skeleton, widths = centreline(mask)
        >>> sorted(set(skeleton.pixels[:, 0].tolist())), round(float(np.median(widths)), 1)
        ([9], 3.1)
    """
    skeleton = skeleton_graph(morphology.skeletonize(mask, method='lee').astype(bool))
    background = cKDTree(np.argwhere(_outside(mask)))
    skeleton = _without_bumps(skeleton, background.query(skeleton.pixels)[0])
    return skeleton, _widths(skeleton.pixels, background)


def crack_widths(mask: np.ndarray) -> np.ndarray:
    """The width at each pixel of the :func:`centreline` of a mask.

    Measured in blocks, so that a picture of 100 megapixels needs no more memory than a small one.

    Args:
        mask: Whether a pixel is crack, shape (H, W), bool.

    Returns:
        Shape (n,), in pixels; n = 0 without a crack.
    """
    blocks = [
        mask[top : top + _BLOCK, left : left + _BLOCK]
        for top in range(0, mask.shape[0], _BLOCK)
        for left in range(0, mask.shape[1], _BLOCK)
    ]
    return np.concatenate([np.zeros(0), *(_widths_in(block) for block in blocks if block.any())])


def without_pinholes(mask: np.ndarray) -> np.ndarray:
    """Fill each hole that lies in a disc four times as large that holds no other background.

    So are those up to a quarter as large as the crack is wide there, around which thinning would lead on both sides: a
    crack with some pixels missing would be longer and thinner. Larger ones lie between branches.

    Args:
        mask: Whether a pixel is crack, shape (H, W), bool. What touches its border is no hole.

    Returns:
        Shape (H, W), bool; the mask itself if nothing but holes is background.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
    left, top, width, height, _ = statistics.T
    sizes = np.maximum(width, height)
    is_hole = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    # A disc of one and a half times its size is left beside the hole. There is none beside the meshes of a network.
    is_hole &= 3 * sizes <= 4 * _distances(mask).max()
    is_hole[0] = False  # the crack itself
    filled = mask.copy()
    # Holes are in the way of each other's discs, small ones the least: once some are filled, others may follow.
    tried: list[int] = []
    open_holes = sorted(np.flatnonzero(is_hole).tolist(), key=sizes.__getitem__)
    while open_holes != tried:
        tried = open_holes
        open_holes = [hole for hole in tried if not _fill(filled, labels, hole, statistics[hole].tolist())]
    return mask if filled.all() else filled


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
    return pixel_graph(np.argwhere(skeleton))


def pixel_graph(pixels: np.ndarray) -> Skeleton:
    """:func:`skeleton_graph` of the pixels of a skeleton.

    Args:
        pixels: Row and column, in the order of rows and columns, shape (n, 2), int.
    """
    # One more column than the image has: no pixel is beside one of the next row.
    width = int(pixels[:, 1].max(initial=0)) + 2
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


def _widths_in(block: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(block.view(np.uint8))
    region = block[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]
    # Without any background, the border ends the crack.
    return centreline(np.pad(region, 1) if region.all() else without_pinholes(region))[1]


def _fill(filled: np.ndarray, labels: np.ndarray, hole: int, statistics: Sequence[int]) -> bool:
    """Fill a hole in place if the disc fits, and say whether it does; arguments are OpenCV's connected components."""
    left, top, width, height, _ = statistics
    size = max(width, height)
    # The disc's centre is up to the hole's size away from it, and its edge twice as far from that.
    window = np.s_[
        max(top - 3 * size, 0) : top + height + 3 * size,
        max(left - 3 * size, 0) : left + width + 3 * size,
    ]
    pixels = labels[window] == hole
    centres = cv2.dilate(pixels.view(np.uint8), np.ones((2 * size + 1, 2 * size + 1), np.uint8)) > 0
    fits = bool(_distances(filled[window] | pixels)[centres].max() >= 2 * size)
    if fits:
        filled[window] |= pixels
    return fits


def _distances(mask: np.ndarray) -> np.ndarray:
    """From each pixel of the foreground to the nearest of the background, shape (H, W)."""
    return cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


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
        branch = walk(graph, degrees, int(end), steps=int(2 * radii.max()) + 1)
        last = branch[-1]
        if degrees[last] > 2 and len(branch) - 1 < 2 * radii[last]:
            dropped += branch[:-1]
    return skeleton.without(np.array(dropped, int))


def walk(graph: sparse.csr_array, degrees: np.ndarray, end: int, steps: int) -> list[int]:
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
