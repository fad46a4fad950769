"""Checkpoints under the names of Meta's own implementation (``sam3.pt``), read and given the names of ``Sam3Model``.

Three kinds of tensors differ in more than their name: fused query, key and value projections, which Hugging Face keeps
apart; the position embeddings, which have a leading one for a class token that is not in use; and the projection of
the pooled text, which is transposed. Rotary positions are computed there, and stored here.
"""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.checkpoints import read_as_data
from crack_plugin.errors import CrackPluginError
from crack_plugin.models import base
from crack_plugin.models.tokenizer import clip_tokenizer

DETECTOR = 'detector.'
"""What the names of the image model begin with in a checkpoint that holds the video model, as the published ones do."""

_PREFIXES_LEFT_OUT = (
    # The tracker of a video model, and the same for clicks on a single image.
    'tracker.',
    'inst_interactive_predictor.',
    # The tracker's feature pyramids: of SAM 3, and of SAM 3.1.
    'backbone.vision_backbone.sam2_convs.',
    'backbone.vision_backbone.interactive_convs.',
    'backbone.vision_backbone.propagation_convs.',
    # Sam3Model has no point prompts.
    'geometry_encoder.points_direct_project.',
    'geometry_encoder.points_pool_project.',
    'geometry_encoder.points_pos_enc_project.',
)
# Rotary positions, complex or as real and imaginary part. Their number says for which image size.
_ROTARY = 'backbone.vision_backbone.trunk.blocks.#.attn.'
_ROTARY_NAMES = ('freqs_cis', 'freqs_cis_real', 'freqs_cis_imag')
_LISTED = 5


class MetaCheckpointError(CrackPluginError, ValueError):
    """A checkpoint is none of the original implementation, or not one of the model that Hugging Face has."""


class Converted(NamedTuple):
    """What :func:`convert` returns."""

    weights: dict[str, Tensor]
    """The state dict of ``Sam3Model(Sam3Config())``, in fp32."""
    left_out: list[str]
    """Names in the checkpoint of what ``Sam3Model`` does not have."""
    zeroed: list[str]
    """Weights that the checkpoint lacks and no output depends on: SAM 3.1 has no coarsest level of the pyramid."""


def _mlp(theirs: str, ours: str, layers: int) -> dict[str, str]:
    return {f'{theirs}.layers.{i}': f'{ours}.layer{i + 1}' for i in range(layers)}


def _same(theirs: str, ours: str, **parts: str) -> dict[str, str]:
    return {f'{theirs}.{part}': f'{ours}.{name}' for part, name in parts.items()}


_NECK = 'backbone.vision_backbone.convs'
_TEXT = 'backbone.language_backbone.encoder'
_DECODER = 'transformer.decoder'
_DETR_LAYER = {
    'linear1': 'mlp.fc1',
    'linear2': 'mlp.fc2',
    'norm1': 'layer_norm1',
    'norm2': 'layer_norm2',
    'norm3': 'layer_norm3',
}

# Modules with `weight` and `bias`, as the original calls them and as Hugging Face does. # is a layer's number.
_MODULES = {
    'backbone.vision_backbone.trunk.patch_embed.proj': 'vision_encoder.backbone.embeddings.patch_embeddings.projection',
    'backbone.vision_backbone.trunk.ln_pre': 'vision_encoder.backbone.layer_norm',
    **_same(
        'backbone.vision_backbone.trunk.blocks.#',
        'vision_encoder.backbone.layers.#',
        **{
            'norm1': 'layer_norm1',
            'norm2': 'layer_norm2',
            'attn.proj': 'attention.o_proj',
            'mlp.fc1': 'mlp.fc1',
            'mlp.fc2': 'mlp.fc2',
        },
    ),
    f'{_NECK}.#.conv_1x1': 'vision_encoder.neck.fpn_layers.#.proj1',
    f'{_NECK}.#.conv_3x3': 'vision_encoder.neck.fpn_layers.#.proj2',
    # The finest level is upsampled twice, with an activation in between that counts as a layer.
    f'{_NECK}.0.dconv_2x2_0': 'vision_encoder.neck.fpn_layers.0.scale_layers.0',
    f'{_NECK}.0.dconv_2x2_1': 'vision_encoder.neck.fpn_layers.0.scale_layers.2',
    f'{_NECK}.1.dconv_2x2': 'vision_encoder.neck.fpn_layers.1.scale_layers.0',
    f'{_TEXT}.token_embedding': 'text_encoder.text_model.embeddings.token_embedding',
    f'{_TEXT}.ln_final': 'text_encoder.text_model.final_layer_norm',
    **_same(
        f'{_TEXT}.transformer.resblocks.#',
        'text_encoder.text_model.encoder.layers.#',
        **{'ln_1': 'layer_norm1', 'ln_2': 'layer_norm2', 'mlp.c_fc': 'mlp.fc1', 'mlp.c_proj': 'mlp.fc2'},
    ),
    'backbone.language_backbone.resizer': 'text_projection',
    **_same(
        'geometry_encoder',
        'geometry_encoder',
        label_embed='label_embed',
        cls_embed='cls_embed',
        boxes_direct_project='boxes_direct_project',
        boxes_pool_project='boxes_pool_project',
        boxes_pos_enc_project='boxes_pos_enc_project',
        final_proj='final_proj',
        img_pre_norm='vision_layer_norm',
        norm='prompt_layer_norm',
        encode_norm='output_layer_norm',
    ),
    **_same('geometry_encoder.encode.#', 'geometry_encoder.layers.#', **_DETR_LAYER),
    **_same('transformer.encoder.layers.#', 'detr_encoder.layers.#', **_DETR_LAYER),
    **_same(
        _DECODER,
        'detr_decoder',
        query_embed='query_embed',
        reference_points='reference_points',
        presence_token='presence_token',
        presence_token_out_norm='presence_layer_norm',
        norm='output_layer_norm',
    ),
    **_mlp(f'{_DECODER}.presence_token_head', 'detr_decoder.presence_head', 3),
    **_mlp(f'{_DECODER}.bbox_embed', 'detr_decoder.box_head', 3),
    **_mlp(f'{_DECODER}.ref_point_head', 'detr_decoder.ref_point_head', 2),
    **_mlp(f'{_DECODER}.boxRPB_embed_x', 'detr_decoder.box_rpb_embed_x', 2),
    **_mlp(f'{_DECODER}.boxRPB_embed_y', 'detr_decoder.box_rpb_embed_y', 2),
    # Named after what they follow, which is not the order of their numbers.
    **_same(
        f'{_DECODER}.layers.#',
        'detr_decoder.layers.#',
        linear1='mlp.fc1',
        linear2='mlp.fc2',
        norm1='vision_cross_attn_layer_norm',
        catext_norm='text_cross_attn_layer_norm',
        norm2='self_attn_layer_norm',
        norm3='mlp_layer_norm',
    ),
    **_mlp('dot_prod_scoring.prompt_mlp', 'dot_product_scoring.text_mlp', 2),
    **_same(
        'dot_prod_scoring',
        'dot_product_scoring',
        **{'prompt_mlp.out_norm': 'text_mlp_out_norm', 'prompt_proj': 'text_proj', 'hs_proj': 'query_proj'},
    ),
    **_same(
        'segmentation_head',
        'mask_decoder',
        **{
            'pixel_decoder.conv_layers.#': 'pixel_decoder.conv_layers.#',
            'pixel_decoder.norms.#': 'pixel_decoder.norms.#',
            'mask_predictor.mask_embed.layers.#': 'mask_embedder.layers.#',
            'instance_seg_head': 'instance_projection',
            'semantic_seg_head': 'semantic_projection',
            'cross_attn_norm': 'prompt_cross_attn_norm',
        },
    ),
}

# ``torch.nn.MultiheadAttention``s, and what Hugging Face calls their output projection.
_ATTENTIONS = {
    f'{_TEXT}.transformer.resblocks.#.attn': ('text_encoder.text_model.encoder.layers.#.self_attn', 'out_proj'),
    'geometry_encoder.encode.#.self_attn': ('geometry_encoder.layers.#.self_attn', 'o_proj'),
    'geometry_encoder.encode.#.cross_attn_image': ('geometry_encoder.layers.#.cross_attn', 'o_proj'),
    'transformer.encoder.layers.#.self_attn': ('detr_encoder.layers.#.self_attn', 'o_proj'),
    'transformer.encoder.layers.#.cross_attn_image': ('detr_encoder.layers.#.cross_attn', 'o_proj'),
    f'{_DECODER}.layers.#.self_attn': ('detr_decoder.layers.#.self_attn', 'o_proj'),
    f'{_DECODER}.layers.#.ca_text': ('detr_decoder.layers.#.text_cross_attn', 'o_proj'),
    f'{_DECODER}.layers.#.cross_attn': ('detr_decoder.layers.#.vision_cross_attn', 'o_proj'),
    'segmentation_head.cross_attend_prompt': ('mask_decoder.prompt_cross_attn', 'o_proj'),
}


def _kept(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {name: tensor}


def _split(module: str, parameter: str, fused: Tensor) -> dict[str, Tensor]:
    """Take a fused projection apart: queries, keys and values are stacked in this order."""
    parts = zip(('q_proj', 'k_proj', 'v_proj'), fused.tensor_split(3), strict=True)
    return {f'{module}.{part}.{parameter}': tensor for part, tensor in parts}


# What becomes of the tensor of a name, # for numbers: tensors by the names that Hugging Face has for them.
_PARAMETERS: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    **{
        f'{theirs}.{parameter}': partial(_kept, f'{ours}.{parameter}')
        for theirs, ours in _MODULES.items()
        for parameter in ('weight', 'bias')
    },
    **{
        f'{theirs}.out_proj.{parameter}': partial(_kept, f'{ours}.{output}.{parameter}')
        for theirs, (ours, output) in _ATTENTIONS.items()
        for parameter in ('weight', 'bias')
    },
    **{
        f'{theirs}.in_proj_{parameter}': partial(_split, ours, parameter)
        for theirs, (ours, _) in _ATTENTIONS.items()
        for parameter in ('weight', 'bias')
    },
    **{
        f'backbone.vision_backbone.trunk.blocks.#.attn.qkv.{parameter}': partial(
            _split, 'vision_encoder.backbone.layers.#.attention', parameter
        )
        for parameter in ('weight', 'bias')
    },
    'backbone.vision_backbone.trunk.pos_embed': lambda tensor: {
        'vision_encoder.backbone.embeddings.position_embeddings': torch.atleast_3d(tensor)[:, 1:]
    },
    f'{_TEXT}.positional_embedding': partial(_kept, 'text_encoder.text_model.embeddings.position_embedding.weight'),
    f'{_TEXT}.text_projection': lambda tensor: {'text_encoder.text_projection.weight': tensor.movedim(0, -1)},
}


def is_meta_checkpoint(names: Iterable[str]) -> bool:
    """Whether the names of a state dict are those of the original implementation: of its image or its video model."""
    starts = ('backbone.vision_backbone.', 'backbone.language_backbone.')
    return any(name.removeprefix(DETECTOR).startswith(starts) for name in names)


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a checkpoint of the original implementation; nothing in the file runs.

    Args:
        path: ``sam3.pt``, ``sam3.1_multiplex.pt``, or what Meta's trainer wrote, which has the state dict under
            ``model``.

    Raises:
        CheckpointError: The file is damaged, or would run code.
        MetaCheckpointError: It holds no state dict.
        OSError: It cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MetaCheckpointError(f'{path} does not exist, or is no file.')
    # Mapped, the file is read while the weights are written; files of before torch 1.6 cannot be.
    mapped = zipfile.is_zipfile(path)
    content = read_as_data(
        partial(torch.load, path, map_location='cpu', weights_only=True, mmap=mapped),
        str(path),
        lambda: 'Download it again: sam3.pt is at https://huggingface.co/facebook/sam3.',
        "Take Meta's own sam3.pt. If you trust who made the file, take its weights out: "
        "torch.save(torch.load(FILE, weights_only=False)['model'], NEW_FILE)",
    )
    if isinstance(content, dict) and isinstance(content.get('model'), dict):
        content = content['model']
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise MetaCheckpointError(
            f"{path} is no checkpoint of Meta's implementation of SAM 3: it holds no state dict. sam3.pt is at "
            'https://huggingface.co/facebook/sam3.'
        )
    return content


def convert(state_dict: Mapping[str, Tensor], source: str = 'the checkpoint') -> Converted:
    """Give a state dict of the original implementation the names and shapes of Hugging Face's ``Sam3Model``.

    Args:
        state_dict: Of the image model (``Sam3Image``), or of a video model, whose detector that is, of SAM 3 or 3.1.
        source: What to call it in an error.

    Returns:
        All weights of ``Sam3Model(Sam3Config())``, and what is in only one of the two.

    Raises:
        MetaCheckpointError: It has names that are not known, lacks weights, or is of a model of another size.
    """
    if not is_meta_checkpoint(state_dict):
        raise MetaCheckpointError(
            f"{source} is no checkpoint of Meta's implementation of SAM 3: its names are others "
            f"({_some(state_dict)}). What Hugging Face's save_pretrained wrote needs no conversion: set base to its "
            'folder.'
        )
    is_video = any(name.startswith(DETECTOR) for name in state_dict)
    weights: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    left_out, unknown = [], []
    for name, tensor in state_dict.items():
        own = name.removeprefix(DETECTOR) if is_video else name
        pattern, numbers = _pattern(own)
        if own.startswith(_PREFIXES_LEFT_OUT):
            left_out.append(name)
        elif is_video and own == name:
            unknown.append(name)
        elif pattern.startswith(_ROTARY) and pattern.removeprefix(_ROTARY) in _ROTARY_NAMES:
            _check_rotary(name, tensor, numbers[0], source)
            left_out.append(name)
        elif rule := _PARAMETERS.get(own) or _PARAMETERS.get(pattern):
            if tensor.dim() == 0 or not tensor.is_floating_point():
                raise MetaCheckpointError(_other_model(source, f'{name} is {_kind(tensor)}'))
            for converted, part in rule(tensor).items():
                target = _with_numbers(converted, numbers)
                weights[target], origin[target] = part, name
        else:
            unknown.append(name)
    if unknown:
        raise MetaCheckpointError(
            f'{source} has {len(unknown)} tensors that are not known here: {", ".join(unknown)}. Known are SAM 3 '
            '(sam3.pt) and the detector of SAM 3.1 (sam3.1_multiplex.pt). What is not known is not left out, since '
            'the result may depend on it.'
        )
    expected = _shapes()
    zeroed = _coarsest_level(weights, state_dict)
    missing = sorted(expected.keys() - weights.keys() - zeroed)
    if missing:
        raise MetaCheckpointError(
            f'{source} is not a whole SAM 3: {len(missing)} weights are missing, {_some(missing)} by their names in '
            "Hugging Face's Sam3Model. A checkpoint of a training may hold only what was trained; sam3.pt holds all."
        )
    for name, tensor in weights.items():
        if tuple(tensor.shape) != expected.get(name):
            found, wanted = tuple(tensor.shape), expected.get(name)
            raise MetaCheckpointError(
                _other_model(
                    source, f'from {origin[name]} comes {name} with shape {found}, and {wanted or "nothing"} is wanted'
                )
            )
    weights = {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    weights |= {name: torch.zeros(expected[name]) for name in zeroed}
    return Converted({name: weights[name].contiguous() for name in expected}, left_out, sorted(zeroed))


def convert_file(path: str | Path, folder: str | Path) -> Converted:
    """Write a checkpoint of the original implementation as a Hugging Face folder with tokenizer and processor.

    The folder is written under a temporary name and moved.

    Args:
        path: See :func:`read`.
        folder: What to write, for ``Sam3Model.from_pretrained`` and ``base``: new or empty.

    Returns:
        What was written, and what was not.

    Raises:
        FolderNotEmptyError: ``folder`` exists and is not empty.
        CheckpointError, MetaCheckpointError: See :func:`read` and :func:`convert`; nothing is written then.
    """
    folder = Path(folder)
    # Before the minutes that reading takes.
    base.refuse_full_folder(folder)
    converted = convert(read(path), str(path))
    with torch.device('meta'):
        model = Sam3Model(Sam3Config())
    model.load_state_dict(converted.weights, assign=True)
    base.save_base(model, clip_tokenizer(), folder, MODELS.build(base.PREPROCESSOR))
    return converted


def _pattern(name: str) -> tuple[str, list[str]]:
    """A name with # for the numbers in it, and the numbers."""
    parts = name.split('.')
    return '.'.join('#' if part.isdecimal() else part for part in parts), [part for part in parts if part.isdecimal()]


def _with_numbers(name: str, numbers: Iterable[str]) -> str:
    rest = iter(numbers)
    return '.'.join(next(rest) if part == '#' else part for part in name.split('.'))


def _check_rotary(name: str, tensor: Tensor, layer: str, source: str) -> None:
    """Compare the number of rotary positions, which the file needs not for the weights, with that of 1008 px."""
    vision: Any = Sam3Config().vision_config
    vit = vision.backbone_config
    side = vit.image_size // vit.patch_size if int(layer) in vit.global_attn_indexes else vit.window_size
    if tensor.shape[:1] != (side * side,):
        how = (
            f'{name} has shape {tuple(tensor.shape)}, and {side * side} positions are wanted, for an image size of '
            f'{vit.image_size}'
        )
        raise MetaCheckpointError(_other_model(source, how))


def _other_model(source: str, how: str) -> str:
    return f'{source} is of another model than sam3.pt: {how}. Only models of the published size can be converted.'


def _kind(tensor: Tensor) -> str:
    return f'a tensor of {tensor.dtype}' if tensor.dim() else 'a single number'


def _shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of the published model."""
    with torch.device('meta'):
        model = Sam3Model(Sam3Config())
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _coarsest_level(weights: Mapping[str, Tensor], state_dict: Iterable[str]) -> set[str]:
    """The coarsest level of the pyramid if this is a SAM 3.1, which has none.

    SAM 3 computes it and drops it: so does ``Sam3Model``, whose output does not depend on these weights.
    """
    level = 'vision_encoder.neck.fpn_layers.3'
    is_3_1 = any(name.removeprefix(DETECTOR).startswith('backbone.vision_backbone.propagation') for name in state_dict)
    if not is_3_1 or any(name.startswith(f'{level}.') for name in weights):
        return set()
    return {f'{level}.{module}.{parameter}' for module in ('proj1', 'proj2') for parameter in ('weight', 'bias')}


def _some(names: Iterable[str]) -> str:
    """The first of some names, and that there are more."""
    names = list(names)
    more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
    return f'{", ".join(islice(names, _LISTED))}{more}'
