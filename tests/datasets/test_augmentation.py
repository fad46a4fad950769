import re
import sys
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from albumentations import check_version
from conftest import CONFIGS, TOOLS, run_tool
from mmengine.config import Config
from mmseg.registry import DATASETS, TRANSFORMS

from crack_plugin.datasets import SeededAlbu

ROOT = Path(__file__).parents[2]


def grey_sample() -> dict:
    return {
        'img': np.full((60, 80, 3), 128, np.uint8),
        'gt_seg_map': np.ones((60, 80), np.uint8),
        'img_shape': (60, 80),
    }


def seed(value: int) -> None:
    np.random.seed(value)  # noqa: NPY002 - what the transforms draw from


def test_augmentation_moves_image_and_label_together(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
    image = np.full((480, 600, 3), 30, np.uint8)
    image[150:300, 75:375] = 220
    cv2.imwrite(str(tmp_path / 'train/images/a.png'), image)
    corners = [(x / 600, y / 480) for x, y in ((75, 150), (374, 150), (374, 299), (75, 299))]
    (tmp_path / 'train/labels/a.txt').write_text('0 ' + ' '.join(f'{x:.6f} {y:.6f}' for x, y in corners))
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack_aug.py').train_dataloader.dataset
    cfg.data_root = str(tmp_path)
    dataset = DATASETS.build(cfg)
    seed(0)
    whole, ignored, compared = 0, 0, 0
    for _ in range(32):
        sample = dataset[0]
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        grey = sample['inputs'].numpy().max(axis=0)
        seen = labels != 255
        assert sample['data_samples'].img_shape == labels.shape
        if (labels == 1).any() and (labels == 0).any():
            dark, bright = (np.median(grey[labels == label]) for label in (0, 1))
            assert bright > dark
            # Blurred edges and nearest labels differ along the boundary; the darkest shadow halves the 220.
            assert ((grey > dark + (bright - dark) / 3) == (labels == 1))[seen].mean() > 0.97
            compared += 1
        whole += labels.shape == (480, 600)
        ignored += not seen.all()
        assert labels.shape[0] >= 240
        assert labels.shape[1] >= 300
    assert 8 < whole < 24
    assert 4 < ignored < 28
    assert compared > 24


def test_preset_has_each_kind_of_change():
    steps = Config.fromfile(CONFIGS / 'sam3_lora_crack_aug.py').train_pipeline
    (albumentations,) = [step for step in steps if step.type == 'SeededAlbu']
    noise = np.random.default_rng(0).choice([100, 200], (90, 120)).astype(np.uint8)
    transform = TRANSFORMS.build(albumentations)
    shapes, shadows, blurs = set(), 0, 0
    for i in range(60):
        seed(i)
        image = transform({'img': np.dstack([noise] * 3), 'gt_seg_map': np.zeros((90, 120), np.uint8)})['img']
        shapes.add(image.shape)
        if (image < 100).any():
            shadows += 1
        else:
            blurs += not np.isin(image, (100, 200)).all()
    assert 15 < len(shapes) < 45
    assert 9 < shadows < 30
    assert 3 < blurs < 18


def test_reference_recipe_stays_without_augmentation():
    steps = [step.type for step in Config.fromfile(CONFIGS / 'sam3_lora_crack.py').train_pipeline]
    assert steps == ['LoadImageFromFile', 'LoadYOLOPolygons', 'PackSegInputs']


def test_numpy_seed_decides_every_choice():
    transforms = [{'type': 'RandomShadow', 'p': 0.5}, {'type': 'RandomCropFromBorders', 'p': 0.5}]
    first, second = SeededAlbu(transforms), SeededAlbu(transforms)
    pictures, both = set(), set()
    for i in range(40):
        seed(i)
        once = first(grey_sample())['img']
        seed(i)
        np.testing.assert_array_equal(second(grey_sample())['img'], once)
        pictures.add(once.tobytes())
        both.add((once.shape != (60, 80, 3), once.min() < 128))
    assert len(pictures) > 20
    # The choices of one transform are not those of the next.
    assert both == {(False, False), (False, True), (True, False), (True, True)}


def test_shape_follows_a_crop():
    sample = SeededAlbu([{'type': 'RandomCrop', 'height': 20, 'width': 30}])(grey_sample())
    assert sample['img_shape'] == sample['gt_seg_map'].shape == (20, 30)


@pytest.mark.parametrize('found', [None, type(sys)('albumentations')], ids=['missing', 'too old'])
def test_error_tells_what_to_install(monkeypatch, found):
    if found:
        found.Compose = object
    monkeypatch.setitem(sys.modules, 'albumentations', found)
    command = f"pip install 'albumentations>=2,<3' opencv-python-headless=={version('opencv-python')}"
    with pytest.raises(ImportError, match=re.escape(command)):
        SeededAlbu([])


@pytest.mark.slow
def test_training_without_albumentations_ends_in_one_paragraph(tiny_config, tmp_path):
    (tmp_path / 'albumentations.py').write_text('raise ImportError')
    config = tmp_path / 'aug.py'
    steps = [{'type': 'LoadImageFromFile'}, {'type': 'SeededAlbu', 'transforms': []}]
    config.write_text(f'_base_ = {str(tiny_config)!r}\ntrain_dataloader = dict(dataset=dict(pipeline={steps}))\n')
    result = run_tool(TOOLS / 'train.py', config, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert 'error: SeededAlbu needs albumentations 2' in result.stderr
    assert 'Traceback' not in result.stderr


def test_albumentations_asks_no_server():
    # The server is asked through this, when albumentations is imported.
    assert check_version.opener is None


def test_both_opencv_wheels_are_of_one_version():
    pins = dict(line.split('==') for line in (ROOT / 'constraints.txt').read_text().splitlines() if '==' in line)
    assert pins['opencv-python'] == pins['opencv-python-headless']
    assert version('opencv-python') == version('opencv-python-headless')
