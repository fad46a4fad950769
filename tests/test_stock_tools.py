"""MMSegmentation's own tools, dataset wrappers and APIs drive our configs."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CONFIGS, run_tool
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS

# browse_dataset.py imports mmseg.models before the config: on mmcv-lite it wants `python -m crack_plugin`.
STOCK = Path(find_spec('mmseg').origin).parent / '.mim' / 'tools'


def finished(*command: str | Path) -> str:
    result = run_tool(*command)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_stock_train_and_test(tiny_config: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / 'stock'
    finished(STOCK / 'train.py', tiny_config, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_epochs=1')
    (best,) = work_dir.glob('best_crack_IoU_epoch_1.pth')
    log = finished(STOCK / 'test.py', tiny_config, best, '--work-dir', work_dir, '--out', tmp_path / 'out')
    assert 'crack/IoU' in log
    maps = sorted((tmp_path / 'out').glob('*.png'))
    assert len(maps) == 3
    assert set(np.unique(cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED))) <= {0, 1}
    painted = ['--show-dir', tmp_path / 'painted', '--cfg-options', 'default_hooks.visualization.interval=1']
    assert 'crack/IoU' in finished(STOCK / 'test.py', tiny_config, best, '--work-dir', work_dir, '--tta', *painted)
    assert len(list((tmp_path / 'painted').rglob('*.png'))) == 3


@pytest.mark.slow
def test_stock_browse_dataset(tiny_config: Path, tmp_path: Path) -> None:
    browse = STOCK / 'analysis_tools' / 'browse_dataset.py'
    finished(
        '-m',
        'crack_plugin',
        browse,
        tiny_config,
        '--output-dir',
        tmp_path / 'browsed',
        '--not-show',
        '--show-interval',
        '0',
    )
    assert len(list((tmp_path / 'browsed').rglob('*.jpg')) + list((tmp_path / 'browsed').rglob('*.png'))) == 6


def test_flops_are_counted(tiny_sam3: dict) -> None:
    """By the function that MMSeg's get_flops.py calls; the tool itself hands it two inputs, which it refuses."""
    model = MODELS.build({'type': 'SAM3TextLoRA', 'base': tiny_sam3}).eval()
    counted = get_model_complexity_info(model, inputs=torch.rand(1, 3, 56, 56), show_table=False, show_arch=False)
    assert counted['params'] == sum(parameter.numel() for parameter in model.parameters())
    patches = (56 // 14) ** 2 * 3 * 14**2 * 32
    assert counted['flops'] > patches


def test_dataset_wrappers(tiny_config: Path) -> None:
    cfg = Config.fromfile(tiny_config)
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {
        'type': 'RepeatDataset',
        'times': 2,
        'dataset': {'type': 'ConcatDataset', 'datasets': [dataset, dataset]},
    }
    cfg.train_cfg.max_epochs = 1
    cfg.experiment_name = 'wrappers'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2 * 2 * 6 / 2


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('sam3_*.py')), ids=lambda path: path.stem)
def test_configs_resolve(path: Path) -> None:
    cfg = Config.fromfile(path)
    assert cfg.model.type == 'SAM3TextLoRA'
    assert cfg.default_hooks.checkpoint.save_best == 'crack/IoU'
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'


def test_reference_recipe_to_the_letter() -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    assert cfg.model.base == 'facebook/sam3'
    assert cfg.model.prompts == ['crack']
    assert cfg.model.lora == {
        'r': 8,
        'lora_alpha': 16,
        'lora_dropout': 0.1,
        'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
    }
    assert cfg.optim_wrapper == {
        'type': 'AmpOptimWrapper',
        'optimizer': {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 0.01},
        'clip_grad': {'max_norm': 1.0},
    }
    assert cfg.param_scheduler == [{'type': 'CosineAnnealingLR', 'by_epoch': True, 'T_max': 6}]
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.randomness.seed) == (6, 1, 42)
    assert [step.type for step in cfg.train_pipeline] == ['LoadImageFromFile', 'LoadYOLOPolygons', 'PackSegInputs']
