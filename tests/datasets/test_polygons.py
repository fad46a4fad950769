from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from crack_plugin.datasets.polygons import (
    LabelError,
    Polygon,
    format_labels,
    mask_to_polygons,
    parse_labels,
    rasterize,
)

CRACKFOREST = Path(__file__).parents[3] / 'shared' / 'data' / 'crackforest'
SHAPE = (20, 10)
TRIANGLE = '0 0.1 0.1 0.9 0.1 0.5 0.9'


def read_mask(text: str | bytes, shape: tuple[int, int] = SHAPE, **options) -> np.ndarray:
    return rasterize(parse_labels(text, shape, **options), shape)


def message_of(text: str | bytes, **options) -> str:
    with pytest.raises(LabelError) as caught:
        parse_labels(text, SHAPE, source='a/b.txt', **options)
    return str(caught.value)


@pytest.mark.skipif(not CRACKFOREST.is_dir(), reason='needs the CrackForest photographs')
def test_crackforest_labels_give_its_masks_pixel_for_pixel():
    labels = sorted(CRACKFOREST.glob('train/labels/*.txt'))
    assert labels
    for path in labels:
        mask = cv2.imread(str(path.parents[1] / 'masks' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
        label_map = read_mask(path.read_bytes(), mask.shape, names=['crack'], source=str(path))
        np.testing.assert_array_equal(label_map * 255, mask)


def test_rectangle_includes_its_boundary():
    label_map = read_mask('0 0.2 0.1 0.5 0.1 0.5 0.3 0.2 0.3')
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:7, 2:6] = 1
    np.testing.assert_array_equal(label_map, expected)
    assert label_map.dtype == np.uint8


def test_overlapping_polygons_of_one_class_are_a_union():
    square = '0 0.2 0.1 0.5 0.1 0.5 0.3 0.2 0.3\n'
    np.testing.assert_array_equal(read_mask(square * 2), read_mask(square))


def test_later_class_covers_earlier_one_and_ids_count_from_label_one():
    large, small = '{} 0 0 1 0 1 1 0 1\n', '{} 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n'
    assert np.unique(read_mask(large.format(2) + small.format(0))).tolist() == [1, 3]
    assert np.unique(read_mask(small.format(0) + large.format(2))).tolist() == [3]


def test_labels_map_and_leave_out_classes():
    polygons = parse_labels('0 0 0 1 0 1 1 0 1\n1 0.2 0.2 0.4 0.2 0.4 0.4\n', SHAPE)
    assert np.unique(rasterize(polygons, SHAPE, labels=[None, 7])).tolist() == [0, 7]


@pytest.mark.parametrize(
    'text',
    [
        TRIANGLE + '\r\n',
        '\n\n  ' + TRIANGLE + '   \t\n \n',
        '\ufeff' + TRIANGLE,
        ('\ufeff' + TRIANGLE + '\r').encode(),
        '0 1e-1 1E-1 9e-01 +.1 5.e-1 0.09e1',
        '0.0 .1 .1 .9 .1 .5 .9',
    ],
    ids=['crlf', 'blanks', 'bom', 'bom bytes', 'scientific', 'float id'],
)
def test_spellings_of_the_same_triangle(text):
    np.testing.assert_array_equal(read_mask(text), read_mask(TRIANGLE))


def test_empty_file_is_background():
    assert not read_mask('').any()
    assert not read_mask(b'\r\n').any()


@pytest.mark.parametrize(
    ('line', 'part'),
    [
        ('0 0.1 0.1 0.9 0.1 0.5', 'odd number'),
        ('0 0.1 0.1 0.9 x 0.5 0.9', "value 5 is 'x', which is not a number"),
        ('0 0.1 0.1 0.9 1_0 0.5 0.9', "value 5 is '1_0'"),
        ('0 0.1 0.1 0.9 \u0661 0.5 0.9', "value 5 is '\u0661'"),
        ('0 0.1 0.1 nan 0.1 0.5 0.9', "value 4 is 'nan', which is not a finite number"),
        ('0 0.1 0.1 -inf 0.1 0.5 0.9', "'-inf'"),
        ('0 0.1 0.1 1e999 0.1 0.5 0.9', "'1e999'"),
        ('1e999 0.1 0.1 0.9 0.1 0.5 0.9', "'1e999'"),
        ('0', '0 point(s)'),
        ('0 0.1 0.1', '1 point(s)'),
        ('0.5 0.1 0.1 0.9 0.1 0.5 0.9', "class id '0.5' is not a whole number"),
        ('1 0.1 0.1 0.9 0.1 0.5 0.9', "unknown class id '1': the known classes are 0 'crack'"),
        ('-1 0.1 0.1 0.9 0.1 0.5 0.9', "unknown class id '-1'"),
        ('0 0.1 0.1 480 320 0.5 0.9', 'point 2 of 3 is (x, y) = (480, 320), more than one pixel outside'),
    ],
)
def test_faulty_line_is_named(line, part):
    message = message_of(f'{TRIANGLE}\n\n{line}\n{TRIANGLE}', names=['crack'])
    assert message.startswith('a/b.txt, line 3: ')
    assert part in message


def test_bytes_that_are_not_text_are_named():
    assert message_of(TRIANGLE.encode() + b'\n0 \xff').startswith('a/b.txt, line 2: byte 0xff is not UTF-8')


def test_one_pixel_outside_is_clipped_and_further_is_an_error():
    height, width = SHAPE
    edge, outside, far = 1.0, 1 + 1 / width, 1 + 1.1 / width
    line = '0 0.1 {y0} {x} 0.5 0.1 0.9'
    np.testing.assert_array_equal(
        read_mask(line.format(x=outside, y0=-1 / height)), read_mask(line.format(x=edge, y0=0))
    )
    assert 'more than one pixel outside the image of 10 x 20 pixels' in message_of(line.format(x=far, y0=0))
    assert 'more than one pixel outside' in message_of(line.format(x=edge, y0=-1.1 / height))


@settings(deadline=None)
@given(
    pixels=st.lists(st.tuples(st.integers(-10, 19), st.integers(-20, 39)), min_size=3, max_size=7),
    boxes=st.just('fill'),
)
@example(pixels=[(0, 0), (0, 20), (1, 1)], boxes='fill')
def test_clipping_is_cropping_a_larger_image(pixels, boxes):
    height, width = SHAPE
    text = '0 ' + ' '.join(f'{x / width:.6f} {y / height:.6f}' for x, y in pixels)
    larger = np.zeros((3 * height, 3 * width), np.uint8)
    cv2.fillPoly(larger, [np.add(pixels, (width, height))], 1)
    cropped = larger[height : 2 * height, width : 2 * width]
    inside = np.array(pixels).min() >= 0 and (np.array(pixels).max(axis=0) <= [width, height]).all()
    label_map = read_mask(text, boxes=boxes, outside='clip')
    if inside:  # filled as always, and what lies on the lower or right edge alone does not vanish
        assert (label_map >= cv2.fillPoly(np.zeros(SHAPE, np.uint8), [np.array(pixels)], 1)).all()
    elif not cropped.any():  # a polygon that is at most a pixel outside does not vanish
        assert (label_map >= cropped).all()
    else:
        np.testing.assert_array_equal(label_map, cropped)


def test_clipping_boxes_and_what_is_all_outside():
    np.testing.assert_array_equal(
        read_mask('0 1 0.5 0.4 0.2', boxes='fill', outside='clip'), read_mask('0 0.8 0.4 1 0.4 1 0.6 0.8 0.6')
    )
    far, near = '0 1.5 0.1 1.7 0.1 1.5 0.9', '0 1.08 0.1 1.08 0.5 1.08 0.9'
    assert not read_mask(far, outside='clip').any()
    np.testing.assert_array_equal(read_mask(near, outside='clip'), read_mask(near))
    assert read_mask(near).any()


def test_which_points_outside_are_refused():
    assert "outside='clip' of the dataset, --outside clip of the tools" in message_of('0 0.1 0.1 1.3 0.1 0.5 0.9')
    for outside in ('error', 'clip'):
        message = message_of('0 1 1 9 2 5 18', outside=outside)  # pixels
        assert 'point 2 of 3' in message
        assert 'Pixel coordinates have to be divided by the image size' in message
        assert '--outside' not in message
    with pytest.raises(ValueError, match="outside='cut' is not known"):
        parse_labels('', SHAPE, outside='cut')


def test_a_coordinate_of_one_reaches_the_last_pixel():
    assert read_mask('0 0 0 1 0 1 1 0 1').all()


@pytest.mark.parametrize('line', ['0 0.1 0.5 0.9 0.5 0.9 0.5', '0 0.1 0.5 0.9 0.5 0.1 0.5', '0 .1 .5 .5 .5 .9 .5'])
def test_a_crack_one_pixel_wide_does_not_vanish(line):
    expected = np.zeros(SHAPE, np.uint8)
    expected[10, 1:10] = 1
    np.testing.assert_array_equal(read_mask(line), expected)


@pytest.mark.parametrize(('line', 'edge'), [('0 1 .2 1 .8 1 .5', np.s_[:, -1]), ('0 .2 1 .8 1 .5 1', np.s_[-1])])
def test_a_crack_along_the_far_edge_does_not_vanish(line, edge):
    label_map = read_mask(line)
    assert label_map.any()
    assert label_map.sum() == label_map[edge].sum()


def test_a_polygon_with_all_corners_on_the_far_edges_keeps_its_shape():
    expected = cv2.fillPoly(np.zeros(SHAPE, np.uint8), [np.array([(10, 0), (0, 20), (10, 20)])], 1)
    np.testing.assert_array_equal(read_mask('0 1 0 0 1 1 1'), expected)


def test_box_among_polygons():
    box = '0 0.5 0.5 0.4 0.2'
    message = message_of(f'{TRIANGLE}\n{box}')
    assert message.startswith('a/b.txt, line 2: ')
    assert 'detection box' in message
    assert 'two points' in message
    np.testing.assert_array_equal(read_mask(box, boxes='fill'), read_mask('0 0.3 0.4 0.7 0.4 0.7 0.6 0.3 0.6'))
    np.testing.assert_array_equal(read_mask(f'{TRIANGLE}\n{box}', boxes='drop'), read_mask(TRIANGLE))


def test_box_is_checked_like_a_polygon():
    assert 'negative' in message_of('0 0.5 0.5 -0.4 0.2', boxes='fill')
    assert 'outside' in message_of('0 0.9 0.5 0.8 0.2', boxes='fill')
    assert 'unknown class' in message_of('3 0.5 0.5 0.4 0.2', boxes='drop', names=['crack'])


def test_unknown_way_to_treat_boxes():
    with pytest.raises(ValueError, match="boxes='keep' is not known"):
        parse_labels('', SHAPE, boxes='keep')


words = st.one_of(
    st.floats().map(repr),
    st.floats(-0.2, 1.2).map(repr),
    st.integers().map(str),
    st.sampled_from(['0', '1', '0.5', 'nan', '1e400', 'x', '1_0', '\ufeff', '\x00', '\x85', '\u2028']),
    st.text(max_size=3),
)
lines = st.lists(words, max_size=9).map(' '.join)
texts = st.lists(lines, max_size=4).map('\n'.join)


@settings(deadline=None)
@given(
    content=st.one_of(texts, st.text(), st.binary()),
    names=st.sampled_from([None, ['crack']]),
    boxes=st.sampled_from(['error', 'fill', 'drop']),
    outside=st.sampled_from(['error', 'clip']),
)
def test_any_text_ends_in_a_mask_or_a_label_error(content, names, boxes, outside):
    try:
        label_map = read_mask(content, names=names, boxes=boxes, outside=outside)
    except LabelError as error:
        assert str(error).startswith('label text, line ')
    else:
        assert label_map.shape == SHAPE


positions = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


@settings(deadline=None)
@example(points=[(0, 1), (1, 0), (1, 0)], shape=(1, 1))
@example(points=[(1, 0.9), (0.9, 1), (1, 1)], shape=(10, 10))
@given(
    points=st.lists(st.tuples(positions, positions), min_size=3, max_size=6),
    shape=hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
)
def test_no_polygon_vanishes(points, shape):
    assert read_mask('0 ' + ' '.join(f'{x!r} {y!r}' for x, y in points), shape).any()


masks = hnp.array_shapes(min_dims=2, max_dims=2, max_side=24).flatmap(lambda shape: hnp.arrays(bool, shape))


@settings(deadline=None)
@given(mask=masks)
def test_any_mask_survives_text(mask):
    np.testing.assert_array_equal(read_mask(format_labels(mask), mask.shape), mask)


@pytest.mark.parametrize('density', [0.3, 0.5, 0.8, 0.98])
def test_a_noisy_mask_with_many_holes_survives_text(density):
    mask = np.random.default_rng(0).random((150, 200)) < density
    np.testing.assert_array_equal(read_mask(format_labels(mask), mask.shape), mask)


def test_pieces_have_no_hole_and_cover_nothing_else():
    mask = np.ones((30, 40), bool)
    mask[5:25, 5:10] = mask[8:12, 20:35] = mask[20, 30] = False
    mask[10, 22] = True
    union = np.zeros(mask.shape, np.uint8)
    for points in mask_to_polygons(mask):
        piece = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [points], 1)
        np.testing.assert_array_equal(ndimage.binary_fill_holes(piece), piece)
        union |= piece
    np.testing.assert_array_equal(union, mask)


@pytest.mark.parametrize('size', [1, 2, 7])
def test_small_regions_are_written_with_three_points(size):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4, 2 : 2 + size] = 255
    assert len(format_labels(mask, class_id=3).split()) == 7
    np.testing.assert_array_equal(read_mask(format_labels(mask, class_id=3)), (mask > 0) * 4)


@pytest.mark.parametrize('shape', [(2, 12_000), (12_000, 2), (1, 123_457)])
def test_long_images_survive_text(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    np.testing.assert_array_equal(read_mask(format_labels(mask), shape), mask)


def test_empty_mask_is_an_empty_file():
    assert format_labels(np.zeros(SHAPE)) == ''


def test_a_mask_is_two_dimensional():
    with pytest.raises(ValueError, match=r'\(H, W\), this one has \(4, 4, 3\)'):
        mask_to_polygons(np.zeros((4, 4, 3)))


def test_polygon_is_id_and_points():
    (polygon,) = parse_labels(TRIANGLE, SHAPE)
    assert isinstance(polygon, Polygon)
    assert polygon.class_id == 0
    np.testing.assert_array_equal(polygon.points, [(0.1, 0.1), (0.9, 0.1), (0.5, 0.9)])
