"""What a checkpoint of the segmentor holds: what was trained, the hash of its base, and a threshold if it was tuned.

The private functions are hooks that torch calls with the segmentor: see :func:`register`.
"""

from collections.abc import Collection
from typing import Any

from mmengine.logging import print_log
from torch import nn

from crack_plugin.models import adapters
from crack_plugin.models.tuned_threshold import register_threshold


def register(segmentor: nn.Module, threshold: float | None) -> None:
    """Let checkpoints of ``segmentor`` hold what is trained: all but the weights named in its ``untrained_keys``.

    Args:
        segmentor: A ``SAM3TextLoRA``.
        threshold: That of the config, see :func:`~crack_plugin.models.tuned_threshold.register_threshold`.
    """
    segmentor.register_state_dict_post_hook(_keep_trained_weights)
    segmentor.register_load_state_dict_pre_hook(_check_base_and_shapes)
    segmentor.register_load_state_dict_post_hook(_refuse_partial_load)
    register_threshold(segmentor, threshold)


def find_untrained(sam3: nn.Module, trainable: str, adapter_keys: Collection[str], unused: Collection[str]) -> set[str]:
    """Names of weights that a checkpoint leaves out.

    To be called once: EMA changes ``requires_grad``, but not what a checkpoint holds.

    Args:
        sam3: The segmentor's SAM 3, under the name ``sam3``.
        trainable: 'lora' or 'all'.
        adapter_keys: Names of the adapters' weights in the segmentor.
        unused: Modules of SAM 3 without a path to the output.
    """
    names = {f'sam3.{name}' for name in sam3.state_dict()} - set(adapter_keys)
    if trainable == 'lora':
        return names
    parents = tuple(f'{name}.' for name in unused)
    prefix = 'sam3.base_model.model.' if adapters.is_adapted(sam3) else 'sam3.'
    return {name for name in names if name.removeprefix(prefix).startswith(parents) or '.original_module.' in name}


def log_parameters(segmentor: Any, adapter_keys: Collection[str]) -> None:
    """Log how many parameters there are, how many are adapters, and how many train."""
    total = sum(parameter.numel() for parameter in segmentor.parameters())
    training = sum(parameter.numel() for parameter in segmentor.parameters() if parameter.requires_grad)
    sizes = {name: value.numel() for name, value in segmentor.named_parameters() if name in adapter_keys}
    adapter, beside = sum(sizes.values()), sum(size for name, size in sizes.items() if 'lora_' not in name)
    line = f'SAM3TextLoRA: {total:,} parameters, {adapter:,} of them adapters, {training:,} train'
    if beside:
        line += f'; {beside:,} of the adapters are biases and saved modules, not LoRA'
    if segmentor.trainable == 'lora' and adapter > training:
        line += f'; {adapter - training:,} adapter parameters have no path to the output and are held fixed'
    print_log(line, logger='current')


def _keep_trained_weights(segmentor: Any, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    for key in segmentor.untrained_keys:
        state_dict.pop(prefix + key, None)
    local_metadata[adapters.BASE_HASH] = segmentor.base_hash


def _check_base_and_shapes(segmentor: Any, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
    # With trainable='all' the checkpoint brings every weight of the path itself.
    if segmentor.trainable == 'lora':
        adapters.check_base(local_metadata.get(adapters.BASE_HASH), segmentor.base_hash, 'the checkpoint')
    # mmengine would only log a weight of another shape, and go on without it.
    for name, own in segmentor.state_dict().items():
        given = state_dict.get(prefix + name)
        if given is not None and given.shape != own.shape:
            raise adapters.AdapterError(
                f'the checkpoint does not fit the model: {name} has shape {tuple(given.shape)}, the model expects '
                f'{tuple(own.shape)}. Use the config it was trained with.'
            )


def _refuse_partial_load(segmentor: Any, incompatible_keys: Any) -> None:
    """Accept that a checkpoint leaves out untrained weights, and refuse every other gap, whatever ``strict`` says."""
    missing, unexpected = incompatible_keys.missing_keys, incompatible_keys.unexpected_keys
    # Wrappers (EMA, TTA) put prefixes of their own before 'sam3.'
    missing[:] = [key for key in missing if key[key.find('sam3.') :] not in segmentor.untrained_keys]
    if missing or unexpected:
        raise adapters.AdapterError(
            f'the checkpoint does not fit the model: {len(missing)} weights are missing {missing[:3]}, '
            f'{len(unexpected)} are not in the model {unexpected[:3]}. Use the config it was trained with (lora, '
            'trainable and prompts decide which weights there are).'
        )
