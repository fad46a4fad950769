"""`tools/convert_coco_to_yolo.py`."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset

pytest.importorskip('pycocotools')
from pycocotools import mask as coco_mask

TOOLS = Path(__file__).parents[2] / 'tools'
SHAPE = (30, 41)


@pytest.fixture
def convert(monkeypatch) -> Callable:
    monkeypatch.syspath_prepend(TOOLS)
    return runpy.run_path(str(TOOLS / 'convert_coco_to_yolo.py'))['main']


@pytest.fixture
def ring() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:25, 5:30] = 1
    mask[10:20, 10:20] = 0
    return mask


@pytest.fixture
def content(tmp_path, ring) -> dict[str, Any]:
    """A ring as run lengths, two polygons, an image without annotation; Roboflow's root category."""
    (tmp_path / 'photos').mkdir()
    for name in ('a.jpg', 'b.jpg', 'c.jpg'):
        Image.new('RGB', SHAPE[::-1]).save(tmp_path / 'photos' / name)
    uncompressed = {'size': list(SHAPE), 'counts': _run_lengths(ring)}
    polygons = [[3.5, 2.0, 30.2, 8.9, 11.0, 28.0], [1.0, 1.0, 6.0, 1.0, 6.0, 4.0]]
    return {
        'images': [
            {'id': i, 'file_name': f'{name}.jpg', 'height': SHAPE[0], 'width': SHAPE[1]}
            for i, name in enumerate('abc', start=7)
        ],
        'categories': [
            {'id': 0, 'name': 'defects', 'supercategory': 'none'},
            {'id': 1, 'name': 'crack', 'supercategory': 'defects'},
        ],
        'annotations': [
            {'id': 1, 'image_id': 7, 'category_id': 1, 'segmentation': uncompressed, 'iscrowd': 1},
            {'id': 2, 'image_id': 8, 'category_id': 1, 'segmentation': polygons, 'iscrowd': 0},
        ],
    }


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns."""
    values = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(values)) + 1
    return np.diff([0, *changes.tolist(), values.size]).tolist()


def run(convert: Callable, tmp_path: Path, content: Any, split: str = 'train', *options: str) -> None:
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    convert([str(tmp_path / 'coco.json'), str(tmp_path / 'photos'), str(tmp_path / 'out'), '--split', split, *options])


def error_of(convert: Callable, tmp_path: Path, content: Any, capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(convert, tmp_path, content, 'train', *options)
    assert stop.value.code == 1
    return capsys.readouterr().err


def masks_of(tmp_path: Path, split: str = 'train') -> list[np.ndarray]:
    dataset = YOLOCrackDataset(tmp_path / 'out', split, pipeline=[LoadImageFromFile(), LoadYOLOPolygons()])
    return [sample['gt_seg_map'] for sample in dataset]


def polygon_mask(polygons: list[list[float]], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *shape)))


def test_masks_are_those_of_pycocotools(convert, tmp_path, content, ring):
    run(convert, tmp_path, content)
    run(convert, tmp_path, content, split='valid')
    dataset = YOLOCrackDataset(tmp_path / 'out', 'valid', pipeline=[LoadImageFromFile(), LoadYOLOPolygons()])
    masks = [sample['gt_seg_map'] for sample in dataset]
    encoded = coco_mask.merge(coco_mask.frPyObjects(content['annotations'][1]['segmentation'], *SHAPE))
    np.testing.assert_array_equal(masks[0], ring)
    np.testing.assert_array_equal(masks[1], coco_mask.decode(encoded))
    assert not masks[2].any()


def test_compressed_run_lengths(convert, tmp_path, content, ring):
    counts = coco_mask.encode(np.asfortranarray(ring))['counts'].decode()
    content['annotations'][0]['segmentation']['counts'] = counts
    run(convert, tmp_path, content)
    dataset = YOLOCrackDataset(tmp_path / 'out', pipeline=[LoadImageFromFile(), LoadYOLOPolygons()])
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], ring)


def test_annotations_are_of_the_turned_image(convert, tmp_path, content, capsys):
    image = Image.new('RGB', SHAPE)
    image.save(tmp_path / 'photos' / 'a.jpg')
    assert 'a.jpg (30 x 41, annotated as 41 x 30)' in error_of(convert, tmp_path, content, capsys)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / 'photos' / 'a.jpg', exif=exif)
    run(convert, tmp_path, content)


def test_damaged_image_is_named(convert, tmp_path, content, capsys):
    (tmp_path / 'photos' / 'a.jpg').write_bytes(b'no image')
    assert 'a.jpg is no image' in error_of(convert, tmp_path, content, capsys)


def test_classes_keep_their_names(convert, tmp_path, content):
    content['categories'].append({'id': 5, 'name': 'rust', 'supercategory': 'defects'})
    content['annotations'][1]['category_id'] = 5
    run(convert, tmp_path, content)
    dataset = YOLOCrackDataset(
        tmp_path / 'out', classes=('crack', 'rust'), pipeline=[LoadImageFromFile(), LoadYOLOPolygons()]
    )
    assert [sample['gt_seg_map'].max() for sample in dataset] == [1, 2, 0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda content: content.pop('categories'), 'has no categories'),
        (lambda content: content.update(images={}), 'has no images'),
        (lambda content: content.update(images=[]), 'there is not one image'),
        (lambda content: content['images'].pop(1), 'belong to no image (1): annotation 2.'),
        (lambda content: content.update(categories=[], annotations=[]), 'Classes (1): none.'),
        (lambda content: content['categories'].append({'id': '1', 'name': 'x'}), "1 is 'crack' and 'x'"),
        (lambda content: content['images'][1].pop('height'), 'without a proper height (1): entry 2 of images'),
        (lambda content: content['images'][1].update(width='wide'), 'without a proper width (1): entry 2 of images'),
        (lambda content: content['images'][1].update(width=-41), 'without a proper width (1)'),
        (lambda content: content['images'].append(None), 'without a proper id and file_name and height and width (1)'),
        (lambda content: content['annotations'].append(3), 'entry 3 of annotations'),
        (
            lambda content: content['images'].append(content['images'][1] | {'id': 7}),
            'pairs of images with one id (1): 7 is a.jpg and b.jpg',
        ),
        (lambda content: content['images'][1].update(height=32), 'b.jpg (41 x 30, annotated as 41 x 32)'),
        (lambda content: content['annotations'][0].update(category_id=9), 'not described (1): annotation 1 (9)'),
        (lambda content: content['annotations'][0].update(segmentation=[]), '`--boxes drop` leaves them out'),
        (lambda content: content['annotations'][0].pop('segmentation'), 'box without a segmentation (1): annotation 1'),
        (lambda content: content['annotations'][1].update(segmentation=['x']), 'neither polygons nor run lengths'),
        (lambda content: content['annotations'][1].update(segmentation='x'), 'neither polygons nor run lengths'),
        (lambda content: content['annotations'][1].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'neither polygons'),
        (lambda content: content['annotations'][1].update(segmentation=[[1, 2, 3, 4, 5, None]]), 'neither polygons'),
        (lambda content: content['annotations'][1].update(segmentation=[[1e9, 1, 1, 2, 2, 2]]), 'above a million'),
        (lambda content: content['annotations'][1].update(segmentation=[[99, 1, 1, 2, 2, 2]]), '`--outside clip`'),
        (
            lambda content: content['annotations'][1]['segmentation'][0].__setitem__(0, float('nan')),
            'coordinate that is no pixel of any picture',
        ),
        (lambda content: content['annotations'][0]['segmentation'].update(size=[41, 30]), '([41, 30], image [30, 41]'),
        (lambda content: content['annotations'][0]['segmentation'].pop('size'), '(None, image [30, 41]'),
        (lambda content: content['annotations'][0]['segmentation'].update(counts=[3]), 'do not fill their image'),
        (lambda content: content['annotations'][0]['segmentation'].update(counts='zzzz'), 'do not fill their image'),
        (lambda content: content['annotations'][0]['segmentation'].update(counts=None), 'do not fill their image'),
        (lambda content: content['images'][0].update(file_name='z.jpg'), 'do not exist (1): z.jpg'),
        (lambda content: content['images'][0].update(file_name='x\0y'), 'do not exist (1)'),
    ],
)
def test_faulty_entry_is_named_and_nothing_written(convert, tmp_path, content, change, message, capsys):
    change(content)
    error = error_of(convert, tmp_path, content, capsys).lower()
    assert message.lower() in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


def test_all_faults_are_told_at_once_and_the_corrected_file_converts(convert, tmp_path, content, capsys):
    good = json.loads(json.dumps(content))
    content['annotations'] += [{'id': 10 + i, 'image_id': 9, 'category_id': 1, 'segmentation': []} for i in range(5)]
    content['annotations'].append({'id': 20, 'image_id': 99, 'category_id': 1, 'segmentation': [[1, 1, 5, 1, 5, 5]]})
    content['images'].append({'id': 30, 'file_name': 'lost.jpg', 'height': 5, 'width': 5})
    error = error_of(convert, tmp_path, content, capsys)
    assert 'faults of 3 kinds, nothing was written' in error
    assert '(5): annotation 10 of c.jpg, annotation 11 of c.jpg, annotation 12 of c.jpg and 2 more.' in error
    assert 'annotation 20' in error
    assert 'lost.jpg' in error
    assert not (tmp_path / 'out').exists()
    run(convert, tmp_path, good)
    assert [mask.any() for mask in masks_of(tmp_path)] == [True, True, False]


@pytest.mark.parametrize(('boxes', 'pixels'), [('drop', 0), ('fill', 50)])
def test_box_without_segmentation(convert, tmp_path, content, capsys, boxes, pixels):
    box = {'id': 3, 'image_id': 9, 'category_id': 1, 'bbox': [4.0, 6.0, 10.0, 5.0], 'segmentation': []}
    content['annotations'].append(box)
    run(convert, tmp_path, content, 'train', '--boxes', boxes)
    assert 'box without a segmentation' in capsys.readouterr().out
    mask = masks_of(tmp_path)[2]
    assert mask.sum() == pixels
    if boxes == 'fill':
        assert mask[6:11, 4:14].all()


def test_filled_box_needs_a_bbox(convert, tmp_path, content, capsys):
    content['annotations'].append({'id': 3, 'image_id': 9, 'category_id': 1, 'segmentation': []})
    assert 'nor a proper bbox (1): annotation 3' in error_of(convert, tmp_path, content, capsys, '--boxes', 'fill')


def test_part_of_two_points_is_left_out_and_counted(convert, tmp_path, content, capsys):
    polygons = content['annotations'][1]['segmentation']
    polygons.append([8.0, 6.0, 9.0, 6.0])
    content['annotations'].append({'id': 3, 'image_id': 9, 'category_id': 1, 'segmentation': [[1.0, 1.0, 2.0, 2.0]]})
    run(convert, tmp_path, content)
    masks = masks_of(tmp_path)
    np.testing.assert_array_equal(masks[1], polygon_mask(polygons[:2]))
    assert not masks[2].any()
    out = capsys.readouterr().out
    assert 'fewer than three points, which were left out (2): annotation 2 of b.jpg, annotation 3 of c.jpg' in out


@pytest.mark.parametrize(
    ('x', 'options', 'said'), [(-0.9, [], ''), (-2.1, [], '2.1'), (-300.0, ['--outside', 'clip'], '300')]
)
def test_points_outside_are_cut_at_the_edge(convert, tmp_path, content, capsys, x, options, said):
    content['annotations'][1]['segmentation'] = [[x, 4.0, 20.0, 4.0, 20.0, 20.0, x, 20.0]]
    run(convert, tmp_path, content, 'train', *options)
    # The cut leaves the inside alone: it is that of a rectangle that ends at the edge.
    np.testing.assert_array_equal(masks_of(tmp_path)[1], polygon_mask([[0, 4, 20, 4, 20, 20, 0, 20]]))
    out = capsys.readouterr().out
    assert ('outside their image' in out) == bool(said)
    assert said in out


def test_clipping_keeps_slanted_edges(convert, tmp_path, content):
    # Points moved to the nearest edge would bend this diagonal band.
    band = np.array([(-400, -400), (-390, -400), (440, 430), (440, 440)])
    content['annotations'][1]['segmentation'] = [band.ravel().tolist()]
    run(convert, tmp_path, content, 'train', '--outside', 'clip')
    expected = polygon_mask([(band + 500).ravel().tolist()], (1000, 1000))[500 : 500 + SHAPE[0], 500 : 500 + SHAPE[1]]
    mask = masks_of(tmp_path)[1]
    assert expected.sum() > 200
    assert (mask != expected).sum() <= 3


def test_shape_wholly_outside_is_counted(convert, tmp_path, content, capsys):
    content['annotations'][1]['segmentation'] = [[300, 300, 400, 300, 400, 400]]
    run(convert, tmp_path, content, 'train', '--outside', 'clip')
    assert not masks_of(tmp_path)[1].any()
    assert 'to cover a pixel (1): annotation 2 of b.jpg' in capsys.readouterr().out


@pytest.mark.parametrize('told', [(SHAPE[0] + 1, SHAPE[1]), (SHAPE[0], SHAPE[1] - 1), (SHAPE[0] - 1, SHAPE[1] + 1)])
def test_picture_of_another_pixel_is_scaled(convert, tmp_path, content, capsys, told):
    thin = np.zeros(told, np.uint8)
    thin[told[0] - 4, :] = 1  # wherever a row is too many, the crack must not be in it
    for image in content['images']:
        image.update(height=told[0], width=told[1])
    content['annotations'][0]['segmentation'] = {'size': list(told), 'counts': _run_lengths(thin)}
    square = np.array([(0, 0), (told[1], 0), (told[1], told[0]), (0, told[0])], float)
    content['annotations'][1]['segmentation'] = [square.ravel().tolist()]
    run(convert, tmp_path, content)
    masks = masks_of(tmp_path)
    assert masks[0].any(axis=0).all()
    assert masks[0].sum() in (SHAPE[1], 2 * SHAPE[1])
    assert masks[1].all()
    assert 'annotations were scaled (3): a.jpg (41 x 30' in capsys.readouterr().out


@pytest.mark.parametrize('dialect', ['flat', 'pairs', 'parts of pairs', 'list of run lengths'])
def test_dialects_of_segmentation(convert, tmp_path, content, ring, dialect):
    polygons = content['annotations'][1]['segmentation']
    pairs = np.reshape(polygons[0], (-1, 2)).tolist()
    content['annotations'][1]['segmentation'] = {
        'flat': polygons[0],
        'pairs': pairs,
        'parts of pairs': [pairs, np.reshape(polygons[1], (-1, 2)).tolist()],
        'list of run lengths': [content['annotations'][0]['segmentation']],
    }[dialect]
    run(convert, tmp_path, content)
    expected = {'parts of pairs': polygon_mask(polygons), 'list of run lengths': ring}
    np.testing.assert_array_equal(masks_of(tmp_path)[1], expected.get(dialect, polygon_mask(polygons[:1])))


def test_numbers_as_floats_and_text(convert, tmp_path, content, ring):
    for image in content['images']:
        image.update(id=str(image['id']), height=float(SHAPE[0]), width=str(SHAPE[1]))
    content['categories'][1]['id'] = '1'
    run_lengths = content['annotations'][0]['segmentation']
    run_lengths['size'] = [float(side) for side in SHAPE]
    content['annotations'][1]['image_id'] = 8.0
    run(convert, tmp_path, content)
    masks = masks_of(tmp_path)
    np.testing.assert_array_equal(masks[0], ring)
    assert masks[1].any()


@pytest.mark.parametrize(
    'name',
    [
        'images\\{}',
        'C:\\Users\\me\\photos\\{}',
        '/somewhere/else/{}',
        '../../media/upload/3/{}',
        'file:///home/me/photos/{}',
        'https://bucket.example.com/photos/{}?X-Signature=a%2Fb',
        'http://images.cocodataset.org/val2017/{}',
        '/data/local-files/?d=photos%2F{}',
        '/data/local-files/?d=photos%5C{}',
        's3://bucket/photos/{}',
    ],
)
def test_file_names_from_another_machine(convert, tmp_path, content, ring, name):
    for image in content['images']:
        image['file_name'] = name.format(image['file_name'])
    run(convert, tmp_path, content)
    np.testing.assert_array_equal(masks_of(tmp_path)[0], ring)


@pytest.mark.parametrize(
    ('there', 'written'),
    [
        ('a b (1).jpg', 'a%20b%20%281%29.jpg'),
        ('a%20b.jpg', 'a%20b.jpg'),
        ('50% #1?.jpg', '50% #1?.jpg'),
        ('Riss-ü.jpg', 'Riss-u\u0308.jpg'),
        ('Riss-ü.jpg', 'Riss-%C3%BC.jpg'),
    ],
)
def test_file_names_in_other_spellings(convert, tmp_path, content, there, written):
    (tmp_path / 'photos' / 'a.jpg').rename(tmp_path / 'photos' / there)
    content['images'][0]['file_name'] = written
    run(convert, tmp_path, content)
    assert (tmp_path / 'out' / 'train' / 'images' / there).exists()


def test_coco_url_in_the_place_of_the_file_name(convert, tmp_path, content, ring):
    for image in content['images']:
        image['coco_url'] = f'http://images.cocodataset.org/{image.pop("file_name")}'
    run(convert, tmp_path, content)
    np.testing.assert_array_equal(masks_of(tmp_path)[0], ring)


def test_one_file_for_two_names_is_a_fault(convert, tmp_path, content, capsys):
    content['images'][1]['file_name'] = 'other/a.jpg'
    assert 'a.jpg and other/a.jpg lead to' in error_of(convert, tmp_path, content, capsys)


def test_images_listed_twice(convert, tmp_path, content, ring, capsys):
    content['images'].append(dict(content['images'][0]))
    content['images'].append(content['images'][0] | {'id': 50})
    content['annotations'][1]['image_id'] = 50
    run(convert, tmp_path, content)
    union = ring | polygon_mask(content['annotations'][1]['segmentation'])
    np.testing.assert_array_equal(masks_of(tmp_path)[0], union)
    out = capsys.readouterr().out
    assert 'listed twice and taken once (1): a.jpg' in out
    assert 'listed under two ids, whose annotations were united (1): a.jpg' in out


@pytest.mark.parametrize('annotation_id', [None, 1])
def test_ids_of_annotations_do_not_matter(convert, tmp_path, content, annotation_id):
    content['annotations'][1]['id'] = annotation_id
    run(convert, tmp_path, content)
    assert [mask.any() for mask in masks_of(tmp_path)] == [True, True, False]


@pytest.mark.parametrize(
    ('categories', 'names'),
    [
        ([(0, 'crack', 'none'), (1, 'crack', 'crack')], ['crack']),
        ([(1, 'crack', 'crack')], ['crack']),
        ([(0, 'cracks', 'none'), (1, 'crack', 'cracks'), (2, 'rust', 'cracks')], ['crack', 'rust']),
        ([(1, 'crack', None), (2, 'crack', None)], ['crack']),
    ],
)
@pytest.mark.parametrize('annotated', [True, False])
def test_parent_categories_are_no_classes(convert, tmp_path, content, categories, names, annotated):
    content['categories'] = [{'id': key, 'name': name, 'supercategory': group} for key, name, group in categories]
    content['annotations'] = content['annotations'] if annotated else []
    run(convert, tmp_path, content)
    assert yaml.safe_load((tmp_path / 'out' / 'data.yaml').read_text()) == {'names': names}
    assert [mask.any() for mask in masks_of_classes(tmp_path, names)] == [annotated, annotated, False]


def masks_of_classes(tmp_path: Path, names: list[str]) -> list[np.ndarray]:
    dataset = YOLOCrackDataset(tmp_path / 'out', classes=names, pipeline=[LoadImageFromFile(), LoadYOLOPolygons()])
    return [sample['gt_seg_map'] for sample in dataset]


def test_what_was_written_is_kept_unless_asked(convert, tmp_path, content, ring, capsys):
    assert 'no JSON' not in error_of(convert, tmp_path, [1], capsys)
    run(convert, tmp_path, content)
    assert 'train has already (3)' in error_of(convert, tmp_path, content, capsys)
    (tmp_path / 'out' / 'train' / 'labels' / 'a.txt').unlink()  # as an interrupted run leaves it
    assert 'train has already (3)' in error_of(convert, tmp_path, content, capsys)
    run(convert, tmp_path, content, 'train', '--overwrite')
    np.testing.assert_array_equal(masks_of(tmp_path)[0], ring)
    content['categories'][1]['name'] = 'Riss'
    assert 'from an earlier split' in error_of(convert, tmp_path, content, capsys)
    (tmp_path / 'out' / 'data.yaml').write_text('nothing')
    assert 'data.yaml holds no' in error_of(convert, tmp_path, content, capsys)


def test_images_of_one_label_are_a_fault(convert, tmp_path, content, capsys):
    Image.new('RGB', SHAPE[::-1]).save(tmp_path / 'photos' / 'a.png')
    content['images'][2]['file_name'] = 'a.png'
    assert 'would share one label' in error_of(convert, tmp_path, content, capsys)
