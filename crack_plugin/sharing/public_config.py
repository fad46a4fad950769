"""A training's config for others: whole, without what names this machine, its user or its accounts."""

import re
from collections.abc import Mapping
from pathlib import Path
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
    'auto_scale_lr',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'default_hooks',
    'custom_hooks',
    'log_processor',
)
"""All that decides what is trained and how it is scored. Work dir, logging and accounts are not among it."""
_PATH = re.compile(r'~|/|\.\.?/|[A-Za-z]:[\\/]|file:')
_SECRET = re.compile(r'(?:^|_)token$|secret|password|passwd|api_?key|access_key|credential', re.IGNORECASE)
_LOGIN = re.compile(r'\w://[^/\s@]+@')
"""A URL with a user, and perhaps a password."""


def public_config(cfg: Config, base: str) -> Config:
    """A config without folders of this machine.

    Paths become the last part of themselves, but for ``data_root``, which becomes :data:`DATA_ROOT`, and relative ones,
    which stay. Left out are the adapter that the training started from, unless it is a revision on the hub; hooks that
    log to an account; entries that are called as secrets are; and addresses with a user in them.

    Args:
        cfg: Config of the training; it is left as it is.
        base: Name of its base on every machine.
    """
    content = {name: _public(cfg.to_dict()[name]) for name in _KEPT if name in cfg}
    content['model']['base'] = base
    adapter = cfg.model.get('adapter')
    # Without a revision it could as well be a relative path.
    if not (is_public_base(adapter) and '@' in adapter and not Path(adapter).exists()):
        content['model'].pop('adapter', None)
    # A text, or mmengine would read the file again.
    return Config(content, filename=cfg.filename, cfg_text='for others')


def _public(value: Any, key: str = '') -> Any:
    if key == 'data_root':
        return DATA_ROOT
    if isinstance(value, Mapping):
        return {name: _public(each, str(name)) for name, each in value.items() if not _is_private(each, str(name))}
    if isinstance(value, (list, tuple)):
        kept = [_public(each) for each in value if not _is_private(each)]
        # Some transforms ask for tuples.
        return tuple(kept) if isinstance(value, tuple) else kept
    # Of a file, the name; of a folder as well.
    return re.split(r'[\\/]', value.rstrip('\\/'))[-1] if isinstance(value, str) and _PATH.match(value) else value


def _is_private(value: Any, key: str = '') -> bool:
    """Whether an entry tells of an account: by its key, its type, or a login in an address."""
    if isinstance(value, str) and _LOGIN.search(value):
        return True
    # Switches are no secrets: with_cls_token=True.
    if _SECRET.search(key) and value is not None and not isinstance(value, bool):
        return True
    kind = value.get('type') if isinstance(value, Mapping) else None
    return isinstance(kind, str) and 'wandb' in kind.lower()
