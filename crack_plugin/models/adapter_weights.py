"""The weights of an adapter, under PEFT's names and under those of the model, and those of the base beneath it."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from crack_plugin.models.lora_config import CONFIG_FILE, AdapterError

_REDUNDANT = re.compile(r'\.(original_module|modules_to_save)\.')
"""In names that PEFT writes with ``bias='all'`` besides a saved module's own: its biases again, and replaced ones."""
_ADAPTER = re.compile(r'lora_|\.modules_to_save\.')


def named_weights(model: PeftModel) -> dict[str, Tensor]:
    """An adapter's weights under the names of ``adapter_model.safetensors``: parameters and buffers, not copies."""
    state = model.state_dict(keep_vars=True)
    named = get_peft_model_state_dict(model, state_dict=state, adapter_name='default', save_embedding_layers=False)
    config: Any = model.peft_config['default']
    if config.bias == 'lora_only':
        # PEFT before 0.21 looks for them under other names.
        named |= {name: weight for name, weight in state.items() if name.endswith('.base_layer.bias')}
    return {name: weight for name, weight in named.items() if not _REDUNDANT.search(name)}


def weight_keys(model: nn.Module) -> set[str]:
    """Names in the state dict of ``model`` of the weights that its adapter folder holds."""
    if not isinstance(model, PeftModel):
        return set()
    own = {id(weight) for weight in named_weights(model).values()}
    return {name for name, weight in model.state_dict(keep_vars=True).items() if id(weight) in own}


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of the base model under its own names, without LoRA's and the saved modules'."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    kept = {name: value for name, value in base.state_dict().items() if not _ADAPTER.search(name)}
    return {re.sub(r'\.(base_layer|original_module)\.', '.', name): value for name, value in kept.items()}


def load_weights(model: PeftModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy adapter weights under PEFT's names into ``model``.

    Args:
        model: Model with adapters.
        weights: By PEFT's names.
        source: Where they are from, for messages.

    Raises:
        AdapterError: A weight is missing, unexpected, of another shape, or not finite.
    """
    expected = named_weights(model)
    weights = {name: weight for name, weight in weights.items() if not _REDUNDANT.search(name)}
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing and not unexpected and all(name.endswith('.base_layer.bias') for name in missing):
        raise AdapterError(
            f'adapter {source} lacks the {len(missing)} biases that it was trained with: PEFT before 0.21 leaves them '
            f"out with bias='lora_only'. Train it again, or use it without them: 'none' for bias in its {CONFIG_FILE}."
        )
    if missing or unexpected:
        raise AdapterError(
            f'adapter {source} does not match the model: {len(missing)} weights are missing {missing[:3]}, '
            f'{len(unexpected)} are not in the model {unexpected[:3]}. Was it trained on another base, or with other '
            'target_modules?'
        )
    for name, parameter in expected.items():
        if parameter.shape != weights[name].shape:
            raise AdapterError(
                f'adapter {source}: {name} has shape {tuple(weights[name].shape)}, the model expects '
                f'{tuple(parameter.shape)}. It was trained on another base or with another rank.'
            )
        # NaN would make every prediction empty. Counters of batches are integers.
        if not parameter.is_floating_point():
            continue
        if not weights[name].is_floating_point() or not weights[name].float().isfinite().all():
            raise AdapterError(
                f'adapter {source}: {name} holds values that are NaN, infinite or integers, which nothing can be '
                'predicted with. It is damaged, or its training diverged: take another, or an earlier checkpoint.'
            )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(weights[name])
