from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crack_plugin.datasets.inspection import inspect_sample, open_split
from crack_plugin.datasets.joined_parts import split_joined_parts
from crack_plugin.datasets.polygons import format_labels, mask_to_polygons, parse_labels, rasterize

SHAPE = (300, 400)


def line_of(points: np.ndarray) -> str:
    return '0 ' + ' '.join(f'{value:.6f}' for value in (points / SHAPE[::-1]).ravel()) + '\n'


def read(text: str) -> np.ndarray:
    return rasterize(parse_labels(text, SHAPE), SHAPE)


def join(parts: list[np.ndarray]) -> np.ndarray:
    """One polygon of all parts: each joined to the next at their nearest points, forth and back."""
    ends: list[list[int]] = [[] for _ in parts]
    for i, (part, following) in enumerate(pairwise(parts)):
        distances = np.linalg.norm(part[:, None] - following, axis=2)
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        ends[i].append(first)
        ends[i + 1].append(second)
    out, back = [], []
    for part, indices in zip(parts, ends, strict=True):
        closed = np.concatenate([np.roll(part, -indices[0], axis=0), part[indices[0] : indices[0] + 1]])
        if len(indices) == 1:
            out.append(closed)
        else:
            half = (indices[1] - indices[0]) % len(part)
            out.append(closed[: half + 1])
            back.insert(0, closed[half:])
    return np.concatenate(out + back)


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


@pytest.mark.parametrize('kind', ['any', 'whole pixels', 'rectangles'])
def test_joined_parts_are_drawn_alone(kind):
    rng = np.random.default_rng(0)
    for count in [2, 3, 4, 5] * 10:
        parts = []
        for cell in rng.permutation(12)[:count].tolist():
            center = np.array([cell % 4 * 100 + 50, cell // 4 * 100 + 50])
            angles = np.sort(rng.random(rng.integers(3, 9))) * 2 * np.pi
            part = center + rng.uniform(8, 45, len(angles))[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            if kind == 'rectangles':
                side_x, side_y = rng.integers(5, 40, 2)
                part = rectangle(center[0] - side_x, center[1] - side_y, center[0] + side_x, center[1] + side_y)
            parts.append(part if kind == 'any' else part.round())
        polygons = parse_labels(line_of(join(parts)), SHAPE)
        assert [polygon.joined for polygon in polygons] == [True] * count
        np.testing.assert_array_equal(rasterize(polygons, SHAPE), read(''.join(map(line_of, parts))))


@pytest.mark.parametrize('closed', [False, True])
@pytest.mark.parametrize('start', range(11))
@pytest.mark.parametrize('line', ['level', 'slanted'])
def test_it_does_not_matter_where_the_walk_begins(start, closed, line):
    down = 7 if line == 'slanted' else 0
    parts = [rectangle(10, 10, 50, 40), rectangle(100, 10 + down, 140, 60 + down)]
    walk = np.roll(join(parts), -start, axis=0)
    if closed:
        walk = np.concatenate([walk, walk[:1]])
    np.testing.assert_array_equal(read(line_of(walk)), read(''.join(map(line_of, parts))))


def test_lines_that_share_an_end():
    hub, right, below = rectangle(10, 10, 50, 50), rectangle(120, 60, 160, 90), rectangle(60, 120, 90, 160)
    corner = hub[2]
    walk = np.concatenate([[corner], right, right[:1], [corner], below, below[:1], [corner, hub[3], hub[0], hub[1]]])
    polygons = parse_labels(line_of(walk), SHAPE)
    assert len(polygons) == 3
    np.testing.assert_array_equal(rasterize(polygons, SHAPE), read(''.join(map(line_of, [hub, right, below]))))


def test_parts_that_overlap_are_a_union():
    parts = [rectangle(10, 10, 60, 60), rectangle(40, 30, 110, 90)]
    np.testing.assert_array_equal(read(line_of(join(parts))), read(''.join(map(line_of, parts))))


def test_a_hole_stays_a_hole():
    outline, hole, other = rectangle(10, 10, 110, 110), rectangle(40, 40, 80, 80)[::-1], rectangle(200, 20, 260, 70)
    label_map = read(line_of(join([outline, hole])))
    assert label_map[60, 60] == 0
    assert label_map.sum() == 101 * 101 - 39 * 39
    walk = np.concatenate([other, other[:1], outline[1:], outline[:1], hole[:1], hole[1:], hole[:1], outline[:2]])
    expected = label_map + cv2.fillPoly(np.zeros(SHAPE, np.uint8), [other], 1)
    np.testing.assert_array_equal(read(line_of(walk)), expected)


@pytest.mark.parametrize(
    'walk',
    [
        [(10, 10), (90, 40), (160, 45), (90, 40)],
        [(10, 10), (60, 33), (90, 40), (160, 45), (200, 91), (160, 45), (90, 40), (60, 33)],
        [*rectangle(10, 10, 50, 50), (10, 10), (120, 77), (200, 80), (120, 77)],  # from a region to a dead end
        [(10, 10), (10, 50), (50, 50), (120, 77), (200, 80), (220, 140), (290, 130), (200, 80), (120, 77), (50, 50)],
    ],
    ids=['line', 'bent line', 'region with a tail', 'regions joined by a bent crack'],
)
def test_a_thin_crack_walked_there_and_back_is_drawn(walk):
    expected = cv2.fillPoly(np.zeros(SHAPE, np.uint8), [np.array(walk)], 1)
    np.testing.assert_array_equal(read(line_of(np.array(walk))), expected)


@settings(deadline=None)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)), size=st.integers(1, 20))
def test_a_traced_mask_has_no_joined_parts_however_it_is_turned_or_enlarged(mask, size):
    for pixels in mask_to_polygons(mask):
        points = (pixels / mask.shape[::-1]).round(6)
        for turned in (points, 1 - points, np.abs(points - [1, 0]), np.abs(points - [0, 1])):
            shape = (size * mask.shape[0], size * mask.shape[1])
            assert len(split_joined_parts(turned, shape)) == 1
            assert len(split_joined_parts(turned[:, ::-1], shape[::-1])) == 1


def test_regions_joined_by_a_crack_one_pixel_wide_survive_text():
    mask = np.zeros(SHAPE, np.uint8)
    for ends in [((30, 30), (30, 90)), ((30, 30), (90, 90)), ((90, 90), (200, 90))]:
        cv2.line(mask, *ends, 1)
    for center in [(30, 30), (30, 90), (90, 90), (200, 90)]:
        cv2.circle(mask, center, 7, 1, -1)
    np.testing.assert_array_equal(read(format_labels(mask)), mask)


def network() -> np.ndarray:
    """The simplified outline of a crack one pixel wide, with two meshes and two dead ends, as its corners in turn."""
    corners = [(20, 40), (60, 43), (80, 20), (100, 41), (170, 55), (200, 90), (260, 97)]
    mesh, other = (84, 66), (215, 40)
    back = [corners[5], other, corners[4], corners[3], mesh, corners[1]]
    return np.array([*corners, *back])


@pytest.mark.parametrize('decimals', [4, 6])
# At 4 and 10 it would begin with the line between the meshes, as a converter's walk does.
@pytest.mark.parametrize('start', [0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12])
def test_a_simplified_network_of_thin_cracks_is_drawn(start, decimals):
    walk = np.roll(network(), -start, axis=0)
    line = '0 ' + ' '.join(f'{value:.{decimals}f}' for value in (walk / SHAPE[::-1]).ravel())
    drawn = cv2.fillPoly(np.zeros(SHAPE, np.uint8), [walk.astype(np.int32)], 1)
    np.testing.assert_array_equal(read(line), drawn)


def test_joined_parts_with_thin_ends_are_drawn_alone():
    thin = np.array([(10, 10), (50, 12), (50, 40), (45, 90), (50, 40), (12, 40)])
    parts = [thin, rectangle(200, 20, 240, 60), np.roll(thin + np.array((250, 150)), 2, axis=0)]
    np.testing.assert_array_equal(read(line_of(join(parts))), read(''.join(map(line_of, parts))))


def test_the_check_counts_joined_parts(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'train/images/a.png'), np.zeros((*SHAPE, 3), np.uint8))
    parts = [rectangle(10, 10, 50, 40), rectangle(100, 20, 140, 60), rectangle(200, 20, 240, 60)]
    (tmp_path / 'train/labels/a.txt').write_text(line_of(join(parts)) + line_of(rectangle(300, 10, 350, 60)))
    dataset, _ = open_split(tmp_path, 'train')
    sample, problems = inspect_sample(dataset, 0)
    assert sample.polygons == {'crack': 4}
    assert [problem.severity for problem in problems] == ['warning']
    assert 'a.txt: 3 joined parts' in problems[0].text
