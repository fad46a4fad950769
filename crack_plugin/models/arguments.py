"""Checks of the segmentor's arguments, before anything is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crack_plugin.errors import ConfigError
from crack_plugin.models.detail_head import DetailHead, read_head
from crack_plugin.models.precision import PRECISIONS
from crack_plugin.models.semantic_path import PARTS
from crack_plugin.models.sliding import DEFAULT_BATCH


def check_arguments(prompts: Sequence[str], trainable: str, threshold: float | None, dtype: str | None) -> None:
    """Check what has a small range of values.

    Raises:
        ConfigError: A value is outside it.
    """
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise ConfigError(f"prompts={prompts!r}: give a list of texts, one per foreground class, such as ['crack'].")
    if trainable not in ('lora', 'all'):
        raise ConfigError(f"trainable={trainable!r}: choose 'lora' or 'all'.")
    if dtype not in (None, *PRECISIONS):
        raise ConfigError(f'dtype={dtype!r}: choose None, {" or ".join(map(repr, PRECISIONS))}.')
    if dtype is not None and trainable == 'all':
        raise ConfigError(f"dtype={dtype!r} is the precision of frozen weights, and trainable='all' freezes none.")
    if threshold is not None and not 0 < threshold < 1:
        raise ConfigError(f'threshold={threshold!r}: give a probability between 0 and 1.')


def check_negative_prompts(negative_prompts: Sequence[str], prompts: Sequence[str]) -> None:
    """Check texts that are to be learned as empty.

    Raises:
        ConfigError: They are not a list of texts, or one stands twice, or names a class.
    """
    texts = isinstance(negative_prompts, (list, tuple)) and all(isinstance(p, str) for p in negative_prompts)
    if not texts or not all(p.strip() for p in negative_prompts):
        raise ConfigError(f"negative_prompts={negative_prompts!r}: give a list of texts such as ['shadow', 'joint'].")
    plain = [p.strip().lower() for p in negative_prompts]
    classes = {p.strip().lower() for p in prompts}
    wrong = sorted({p for p in plain if p in classes or plain.count(p) > 1})
    if wrong:
        raise ConfigError(
            f'negative_prompts={list(negative_prompts)!r}: {", ".join(map(repr, wrong))} is in '
            f'prompts={list(prompts)!r}, or stands there twice. A prompt is to be found, or to be learned as empty.'
        )


def build_detail_head(
    arguments: Mapping[str, Any] | None, embedding_channels: int, base_hash: str
) -> DetailHead | None:
    """Build the head of ``detail_head``, with ``weights`` from that file; None for none.

    Raises:
        ConfigError: The arguments are not a dict, or unknown, or out of their range; or there is no such file.
        AdapterError: The file is damaged, or of another head, or of another base than that of ``base_hash``.
    """
    if arguments is None:
        return None
    known = ('channels', 'size', 'max_pixels', 'levels', 'weights')
    if not isinstance(arguments, Mapping) or set(arguments) - set(known):
        raise ConfigError(f'detail_head={arguments!r}: give None, or a dict with some of {", ".join(known)}.')
    settings = dict(arguments)
    weights = settings.pop('weights', None)
    head = DetailHead(embedding_channels, **settings)
    if weights is not None:
        if not Path(weights).is_file():
            raise ConfigError(f'detail_head has weights={weights!r}: no such file. Name a detail_head.safetensors.')
        read_head(head, Path(weights), base_hash)
    return head


def check_unset(**arguments: Any) -> None:
    """Check that arguments which MMSegmentation passes to every segmentor, and this one has no use for, are None.

    Raises:
        ConfigError: One of them is set.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ConfigError(f'{", ".join(given)}: SAM3TextLoRA takes its weights from base and adapter. Remove it.')


def check_sliding(test_cfg: Mapping[str, Any]) -> None:
    """Check a ``test_cfg`` with ``mode='slide'``.

    Raises:
        ConfigError: ``crop_size`` or ``stride`` is missing or not a pair of positive integers, windows would leave
            pixels out, ``batch`` is not a positive integer, or ``scales`` are not numbers from 1 on.
    """
    for key in ('crop_size', 'stride'):
        value = test_cfg.get(key)
        pair = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
        if not pair:
            raise ConfigError(f"test_cfg with mode='slide' has {key}={value!r}: give (height, width) in pixels.")
    crop, stride = test_cfg['crop_size'], test_cfg['stride']
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise ConfigError(
            f'test_cfg has stride={tuple(stride)} and crop_size={tuple(crop)}: windows further apart than they are '
            'large leave pixels out. Two thirds of crop_size is a good stride.'
        )
    batch = test_cfg.get('batch', DEFAULT_BATCH)
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(f'test_cfg has batch={batch!r}: give the number of windows in one forward, 1 or more.')
    scales = test_cfg.get('scales')
    numbers = isinstance(scales, Sequence) and all(isinstance(n, (int, float)) and n >= 1 for n in scales)
    if scales is not None and not (scales and numbers):
        raise ConfigError(
            f'test_cfg has scales={scales!r}: give numbers from 1 on, such as (1, 1.5): each window as it is, and in '
            'windows two thirds as long.'
        )


def checkpointed_parts(activation_checkpointing: bool | Sequence[str]) -> tuple[str, ...]:
    """Names of the parts whose activations are computed again in the backward pass.

    Raises:
        ConfigError: A name is none of :data:`~crack_plugin.models.semantic_path.PARTS`, nor 'detail_head'.
    """
    known = (*PARTS, 'detail_head')
    if isinstance(activation_checkpointing, bool):
        return known if activation_checkpointing else ()
    parts = tuple(activation_checkpointing)
    unknown = [part for part in parts if part not in known]
    if unknown or isinstance(activation_checkpointing, str):
        raise ConfigError(
            f'activation_checkpointing={activation_checkpointing!r}: choose True, False, or a list of '
            f'{", ".join(map(repr, known))}.'
        )
    return parts


def compile_options(compile: bool | dict[str, Any]) -> dict[str, Any] | None:
    """Options of ``torch.compile`` and the ``target``, 'path' or 'blocks'; None for no compilation.

    Raises:
        ConfigError: ``compile`` is neither a bool nor a dict, or its target is unknown.
    """
    if compile is False:
        return None
    if compile is not True and not isinstance(compile, dict):
        raise ConfigError(f"compile={compile!r}: give True, False, or options such as dict(target='blocks').")
    options = {'target': 'path', 'fullgraph': True, 'dynamic': False}
    if compile is not True:
        options |= compile
    if options['target'] not in ('path', 'blocks'):
        raise ConfigError(f"compile: target={options['target']!r}: choose 'path' or 'blocks'.")
    return options
