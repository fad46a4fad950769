"""What was corrected becomes a dataset, and a training on it a process of its own."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from crack_plugin.app.corrections import checked_name, count, save, yolo_folder
from crack_plugin.app.limits import AppError, BusyError, Limits
from crack_plugin.app.models import Models, Weights, last_adapter
from crack_plugin.app.photographs import NOW, Photograph, Settings
from crack_plugin.app.sessions import Session
from crack_plugin.app.training import Trainer, config_text, training_options
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset

ROOT = Path(__file__).parents[2]
LIMITS = Limits(free_bytes=0)
ZERO_SHOT = Weights('zero-shot', 'zero-shot', zero_shot=True)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Without photographs."""
    (tmp_path / 'session').mkdir()
    return Session(tmp_path / 'session', LIMITS)


def corrected(session: Session, name: str, grey: int = 90) -> Photograph:
    """A photograph in which a bar was found, a part of it erased and another one marked."""
    upload = session.folder / 'upload'
    upload.write_bytes(cv2.imencode('.png', np.full((48, 64, 3), grey, np.uint8))[1].tobytes())
    photograph = session.add(name, upload)
    probability, corrections = np.zeros((2, 48, 64), np.uint8)
    probability[10:14, 5:40] = 200
    corrections[10:14, 30:40] = 2
    corrections[30:34, 5:60] = 1
    photograph.keep(NOW, probability, Settings('zero-shot', 'crack'))
    photograph.correct(corrections)
    return photograph


def expected() -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:14, 5:30] = 1
    mask[30:34, 5:60] = 1
    return mask


@pytest.mark.parametrize('name', ['', '../a', 'a/b', '-a', 'a b', 'x' * 41])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(AppError, match='is no name for a folder'):
        checked_name(name)


def test_dataset_has_the_corrected_masks_in_every_format(session: Session, tmp_path: Path) -> None:
    dataset = tmp_path / 'datasets' / 'mine'
    photographs = [corrected(session, 'a.png'), corrected(session, 'b.png', grey=120)]
    assert str(dataset) in ' '.join(save(photographs, dataset, 0.5, 'crack', LIMITS))
    session.delete()
    assert count(dataset) == 2
    np.testing.assert_array_equal(cv2.imread(str(dataset / 'masks' / 'a.png'), -1), 255 * expected())
    # As tools/train.py reads it.
    read = YOLOCrackDataset(
        yolo_folder(dataset), 'train', pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'LoadYOLOPolygons'}]
    )
    assert len(read) == 2
    for sample in read:
        np.testing.assert_array_equal(sample['gt_seg_map'], expected())
    coco = json.loads((dataset / 'labels' / 'coco' / 'annotations' / 'instances_default.json').read_text())
    assert [image['file_name'] for image in coco['images']] == ['a.png', 'b.png']
    assert [annotation['area'] for annotation in coco['annotations']] == [100, 220, 100, 220]


def test_dataset_grows_and_a_photograph_is_corrected_again(session: Session, tmp_path: Path) -> None:
    dataset = tmp_path / 'mine'
    photograph = corrected(session, 'a.png')
    save([photograph], dataset, 0.5, 'crack', LIMITS)
    photograph.correct(np.full((48, 64), 2, np.uint8))
    save([photograph, corrected(session, 'b.png')], dataset, 0.5, 'crack', LIMITS)
    assert count(dataset) == 2
    assert not cv2.imread(str(dataset / 'masks' / 'a.png'), -1).any()
    assert (yolo_folder(dataset) / 'labels' / 'train' / 'a.txt').read_text() == ''


def test_another_photograph_of_the_same_name_is_refused(session: Session, tmp_path: Path) -> None:
    dataset = tmp_path / 'mine'
    save([corrected(session, 'a.png')], dataset, 0.5, 'crack', LIMITS)
    (tmp_path / 'other').mkdir()
    other = Session(tmp_path / 'other', LIMITS)
    with pytest.raises(AppError, match=r'another photograph named a\.png'):
        save([corrected(other, 'a.png', grey=10)], dataset, 0.5, 'crack', LIMITS)
    with pytest.raises(AppError, match='nothing was corrected'):
        save([], dataset, 0.5, 'crack', LIMITS)


def test_config_trains_on_the_dataset_from_the_chosen_weights(trained: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / 'app_base.py').write_text(Config.fromfile(trained['config']).pretty_text)
    weights = Weights('given', 'given', adapter=str(trained['adapter']))
    (tmp_path / 'app_config.py').write_text(config_text(tmp_path / 'a, b[1]', weights, "a 'thin' crack", 'crack'))
    config = Config.fromfile(tmp_path / 'app_config.py')
    for name in ('train', 'val', 'test'):
        dataset = config[f'{name}_dataloader'].dataset
        assert (dataset.data_root, dataset.split, dataset.classes) == (str(tmp_path / 'a, b[1]'), 'train', ('crack',))
        assert dataset.type == 'YOLOCrackDataset'
    assert (config.model.prompts, config.model.adapter) == (["a 'thin' crack"], str(trained['adapter']))
    assert config.default_hooks.checkpoint.save_best == 'crack/IoU'
    assert config.default_hooks.checkpoint.max_keep_ckpts == 1


def test_options_of_a_training() -> None:
    config = Config({'param_scheduler': [{'type': 'LinearLR'}, {'type': 'CosineAnnealingLR', 'T_max': 6}]})
    assert training_options(config, 3, has_gpu=True) == {'train_cfg.max_epochs': 3, 'param_scheduler.1.T_max': 3}
    assert training_options(Config(), 3, has_gpu=False)['optim_wrapper.type'] == 'OptimWrapper'


def sleeping_tool(folder: Path, ending: str = 'time.sleep(60)') -> Path:
    """In place of train.py."""
    tool = folder / 'tool.py'
    tool.write_text(f'import sys, time\nprint("began")\n{ending}\n')
    return tool


def test_one_training_at_a_time_and_it_can_be_stopped(trained: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(sleeping_tool(tmp_path), Config.fromfile(trained['config']), tmp_path / 'trainings', LIMITS)
    with pytest.raises(AppError, match='wanted are 1 to 200'):
        trainer.start(tmp_path / 'mine', ZERO_SHOT, 'crack', 'crack', 0)
    run = trainer.start(tmp_path / 'mine', ZERO_SHOT, 'crack', 'crack', 3)
    assert (run.facts()['state'], run.facts()['rows']) == ('running', [])
    with pytest.raises(BusyError, match='a training goes on'):
        trainer.start(tmp_path / 'mine', ZERO_SHOT, 'crack', 'crack', 3)
    trainer.stop()
    assert run.state == 'cancelled'
    with pytest.raises(ProcessLookupError):
        os.kill(run.process.pid, 0)


def test_failed_training_says_why(trained: dict[str, Path], tmp_path: Path) -> None:
    tool = sleeping_tool(tmp_path, 'sys.exit("train.py: error: no such thing")')
    trainer = Trainer(tool, Config.fromfile(trained['config']), tmp_path / 'trainings', LIMITS)
    run = trainer.start(tmp_path / 'mine', ZERO_SHOT, 'crack', 'crack', 3)
    run.process.wait()
    assert (run.state, 'no such thing' in run.facts()['error']) == ('failed', True)


def test_model_without_adapters_is_not_trained(trained: dict[str, Path], tmp_path: Path) -> None:
    config = Config.fromfile(trained['config'])
    config.model.lora = None
    trainer = Trainer(sleeping_tool(tmp_path), config, tmp_path, LIMITS)
    with pytest.raises(AppError, match='has no adapters to train'):
        trainer.start(tmp_path / 'mine', ZERO_SHOT, 'crack', 'crack', 3)


@pytest.mark.slow
def test_training_ends_in_an_adapter_to_choose(trained: dict[str, Path], session: Session, tmp_path: Path) -> None:
    dataset, trainings = tmp_path / 'datasets' / 'mine', tmp_path / 'trainings'
    save([corrected(session, 'a.png'), corrected(session, 'b.png', grey=120)], dataset, 0.5, 'crack', LIMITS)
    config = Config.fromfile(trained['config'])
    trainer = Trainer(ROOT / 'tools' / 'train.py', config, trainings, LIMITS)
    given = Weights('given', 'given', adapter=str(trained['adapter']))
    run = trainer.start(dataset, given, 'crack', 'crack', 2)
    assert run.process.wait(600) == 0, (run.folder / 'train.log').read_text()
    facts = run.facts()
    assert [row['epoch'] for row in facts['rows']] == [1, 2]
    assert all(row['loss'] > 0 and 0 <= row['iou'] <= 1 for row in facts['rows'])
    assert last_adapter(run.folder) == run.folder / 'adapters' / 'epoch_2'
    models = Models(config, None, str(trained['adapter']), trainings, 'cpu')
    assert models.predictor(f'trained/{run.name}', 'crack').class_names == ['crack']
