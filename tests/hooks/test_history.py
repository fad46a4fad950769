"""history.json says what happened, through kills and resumes."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmseg.registry import MODELS

from crack_plugin.hooks.history import read_history, train_means


class Observer(Hook):
    """Notes what each iteration and validation gave."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ious: list[float] = []
        self.lrs: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses.append(float(outputs['loss']))
        self.ious.append(float(outputs['train_iou']))
        self.lrs.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        self.metrics.append(dict(metrics))


class StopAt(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def train(config: Path, work_dir: Path, stop: int | None = None, **options: Any) -> Observer:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'default_hooks.history.type': 'HistoryHook', **options})
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'history_{time.monotonic_ns()}'
    runner = Runner.from_cfg(cfg)
    observer = Observer()
    runner.register_hook(observer, priority='VERY_LOW')
    if stop is None:
        runner.train()
    else:
        runner.register_hook(StopAt(stop), priority='LOWEST')
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return observer


def test_a_row_an_epoch(tiny_config: Path, tmp_path: Path) -> None:
    with_loss = {'val_evaluator.loss_decode': {'type': 'ForegroundDiceLoss'}}
    seen = train(tiny_config, tmp_path, **with_loss)
    rows = read_history(tmp_path / 'history.json')
    parameters = list(MODELS.build(Config.fromfile(tiny_config).model).parameters())
    counts = tuple(sum(p.numel() for p in parameters if p.requires_grad or not trains) for trains in (False, True))
    assert [(row['epoch'], row['iter']) for row in rows] == [(1, 3), (2, 6)]
    for index, row in enumerate(rows):
        epoch = slice(3 * index, 3 * index + 3)
        assert row['train_loss'] == pytest.approx(sum(seen.losses[epoch]) / 3, rel=1e-5)
        assert row['train_loss_dice'] == pytest.approx(row['train_loss'], rel=1e-5)
        assert row['train_iou'] == pytest.approx(sum(seen.ious[epoch]) / 3, rel=1e-5)
        assert row['lr'] == pytest.approx(seen.lrs[3 * index])
        assert {'crack/IoU', 'crack/clDice', 'mIoU', 'val_loss'} <= seen.metrics[index].keys()
        assert {key: row[key] for key in seen.metrics[index]} == pytest.approx(seen.metrics[index])
        assert row['train_seconds'] > 0 < row['val_seconds']
        assert row['seconds'] == pytest.approx(row['train_seconds'] + row['val_seconds'], abs=2e-3)
        assert row['peak_memory_of'] == ('CUDA allocator' if torch.cuda.is_available() else 'process')
        assert 50 < row['peak_memory_mb'] < 100_000
        assert (row['parameters'], row['trained_parameters']) == counts
        on_gpu = torch.cuda.is_available()
        assert row['device'] == (torch.cuda.get_device_name() if on_gpu else f'CPU, {os.cpu_count()} cores')
    assert rows[0]['lr'] > rows[1]['lr']


def test_epoch_without_validation_and_value_that_is_not_finite(tiny_config: Path, tmp_path: Path) -> None:
    class Broken(Hook):
        priority = 'VERY_HIGH'

        def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
            metrics['mIoU'] = math.nan

    cfg = Config.fromfile(tiny_config)
    cfg.merge_from_dict({'default_hooks.history.type': 'HistoryHook', 'train_cfg.val_interval': 2})
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Broken())
    runner.train()
    first, second = json.loads((tmp_path / 'history.json').read_text(), parse_constant=pytest.fail)
    assert 'crack/IoU' not in first
    assert first['train_loss'] > 0
    assert second['mIoU'] is None
    assert second['crack/IoU'] >= 0


def test_resumed_run_replaces_repeated_epochs_and_keeps_earlier_ones(tiny_config: Path, tmp_path: Path) -> None:
    """Killed in the fourth epoch, resumed from the second: the third is written again."""
    options = {'train_cfg.max_epochs': 4}
    train(tiny_config, tmp_path, stop=10, **options)
    before = read_history(tmp_path / 'history.json')
    (tmp_path / 'history.json').write_text(json.dumps([*before[:2], {**before[2], 'train_loss': -1.0}]))
    last = {'resume': True, 'load_from': str(tmp_path / 'epoch_2.pth')}
    train(tiny_config, tmp_path, **options, **last)
    after = read_history(tmp_path / 'history.json')
    assert [row['epoch'] for row in after] == [1, 2, 3, 4]
    assert after[0] == before[0]
    # The second epoch is validated once more, the third repeated: to the bit, but for the time it took.
    measured = {'train_seconds', 'val_seconds', 'seconds', 'peak_memory_mb'}
    assert after[1]['train_seconds'] == before[1]['train_seconds']
    for index in (1, 2):
        assert after[index].keys() == before[index].keys()
        assert all(after[index][key] == before[index][key] for key in before[index].keys() - measured)


@pytest.mark.slow
def test_epoch_resumed_in_the_middle_counts_whole(tiny_config: Path, tmp_path: Path) -> None:
    options = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 1}
    seen = train(tiny_config, tmp_path / 'whole', **options)
    train(tiny_config, tmp_path / 'broken', stop=5, **options)
    checkpoint = torch.load(tmp_path / 'broken' / 'iter_5.pth')
    spent = checkpoint['message_hub']['runtime_info']['history_elapsed_seconds']
    train(tiny_config, tmp_path / 'broken', resume=True, **options)
    row = read_history(tmp_path / 'broken' / 'history.json')[1]
    assert row['train_loss'] == pytest.approx(sum(seen.losses[3:]) / 3, rel=1e-5)
    assert row['train_seconds'] > spent > 0


def test_fresh_run_starts_a_new_file(tiny_config: Path, tmp_path: Path) -> None:
    train(tiny_config, tmp_path, **{'train_cfg.max_epochs': 3})
    train(tiny_config, tmp_path, **{'train_cfg.max_epochs': 1})
    assert [row['epoch'] for row in read_history(tmp_path / 'history.json')] == [1]


def test_a_row_a_validation_without_epochs(tiny_config: Path, tmp_path: Path) -> None:
    loop = {'_delete_': True, 'type': 'IterBasedTrainLoop', 'max_iters': 4, 'val_interval': 2}
    options = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2}
    cfg = Config.fromfile(tiny_config)
    cfg.merge_from_dict({'default_hooks.history.type': 'HistoryHook', 'train_cfg': loop, **options})
    cfg.work_dir, cfg.log_processor = str(tmp_path), {'by_epoch': False}
    runner = Runner.from_cfg(cfg)
    observer = Observer()
    runner.register_hook(observer, priority='VERY_LOW')
    runner.train()
    rows = read_history(tmp_path / 'history.json')
    assert [row['iter'] for row in rows] == [2, 4]
    for index, row in enumerate(rows):
        losses = observer.losses[2 * index : 2 * index + 2]
        assert row['train_loss'] == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert 'crack/IoU' in row


def test_means_are_of_the_window() -> None:
    class FakeRunner:
        message_hub = MessageHub(f'history_{time.monotonic_ns()}')

    for loss, iou in ((9.0, 0.9), (1.0, 0.2), (2.0, 0.4)):
        FakeRunner.message_hub.update_scalar('train/loss', loss)
        FakeRunner.message_hub.update_scalar('train/train_iou', iou)
        FakeRunner.message_hub.update_scalar('train/lr', loss / 100)
    assert train_means(FakeRunner, 2) == pytest.approx({'loss': 1.5, 'iou': 0.3, 'lr': 0.02})


def test_steps_that_the_gradient_scaler_left_out_have_no_norm() -> None:
    hub = MessageHub('scaler')
    norms = [math.inf, math.nan, math.inf, 2.0, 4.0]
    for norm in norms:
        hub.update_scalars({'train/loss': 1.0, 'train/grad_norm': norm, 'train/lr': 0.1})

    class FakeRunner:
        message_hub = hub

    assert train_means(FakeRunner, 5)['grad_norm'] == pytest.approx(3.0)
    assert train_means(FakeRunner, 1)['grad_norm'] == pytest.approx(4.0)
    for norm in norms[:3]:
        hub.update_scalars({'train/grad_norm': norm})
    assert math.isnan(train_means(FakeRunner, 3)['grad_norm'])
    # A loss is another matter
    hub.update_scalars({'train/loss': math.inf})
    assert math.isinf(train_means(FakeRunner, 5)['loss'])


@pytest.mark.parametrize('text', ['{"epoch": 1}', '[1]', '[{"loss": 1}]', '[{"epoch": 1'])
def test_another_file_of_that_name_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'history.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'history\.json is no history'):
        read_history(path)
