"""LoRA configurations: what they may contain, and whether the names in them are those of modules of the model.

Beyond PEFT's public interface, ``check_target_module_exists`` and ``get_pattern_key``, which decide what a name in a
configuration matches, were read in peft 0.21.2.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn

from crack_plugin.errors import CrackPluginError

REFERENCE_LORA: dict[str, Any] = {
    'r': 8,
    'lora_alpha': 16,
    'lora_dropout': 0.1,
    'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
}
"""The reference recipe: adapters in all attention projections."""

CONFIG_FILE = 'adapter_config.json'
_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Embedding)
"""The layers of SAM 3 that PEFT's LoRA can be put into."""
_MEGATRON = 'megatron.core'
"""PEFT's default of ``megatron_core``, which every LoRA adapter's configuration names and nothing imports."""
_UNSUPPORTED = {
    'megatron_config': 'makes PEFT import the module that megatron_core names, and SAM 3 has no Megatron layers',
    'alora_invocation_tokens': 'looks for tokens in generated text',
    'arrow_config': 'chooses between several adapters, and there is one',
    'monteclora_config': 'adds a loss of its own, which nothing here would add to the others',
    'layer_replication': 'repeats layers of language models',
    'use_qalora': 'is for quantised layers, which SAM 3 does not have',
    'trainable_token_indices': 'trains rows of the token embedding, which checkpoints of adapters do not hold',
}
"""Arguments of ``LoraConfig`` that are refused if they are set, and why."""
_NEEDS_DATA = {'corda': 'preprocess_corda', 'eva': 'initialize_lora_eva_weights', 'lora_ga': 'preprocess_loraga'}
"""Values of ``init_lora_weights`` that are computed from data by a function of PEFT that is not called here."""
_RANDOM = 'pissa_niter_'
"""Start of values of ``init_lora_weights`` that change the base's weights by what random numbers decide."""
_READS_FILES = ('cache_file', 'covariance_file')
"""Entries of initialisations' options that name files for PEFT to unpickle."""


BAD_VALUE_ERRORS = (
    AttributeError,
    ImportError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    re.error,
)
"""What PEFT raises for values in a configuration that it does not know, or that are of another type than it expects."""


class AdapterError(CrackPluginError, ValueError):
    """An adapter, or its configuration, does not fit; the message names its folder and says what to do."""


def check_arguments(arguments: Mapping[str, Any], source: str) -> None:
    """Refuse what is not LoRA, what makes PEFT import or unpickle something, and what cannot work in SAM 3.

    Args:
        arguments: Of ``peft.LoraConfig``, from a config or a file.
        source: Where they are from, for messages.

    Raises:
        AdapterError: An argument is refused.
    """
    peft_type = arguments.get('peft_type') or 'LORA'
    # An enumeration, or its value in a file.
    if getattr(peft_type, 'value', peft_type) != 'LORA':
        raise AdapterError(
            f'{source} is of type {getattr(peft_type, "value", peft_type)}; only LoRA is supported. Remove '
            'peft_type, or train a LoRA adapter (use_dora=True and use_rslora=True are kinds of it).'
        )
    task_type = arguments.get('task_type')
    if task_type is not None and getattr(task_type, 'value', task_type) != 'FEATURE_EXTRACTION':
        raise AdapterError(
            f'{source} is for the task {getattr(task_type, "value", task_type)}, which wraps language models. Remove '
            'task_type.'
        )
    for name, reason in _UNSUPPORTED.items():
        if arguments.get(name) not in (None, False):
            raise AdapterError(f'{source} is refused: {name}={arguments[name]!r} {reason}. Remove it.')
    if arguments.get('megatron_core') not in (None, _MEGATRON):
        raise AdapterError(
            f'{source} is refused: megatron_core={arguments["megatron_core"]!r} names a module for PEFT to import, '
            'which would run its code. Nothing of it was run. Remove it.'
        )
    mapping = arguments.get('auto_mapping') or {}
    if not isinstance(mapping, Mapping):
        raise AdapterError(f'{source} is refused: auto_mapping={mapping!r} is not an object. Remove auto_mapping.')
    library = mapping.get('parent_library')
    if library is not None and str(library).partition('.')[0] != 'transformers':
        raise AdapterError(
            f'{source} is refused: auto_mapping names the module {library!r} for PEFT to import, which would run its '
            'code. Nothing of it was run. Remove auto_mapping.'
        )
    for name, value in arguments.items():
        files = [key for key in _READS_FILES if isinstance(value, Mapping) and value.get(key)]
        if files:
            raise AdapterError(
                f'{source} is refused: {name}.{files[0]}={value[files[0]]!r} is a file for PEFT to unpickle, which '
                f'would run code that it names. Nothing of it was run. Remove {name}.'
            )


def check_initialisation(arguments: Mapping[str, Any], source: str) -> None:
    """Refuse initialisations of new adapters that need data, of which there is none here, or cannot be repeated.

    Raises:
        AdapterError: ``init_lora_weights`` is one of them.
    """
    if arguments.get('inference_mode'):
        raise AdapterError(
            f'{source}: inference_mode=True holds new adapters fixed, so nothing would train. Remove it.'
        )
    kind = str(arguments.get('init_lora_weights')).lower()
    if arguments.get('loftq_config') and kind != 'loftq':
        raise AdapterError(f"{source}: without init_lora_weights='loftq' PEFT would ignore loftq_config. Remove it.")
    if kind.startswith(_RANDOM):
        raise AdapterError(
            f'{source}: init_lora_weights={kind!r} changes the weights of the base by random numbers, so that no '
            "checkpoint or adapter could be loaded again. Choose 'pissa', which computes the same without them."
        )
    if kind in _NEEDS_DATA:
        raise AdapterError(
            f'{source}: init_lora_weights={kind!r} is computed from data, by {_NEEDS_DATA[kind]} of PEFT, which is not '
            "called here. Choose True, 'gaussian', 'orthogonal', 'pissa' or 'olora'."
        )


def read_config(folder: Path) -> LoraConfig:
    """Read an adapter's configuration.

    Raises:
        AdapterError: There is no configuration, or it is damaged or refused by :func:`check_arguments`.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise AdapterError(f'{folder} is no PEFT adapter: it has no {CONFIG_FILE}.')
    try:
        arguments = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise AdapterError(
            f'{path} is not valid JSON ({error}): it is damaged or cut short. Copy the adapter again.'
        ) from error
    if not isinstance(arguments, dict) or 'peft_type' not in arguments:
        raise AdapterError(f'{path} is not a PEFT configuration: it has no peft_type.')
    # Before PEFT sees it: some of its versions act on the entries.
    check_arguments(arguments, str(path))
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except BAD_VALUE_ERRORS as error:
        raise AdapterError(f'{path} is not a PEFT configuration: {error}') from error
    assert isinstance(config, LoraConfig)
    kind = str(config.init_lora_weights).lower()
    if kind in _NEEDS_DATA or kind.startswith(_RANDOM):
        if kind != 'eva':
            raise AdapterError(
                f'{path}: with init_lora_weights={config.init_lora_weights!r} the adapter belongs to base weights that '
                'its training changed. Save it with path_initial_model_for_weight_conversion: that makes it plain LoRA.'
            )
        # The saved weights replace the initial ones.
        config.init_lora_weights, config.eva_config = True, None
    return config


def find_unmatched(model: nn.Module, config: LoraConfig) -> list[str]:
    """Find the names in ``config`` that match no module of ``model``; PEFT ignores them if others match.

    A target counts as matched only if, after ``exclude_modules``, ``layers_to_transform`` and the like, at least one
    module remains for it.

    Returns:
        One clause for each argument with such names, to follow a subject: "has names in target_modules ...".
    """
    modules = {name: module for name, module in model.named_modules() if name}
    adaptable = [name for name, module in modules.items() if isinstance(module, _ADAPTABLE)]
    parameters = [name for name, _ in model.named_parameters()]
    targeted = _select(config, modules)
    found = {
        'target_modules': _describe_targets(config, modules, adaptable),
        'target_parameters': _describe(_without_ending(config.target_parameters, parameters), parameters),
        'modules_to_save': _describe(_without_ending(config.modules_to_save, modules), modules),
        'exclude_modules': _describe(_unmatched_exclusions(config, modules), modules),
        'layers_to_transform': _describe_layers(config, modules),
        'layers_pattern': _describe(_unmatched_layers_patterns(config, modules), modules),
        'rank_pattern': _describe(_unmatched_keys(config.rank_pattern, targeted), targeted),
        'alpha_pattern': _describe(_unmatched_keys(config.alpha_pattern, targeted), targeted),
    }
    return [f'has names in {argument} that match nothing: {names}' for argument, names in found.items() if names]


def _select(config: LoraConfig, modules: Iterable[str], **changes: Any) -> list[str]:
    """Names of modules that PEFT would put adapters into, with ``changes`` to ``config``."""
    config = copy.copy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    if not config.target_modules or _takes_all(config):
        return list(modules)
    return [name for name in modules if check_target_module_exists(config, name)]


def _takes_all(config: LoraConfig) -> bool:
    return isinstance(config.target_modules, str) and config.target_modules.lower() == 'all-linear'


def _describe_targets(config: LoraConfig, modules: Collection[str], adaptable: Collection[str]) -> str:
    targets = config.target_modules
    if not targets or _takes_all(config):
        return ''
    if isinstance(targets, str):
        if _select(config, modules):
            return ''
        if not _without_ending([targets], modules):
            return (
                f'{targets!r} (a text is a pattern for the whole name of a module; a list, [{targets!r}], is one of '
                'endings)'
            )
        return _describe([targets], adaptable)
    unmatched = sorted(target for target in targets if not _select(config, modules, target_modules={target}))
    unknown = _without_ending(unmatched, modules)
    left_out = [
        f'{target!r} (there is such a module, but exclude_modules, modules_to_save or layers_to_transform leave it out)'
        for target in unmatched
        if target not in unknown
    ]
    return ', '.join(filter(None, [_describe(unknown, adaptable), *left_out]))


def _describe_layers(config: LoraConfig, modules: Collection[str]) -> str:
    layers = config.layers_to_transform
    if layers is None or isinstance(config.target_modules, str):
        return ''
    layers = [layers] if isinstance(layers, int) else layers
    unmatched = [layer for layer in layers if not _select(config, modules, layers_to_transform=[layer])]
    numbers = [int(match[1]) for name in modules if (match := re.search(r'\.(\d+)\.', name))]
    return f'{", ".join(map(str, unmatched))} (the layers are 0 to {max(numbers, default=0)})' if unmatched else ''


def _unmatched_exclusions(config: LoraConfig, modules: Collection[str]) -> list[str]:
    excluded = config.exclude_modules
    if isinstance(excluded, str):
        return [excluded] if excluded and not any(re.fullmatch(excluded, name) for name in modules) else []
    return _without_ending(excluded, modules)


def _unmatched_layers_patterns(config: LoraConfig, modules: Collection[str]) -> list[str]:
    patterns = config.layers_pattern or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [pattern for pattern in patterns if not _select(config, modules, layers_pattern=[pattern])]


def _unmatched_keys(patterns: Mapping[str, int] | None, targeted: Collection[str]) -> list[str]:
    # PEFT's function returns the module's own name if the key does not match it.
    return sorted(
        key
        for key in patterns or {}
        if key not in targeted and all(get_pattern_key([key], name) == name for name in targeted)
    )


def _without_ending(endings: Iterable[str] | None, names: Collection[str]) -> list[str]:
    """Those of ``endings`` that no name ends in; an ending starts after a dot."""
    return sorted(ending for ending in endings or () if not any(f'.{name}'.endswith(f'.{ending}') for name in names))


def _describe(unmatched: Iterable[str], names: Collection[str]) -> str:
    return ', '.join(f'{name!r} ({_nearest(name, names)})' for name in unmatched)


def _nearest(wanted: str, names: Collection[str]) -> str:
    """The endings of names, of as many parts as ``wanted`` has, that are most similar to it."""
    parts = wanted.count('.') + 1
    endings = dict.fromkeys('.'.join(name.split('.')[-parts:]) for name in names)
    last_parts = Counter(name.rpartition('.')[2] for name in names)
    near = get_close_matches(wanted, endings) or get_close_matches(wanted.rpartition('.')[2], last_parts)
    if near:
        return f'nearest: {", ".join(near)}'
    frequent = [part for part, _ in last_parts.most_common() if not part.isdigit()]
    return f'the most frequent names: {", ".join(frequent[:10])}'
