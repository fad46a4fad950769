r"""LoRA adapters: inject, load, save and merge them with PEFT.

An adapter is what its PEFT folder holds: LoRA's weights, and what ``modules_to_save`` and ``bias`` train beside them.

This module, ``adapter_precision``, ``adapter_weights`` and ``lora_config`` are the only ones that use ``peft``. What is
used beyond its public interface was read in peft 0.21.2: the attributes of ``LoraLayer`` (``lora_A``, ``lora_B``,
``lora_dropout``, ``lora_variant``, ``cast_input_dtype_enabled``) and of ``ModulesToSaveWrapper`` (``modules_to_save``,
``original_module``; any other is the saved module's), and the names of weights ('lora\_', 'base_layer',
'modules_to_save', 'original_module'). ``tests/models/test_private_names_of_models.py`` lists them and fails where one
has changed.
"""

import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from mmengine.logging import print_log
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from crack_plugin import hub
from crack_plugin.files import honour_umask
from crack_plugin.models import lora_config
from crack_plugin.models.adapter_precision import keep_in_fp32
from crack_plugin.models.adapter_weights import base_weights, load_weights, named_weights, weight_keys
from crack_plugin.models.lora_config import CONFIG_FILE, AdapterError

WEIGHTS_FILE = 'adapter_model.safetensors'
HEAD_FILE = 'detail_head.safetensors'
"""Weights of a detail head, beside those of the adapter; plain PEFT ignores the file."""

BASE_HASH = 'base_hash'
"""Key of the base weights' hash in the metadata of ``adapter_model.safetensors``, where plain PEFT ignores it."""


def adapted(model: nn.Module, lora: Mapping[str, Any] | None, adapter: str | Path | None, base_hash: str) -> Any:
    """Freeze ``model`` and give it a saved adapter, else new ones, else none.

    Args:
        model: The base model.
        lora: Arguments of ``peft.LoraConfig``; None for no new adapters.
        adapter: PEFT adapter folder or hub id, see :func:`fetch`; None for new adapters.
        base_hash: Hash of the base weights.

    Raises:
        AdapterError: See :func:`inject` and :func:`inject_from`.
    """
    model.requires_grad_(False)
    if adapter is not None:
        return inject_from(model, adapter, lora, base_hash)
    return inject(model, lora) if lora is not None else model


def inject(model: nn.Module, lora: Mapping[str, Any]) -> PeftModel:
    """Put fresh LoRA adapters (B = 0) into ``model``; only their weights require gradients afterwards.

    Args:
        model: Any model whose linear layers ``lora['target_modules']`` names.
        lora: Arguments of ``peft.LoraConfig``.

    Raises:
        AdapterError: ``target_modules`` or another name in ``lora`` matches nothing, or an argument is unknown to
            PEFT or not supported here.
    """
    source = _check_lora(lora)
    lora_config.check_initialisation(lora, source)
    try:
        config = LoraConfig(**lora)
        unmatched = lora_config.find_unmatched(model, config)
        if unmatched:
            raise AdapterError(f'{source} {"; and ".join(unmatched)}.')
        peft_model = get_peft_model(model, config)
    except AdapterError:
        raise
    except lora_config.BAD_VALUE_ERRORS as error:
        raise AdapterError(f'{source} was refused by PEFT: {error}') from error
    _prepare(peft_model, source)
    return peft_model


def inject_from(model: nn.Module, folder: str | Path, lora: Mapping[str, Any] | None, base_hash: str) -> PeftModel:
    """Put a saved adapter into ``model``; every one of its weights has to fit.

    The structure (rank, alpha, targets) is the saved adapter's own. The dropout is that of ``lora``, because it
    concerns training alone; any other difference from ``lora`` is logged.

    Args:
        model: The base model.
        folder: PEFT adapter folder or hub id, see :func:`fetch`.
        lora: Arguments of ``peft.LoraConfig`` that the caller expected, or None.
        base_hash: Hash of the base weights, compared with the adapter's if that carries one.

    Raises:
        AdapterError: The folder is not an adapter, is damaged, was made for another base, or does not fit the model.
    """
    folder = fetch(folder)
    weights, made_for = _read_weights(folder)
    config = lora_config.read_config(folder)
    check_base(made_for, base_hash, str(folder))
    config.inference_mode = False
    # PEFT warns if the base has another name here; its hash has been compared.
    config.base_model_name_or_path = None
    if lora is not None:
        source = _check_lora(lora)
        try:
            wanted = LoraConfig(**lora)
        except lora_config.BAD_VALUE_ERRORS as error:
            raise AdapterError(f'{source} was refused by PEFT: {error}') from error
        _use_dropout_of(wanted, config, folder)
    unmatched = ''
    try:
        # Names that match nothing are harmless if every weight of the adapter fits, which is checked below.
        unmatched = '; and '.join(lora_config.find_unmatched(model, config))
        peft_model = get_peft_model(model, config)
    except lora_config.BAD_VALUE_ERRORS as error:
        raise AdapterError(f'adapter {folder} does not fit the base model: {unmatched or error}') from error
    _prepare(peft_model, f'adapter {folder}')
    try:
        load_weights(peft_model, weights, str(folder))
    except AdapterError as error:
        if not unmatched:
            raise
        raise AdapterError(f'{error} Its {CONFIG_FILE} {unmatched}.') from error
    if unmatched:
        print_log(f'adapter {folder}: all its weights fit, but its {CONFIG_FILE} {unmatched}', 'current', level=30)
    return peft_model


def save(
    model: PeftModel,
    folder: str | Path,
    base_name: str | None,
    base_hash: str,
    revision: str | None = None,
    head: bytes | None = None,
) -> None:
    """Write a PEFT adapter folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Each file is written under a temporary name and moved, so an interrupted save leaves the former one intact.

    Args:
        model: Model with adapters.
        folder: Where to.
        base_name: Folder or hub id of the base, or None if it has neither.
        base_hash: Hash of the base weights.
        revision: Branch, tag or commit of the base on the hub; None for the default.
        head: Content of :data:`HEAD_FILE`; None for a model without a detail head. A former one is removed then.

    Raises:
        AdapterError: The folder cannot be written.
    """
    folder = Path(folder)
    config = model.peft_config['default']
    config.base_model_name_or_path, config.revision = base_name, revision
    training, config.inference_mode = config.inference_mode, True
    weights = {name: weight.detach().cpu().contiguous() for name, weight in named_weights(model).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The name by which crack_plugin.files recognises what a killed process leaves behind.
        with tempfile.TemporaryDirectory(dir=folder, prefix='.adapter-', suffix='.unfinished') as scratch:
            save_file(weights, str(Path(scratch) / WEIGHTS_FILE), metadata={'format': 'pt', BASE_HASH: base_hash})
            config.save_pretrained(scratch)
            names = [WEIGHTS_FILE, CONFIG_FILE]
            if head is not None:
                names.append(HEAD_FILE)
                Path(scratch, HEAD_FILE).write_bytes(head)
            for name in names:
                honour_umask(Path(scratch, name))
            for name in names:
                Path(scratch, name).replace(folder / name)
            if head is None:
                (folder / HEAD_FILE).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f'adapter {folder} could not be written: {error}. What was saved before is complete. Free space, or make '
            'the folder writable; a training goes on with --resume.'
        ) from error
    finally:
        config.inference_mode = training


def merge(model: PeftModel) -> Any:
    """Merge LoRA into the weights and return the plain base model.

    Raises:
        AdapterError: A weight would become NaN or infinite.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise AdapterError(f'the adapter cannot be merged: {error}') from error


class Snapshot(NamedTuple):
    """A copy of adapters without their model: PEFT's config, and the weights under PEFT's names."""

    config: LoraConfig
    weights: dict[str, Tensor]


def snapshot(model: PeftModel) -> Snapshot:
    """Copy the adapters of ``model``."""
    weights = {name: weight.detach().cpu().clone() for name, weight in named_weights(model).items()}
    return Snapshot(LoraConfig(**model.peft_config['default'].to_dict()), weights)


def merge_into(base: nn.Module, adapter: Snapshot, is_initial: bool = True) -> Any:
    """Merge adapters in fp32 into their base, which has all its modules, and return it.

    Args:
        base: Without adapters.
        adapter: Of that base.
        is_initial: Whether its weights are those before the adapters were made: some initialisations ('pissa',
            'olora') take from the base's weights what they put into the adapters.

    Raises:
        AdapterError: The adapters do not fit, or a weight would become NaN or infinite.
    """
    trained = None if is_initial else {name: value.clone() for name, value in base.float().state_dict().items()}
    adapted = get_peft_model(base.float(), adapter.config)
    if trained is not None:
        # What the initialisation made of them was done once already.
        with torch.no_grad():
            for name, value in base_weights(adapted).items():
                value.copy_(trained[name])
    load_weights(adapted, adapter.weights, 'in memory')
    return merge(adapted)


def train_all(model: nn.Module) -> None:
    """Let every weight train, but those that a saved module has taken the place of."""
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.original_module.requires_grad_(False)


def set_training(model: nn.Module, mode: bool) -> None:
    """Put the adapters' dropout and the saved modules, and nothing else, into training or evaluation mode."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            # Variants of LoRA (DoRA, ...) ask the layer itself whether to drop out. Its base layer stays as it is.
            module.training = mode
            module.lora_dropout.train(mode)
        elif isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.train(mode)


def has_adapter(module: nn.Module) -> bool:
    """Whether anything inside ``module``, part of a model with nothing but adapters to train, belongs to an adapter."""
    kinds = (LoraLayer, ModulesToSaveWrapper)
    return any(isinstance(child, kinds) for child in module.modules()) or any(
        parameter.requires_grad for parameter in module.parameters()
    )


def is_adapted(model: nn.Module) -> TypeGuard[PeftModel]:
    """Whether ``model`` came from :func:`inject` or :func:`inject_from` and was not merged."""
    return isinstance(model, PeftModel)


def base_model(model: nn.Module) -> Any:
    """The Hugging Face model, with adapters in place if there are any."""
    return model.get_base_model() if is_adapted(model) else model


def check_base(made_for: str | None, base_hash: str, source: str) -> None:
    """Compare the hash of the base that something was trained on with that of the model's base.

    Raises:
        AdapterError: They differ.
    """
    if made_for is None:
        print_log(
            f'{source} does not say which base weights it was trained on: checked by names and shapes only',
            logger='current',
            level=30,
        )
    elif made_for != base_hash:
        raise AdapterError(
            f'{source} was trained on other base weights (hash {made_for[:12]}, this base has {base_hash[:12]}): '
            'its adapters do not work here. Point `base` at the model it was trained on.'
        )


def _check_lora(lora: Mapping[str, Any]) -> str:
    """Check arguments of ``peft.LoraConfig``, and return what messages call them."""
    if not isinstance(lora, Mapping):
        raise AdapterError(f"lora={lora!r}: give a dict such as dict(r=8, target_modules=['q_proj']), or None.")
    source = f'lora={dict(lora)!r}'
    lora_config.check_arguments(lora, source)
    return source


def _prepare(model: PeftModel, source: str) -> None:
    """Refuse what could not be saved, or would not be computed; hold the adapter's weights in fp32.

    Raises:
        AdapterError: A module to save has another one, or LoRA, inside; or weights train that no folder would hold.
    """
    for name, wrapper in model.get_base_model().named_modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        # PEFT hangs the inner one beside the module to save, which goes on without it.
        kinds = (LoraLayer, ModulesToSaveWrapper)
        inside = [child for child, module in wrapper.named_modules() if child and isinstance(module, kinds)]
        if inside:
            raise AdapterError(
                f'{source}: modules_to_save has {name}, and there is a module to save, or LoRA, inside it '
                f'({len(inside)} in all). It trains entirely as it is: write longer names into modules_to_save (a name '
                'matches every module whose name ends in it), or add what is inside to exclude_modules.'
            )
    keys = weight_keys(model)
    unsaved = [name for name, value in model.named_parameters() if value.requires_grad and name not in keys]
    if unsaved:
        raise AdapterError(
            f'{source} trains {len(unsaved)} weights that an adapter folder does not hold, the first is {unsaved[0]}. '
            "Choose another kind of LoRA, or train everything with trainable='all'."
        )
    keep_in_fp32(model, keys)


def fetch(adapter: str | Path) -> Path:
    """Find an adapter: a folder, or a repository on the Hugging Face hub.

    Args:
        adapter: A folder (``~`` is expanded), or a hub id ``owner/name``, optionally followed by ``@`` and a branch,
            tag or commit. A relative path and a hub id look alike: where the folder ``owner`` is here, the folder is
            meant, unless a revision is given.

    Returns:
        Its folder; of a repository the one in the hub's cache.

    Raises:
        AdapterError: It is not an adapter; the message says which of the usual mistakes it looks like. Or the hub
            refused, or cannot be reached.
    """
    folder = Path(adapter).expanduser()
    if (folder / CONFIG_FILE).is_file() or (folder / WEIGHTS_FILE).is_file():
        return folder
    if folder.is_file():
        if folder.name in (CONFIG_FILE, WEIGHTS_FILE):
            raise AdapterError(
                f'adapter={str(adapter)!r} is a file inside an adapter. Give its folder, {folder.parent}.'
            )
        raise AdapterError(
            f'adapter={str(adapter)!r} is a file, and an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}. A '
            'checkpoint (.pth) goes to --checkpoint or load_from.'
        )
    if folder.is_dir():
        inside = sorted(
            path.parent for depth in ('*', '*/*', '*/*/*') for path in folder.glob(f'{depth}/{CONFIG_FILE}')
        )
        if inside:
            best = [path for path in inside if path.name == 'best']
            names = ', '.join(map(str, inside[:5])) + (f' and {len(inside) - 5} more' if len(inside) > 5 else '')
            raise AdapterError(
                f'adapter={str(adapter)!r} is not an adapter itself but a folder that contains adapters: {names}. Give '
                f'one of them, for example {(best or inside)[0]}.'
            )
        files = sorted(path.name for path in folder.iterdir())
        raise AdapterError(
            f'{folder} is no PEFT adapter: it has no {CONFIG_FILE} and no {WEIGHTS_FILE}, but '
            f'{", ".join(files[:5]) if files else "is empty"}. Give the folder that save_adapter or '
            'PeftModel.save_pretrained wrote, in a work dir adapters/best.'
        )
    on_hub = hub.split_revision(str(adapter))
    if on_hub and '/' in on_hub[0] and (on_hub[1] or not folder.parent.is_dir()):
        return _download(str(adapter), *on_hub)
    existing = next(parent for parent in folder.absolute().parents if parent.is_dir())
    nearby = get_close_matches(folder.name, [path.name for path in existing.iterdir() if path.is_dir()])
    raise AdapterError(
        f'adapter={str(adapter)!r}: there is no such folder; {existing} exists'
        + (f', with {", ".join(nearby)} in it' if nearby else '')
        + f'. Give the folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}.'
        + (f" If a repository on the Hugging Face hub is meant, name its revision: '{adapter}@main'." if on_hub else '')
    )


def _download(adapter: str, name: str, revision: str | None) -> Path:
    """Download an adapter's files into the hub's cache."""
    try:
        folder = hub.download(adapter, name, revision, [CONFIG_FILE, WEIGHTS_FILE, HEAD_FILE], argument='adapter')
    except hub.HubError as error:
        raise AdapterError(str(error)) from error
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        raise AdapterError(
            f'adapter={adapter!r}: the repository on the Hugging Face hub has no {" and no ".join(missing)}, so it is '
            f'no PEFT adapter that can be read (pickled adapter_model.bin files are not). See '
            f'https://huggingface.co/{name}/tree/{revision or "main"}; a whole model goes to base.'
        )
    return folder


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterError(
            f'{folder} is no PEFT adapter: it has no {WEIGHTS_FILE}. Give the folder that save_adapter or '
            'PeftModel.save_pretrained wrote (pickled adapter_model.bin files are not read).'
        )
    try:
        with safe_open(str(path), framework='pt') as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata.get(BASE_HASH)  # noqa: SIM118
    except SafetensorError as error:
        raise AdapterError(f'{path} is damaged or cut short ({error}). Copy it again, or take another.') from error


def _use_dropout_of(wanted: LoraConfig, config: LoraConfig, folder: Path) -> None:
    """Set the dropout of a saved adapter's ``config`` to the one ``wanted``, and log what else differs."""
    # On single parameters (target_parameters) PEFT has none.
    if not config.target_parameters:
        config.lora_dropout = wanted.lora_dropout
    names = ['r', 'lora_alpha', 'target_modules', 'modules_to_save', 'bias', 'use_rslora', 'use_dora']
    names += ['rank_pattern', 'alpha_pattern']
    differing = [name for name in names if getattr(config, name) != getattr(wanted, name)]
    if differing:
        values = ', '.join(f'{name}={getattr(config, name)!r} (not {getattr(wanted, name)!r})' for name in differing)
        print_log(f"adapter {folder} differs from model.lora; the adapter's own apply: {values}", logger='current')
