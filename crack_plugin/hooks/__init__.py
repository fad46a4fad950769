"""Hooks, one a file."""

from crack_plugin.hooks.adapter_checkpoint import AdapterCheckpointHook
from crack_plugin.hooks.history import HistoryHook
from crack_plugin.hooks.prediction import PredictionHook
from crack_plugin.hooks.prefix_cache import PrefixCacheHook
from crack_plugin.hooks.prompt_check import PromptCheckHook
from crack_plugin.hooks.reproducibility import ReproducibilityHook
from crack_plugin.hooks.wandb_seg import WandbSegHook

__all__ = [
    'AdapterCheckpointHook',
    'HistoryHook',
    'PredictionHook',
    'PrefixCacheHook',
    'PromptCheckHook',
    'ReproducibilityHook',
    'WandbSegHook',
]
