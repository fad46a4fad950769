"""MMEngine's checkpoints, and never none."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ScoreAs, forget_visualizers
from mmengine.config import Config
from mmengine.runner import Runner

from crack_plugin import files
from crack_plugin.checkpoints import CheckpointError
from crack_plugin.hooks import atomic_checkpoint


def make_runner(config: Path, work_dir: Path, scores: list[float], **hook: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'atomic_{time.monotonic_ns()}'
    cfg.train_cfg.max_epochs = len(scores)
    # One iteration an epoch, and one image to validate
    cfg.train_dataloader.dataset.indices, cfg.val_dataloader.dataset.indices = 2, 1
    cfg.resume = hook.pop('resume', False)
    cfg.default_hooks.checkpoint.update(hook)
    forget_visualizers()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(ScoreAs(scores))
    return runner


def checkpoints(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.glob('*.pth'))


def test_default(tiny_config: Path) -> None:
    assert Config.fromfile(tiny_config).default_hooks.checkpoint.type == 'AtomicCheckpointHook'


@pytest.mark.slow
@pytest.mark.parametrize(
    'hook',
    [
        {},
        {'interval': 2, 'save_last': False},
        {'max_keep_ckpts': 1},
        {'interval': -1},
        {'by_epoch': False, 'interval': 2, 'max_keep_ckpts': 2},
        {'save_best': None, 'rule': None},
        {'save_best': ['crack/IoU', 'mIoU']},
    ],
    ids=lambda hook: ', '.join(hook) or 'default',
)
def test_same_files_as_the_stock_hook(tiny_config: Path, tmp_path: Path, hook: dict[str, Any]) -> None:
    for kind in ('CheckpointHook', 'AtomicCheckpointHook'):
        make_runner(tiny_config, tmp_path / kind, [0.1, 0.3, 0.2], type=kind, **hook).train()
    stock, ours = tmp_path / 'CheckpointHook', tmp_path / 'AtomicCheckpointHook'
    assert checkpoints(ours) == checkpoints(stock)
    names = [Path((folder / 'last_checkpoint').read_text()).name for folder in (ours, stock)]
    assert names[0] == names[1]
    for name in checkpoints(ours):
        a, b = torch.load(ours / name), torch.load(stock / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b['state_dict'][key]) for key, value in a['state_dict'].items())


@pytest.mark.parametrize(
    ('target', 'kept'),
    [
        pytest.param('epoch_3.pth', ['best_crack_IoU_epoch_2.pth', 'epoch_2.pth'], marks=pytest.mark.slow),
        ('best_crack_IoU_epoch_2.pth', ['best_crack_IoU_epoch_1.pth', 'epoch_2.pth']),
    ],
)
def test_former_ones_stay_until_the_new_one_is_written(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, kept: list[str]
) -> None:
    write = files.write_atomically

    def fail(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == target:
            raise files.SaveError('no room')
        write(path, *args, **kwargs)

    monkeypatch.setattr(atomic_checkpoint, 'write_atomically', fail)
    with pytest.raises(files.SaveError):
        make_runner(tiny_config, tmp_path, [0.1, 0.2, 0.3], max_keep_ckpts=1).train()
    assert checkpoints(tmp_path) == kept
    assert Path((tmp_path / 'last_checkpoint').read_text()) == tmp_path / 'epoch_2.pth'

    monkeypatch.undo()
    make_runner(tiny_config, tmp_path, [0.1, 0.2, 0.3], max_keep_ckpts=1, resume=True).train()
    assert checkpoints(tmp_path) == ['best_crack_IoU_epoch_3.pth', 'epoch_3.pth']


@pytest.mark.parametrize(
    'moved', [pytest.param(False, id='copied', marks=pytest.mark.slow), pytest.param(True, id='moved')]
)
def test_resume_in_another_place(tiny_config: Path, tmp_path: Path, moved: bool) -> None:
    """There is one best checkpoint there, and nothing is deleted where the folder came from."""
    original, copy = tmp_path / 'original', tmp_path / 'copy'
    make_runner(tiny_config, original, [0.1, 0.2]).train()
    before = checkpoints(original)
    shutil.copytree(original, copy)
    if moved:
        shutil.rmtree(original)
    (copy / 'last_checkpoint').write_text(str(copy / 'epoch_2.pth'))
    make_runner(tiny_config, copy, [0.1, 0.2, 0.3], resume=True).train()
    assert checkpoints(copy) == ['best_crack_IoU_epoch_3.pth', 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    if not moved:
        assert checkpoints(original) == before


def test_resume_without_last_checkpoint_does_not_start_over(tiny_config: Path, tmp_path: Path) -> None:
    make_runner(tiny_config, tmp_path, [0.1]).train()
    (tmp_path / 'last_checkpoint').unlink()
    with pytest.raises(CheckpointError, match=r'load_from=.*epoch_1\.pth'):
        make_runner(tiny_config, tmp_path, [0.1], resume=True).train()
