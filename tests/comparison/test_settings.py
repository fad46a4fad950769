"""What a benchmark sets alike in all configs."""

from pathlib import Path

import pytest
from conftest import CONFIGS
from mmengine.config import Config

from crack_plugin.comparison import settings
from crack_plugin.comparison.settings import Settings

UNET = CONFIGS / 'benchmark' / 'unet_small.py'
TINY = CONFIGS / 'sam3_tiny_lora_crack.py'


def load(path: Path) -> Config:
    return Config.fromfile(path)


def test_nothing_set_changes_nothing() -> None:
    cfg = load(UNET)
    assert Settings().apply(cfg).to_dict() == cfg.to_dict()


def test_other_data_to_test_on_leaves_the_validation_alone() -> None:
    cfg = Settings(data_root='here', test_data='there', test_split='test').apply(load(UNET))
    roots = [cfg[f'{name}_dataloader'].dataset.data_root for name in ('train', 'val', 'test')]
    assert roots == ['here', 'here', 'there']
    assert (cfg.val_dataloader.dataset.split, cfg.test_dataloader.dataset.split) == ('valid', 'test')


def test_image_size_of_stock_models_and_of_sam3() -> None:
    original = load(UNET)
    cfg = Settings(image_size=336).apply(original)
    loaders = [cfg[f'{name}_dataloader'] for name in ('train', 'val', 'test')]
    sizes = [step.scale for loader in loaders for step in loader.dataset.pipeline if step.type == 'Resize']
    assert sizes == [(336, 336)] * 3
    assert original.train_dataloader.dataset.pipeline[2].scale == (512, 512)
    assert Settings(image_size=336).apply(load(TINY)).model.image_size == 336
    original.test_dataloader.dataset.pipeline.pop(1)
    with pytest.raises(ValueError, match='test_dataloader has no Resize'):
        Settings(image_size=336).apply(original)


def test_epochs_move_the_schedules_that_end_with_them() -> None:
    cfg = Settings(epochs=3).apply(load(UNET))
    warm_up, cosine = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, warm_up.end, cosine.end, cosine.T_max) == (3, 1, 3, 3)
    assert Settings(epochs=3).apply(load(TINY)).param_scheduler[0].T_max == 3
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
    with pytest.raises(ValueError, match='no max_epochs'):
        Settings(epochs=3).apply(cfg)


def test_options_come_last_and_seeds_are_set() -> None:
    cfg = Settings(epochs=3, cfg_options={'train_cfg.max_epochs': 5}).apply(load(TINY), seed=7)
    assert (cfg.train_cfg.max_epochs, cfg.randomness.seed) == (5, 7)


def test_a_stock_config_with_pretrained_starts_from_random() -> None:
    model = dict(type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c', backbone=dict(type='ResNetV1c'))
    cfg = Config(dict(model=model, optim_wrapper=dict(type='OptimWrapper')))
    settings.start_from_random(cfg)
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.init_cfg is None


def test_what_has_nothing_to_train() -> None:
    assert settings.has_nothing_to_train(load(CONFIGS / 'sam3_tiny_zeroshot_crack.py'))
    assert not settings.has_nothing_to_train(load(TINY))
    assert not settings.has_nothing_to_train(load(UNET))
    full = load(CONFIGS / 'sam3_tiny_zeroshot_crack.py')
    full.model.trainable = 'all'
    assert not settings.has_nothing_to_train(full)


def test_differences_name_what_decides_the_training() -> None:
    first = Settings(epochs=2, data_root='a').apply(load(UNET), seed=1)
    assert settings.differences(first, Settings(epochs=2, data_root='a', test_data='b').apply(load(UNET), seed=1)) == []
    other = settings.differences(first, Settings(epochs=3, data_root='a').apply(load(UNET), seed=1))
    assert 'train_cfg.max_epochs: 2, now 3' in other
