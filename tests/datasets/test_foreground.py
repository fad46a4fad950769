"""Splits without foreground are told when a dataset is opened, without reading all of it."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from crack_plugin.datasets import ImageError, YOLOCrackDataset, foreground
from crack_plugin.datasets.foreground import find_absent

POLYGON, BOX = '0 0 0 1 0 1 1\n', '0 0.5 0.5 0.5 0.5\n'


@pytest.fixture
def write(tmp_path: Path):
    """Writes the labels of a split with an empty file for each image: no image may be read."""

    def write(*labels: str, names: str = '[crack]') -> Path:
        for folder in ('images', 'labels'):
            (tmp_path / 'train' / folder).mkdir(parents=True, exist_ok=True)
        for i, label in enumerate(labels):
            (tmp_path / f'train/images/{i}.png').touch()
            (tmp_path / f'train/labels/{i}.txt').write_text(label)
        (tmp_path / 'data.yaml').write_text(f'names: {names}')
        return tmp_path

    return write


def test_split_of_empty_labels_is_told(write, log):
    write(*[''] * 6)
    (warning,) = open_and_read(write(), log)
    assert "split 'train'" in warning
    assert "no foreground ('crack'), all is background, in 6 images" in warning
    assert 'scores 1.0 in crack/IoU' in warning


def open_and_read(root: Path, log: list[str], **options) -> list[str]:
    """The warnings about classes that occur nowhere."""
    log.clear()
    YOLOCrackDataset(root, **options)
    return [message for message in log if 'A model learns from them' in message]


def test_one_polygon_is_enough(write, log):
    assert open_and_read(write('', '', POLYGON, '\n \n'), log) == []


@pytest.mark.parametrize(
    ('label', 'options', 'told'),
    [
        (BOX, {'boxes': 'drop', 'class_map': {'rust': None}}, True),
        (BOX, {'boxes': 'fill', 'class_map': {'rust': None}}, False),
        (POLYGON, {'class_map': {'crack': None, 'rust': 'crack'}}, True),
        (POLYGON, {'class_map': {'rust': None}}, False),
        (POLYGON, {'classes': ('crack', 'rust')}, True),
        (POLYGON + '1' + POLYGON[1:], {'classes': ('crack', 'rust')}, False),
        (POLYGON, {'classes': ('crack', 'rust'), 'metainfo': {'classes': ('background', 'rust')}}, True),
        (POLYGON, {'classes': ('crack', 'rust'), 'metainfo': {'classes': ('background', 'crack')}}, False),
    ],
)
def test_what_is_drawn_counts(write, log, label, options, told):
    assert bool(open_and_read(write(label, '', names='[crack, rust]'), log, **options)) == told


def test_class_that_is_nowhere_is_named(write, log):
    (warning,) = open_and_read(write(POLYGON, '', names='[crack, rust]'), log, classes=('crack', 'rust'))
    assert "nothing of the class 'rust' in 2 images" in warning
    assert 'crack/IoU/rust' in warning


def test_the_selected_samples_count(write, log):
    root = write('', '', POLYGON)
    assert open_and_read(root, log, indices=3) == []
    assert 'in 2 images' in open_and_read(root, log, indices=2)[0]


def test_label_with_a_fault_is_left_to_the_training(write, log):
    assert open_and_read(write('', '0 0.5\n', ''), log) == []


def test_missing_labels_are_background(write, log):
    root = write('', '')
    (root / 'train/labels/1.txt').unlink()
    assert 'in 2 images' in open_and_read(root, log)[0]


def test_masks_are_looked_at(write, log):
    root = write(*[''] * 3)
    (root / 'train/masks').mkdir()
    for i in range(3):
        cv2.imwrite(str(root / f'train/masks/{i}.png'), np.zeros((4, 4), np.uint8))
    assert 'in 3 images' in open_and_read(root, log, annotations='masks')[0]
    cv2.imwrite(str(root / 'train/masks/1.png'), np.eye(4, dtype=np.uint8) * 255)
    assert open_and_read(root, log, annotations='masks') == []


def test_reading_stops_at_the_first_that_is_found(write):
    dataset = YOLOCrackDataset(write(*[POLYGON] * 50))
    assert find_absent(dataset.get_data_info, len(dataset), [1]) == ([], 1)


@pytest.mark.parametrize('annotations', ['polygons', 'masks'])
def test_reading_is_limited(write, log, monkeypatch, annotations):
    monkeypatch.setitem(foreground.LOOKED_AT, annotations, 7)
    root = write(*[''] * 20)
    (root / 'train/masks').mkdir()
    (warning,) = open_and_read(root, log, annotations=annotations)
    assert 'in the 7 of 20 images looked at' in warning


def test_only_the_main_process_looks(write, log, monkeypatch):
    monkeypatch.setattr('crack_plugin.datasets.yolo_crack.is_main_process', lambda: False)
    assert open_and_read(write('', ''), log) == []


def test_training_tells_before_its_first_iteration(tiny_config, write):
    """Of the training set and of the validation set."""
    root = write('', '')
    (root / 'train').rename(root / 'valid')
    write('', '', '')
    cfg = Config.fromfile(tiny_config)
    cfg.experiment_name = 'no_foreground'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(root)
    runner = Runner.from_cfg(cfg)
    happened: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: happened.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.call_hook = lambda name, **_: happened.append(name)
    with pytest.raises(ImageError, match='cannot be decoded'):  # the images are empty files
        runner.train()
    before = [text for text in happened[: happened.index('before_train')] if 'no foreground' in text]
    assert len(before) == 2
    assert "split 'train'" in before[0]
    assert "split 'valid'" in before[1]
