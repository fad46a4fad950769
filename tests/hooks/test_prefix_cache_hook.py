"""Training with the frozen layers' output kept on disk: the same weights, in less work."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from crack_plugin.hooks import PrefixCacheHook

LORA = {'lora_dropout': 0.0, 'target_modules': r'(.*\.layers\.1|detr_encoder|mask_decoder)\..*(q|k|v|o)_proj'}


@pytest.fixture
def config(tiny_config: Path) -> Config:
    cfg = Config.fromfile(tiny_config)
    cfg.model.merge({'dtype': 'bfloat16', 'lora': LORA})
    return cfg


def train(cfg: Config, name: str, cache: Path | None) -> tuple[dict[str, Any], int]:
    """Weights in the end, and how often the first layer ran."""
    cfg = cfg.copy()
    cfg.work_dir, cfg.experiment_name = str(Path(cfg.work_dir, name)), name
    if cache is not None:
        cfg.custom_hooks = [{'type': 'PrefixCacheHook', 'folder': str(cache)}]
    runner = Runner.from_cfg(cfg)
    runs: list[int] = []
    runner.model.model.vision_encoder.backbone.layers[0].register_forward_hook(lambda *_: runs.append(1))
    runner.train()
    return runner.model.state_dict(), len(runs)


def test_same_weights_from_fewer_forwards(config: Config, tmp_path: Path) -> None:
    plain, runs = train(config, 'plain', None)
    # Two epochs of three batches and three validation images
    assert runs == 12
    cached, runs = train(config, 'cached', tmp_path / 'cache')
    assert runs == 6
    assert all(torch.equal(value, cached[name]) for name, value in plain.items())
    later, runs = train(config, 'later', tmp_path / 'cache')
    assert runs == 0
    assert all(torch.equal(value, later[name]) for name, value in plain.items())


def test_size_is_announced(config: Config, tmp_path: Path) -> None:
    train(config, 'announced', tmp_path / 'cache')
    (log,) = Path(config.work_dir, 'announced').glob('*/*.log')
    # 4 x 4 tokens of 32 numbers in bfloat16
    assert '9 pictures of 1.0 kB, 9.2 kB in all; 0.0 B are there already' in log.read_text()


@pytest.mark.parametrize('transform', [{'type': 'PhotoMetricDistortion'}, {'type': 'RandomFlip', 'prob': 0.5}])
def test_random_pipelines_are_refused_before_anything_is_written(
    config: Config, tmp_path: Path, transform: dict
) -> None:
    config.train_dataloader.dataset.pipeline.insert(1, transform)
    with pytest.raises(ValueError, match='makes another picture of an image every time'):
        train(config, 'random', tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


def test_other_models_are_named(config: Config, tmp_path: Path) -> None:
    runner = Runner.from_cfg(config)
    runner.model = torch.nn.Identity()
    with pytest.raises(ValueError, match='is for SAM3TextLoRA'):
        PrefixCacheHook(str(tmp_path / 'cache')).before_train(runner)


def test_small_disks_are_noticed_before_anything_is_written(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(ValueError, match='on a larger disk'):
        train(config, 'small', tmp_path / 'cache')
    assert not list((tmp_path / 'cache').rglob('*.safetensors'))
