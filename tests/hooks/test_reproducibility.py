"""A resumed training ends where an uninterrupted one does."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RANDOM_PIPELINE, TOOLS, forget_visualizers
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import DATASETS

from crack_plugin.datasets import ResumableSampler
from crack_plugin.hooks.reproducibility import _SeededFetch


class StopAt(Hook):
    """Ends training as a crash would: in the middle, past all that comes after."""

    def __init__(self, iteration: int, in_validation: bool = False) -> None:
        self.iteration = iteration
        self.in_validation = in_validation

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if not self.in_validation and runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.in_validation and runner.iter == self.iteration:
            raise KeyboardInterrupt


def train(config: Path, work_dir: Path, stop: StopAt | None = None, resume: bool = False, **options: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.resume = str(work_dir), resume
    cfg.experiment_name = f'{work_dir.name}_{time.monotonic_ns()}'
    cfg.model.lora.lora_dropout = 0.2
    cfg.train_dataloader.dataset.pipeline = RANDOM_PIPELINE
    cfg.merge_from_dict(options)
    forget_visualizers()
    runner = Runner.from_cfg(cfg)
    if stop is not None:
        runner.register_hook(stop, priority='LOWEST')
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return runner


def weights(work_dir: Path, name: str = 'epoch_2.pth') -> dict[str, torch.Tensor]:
    return torch.load(work_dir / name)['state_dict']


def logged(work_dir: Path, key: str) -> dict[int, float]:
    """The last value logged at each step, over all starts of a run."""
    values = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for row in map(json.loads, path.read_text().splitlines()):
            if key in row:
                values[row['step']] = row[key]
    return values


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_at_an_epoch_ends_in_the_same_weights(tiny_config: Path, tmp_path: Path, workers: int) -> None:
    loader = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0}
    train(tiny_config, tmp_path / 'whole', **loader)
    train(tiny_config, tmp_path / 'broken', StopAt(5), **loader)
    train(tiny_config, tmp_path / 'broken', resume=True, **loader)
    expected = weights(tmp_path / 'whole')
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / 'broken').items())


def test_resumed_in_the_middle_of_an_epoch_skips_what_was_seen(tiny_config: Path, tmp_path: Path) -> None:
    by_iteration = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 1}
    logger = {'default_hooks.logger.interval': 1}
    train(tiny_config, tmp_path / 'whole', **by_iteration, **logger)
    train(tiny_config, tmp_path / 'broken', StopAt(5), **by_iteration, **logger)
    assert (tmp_path / 'broken' / 'iter_5.pth').is_file()
    train(tiny_config, tmp_path / 'broken', resume=True, **by_iteration, **logger)
    expected = weights(tmp_path / 'whole', 'iter_6.pth')
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / 'broken', 'iter_6.pth').items())


@pytest.mark.slow
def test_stock_sampler_cannot_resume_in_the_middle(tiny_config: Path, tmp_path: Path) -> None:
    options = {
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 1,
        'train_dataloader.sampler.type': 'DefaultSampler',
    }
    train(tiny_config, tmp_path / 'broken', StopAt(5), **options)
    with pytest.raises(ValueError, match='ResumableSampler'):
        train(tiny_config, tmp_path / 'broken', resume=True, **options)


def test_missing_validation_runs_first(tiny_config: Path, tmp_path: Path) -> None:
    """Killed while validating after epoch 1: the checkpoint of epoch 1 is there, its scores are not."""
    train(tiny_config, tmp_path / 'whole')
    train(tiny_config, tmp_path / 'broken', StopAt(3, in_validation=True))
    assert 1 not in logged(tmp_path / 'broken', 'crack/IoU')
    train(tiny_config, tmp_path / 'broken', resume=True)
    assert sorted(logged(tmp_path / 'whole', 'crack/IoU')) == [1, 2]
    assert logged(tmp_path / 'broken', 'crack/IoU') == logged(tmp_path / 'whole', 'crack/IoU')


@pytest.mark.slow
def test_same_seed_same_training_other_seed_another(tiny_config: Path, tmp_path: Path) -> None:
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        train(tiny_config, tmp_path / name, **{'randomness.seed': seed})
    first, again, other = (weights(tmp_path / name) for name in 'abc')
    assert all(torch.equal(value, first[name]) for name, value in again.items())
    assert any(not torch.equal(value, first[name]) for name, value in other.items())


def test_samples_are_seeded_by_epoch_and_index(crack_folder: Path) -> None:
    class Draws:
        def __getitem__(self, index: int) -> tuple[float, float, float]:
            return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002 - as transforms draw

    fetch = _SeededFetch(Draws(), seed=7)
    first = fetch([0, 1, 0])
    assert first[0] == first[2] != first[1]
    fetch.epoch.fill_(1)
    assert fetch([0])[0] != first[0]


def test_sampler_starts_where_told(crack_folder: Path) -> None:
    dataset = DATASETS.build({'type': 'YOLOCrackDataset', 'data_root': str(crack_folder), 'pipeline': []})
    sampler = ResumableSampler(dataset, shuffle=True, seed=3)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == len(whole) == 6


@pytest.mark.slow  # test_faults.py::test_killed[in a validation] is the same with everything compared
def test_killed_training_goes_on(tiny_config: Path, tmp_path: Path) -> None:
    """SIGKILL in the second of three epochs, then ``--resume``: the loss curve goes on from the checkpoint."""
    options = ['--cfg-options', 'train_cfg.max_epochs=3', 'default_hooks.logger.interval=1']
    command = [sys.executable, str(TOOLS / 'train.py'), str(tiny_config), *options]
    work_dir = tmp_path / 'work_dir'
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(step > 3 for step in logged(work_dir, 'loss')):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = logged(work_dir, 'loss')
    finished = subprocess.run([*command, '--resume'], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    after = logged(work_dir, 'loss')
    assert sorted(after) == list(range(1, 10))
    assert 'resumed epoch: 1, iter: 3' in finished.stdout + finished.stderr
    assert {step: after[step] for step in before} == before
