"""A base model, SAM 3 without adapters: build or load it with its tokenizer, hash its weights, save it."""

import copy
import hashlib
import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerBase

from crack_plugin.errors import ConfigError, CrackPluginError
from crack_plugin.files import honour_umask
from crack_plugin.models import base_files, base_types, semantic_path
from crack_plugin.models.base_files import BaseModelError as BaseModelError
from crack_plugin.models.semantic_path import Sam3
from crack_plugin.models.tokenizer import clip_tokenizer, load_tokenizer

PREPROCESSOR = {
    'type': 'SegDataPreProcessor',
    'mean': [127.5] * 3,
    'std': [127.5] * 3,
    'bgr_to_rgb': True,
    'size_divisor': 1,
    'pad_val': 0,
    'seg_pad_val': 255,
}
"""SAM 3's own normalisation, as MMSegmentation configures it."""


class FolderNotEmptyError(CrackPluginError, FileExistsError):
    """A model is not saved over other files."""


def load_base(base: str | dict[str, Any], image_size: int | None = None) -> tuple[Sam3, PreTrainedTokenizerBase]:
    """Build a SAM 3 with its tokenizer.

    Args:
        base: Hub id (``name@revision`` for a branch, tag or commit), local folder, or overrides of ``Sam3Config`` for a
            random model (with ``seed``, default 0); with ``model_type='sam3_lite_text'``, of ``Sam3LiteTextConfig``.
        image_size: Side of the model's square input in pixels; None keeps the base's own.

    Returns:
        The model in eval mode, and the tokenizer of its text encoder.

    Raises:
        BaseModelError: The hub refused or could not be reached, or the folder holds no SAM 3 or another tokenizer.
        ConfigError: ``image_size`` does not fill the ViT's attention windows, the vocabulary is too small, or
            ``model_type`` is unknown.
    """
    if isinstance(base, dict):
        model, tokenizer = _random_model(base, image_size), clip_tokenizer()
    else:
        if not isinstance(base, (str, Path)):
            raise ConfigError(f'base={base!r}: give a hub id, a folder, or a dict of overrides of Sam3Config.')
        folder = base_files.fetch(str(base))
        config = base_files.read_config(base, folder)
        semantic_path.set_image_size(config, image_size)
        tokenizer = load_tokenizer(base, folder)
        base_files.fetch_weights(base, folder)
        base_files.check_weights(base, folder, config)
        model = _load_weights(base, folder, config)
    semantic_path.restore_positions(model)
    vocabulary = model.config.text_config.vocab_size
    if vocabulary < len(tokenizer):
        raise ConfigError(
            f'text_config.vocab_size={vocabulary} is smaller than the tokenizer of the prompts ({len(tokenizer)} '
            f'tokens). Leave vocab_size at {len(tokenizer)} and reduce text_config.hidden_size instead.'
        )
    return model.eval(), tokenizer


def _random_model(overrides: dict[str, Any], image_size: int | None) -> Sam3:
    """A random model, the same for the same overrides, which leaves all generators of random numbers as they were."""
    overrides = copy.deepcopy(dict(overrides))
    seed = overrides.pop('seed', 0)
    model_type = overrides.pop('model_type', 'sam3')
    if model_type not in base_types.MODELS:
        raise ConfigError(f'base has model_type={model_type!r}: known are {base_types.KNOWN}.')
    if isinstance(overrides.get('vision_config'), dict) and 'backbone_config' in overrides['vision_config']:
        overrides['vision_config']['backbone_config'].setdefault('model_type', 'sam3_vit_model')
    config_class = base_types.CONFIGS[model_type]
    defaults = config_class()
    unknown = [name for name in overrides if not hasattr(defaults, name)]
    if unknown:
        raise ConfigError(
            f'base has {", ".join(unknown)}, which {config_class.__name__} does not have. Check the names.'
        )
    config = config_class(**overrides)
    semantic_path.set_image_size(config, image_size)
    # Without `devices` torch warns where there are several GPUs.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return base_types.model_class(config)(config)


def _load_weights(base: str, folder: Path, config: Any) -> Sam3:
    try:
        loaded: Any = base_types.model_class(config).from_pretrained(
            str(folder), config=config, output_loading_info=True
        )
    except (ImportError, OSError, SafetensorError, ValueError) as error:
        raise BaseModelError(base_files.loading_failed(base, error)) from error
    except pickle.UnpicklingError as error:
        raise BaseModelError(
            f'base={base!r} is refused: loading its pickled weights would run code. Nothing of it was run. Take a '
            'folder with model.safetensors, which is data alone.'
        ) from error
    model, report = loaded
    # A counter of batch normalisations that nothing reads, and that conversions leave out: it is 0 then.
    missing = sorted(name for name in report['missing_keys'] if not name.endswith('.num_batches_tracked'))
    if missing:
        raise BaseModelError(
            f'base={base!r} is not a complete SAM 3: {len(missing)} weights are missing, the first is {missing[0]!r}. '
            'Point base at a folder that Sam3Model.save_pretrained wrote, or at the hub id facebook/sam3.'
        )
    return model


def base_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights (of names and shapes alone on the meta device)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tuple(tensor.shape)}'.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def shared_base_hash(model: nn.Module) -> str:
    """:func:`base_hash`, computed by the first process of a distributed run for all; every process has to call this.

    They have the same weights: DDP sends those of the first process to the others.
    """
    if not dist.is_distributed():
        return base_hash(model)
    sent = [base_hash(model) if dist.is_main_process() else None]
    dist.broadcast_object_list(sent)
    assert sent[0] is not None
    return sent[0]


def save_base(model: Sam3, tokenizer: PreTrainedTokenizerBase, folder: str | Path, preprocessor: Any) -> None:
    """Write a Hugging Face folder that ``Sam3Model`` and ``Sam3Processor`` load.

    It is written under a temporary name and moved.

    Args:
        model: SAM 3 with all its modules, without adapters.
        tokenizer: Of its text encoder.
        folder: Where to.
        preprocessor: MMSegmentation's ``SegDataPreProcessor`` that the model was trained with: its mean and standard
            deviation become the processor's.

    Raises:
        FolderNotEmptyError: There is a folder with files in it, see :func:`refuse_full_folder`.
    """
    folder = Path(folder)
    refuse_full_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}-')
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        # Again without indentation, which is half of its 3.6 MB.
        tokenizer.backend_tokenizer.save(str(Path(scratch, 'tokenizer.json')), pretty=False)
        text = json.dumps(_processor_config(model, preprocessor), indent=2, sort_keys=True)
        Path(scratch, 'processor_config.json').write_text(f'{text}\n', encoding='utf-8')
        honour_umask(scratch)
        Path(scratch).replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_full_folder(folder: Path) -> None:
    """Refuse to write where there is something already, before any work is done.

    Raises:
        FolderNotEmptyError: It is a folder that has files in it, or a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderNotEmptyError(f'{folder} is a file. Name a new or empty folder.')
    if folder.is_dir() and any(folder.iterdir()):
        raise FolderNotEmptyError(f'{folder} is not empty. Remove it, or save under another name.')


def _processor_config(model: Sam3, preprocessor: Any) -> dict[str, Any]:
    """What ``Sam3Processor.save_pretrained`` writes. Importing that class needs torchvision."""
    side, mask_side = semantic_path.input_size(model), semantic_path.output_size(model)
    # Without a mean, the preprocessor normalises nothing.
    normalises = hasattr(preprocessor, 'mean')
    return {
        'image_processor': {
            'do_convert_rgb': True,
            'do_normalize': normalises,
            'do_rescale': normalises,
            'do_resize': True,
            # MMSegmentation's are in grey levels, these in shares of 255.
            'image_mean': (preprocessor.mean / 255).flatten().tolist() if normalises else [0.0] * 3,
            'image_processor_type': 'Sam3ImageProcessor',
            'image_std': (preprocessor.std / 255).flatten().tolist() if normalises else [1.0] * 3,
            'mask_size': {'height': mask_side, 'width': mask_side},
            'resample': 2,
            'rescale_factor': 1 / 255,
            'size': {'height': side, 'width': side},
        },
        'point_pad_value': -10,
        'processor_class': 'Sam3Processor',
        'target_size': side,
    }
