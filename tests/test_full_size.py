"""The reference recipe on the full-size model: what it writes. Random weights, 336 px, some minutes on a CPU."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.runner import Runner


@pytest.mark.slow
def test_checkpoints_are_adapters_only(crack_folder: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    cfg.work_dir, cfg.experiment_name = str(tmp_path), 'full_size'
    cfg.model.base, cfg.model.image_size = {}, 336
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.train_cfg.max_epochs = 1
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root, loader.dataset.indices = str(crack_folder), 1
    Runner.from_cfg(cfg).train()

    (best,) = tmp_path.glob('best_crack_IoU_epoch_1.pth')
    state = torch.load(best, map_location='cpu')['state_dict']
    assert sum(value.numel() for value in state.values()) == 3_883_008
    assert best.stat().st_size < 20e6
    assert (tmp_path / 'epoch_1.pth').stat().st_size < 50e6
    assert 'optimizer' not in torch.load(best, map_location='cpu')
