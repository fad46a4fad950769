"""`tools/convert_coco_to_yolo.py`."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset

pytest.importorskip('pycocotools')
from pycocotools import mask as coco_mask

TOOLS = Path(__file__).parents[2] / 'tools'
SHAPE = (30, 41)


@pytest.fixture
def convert() -> Callable:
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


def run(convert: Callable, tmp_path: Path, content: Any, split: str = 'train') -> None:
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    convert([str(tmp_path / 'coco.json'), str(tmp_path / 'photos'), str(tmp_path / 'out'), '--split', split])


def error_of(convert: Callable, tmp_path: Path, content: Any, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        run(convert, tmp_path, content)
    assert stop.value.code == 1
    return capsys.readouterr().err


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
    assert 'a.jpg has 30 x 41 pixels, but' in error_of(convert, tmp_path, content, capsys)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / 'photos' / 'a.jpg', exif=exif)
    run(convert, tmp_path, content)


def test_damaged_image_is_named(convert, tmp_path, content, capsys):
    (tmp_path / 'photos' / 'a.jpg').write_bytes(b'no image')
    assert 'a.jpg cannot be read' in error_of(convert, tmp_path, content, capsys)


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
        (lambda content: content.update(images=[]), '2 annotations, 1 for one, belong to no image'),
        (lambda content: content.update(images=[], annotations=[]), 'there is not one image'),
        (lambda content: content.update(categories=[], annotations=[]), 'there is not one category'),
        (lambda content: content['categories'].append({'id': 2, 'name': 'crack'}), 'two categories have one name'),
        (lambda content: content['images'][1].pop('height'), 'entry 2 of images has no proper height'),
        (
            lambda content: content['annotations'].append(3),
            'entry 3 of annotations has no proper id and no proper image',
        ),
        (lambda content: content['images'][1].update(id=7), 'two entries of images have the id 7'),
        (lambda content: content['images'][1].update(height=31), 'b.jpg has 41 x 30 pixels, but'),
        (lambda content: content['annotations'][0].update(category_id=9), 'categories [9], which are not described'),
        (lambda content: content['annotations'][0].update(segmentation=[]), 'annotation 1 is a box'),
        (lambda content: content['annotations'][1].update(segmentation=['x']), 'annotation 2 has a segmentation'),
        (lambda content: content['annotations'][1].update(segmentation=[[1e9, 1, 1, 2, 2, 2]]), 'more than one pixel'),
        (
            lambda content: content['annotations'][1]['segmentation'][0].__setitem__(0, float('nan')),
            'more than one pixel',
        ),
        (lambda content: content['annotations'][0]['segmentation'].update(size=[41, 30]), 'run lengths for [41, 30]'),
        (lambda content: content['annotations'][0]['segmentation'].update(counts=[3]), 'do not fill its image'),
        (lambda content: content['annotations'][0]['segmentation'].update(counts='zzzz'), 'do not fill its image'),
        (lambda content: content['images'][0].update(file_name='z.jpg'), '1 of 3 images do not exist'),
    ],
)
def test_faulty_file_is_one_paragraph(convert, tmp_path, content, change, message, capsys):
    change(content)
    assert message in error_of(convert, tmp_path, content, capsys)


def test_what_was_written_is_kept(convert, tmp_path, content, capsys):
    assert 'no JSON' not in error_of(convert, tmp_path, [1], capsys)
    run(convert, tmp_path, content)
    assert 'has 3 of the labels already' in error_of(convert, tmp_path, content, capsys)
    content['categories'][1]['name'] = 'Riss'
    assert 'from an earlier split' in error_of(convert, tmp_path, content, capsys)
    (tmp_path / 'out' / 'data.yaml').write_text('nothing')
    assert 'data.yaml holds no' in error_of(convert, tmp_path, content, capsys)
