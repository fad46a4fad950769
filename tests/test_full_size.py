"""The reference recipe on the full-size model: what it writes. Random weights, 336 px, some minutes on a CPU."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS


@pytest.mark.parametrize(
    ('config', 'held', 'training', 'frozen_layers'),
    [
        ('sam3_lora_crack', 3_883_008, 3_489_792, 0),
        ('sam3_lora_crack_fast', 3_489_792, 3_489_792, 0),
        ('sam3_lora_crack_lowmem', 3_489_792, 3_489_792, 0),
        ('sam3_lora_crack_best', 4_205_745, 3_812_529, 0),
        ('sam3_lora_crack_best_lowmem', 3_812_529, 3_812_529, 0),
        ('sam3_lora_crack_last8', 737_280, 737_280, 24),
        ('sam3_lora_crack_mlp', 5_136_384, 5_136_384, 0),
        ('sam3_lora_crack_all_linear', 9_029_632, 9_029_632, 0),
    ],
)
def test_where_the_adapters_are(config: str, held: int, training: int, frozen_layers: int) -> None:
    """Counted on the meta device: of frozen layers whose output could be kept, each picture takes 72 x 72 x 1024."""
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    cfg.model.base = {}
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(value.numel() for value in model.state_dict().values()) == held
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == training
    layers = model.model.vision_encoder.backbone.layers
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    assert trains == [False] * frozen_layers + [True] * (32 - frozen_layers)
    assert model.prefix_bytes == (2 * 72 * 72 * 1024 if frozen_layers else 0)


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
