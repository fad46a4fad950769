"""What a benchmark changes in the configs of its models, so that they can be compared."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict

from crack_plugin.errors import CrackPluginError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
TRAINING_KEYS = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness')
"""What decides how a training ends."""


class SettingsError(CrackPluginError, ValueError):
    """A setting cannot be applied to a config, or does not fit a training that has begun."""


@dataclass(frozen=True)
class Settings:
    """What is set alike in every config; None (or False) leaves what the config says.

    Attributes:
        data_root: Dataset to train and test on.
        test_data: Dataset to test on, if it is another.
        test_split: Split to test on.
        image_size: Side in pixels of the square that images are stretched to.
        epochs: Length of the training; schedules that end with it end with the new one.
        pretrained: False starts stock models from random weights, without a download.
        cfg_options: Config keys and values, applied last.
    """

    data_root: str | None = None
    test_data: str | None = None
    test_split: str | None = None
    image_size: int | None = None
    epochs: int | None = None
    pretrained: bool = True
    cfg_options: dict[str, Any] | None = None

    def apply(self, cfg: Config, seed: int | None = None) -> Config:
        """A changed copy of a config.

        Args:
            cfg: Of one of the models.
            seed: Of its training; None for the config's own.

        Raises:
            SettingsError: The config has no place where one of the settings belongs.
        """
        # Each loader a copy of its own: configs let val and test share one.
        cfg = Config({key: copy.deepcopy(value) for key, value in cfg.items()}, filename=cfg.filename)
        if self.data_root is not None:
            for name in LOADERS:
                _dataset(cfg, name).data_root = self.data_root
        if self.test_data is not None:
            _dataset(cfg, 'test_dataloader').data_root = self.test_data
        if self.test_split is not None:
            _dataset(cfg, 'test_dataloader').split = self.test_split
        if self.image_size is not None:
            set_image_size(cfg, self.image_size)
        if self.epochs is not None:
            set_epochs(cfg, self.epochs)
        if not self.pretrained:
            start_from_random(cfg)
        if seed is not None:
            cfg.merge_from_dict({'randomness.seed': seed})
        if self.cfg_options:
            cfg.merge_from_dict(copy.deepcopy(self.cfg_options))
        return cfg


def set_image_size(cfg: Config, side: int) -> None:
    """Stretch images to a square: SAM 3 does it itself, other models through the ``Resize`` of their pipelines.

    Raises:
        SettingsError: A pipeline has no ``Resize``.
    """
    if cfg.model.type == 'SAM3TextLoRA':
        cfg.model.image_size = side
        return
    for name in LOADERS:
        resizes = [step for step in _steps(_dataset(cfg, name).pipeline) if step.get('type') == 'Resize']
        if not resizes:
            raise SettingsError(
                f'{cfg.filename}: the pipeline of {name} has no Resize whose size could be set. Leave the image size '
                'to the configs, or give the config one (see configs/_base_/benchmark.py).'
            )
        for step in resizes:
            step.scale = (side, side)


def set_epochs(cfg: Config, epochs: int) -> None:
    """Change the length of the training, and of the schedules that end with it.

    Raises:
        SettingsError: The config counts iterations, not epochs.
    """
    if 'max_epochs' not in cfg.train_cfg:
        raise SettingsError(f'{cfg.filename}: train_cfg has no max_epochs to set. Use an EpochBasedTrainLoop.')
    old, cfg.train_cfg.max_epochs = cfg.train_cfg.max_epochs, epochs
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in ('T_max', 'end', 'total_iters'):
            if scheduler.get('by_epoch', True) and scheduler.get(key) == old:
                scheduler[key] = epochs


def start_from_random(cfg: Config) -> None:
    """Leave out the pretrained weights of a stock model's backbone, which then learns at the rate of the heads.

    The same on the command line of a training is ``--cfg-options model.backbone.init_cfg=None
    optim_wrapper.paramwise_cfg=None``. A model of this package stays as it is: its base is the model.
    """
    if cfg.model.type == 'SAM3TextLoRA':
        return
    cfg.model.pretrained = None
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.pop('pretrained', None)
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    paramwise.get('custom_keys', {}).pop('backbone', None)


def has_nothing_to_train(cfg: Config) -> bool:
    """Whether the config is of a zero-shot model: SAM 3 with its prompt and no adapters."""
    model = cfg.model
    if model.type != 'SAM3TextLoRA' or model.get('trainable', 'lora') == 'all':
        return False
    return model.get('lora', {}) is None and model.get('adapter') is None


def final_checkpoint(cfg: Config) -> str:
    """Name of the checkpoint that a complete training of the config leaves."""
    if 'max_epochs' in cfg.train_cfg:
        return f'epoch_{cfg.train_cfg.max_epochs}.pth'
    return f'iter_{cfg.train_cfg.max_iters}.pth'


def differences(trained: Config, wanted: Config) -> list[str]:
    """Settings that would change the result of a training, as texts 'train_cfg.max_epochs: 6, now 8'.

    Not ``Config.diff``: that compares the whole text of two configs, so that data to test on, or another order of the
    keys, would count as a difference, and it names no key.
    """
    old, new = (dict(_leaves({key: cfg.get(key) for key in TRAINING_KEYS})) for cfg in (trained, wanted))
    return [
        f'{key}: {old.get(key)}, now {new.get(key)}' for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]


def _dataset(cfg: Config, loader: str) -> ConfigDict:
    dataset = (cfg.get(loader) or {}).get('dataset') or {}
    if 'data_root' not in dataset:
        raise SettingsError(f'{cfg.filename}: {loader}.dataset has no data_root to set. Use a YOLOCrackDataset.')
    return dataset


def _steps(pipeline: Any) -> Iterator[ConfigDict]:
    """All transforms of a pipeline, those inside of others, too."""
    if isinstance(pipeline, dict):
        if 'type' in pipeline:
            yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from _steps(step)


def _leaves(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _leaves(inner, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, value
