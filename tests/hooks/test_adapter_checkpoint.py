"""PEFT folders follow the checkpoints, and plain PEFT loads them."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ScoreAs
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.hooks.adapter_checkpoint import AdapterCheckpointHook


@pytest.fixture
def base(tiny_sam3: dict, tmp_path: Path) -> str:
    torch.manual_seed(3)
    folder = tmp_path / 'base'
    Sam3Model(Sam3Config(**tiny_sam3)).save_pretrained(folder)
    return str(folder)


class StopBeforeAdapter(Hook):
    """Ends the process between the best checkpoint and its adapter."""

    priority = 94

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt


def make_runner(config: Path, tmp_path: Path, base: str, scores: list[float], **options: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        {
            'train_cfg.max_epochs': len(scores),
            'default_hooks.adapter_checkpoint': {'type': 'AdapterCheckpointHook', **options.pop('hook', {})},
            'experiment_name': f'adapters_{time.monotonic_ns()}',
            'work_dir': str(tmp_path / 'work_dir'),
            **options,
        }
    )
    cfg.model.base = base
    runner = Runner.from_cfg(cfg)
    runner.register_hook(ScoreAs(scores))
    return runner


def adapter(work_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(work_dir / 'adapters' / name / 'adapter_model.safetensors')


def checkpoint(work_dir: Path, pattern: str) -> dict[str, torch.Tensor]:
    """Adapter weights of a .pth under PEFT's names."""
    (path,) = work_dir.glob(pattern)
    state = torch.load(path)['state_dict']
    return {name.removeprefix('sam3.').replace('.default.', '.'): value for name, value in state.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_an_epoch_and_the_best(tiny_config: Path, tmp_path: Path, base: str) -> None:
    work_dir = tmp_path / 'work_dir'
    make_runner(tiny_config, tmp_path, base, [0.1, 0.5, 0.3]).train()
    assert sorted(path.name for path in (work_dir / 'adapters').iterdir()) == ['best', 'epoch_1', 'epoch_2', 'epoch_3']
    for epoch in (1, 2, 3):
        assert same(adapter(work_dir, f'epoch_{epoch}'), checkpoint(work_dir, f'epoch_{epoch}.pth'))
    assert same(adapter(work_dir, 'best'), checkpoint(work_dir, 'best_*epoch_2.pth'))
    assert not same(adapter(work_dir, 'best'), adapter(work_dir, 'epoch_3'))
    record = json.loads((work_dir / 'adapters' / 'best' / 'checkpoint.json').read_text())
    assert (record['epoch'], record['score']) == (2, 0.5)
    for folder in (work_dir / 'adapters').iterdir():
        plain = PeftModel.from_pretrained(Sam3Model.from_pretrained(base), str(folder))
        parameters = dict(plain.named_parameters())
        saved = load_file(folder / 'adapter_model.safetensors')
        assert all(torch.equal(parameters[name.replace('.weight', '.default.weight')], saved[name]) for name in saved)


def test_old_folders_go(tiny_config: Path, tmp_path: Path, base: str) -> None:
    make_runner(tiny_config, tmp_path, base, [0.5, 0.3, 0.1], hook={'max_keep_ckpts': 1, 'interval': 2}).train()
    assert sorted(path.name for path in (tmp_path / 'work_dir' / 'adapters').iterdir()) == ['best', 'epoch_3']


def test_best_survives_resume(tiny_config: Path, tmp_path: Path, base: str) -> None:
    """A worse epoch after the resume leaves the best alone, a better one replaces it."""
    work_dir = tmp_path / 'work_dir'
    scores = [0.5, 0.3, 0.7]
    make_runner(tiny_config, tmp_path, base, scores[:1]).train()
    first = adapter(work_dir, 'best')
    make_runner(tiny_config, tmp_path, base, scores[:2], resume=True).train()
    assert same(adapter(work_dir, 'best'), first)
    make_runner(tiny_config, tmp_path, base, scores, resume=True).train()
    assert same(adapter(work_dir, 'best'), adapter(work_dir, 'epoch_3'))


@pytest.mark.parametrize('lost', ['stale', 'deleted'])
def test_kill_before_the_best_adapter_is_made_up_for(tiny_config: Path, tmp_path: Path, base: str, lost: str) -> None:
    work_dir = tmp_path / 'work_dir'
    runner = make_runner(tiny_config, tmp_path, base, [0.1, 0.9, 0.3])
    runner.register_hook(StopBeforeAdapter(2))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert same(adapter(work_dir, 'best'), adapter(work_dir, 'epoch_1'))
    if lost == 'deleted':
        shutil.rmtree(work_dir / 'adapters')
    make_runner(tiny_config, tmp_path, base, [0.1, 0.9, 0.3], resume=True).train()
    assert same(adapter(work_dir, 'best'), checkpoint(work_dir, 'best_*epoch_2.pth'))
    assert same(adapter(work_dir, 'epoch_3'), checkpoint(work_dir, 'epoch_3.pth'))


def test_averaged_weights_are_saved(tiny_config: Path, tmp_path: Path, base: str) -> None:
    work_dir = tmp_path / 'work_dir'
    average = [{'type': 'EMAHook', 'momentum': 0.5}]
    make_runner(tiny_config, tmp_path, base, [0.1, 0.5], custom_hooks=average).train()
    assert same(adapter(work_dir, 'epoch_2'), checkpoint(work_dir, 'epoch_2.pth'))
    assert same(adapter(work_dir, 'best'), checkpoint(work_dir, 'best_*epoch_2.pth'))


def test_model_without_adapters_is_refused_before_training(tiny_config: Path, tmp_path: Path, base: str) -> None:
    runner = make_runner(tiny_config, tmp_path, base, [0.1], **{'model.lora': None, 'model.trainable': 'all'})
    with pytest.raises(ValueError, match='no adapters'):
        runner.train()


def test_stock_model_is_refused(tmp_path: Path) -> None:
    class Stock:
        work_dir = str(tmp_path)
        model = torch.nn.Linear(1, 1)

    with pytest.raises(TypeError, match='Linear has no save_adapter'):
        AdapterCheckpointHook().before_train(Stock())


def test_zero_is_no_interval() -> None:
    with pytest.raises(ValueError, match='positive'):
        AdapterCheckpointHook(interval=0)
