"""One prediction step in the precision that the config sets for tests."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner.amp import autocast

Step = Callable[[Any], list]
"""Predicts a batch of a dataloader: a model's ``val_step`` or ``test_step``."""


def predict(step: Step, batch: Any, cfg: Config) -> list:
    """Predict a batch in the config's test precision; returns when the device has finished.

    Args:
        step: Predictor.
        batch: Of a dataloader.
        cfg: Config of the model; ``test_cfg.fp16`` switches on mixed precision.

    Returns:
        Data samples with ``pred_sem_seg`` and ``seg_logits``.
    """
    with torch.no_grad(), autocast(enabled=(cfg.get('test_cfg') or {}).get('fp16', False)):
        samples = step(batch)
    # On a machine with several GPUs, wait for those that predicted.
    for device in {sample.pred_sem_seg.data.device for sample in samples}:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
    return samples
