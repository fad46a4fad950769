"""One prediction step in the precision that the config sets for tests."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner.amp import autocast

Step = Callable[[Any], list]
"""Predicts a batch of a dataloader: a model's ``val_step`` or ``test_step``."""


def mixed_precision(cfg: Config) -> bool:
    """Whether a config wants mixed precision in tests, and there is a device that has it in MMEngine.

    Args:
        cfg: ``test_cfg.fp16`` switches it on.
    """
    wanted = (cfg.get('test_cfg') or {}).get('fp16', False)
    if wanted and get_device() == 'mps':
        _warn_of_mps()
        return False
    return wanted


@cache
def _warn_of_mps() -> None:
    """Once, and not for each batch."""
    print_log('test_cfg.fp16 is left out: MMEngine has no mixed precision on MPS.', 'current', logging.WARNING)


def predict(step: Step, batch: Any, cfg: Config) -> list:
    """Predict a batch in the config's test precision; returns when the device has finished.

    Args:
        step: Predictor.
        batch: Of a dataloader.
        cfg: Config of the model; ``test_cfg.fp16`` switches on mixed precision.

    Returns:
        Data samples with ``pred_sem_seg`` and ``seg_logits``.
    """
    with torch.no_grad(), autocast(enabled=mixed_precision(cfg)):
        samples = step(batch)
    # On a machine with several GPUs, wait for those that predicted.
    for device in {sample.pred_sem_seg.data.device for sample in samples}:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
    return samples
