"""A training's config for others: whole, without what names this machine, its user or its accounts."""

import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from crack_plugin.models.portable import is_public_base

DATA_ROOT = 'data/cracks'
"""Stands for the folder of the images; it is where the shipped configs look."""
_KEPT = (
    'custom_imports',
    'default_scope',
    'env_cfg',
    'randomness',
    'model',
    'tta_model',
    'train_pipeline',
    'test_pipeline',
    'tta_pipeline',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'val_evaluator',
    'test_evaluator',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'default_hooks',
    'custom_hooks',
    'log_processor',
)
"""All that decides what is trained and how it is scored. Work dir, logging and accounts are not among it."""
_PATH = re.compile(r'~|/|\.\.?/|[A-Za-z]:\\|file:')


def public_config(cfg: Config, base: str) -> Config:
    """A config without folders of this machine.

    Paths become the last part of themselves, but for ``data_root``, which becomes :data:`DATA_ROOT`; the adapter that
    the training started from is left out unless it is on the hub; hooks that log to an account are left out.

    Args:
        cfg: Config of the training; it is left as it is.
        base: Name of its base on every machine.
    """
    content = {name: _public(cfg.to_dict()[name]) for name in _KEPT if name in cfg}
    content['model']['base'] = base
    if not is_public_base(cfg.model.get('adapter')):
        content['model'].pop('adapter', None)
    # A text, or mmengine would read the file again.
    return Config(content, filename=cfg.filename, cfg_text='for others')


def _public(value: Any, key: str = '') -> Any:
    if key == 'data_root':
        return DATA_ROOT
    if isinstance(value, Mapping):
        return {name: _public(each, str(name)) for name, each in value.items() if not _is_account(each)}
    if isinstance(value, (list, tuple)):
        return [_public(each) for each in value if not _is_account(each)]
    # Of a file, the name; of a folder as well.
    return re.split(r'[\\/]', value.rstrip('\\/'))[-1] if isinstance(value, str) and _PATH.match(value) else value


def _is_account(value: Any) -> bool:
    kind = value.get('type') if isinstance(value, Mapping) else None
    return isinstance(kind, str) and 'wandb' in kind.lower()
