"""Low precision for frozen weights, and what training adapters on them needs."""

from collections.abc import Collection

import torch
from mmengine.optim import ApexOptimWrapper, OptimWrapper
from torch import nn

from crack_plugin.errors import CrackPluginError

PRECISIONS = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class PrecisionError(CrackPluginError, ValueError):
    """Gradients in the precision asked for would be lost; the message says what to train with instead."""


def cast_frozen(model: nn.Module, dtype: torch.dtype, trained: Collection[str]) -> None:
    """Cast the parameters of ``model``, except the ``trained`` ones (by name).

    Parameters only: the rotary positions are buffers, and useless in low precision. Batch normalisations are in fp32
    afterwards, whatever their input's precision: torch mixes a low one with fp32 alone.
    """
    normalisations = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    in_fp32 = {id(parameter) for module in normalisations for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        if name not in trained and id(parameter) not in in_fp32:
            parameter.data = parameter.data.to(dtype)
    for module in normalisations:
        module.float()


def check_gradient_scaling(dtype: torch.dtype | None, optim_wrapper: OptimWrapper) -> None:
    """Refuse to train adapters on float16 weights without a gradient scaler.

    The Dice loss spreads its gradient over all pixels; at a photograph's size that of one pixel underflows in float16,
    and the model would train on rounding errors.

    Args:
        dtype: Of the frozen weights; None for fp32.
        optim_wrapper: Trains the model.

    Raises:
        PrecisionError: ``dtype`` is float16, and ``optim_wrapper`` scales no gradients.
    """
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    # AmpOptimWrapper(loss_scale=1.0) has a scaler that scales nothing. Its fixed scale is private (mmengine 0.10.7),
    # but GradScaler.get_scale() would make the host wait for the GPU at every step.
    fixed = getattr(optim_wrapper, '_scale_update_param', None)
    scales = scaler is not None and scaler.is_enabled() and (fixed is None or fixed > 1)
    scales = scales or isinstance(optim_wrapper, ApexOptimWrapper)
    if dtype is torch.float16 and not scales:
        raise PrecisionError(
            "dtype='float16', the config's or the base's own, trains on rounding noise under "
            f'{type(optim_wrapper).__name__}, which does not scale gradients. On a GPU: '
            '--cfg-options model.dtype=float16 optim_wrapper.type=AmpOptimWrapper '
            'optim_wrapper.dtype=float16 optim_wrapper.loss_scale=dynamic; elsewhere, or on Ampere and newer: '
            '--cfg-options model.dtype=bfloat16, which needs no scaler.'
        )
