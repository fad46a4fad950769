from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize
from mmengine.dataset import Compose
from mmseg.datasets.transforms import PackSegInputs, RandomCrop
from PIL import Image

from crack_plugin.datasets import LabelError, LoadYOLOPolygons

# The left half of the upper quarter.
CORNER = '0 0 0 0.5 0 0.5 0.25 0 0.25\n'


@pytest.fixture
def sample(tmp_path: Path) -> dict:
    """An image 40 px wide and 20 px high, black but for the pixels of its label."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:6, :21] = 255
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    (tmp_path / 'a.txt').write_text(CORNER)
    return {'img_path': str(tmp_path / 'a.png'), 'label_path': str(tmp_path / 'a.txt'), 'seg_fields': []}


def test_adds_the_map_and_its_field(sample):
    results = Compose([LoadImageFromFile(), LoadYOLOPolygons()])(sample)
    assert results['gt_seg_map'].dtype == np.uint8
    assert results['seg_fields'] == ['gt_seg_map']
    np.testing.assert_array_equal(results['gt_seg_map'], results['img'][..., 0] // 255)


def test_sample_without_label_path_passes_unchanged():
    results = {'img_path': 'a.png', 'ori_shape': (4, 4)}
    assert LoadYOLOPolygons()(results) is results
    assert results == {'img_path': 'a.png', 'ori_shape': (4, 4)}


def test_exif_orientation_is_applied(sample, tmp_path):
    image = Image.open(sample['img_path'])
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its left side: to be shown, turned by 90 degrees clockwise
    image.rotate(90, expand=True).save(tmp_path / 'a.jpg', exif=exif, quality=100)
    results = Compose([LoadImageFromFile(), LoadYOLOPolygons()])(sample | {'img_path': str(tmp_path / 'a.jpg')})
    assert results['gt_seg_map'].shape == results['ori_shape'] == (20, 40)
    np.testing.assert_array_equal(results['gt_seg_map'], results['img'][..., 0] > 127)


def test_later_transforms_move_the_map_with_the_image(sample):
    pipeline = [RandomFlip(prob=1.0), RandomCrop((16, 24)), Resize((48, 32), interpolation='nearest')]
    results = Compose([LoadImageFromFile(), LoadYOLOPolygons(), *pipeline])(sample)
    np.testing.assert_array_equal(results['gt_seg_map'], results['img'][..., 0] // 255)


def test_after_a_resize_the_map_keeps_the_size_of_the_file(sample):
    packed = Compose([LoadImageFromFile(), Resize((20, 10)), LoadYOLOPolygons(), PackSegInputs()])(sample)
    assert packed['inputs'].shape == (3, 10, 20)
    assert packed['data_samples'].gt_sem_seg.data.shape == (1, 20, 40)


def test_names_labels_and_label_map_of_the_dataset(sample):
    results = sample | {'ori_shape': (20, 40), 'yolo_names': ['crack'], 'yolo_labels': [2], 'label_map': {0: 2, 2: 0}}
    label_map = LoadYOLOPolygons()(results)['gt_seg_map']
    assert label_map[0, 0] == 0
    assert label_map[-1, -1] == 2
    Path(sample['label_path']).write_text(CORNER.replace('0', '1', 1))
    with pytest.raises(LabelError, match=r"a\.txt, line 1: unknown class id '1': the known classes are 0 'crack'"):
        LoadYOLOPolygons()(results)


def test_way_to_treat_boxes(sample):
    Path(sample['label_path']).write_text('0 0.5 0.5 1 1')
    results = sample | {'ori_shape': (20, 40)}
    assert LoadYOLOPolygons()(results | {'boxes': 'fill'})['gt_seg_map'].all()
    assert not LoadYOLOPolygons()(results | {'boxes': 'drop'})['gt_seg_map'].any()
    with pytest.raises(LabelError, match='detection box'):
        LoadYOLOPolygons()(results)


def test_missing_label(sample):
    Path(sample['label_path']).unlink()
    results = sample | {'ori_shape': (20, 40)}
    background = LoadYOLOPolygons()(results | {'missing_label': 'background'})['gt_seg_map']
    assert background.shape == (20, 40)
    assert not background.any()
    with pytest.raises(FileNotFoundError, match=r'label file .*a\.txt does not exist'):
        LoadYOLOPolygons()(results | {'missing_label': 'error'})


def test_needs_the_size_of_the_image(sample):
    with pytest.raises(ValueError, match='put LoadImageFromFile before it'):
        LoadYOLOPolygons()(sample)
