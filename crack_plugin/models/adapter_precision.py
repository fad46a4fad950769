"""Trained weights in fp32 on layers of lower precision: they compute in the layers' precision.

PEFT keeps LoRA's own weights in fp32, and casts their input. It leaves what trains beside them (biases, saved modules)
in the precision of the base, in which small steps of an optimizer are lost.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

from crack_plugin.models.precision import cast_frozen


def lower_precision(model: nn.Module, dtype: torch.dtype, trained: Collection[str]) -> None:
    """Cast all parameters but the ``trained`` ones (by name) to ``dtype``, and let the model compute in it."""
    cast_frozen(model, dtype, trained)
    follow_input_precision(model)
    keep_in_fp32(model, trained, dtype)


def keep_in_fp32(model: nn.Module, trained: Collection[str], dtype: torch.dtype | None = None) -> None:
    """Hold trained weights of the base in fp32, and let the modules that own them compute in ``dtype``.

    Args:
        model: Model with adapters.
        trained: Names of parameters; LoRA's own are left as they are.
        dtype: None for the precision that the parameters have.
    """
    for name, parameter in model.named_parameters():
        computes_in = dtype or parameter.dtype
        if name not in trained or 'lora_' in name or computes_in == torch.float32:
            continue
        module: Any = model.get_submodule(name.rpartition('.')[0])
        if isinstance(module, nn.BatchNorm2d):
            # Entirely in fp32, as in cast_frozen: torch mixes it with an input of low precision.
            module.float()
            continue
        if not isinstance(module, _Casting):
            # As torch.nn.utils.parametrize does it: names and values of the parameters stay what they are.
            module.__class__ = type(f'Casting{type(module).__name__}', (_Casting, type(module)), {})
        module.compute_dtype = computes_in
        parameter.data = parameter.data.float()


class _Casting(nn.Module):
    """Gives its parameters to whoever asks by attribute, such as its own forward, in ``compute_dtype``."""

    compute_dtype: torch.dtype

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value.to(self.compute_dtype) if isinstance(value, nn.Parameter) else value


def follow_input_precision(model: nn.Module) -> None:
    """Let fp32 adapters on low-precision layers compute in the layers' precision, by casting their few weights.

    PEFT casts the input instead, once for each adapter that reads it: three fp32 copies of every hidden state, kept for
    the backward pass, and fp32 products. Variants of LoRA (DoRA, ...) are left as PEFT computes them.
    """
    for layer in model.modules():
        if not isinstance(layer, Linear) or layer.lora_variant:
            continue
        # peft.helpers.disable_input_dtype_casting sets the same, within a context only.
        layer.cast_input_dtype_enabled = False
        for name in layer.lora_A:
            layer.lora_A[name] = _CastingLinear.from_linear(layer.lora_A[name])
            layer.lora_B[name] = _CastingLinear.from_linear(layer.lora_B[name])


class _CastingLinear(nn.Linear):
    """A linear layer that casts its weights to its input's precision."""

    @classmethod
    def from_linear(cls, linear: Any) -> '_CastingLinear':
        """A layer with the same parameters as ``linear``: not copies."""
        casting = cls(linear.in_features, linear.out_features, bias=False, device='meta')
        casting.weight, casting.bias = linear.weight, linear.bias
        return casting.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)
