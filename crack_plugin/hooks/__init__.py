"""Hooks, one a file."""

from crack_plugin.hooks.adapter_checkpoint import AdapterCheckpointHook
from crack_plugin.hooks.atomic_checkpoint import AtomicCheckpointHook
from crack_plugin.hooks.history import HistoryHook
from crack_plugin.hooks.non_finite_loss import NonFiniteLossHook
from crack_plugin.hooks.prediction import PredictionHook
from crack_plugin.hooks.prefix_cache import PrefixCacheHook
from crack_plugin.hooks.prompt_check import PromptCheckHook
from crack_plugin.hooks.reproducibility import ReproducibilityHook
from crack_plugin.hooks.wandb_seg import WandbSegHook
from crack_plugin.hooks.work_dir_lock import WorkDirLockHook

__all__ = [
    'AdapterCheckpointHook',
    'AtomicCheckpointHook',
    'HistoryHook',
    'NonFiniteLossHook',
    'PredictionHook',
    'PrefixCacheHook',
    'PromptCheckHook',
    'ReproducibilityHook',
    'WandbSegHook',
    'WorkDirLockHook',
]
