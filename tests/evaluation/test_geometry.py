"""Measured cracks against drawn ones of known length, width and direction."""

import math

import cv2
import numpy as np
import pytest
from skimage.draw import line

from crack_plugin.evaluation.geometry import CrackGeometry, measure_cracks, skeleton_graph

SIDE = 260


def bar(length: float, width: float, angle: float) -> np.ndarray:
    """A straight crack with blunt ends through the middle; pixels whose centre lies within. Angles as on paper."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 - np.array([0.21, -0.13])[:, None, None]
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = x * cosine - y * sine, x * sine + y * cosine
    return (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)


def away(angle: float, expected: float) -> float:
    """Degrees between two directions without sense."""
    return abs((angle - expected + 90) % 180 - 90)


@pytest.mark.parametrize('angle', [0, 10, 22.5, 30, 45, 67, 90, 120, 135, 170])
@pytest.mark.parametrize('width', [1.5, 2, 3, 4, 5, 8, 13, 20])
def test_straight_cracks(width: float, angle: float) -> None:
    measured = measure_cracks(bar(200, width, angle))
    assert measured.length == pytest.approx(200, abs=1)
    assert measured.mean_width == pytest.approx(width, abs=0.75)
    assert measured.max_width == pytest.approx(width, abs=0.75)
    assert away(measured.orientation, angle) < 0.5
    assert measured.alignment > 0.99
    assert measured.density == pytest.approx(200 / SIDE**2, rel=0.01)


@pytest.mark.parametrize('width', range(1, 12))
def test_cracks_along_the_axes(width: int) -> None:
    mask = np.zeros((40, 120), bool)
    mask[10 : 10 + width, 10:110] = True
    for picture, angle in ((mask, 0), (mask.T, 90)):
        measured = measure_cracks(picture)
        assert measured.length == pytest.approx(100, abs=1)
        assert measured.mean_width == pytest.approx(width, abs=0.25)
        assert measured.max_width == pytest.approx(width, abs=0.25)
        assert away(measured.orientation, angle) < 0.01


def test_diagonal_steps_are_sqrt_2_long() -> None:
    mask = np.eye(101, dtype=bool)
    mask[[0, -1], [0, -1]] = False
    # 99 pixels: 98 steps, and up to half a diagonal at either end
    measured = measure_cracks(mask)
    assert 98 * math.sqrt(2) < measured.length <= 99 * math.sqrt(2)
    assert away(measured.orientation, 135) < 1e-6


@pytest.mark.parametrize('angle', range(0, 90, 5))
def test_one_pixel_lines_of_any_direction(angle: int) -> None:
    end = (20 + round(220 * math.sin(math.radians(angle))), 20 + round(220 * math.cos(math.radians(angle))))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[line(20, 20, *end)] = True
    # The line's ends are centres of pixels
    assert measure_cracks(mask).length == pytest.approx(math.dist((20, 20), end) + 1, abs=1)


def test_curves() -> None:
    y, x = np.mgrid[:SIDE, :SIDE] - 130
    ring = np.abs(np.hypot(x, y) - 100) <= 2.5
    whole = measure_cracks(ring)
    assert whole.length == pytest.approx(200 * math.pi, rel=0.002)
    assert whole.alignment < 0.001
    assert whole.mean_width == pytest.approx(5, abs=0.5)
    quarter = measure_cracks(ring & (x > 0) & (y < 0))
    assert quarter.length == pytest.approx(50 * math.pi, abs=1.5)
    assert away(quarter.orientation, 135) < 1


def test_several_cracks_add_up_and_the_widest_counts() -> None:
    mask = np.zeros((200, 200), bool)
    mask[20:23, 20:180] = True
    mask[100:111, 20:60] = True
    measured = measure_cracks(mask)
    assert measured.length == pytest.approx(160 + 40, abs=1)
    assert measured.max_width == pytest.approx(11, abs=0.25)
    assert measured.mean_width == pytest.approx((160 * 3 + 40 * 11) / 200, abs=0.25)


def test_branches_count_and_orientations_balance() -> None:
    cross = measure_cracks(bar(200, 3, 20) | bar(200, 3, 110))
    assert cross.length == pytest.approx(400, abs=3)
    assert cross.alignment < 0.02
    fork = measure_cracks(bar(200, 3, 20) | (bar(200, 3, 80) & (np.arange(SIDE) < SIDE // 2)[:, None]))
    assert fork.length == pytest.approx(300, abs=4)


@pytest.mark.parametrize('width', [6, 12, 20])
def test_bumps_of_the_outline_are_no_branches(width: int) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((SIDE, SIDE)), (0, 0), 1.2)
    soft = cv2.GaussianBlur(bar(200, width, 25).astype(float), (0, 0), 2)
    rough = soft + 0.12 * noise / noise.std() > 0.5
    _, parts, stats, _ = cv2.connectedComponentsWithStats(rough.view(np.uint8))
    measured = measure_cracks(parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())
    assert measured.length == pytest.approx(200, abs=6)
    assert measured.mean_width == pytest.approx(width, abs=0.15 * width)  # discs touch the bumps


def test_tapering_crack_ends_at_its_tips() -> None:
    y, x = np.mgrid[:101, :241] - np.array([50, 20])[:, None, None]
    measured = measure_cracks((x >= 0) & (x <= 200) & (np.abs(y) <= 10 * (1 - x / 200)))
    assert measured.length == pytest.approx(200, abs=2)
    assert measured.max_width == pytest.approx(20, abs=1)
    assert measured.mean_width == pytest.approx(10, abs=1)


def test_cracks_end_at_the_edge_of_the_picture() -> None:
    mask = np.zeros((30, 100), bool)
    mask[10:15] = True
    measured = measure_cracks(mask)
    assert measured.length == pytest.approx(100, abs=0.2)
    assert measured.mean_width == pytest.approx(5, abs=0.25)


def test_no_crack() -> None:
    assert measure_cracks(np.zeros((20, 30), bool)) == CrackGeometry(0, 0, 0, None, 0, 0)


def test_specks_and_blobs() -> None:
    mask = np.zeros((50, 50), bool)
    mask[3, 3] = True
    speck = measure_cracks(mask)
    assert (speck.length, speck.mean_width, speck.max_width, speck.orientation) == (1, 1, 1, None)
    y, x = np.mgrid[:50, :50] - 25
    blob = measure_cracks(np.hypot(x, y) <= 15)
    assert blob.length == pytest.approx(30, abs=2)
    assert blob.max_width == pytest.approx(30, abs=1)
    whole = measure_cracks(np.ones((30, 40), bool))
    assert whole.length == pytest.approx(40, abs=1)
    assert whole.max_width == pytest.approx(30, abs=1)
    assert whole.density == whole.length / 1200


def test_corners_are_walked_once() -> None:
    corner = np.zeros((4, 4), bool)
    corner[0, :3] = corner[1:3, 2] = True
    assert len(skeleton_graph(corner).edges) == 4
    # A pixel at the right edge is not beside the first of the next row
    edge = np.zeros((2, 4), bool)
    edge[0, 3] = edge[1, 0] = True
    assert not len(skeleton_graph(edge).edges)


def test_scale() -> None:
    pixels = measure_cracks(bar(100, 5, 0))
    scaled = pixels.scaled(0.2)
    assert scaled.length == pytest.approx(0.2 * pixels.length)
    assert scaled.mean_width == pytest.approx(0.2 * pixels.mean_width)
    assert scaled.max_width == pytest.approx(0.2 * pixels.max_width)
    assert scaled.density == pytest.approx(scaled.length / (0.2 * SIDE) ** 2)
    assert scaled.orientation == pixels.orientation
