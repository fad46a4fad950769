"""Hooks, one a file."""

from crack_plugin.hooks.prompt_check import PromptCheckHook
from crack_plugin.hooks.reproducibility import ReproducibilityHook

__all__ = ['PromptCheckHook', 'ReproducibilityHook']
