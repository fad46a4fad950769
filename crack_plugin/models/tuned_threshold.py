"""The threshold that a checkpoint was tuned to, which every way of loading the checkpoint sets.

It travels in the metadata of the state dict, beside the hash of the base. The private functions are hooks that torch
calls with the segmentor: see :func:`register_threshold`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log

DEFAULT = 0.5
KEY = 'threshold'
"""Its name in the metadata of a state dict."""


def register_threshold(segmentor: Any, threshold: float | None) -> None:
    """Set a segmentor's ``threshold``, and let checkpoints bring and hold a tuned one.

    Args:
        segmentor: A ``SAM3TextLoRA``.
        threshold: That of the config, which has precedence over a checkpoint's; None for the checkpoint's, or 0.5.
    """
    segmentor.threshold = DEFAULT if threshold is None else threshold
    segmentor.configured_threshold = threshold
    segmentor.tuned_threshold = None
    segmentor.register_state_dict_post_hook(_write)
    segmentor.register_load_state_dict_pre_hook(_read)


def forget_tuned_threshold(segmentor: Any) -> None:
    """Go back to the configured threshold: what a checkpoint was tuned to does not fit weights that are trained on."""
    if segmentor.tuned_threshold is None:
        return
    if segmentor.configured_threshold is None:
        segmentor.threshold = DEFAULT
    print_log(
        f'the weights change: threshold {segmentor.threshold:g} counts, not the {segmentor.tuned_threshold:g} that '
        'they were tuned to',
        logger='current',
    )
    segmentor.tuned_threshold = None


def put_threshold(state_dict: Mapping[str, Any], threshold: float) -> 'OrderedDict[str, Any]':
    """A state dict with the same weights, tuned to a threshold."""
    tuned: OrderedDict[str, Any] = OrderedDict(state_dict)
    metadata = OrderedDict(getattr(state_dict, '_metadata', {}))
    # The empty name is the segmentor's own.
    metadata[''] = {**metadata.get('', {}), KEY: threshold}
    tuned._metadata = metadata  # type: ignore[attr-defined]
    return tuned


def _write(segmentor: Any, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    if segmentor.tuned_threshold is not None:
        local_metadata[KEY] = segmentor.tuned_threshold


def _read(segmentor: Any, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
    tuned, configured = local_metadata.get(KEY), segmentor.configured_threshold
    if tuned is None and segmentor.tuned_threshold is None:
        return
    segmentor.tuned_threshold = tuned
    if configured is None:
        segmentor.threshold = DEFAULT if tuned is None else tuned
    if tuned is not None:
        source = 'of the checkpoint, tuned on validation images' if configured is None else 'of the config'
        line = f'threshold {segmentor.threshold:g} {source}'
        print_log(f'{line}; the checkpoint was tuned to {tuned:g}' if configured else line, logger='current')
