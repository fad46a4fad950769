"""What a work directory holds: which checkpoint is shared, and damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from crack_plugin.sharing.card import dataset_name
from crack_plugin.sharing.training import SharingError, data_name, read_training


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    hook = {'type': 'CheckpointHook', 'save_best': 'crack/IoU'}
    cfg = Config({'model': {'type': 'SAM3TextLoRA'}, 'default_hooks': {'checkpoint': hook}}, cfg_text='test')
    cfg.dump(tmp_path / 'bridge.py')
    (tmp_path / 'history.json').write_text(json.dumps([{'epoch': 1, 'iter': 5, 'crack/IoU': 0.5}]))
    return tmp_path


def save(path: Path, **meta: Any) -> None:
    torch.save({'meta': meta, 'state_dict': {}}, path)


def test_the_selected_checkpoint_and_its_threshold(work_dir: Path) -> None:
    """Neither a copy with a tuned threshold nor the best by another metric, though they are newer."""
    save(work_dir / 'best_crack_IoU_epoch_1.pth', epoch=1, iter=5)
    assert read_training(work_dir).unused_threshold() is None
    save(work_dir / 'best_crack_IoU_epoch_1_threshold.pth', epoch=1, iter=5, threshold={'value': 0.37})
    save(work_dir / 'best_crack_IoU_of_piers_epoch_9.pth', epoch=9, iter=45)
    training = read_training(work_dir)
    assert training.checkpoint == work_dir / 'best_crack_IoU_epoch_1.pth' and training.best == 0
    assert training.unused_threshold() == (work_dir / 'best_crack_IoU_epoch_1_threshold.pth', 0.37)
    training.cfg.model.threshold = 0.4
    assert training.unused_threshold() is None


def test_damaged_files(work_dir: Path) -> None:
    torch.save({'state_dict': {}}, work_dir / 'best_crack_IoU_epoch_1.pth')
    with pytest.raises(SharingError, match="has no 'meta'"):
        read_training(work_dir)
    best = work_dir / 'adapters' / 'best'
    best.mkdir(parents=True)
    (best / 'adapter_config.json').touch()
    for content in ('{"epoch": 1', '1'):
        (best / 'checkpoint.json').write_text(content)
        with pytest.raises(SharingError, match=r'checkpoint\.json.*damaged'):
            read_training(work_dir)


@pytest.mark.parametrize(
    ('root', 'name'),
    [
        ('/data/Cracks.v3i.yolov8', 'Cracks.v3i.yolov8'),
        ('/data/piers/data.yaml', 'piers'),
        ('data.yaml', None),
        ('', None),
    ],
)
def test_name_of_the_data(root: str, name: str | None) -> None:
    cfg = Config({'train_dataloader': {'dataset': {'data_root': root}}})
    assert data_name(cfg) == name and dataset_name(cfg, None) == (name or 'custom')
