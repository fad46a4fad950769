"""Polygons along the edges of pixels: exact, and valid for GIS programs."""

import cv2
import numpy as np
import pytest

from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.outlines import Outline, outlines, shells_without_holes


def random_mask(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random(rng.integers(1, 16, 2)) < rng.uniform(0.1, 0.9)


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres are in an odd number of rings, by OpenCV on a grid of half pixels: centres are off edges."""
    places = np.zeros((2 * shape[0] + 1, 2 * shape[1] + 1), np.uint8)
    for ring in rings:
        # fillPoly covers the outline as well, which the odd places, the centres, are not on.
        places ^= cv2.fillPoly(np.zeros_like(places), [2 * ring.astype(np.int32)], 1)
    return places[1::2, 1::2] > 0


@pytest.mark.parametrize('seed', range(24))
def test_polygons_cover_the_pixels_and_nothing_else(seed: int) -> None:
    mask = random_mask(seed)
    for crack in find_cracks([Band(mask.astype(np.uint8))]):
        own = outlines(crack.runs)
        assert sum(area(ring) for outline in own for ring in (outline.shell, *outline.holes)) == crack.area
        rings = [ring for outline in own for ring in (outline.shell, *outline.holes)]
        assert all(len(np.unique(ring[:-1], axis=0)) == len(ring) - 1 for ring in rings)
        only = np.zeros(mask.shape, bool)
        only[tuple(crack.pixels().T)] = True
        np.testing.assert_array_equal(filled(rings, mask.shape), only)
        pieces = shells_without_holes(crack.runs)
        assert min(area(ring) for ring in pieces) > 0
        assert sum(area(ring) for ring in pieces) == crack.area
        np.testing.assert_array_equal(np.any([filled([ring], mask.shape) for ring in pieces], axis=0), only)


@pytest.mark.parametrize('seed', range(60, 68))
def test_shapely_finds_them_valid(seed: int) -> None:
    shapely = pytest.importorskip('shapely')
    for crack in find_cracks([Band(random_mask(seed).astype(np.uint8))]):
        polygons = shapely.MultiPolygon([shapely.Polygon(own.shell, own.holes) for own in outlines(crack.runs)])
        assert polygons.is_valid, shapely.is_valid_reason(polygons)
        assert polygons.area == crack.area


def test_corners_and_holes() -> None:
    def of(*rows: str) -> list[Outline]:
        (crack,) = find_cracks([Band(np.array([[cell == '#' for cell in row] for row in rows], np.uint8))])
        return outlines(crack.runs)

    (ring,) = of('###', '#.#', '###')
    assert ring.shell.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]
    (hole,) = ring.holes
    assert sorted(hole[:-1].tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert area(hole) == -1
    # A diagonal is squares that touch; a ring that closes at a corner has a hole.
    assert len(of('#..', '.#.', '..#')) == 3
    (closed,) = of('.##', '#.#', '###')
    assert len(closed.holes) == 1
