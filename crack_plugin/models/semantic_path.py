"""The semantic path through Hugging Face ``Sam3Model``; the only module that knows its internals.

Image -> ViT -> neck -> DETR encoder (attends to the prompt) -> prompt cross-attention -> pixel decoder -> one logit per
pixel. The DETR decoder, the geometry encoder, the scoring and the instance masks have no part in it.

What is used of the model beyond its public interface was read in transformers 5.23.0: names and structure of its
submodules, ``Sam3MaskDecoder._embed_pixels``, the rotary positions of ``Sam3ViTLayer``, and
``create_bidirectional_mask``. ``tests/models/test_private_names_of_models.py`` lists them and fails where one has
changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_bidirectional_mask

from crack_plugin.errors import ConfigError

# A ``Sam3Model`` or ``Sam3LiteTextModel``, adapters in place or not. transformers types its sub-configs and submodules
# too widely to check.
Sam3: TypeAlias = Any

PARTS = ('text_encoder', 'vit', 'neck', 'detr_encoder', 'mask_decoder')
"""Parts whose activations can be computed again in the backward pass, in the order of the path."""

TEXT_MODULES = ('text_encoder', 'text_projection')
"""Modules that nothing but :func:`encode_prompts` needs."""

UNUSED = (
    'geometry_encoder',
    'detr_decoder',
    'dot_product_scoring',
    'mask_decoder.mask_embedder',
    'mask_decoder.instance_projection',
    'text_encoder.text_projection',
    'text_encoder.projection',
)
"""Modules without a path to the semantic logits, besides unused layers of the two pyramids. The last two project the
pooled token, in SAM 3 and in SAM3-LiteText."""


def set_image_size(config: Any, image_size: int | None) -> None:
    """Set the side of the square input in a ``Sam3Config``.

    Args:
        config: Changed in place.
        image_size: Side in pixels; None keeps the configuration's own.

    Raises:
        ConfigError: It does not fill the ViT's attention windows.
    """
    if image_size is None:
        return
    if not isinstance(image_size, int):
        raise ConfigError(f'image_size={image_size!r}: give a whole number of pixels, or None.')
    vit = config.vision_config.backbone_config
    window = vit.patch_size * vit.window_size
    if image_size < window or image_size % window:
        raise ConfigError(
            f'image_size={image_size} does not fill the attention windows of the ViT: choose a multiple of {window}, '
            f'for example {max(1, round(image_size / window)) * window}.'
        )
    config.image_size = image_size


def restore_positions(model: Sam3) -> None:
    """Rebuild the rotary positions in fp32: a checkpoint loaded in bf16 has them rounded to 1/8 of their spacing."""
    for layer in model.vision_encoder.backbone.layers:
        device = layer.position_ids.device
        layer.position_ids = layer.precompute_positions(layer.config, layer.window_size).float().to(device)
        rotary = layer.rotary_emb
        rotary.inv_freq, rotary.attention_scaling = rotary.compute_axial_rope_parameters(rotary.config, device)


def input_size(model: Sam3) -> int:
    """Side of the model's square input in pixels."""
    return int(model.config.vision_config.backbone_config.image_size)


def output_size(model: Sam3) -> int:
    """Side of the semantic logits: 4 x 4 for each patch of the ViT."""
    return 4 * input_size(model) // int(model.config.vision_config.backbone_config.patch_size)


def embedding_channels(model: Sam3) -> int:
    """Channels of the pixel decoder's embeddings."""
    return int(model.config.mask_decoder_config.hidden_size)


def unused_modules(model: Sam3) -> list[str]:
    """Names of the modules, of those still there, that the semantic logits do not depend on."""
    # The neck's last level is not passed on, and the pixel decoder takes one step fewer than it has levels.
    levels = len(model.config.vision_config.scale_factors)
    steps = model.config.mask_decoder_config.num_upsampling_stages
    unused = [f'vision_encoder.neck.fpn_layers.{levels - 1}']
    for step in range(levels - 2, steps):
        unused += [f'mask_decoder.pixel_decoder.conv_layers.{step}', f'mask_decoder.pixel_decoder.norms.{step}']
    return [name for name in (*UNUSED, *unused) if _has_submodule(model, name)]


def _has_submodule(model: Sam3, name: str) -> bool:
    """Whether there is such a module, be it inside one that PEFT has put another in the place of."""
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def drop_modules(model: Sam3, names: Sequence[str]) -> None:
    """Replace the named modules by ``nn.Identity``, so that no other weight changes its name."""
    for name in names:
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, nn.Identity())


def has_text_encoder(model: Sam3) -> bool:
    """Whether the text encoder has not been dropped."""
    return not isinstance(model.text_encoder, nn.Identity)


def _text_encoder(model: Sam3) -> Any:
    """The module from tokens to hidden states: CLIP's has its projection outside of it, SAM3-LiteText's inside."""
    return getattr(model.text_encoder, 'text_model', model.text_encoder)


def _text_layers(model: Sam3) -> Any:
    encoder = _text_encoder(model)
    return getattr(encoder, 'encoder', encoder).layers


def hold_statistics(model: Sam3) -> None:
    """Put batch normalisations, which SAM3-LiteText's text encoder has, into evaluation mode.

    The batch would be the prompts, the same few texts at every step: their statistics would replace those of all texts
    that the base was trained on. Checkpointing would also count each batch twice.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def share_rotary_embeddings(model: Sam3) -> None:
    """Compute the sines and cosines of the rotary positions once, instead of in every layer of every forward.

    There are two kinds of layers: those that attend in windows, and those that attend to the whole image.
    """
    tables: dict[int, nn.Module] = {}
    # Not layers by their index: a wrapper of PEFT may stand there.
    for layer in model.vision_encoder.backbone.modules():
        if 'rotary_emb' not in dict(layer.named_children()):
            continue
        if layer.window_size not in tables:
            tables[layer.window_size] = _RotaryTable(*layer.rotary_emb(layer.position_ids, layer.position_ids))
        layer.rotary_emb = tables[layer.window_size]


class _RotaryTable(nn.Module):
    """Takes the place of a layer's ``rotary_emb``: precomputed cosines and sines of its positions."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.register_buffer('cos', cos, persistent=False)
        self.register_buffer('sin', sin, persistent=False)

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Any, Any]:
        return self.cos, self.sin


def blocks(model: Sam3, parts: Sequence[str] = PARTS) -> list[nn.Module]:
    """The layers of the named parts; of the mask decoder, the prompt attention and the pixel decoder."""
    vision, decoder = model.vision_encoder, model.mask_decoder
    found = {
        # It is dropped as soon as the prompts are encoded, if they are frozen.
        'text_encoder': _text_layers(model) if has_text_encoder(model) else (),
        'vit': vision.backbone.layers,
        'neck': vision.neck.fpn_layers[:-1],
        'detr_encoder': model.detr_encoder.layers,
        'mask_decoder': (decoder.prompt_cross_attn, decoder.pixel_decoder),
    }
    return [block for part in parts for block in found[part]]


def checkpoint_activations(model: Sam3, parts: Sequence[str] = PARTS) -> None:
    """Keep only the inputs of each block for the backward pass, which computes the rest again.

    ``gradient_checkpointing_enable`` raises for ``Sam3Model``, and its ViT layers checkpoint in training mode only,
    which a frozen model is not in. Non-reentrant, because the reentrant kind gives no gradient to adapters behind
    inputs that need none.
    """
    for block in blocks(model, parts):
        if not isinstance(block.forward, _Checkpointed):
            block.forward = _Checkpointed(block.forward)


def compile_model(model: Sam3, options: Mapping[str, Any] | None) -> dict[str, Callable[..., Any]]:
    """Compile the semantic path as a whole or block by block.

    Args:
        model: SAM 3.
        options: Of ``torch.compile``, and ``target``, 'path' or 'blocks'; None to compile nothing.

    Returns:
        Compiled functions, see :func:`compile_path`; none if blocks are compiled, which is done in place.
    """
    if options is None:
        return {}
    options = dict(options)
    if options.pop('target') == 'path':
        return compile_path(**options)
    compile_blocks(model, **options)
    return {}


def compile_blocks(model: Sam3, **options: Any) -> None:
    """Compile each block by itself: equal blocks share their code, so this takes a fraction of the path's time.

    Args:
        model: SAM 3.
        **options: Of ``torch.compile``.
    """
    _allow_recompiles()
    for block in blocks(model):
        block.compile(**options)


def compile_path(**options: Any) -> dict[str, Callable[..., Any]]:
    """Compile the semantic path.

    Args:
        **options: Of ``torch.compile``.

    Returns:
        :func:`encode_prompts`, :func:`encode_prefix`, :func:`semantic_logits` and :func:`semantic_features` under their
        names, compiled when they are first called with a shape, and again with and without gradients.
    """
    _allow_recompiles()
    functions: tuple[Any, ...] = (encode_prompts, encode_prefix, semantic_logits, semantic_features)
    return {function.__name__: torch.compile(function, **options) for function in functions}


def _allow_recompiles() -> None:
    # torch counts variants by function, and stops compiling at the ninth. Here there are: kinds of blocks, with and
    # without adapters, training and inference, the sizes of batches.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)


class _Checkpointed:
    """A ``forward`` that is run again in the backward pass, wherever gradients are recorded."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def encode_prompts(model: Sam3, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Encode tokenized prompts.

    Args:
        model: SAM 3 with its text encoder.
        input_ids: Token ids, shape (K, L).
        attention_mask: 1 for a token, 0 for padding, shape (K, L).

    Returns:
        Prompt features, shape (K, L, C).
    """
    # get_text_features would also run the projection of the pooled token, which nothing reads.
    hidden = _text_encoder(model)(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return model.text_projection(hidden)


def frozen_depth(model: Sam3) -> int:
    """Number of leading ViT layers with nothing that trains, or drops out, in or before them.

    Their output depends on the image alone.
    """
    backbone = model.vision_encoder.backbone
    depth = 0
    for part in (backbone.embeddings, backbone.layer_norm, *backbone.layers):
        drops = any(isinstance(module, nn.Dropout) and module.p for module in part.modules())
        if drops or any(parameter.requires_grad for parameter in part.parameters()):
            break
        depth += 1
    return max(0, depth - 2)


def encode_prefix(model: Sam3, pixel_values: Tensor, depth: int) -> Tensor:
    """Embed the patches and run the first ``depth`` layers of the ViT.

    Args:
        model: SAM 3.
        pixel_values: Normalised images, shape (N, 3, S, S).
        depth: How many layers.

    Returns:
        Hidden states, shape (N, s, s, C) with s = S / 14 in SAM 3.
    """
    backbone = model.vision_encoder.backbone
    side = pixel_values.shape[-1] // backbone.config.patch_size
    hidden = backbone.layer_norm(backbone.embeddings(pixel_values).unflatten(1, (side, side)))
    for layer in backbone.layers[:depth]:
        hidden = layer(hidden)
    return hidden


def prefix_modules(model: Sam3, depth: int) -> tuple[nn.ModuleList, str]:
    """The modules that :func:`encode_prefix` runs, and their configuration as JSON."""
    backbone = model.vision_encoder.backbone
    modules = nn.ModuleList([backbone.embeddings, backbone.layer_norm, *backbone.layers[:depth]])
    return modules, backbone.config.to_json_string()


def prefix_shape(model: Sam3) -> tuple[int, int, int]:
    """Shape (s, s, C) of one image's hidden states from :func:`encode_prefix`."""
    vit = model.vision_encoder.backbone.config
    return input_size(model) // vit.patch_size, input_size(model) // vit.patch_size, vit.hidden_size


def prefix_dtype(model: Sam3) -> torch.dtype:
    """Precision of the weights that read the hidden states from :func:`encode_prefix`."""
    return model.vision_encoder.backbone.dtype


def encode_images(model: Sam3, hidden: Tensor, depth: int) -> tuple[list[Tensor], Tensor]:
    """Run the rest of the ViT, and the neck.

    Args:
        model: SAM 3.
        hidden: Hidden states from :func:`encode_prefix`, shape (N, s, s, C).
        depth: How many layers they have passed.

    Returns:
        Feature pyramid, fine to coarse, shapes (N, C, 4s, 4s), (N, C, 2s, 2s), (N, C, s, s); and the position encoding
        of the coarsest, shape (N, C, s, s).
    """
    for layer in model.vision_encoder.backbone.layers[depth:]:
        hidden = layer(hidden)
    grid = hidden.permute(0, 3, 1, 2)
    neck = model.vision_encoder.neck
    pyramid = [layer(grid) for layer in neck.fpn_layers[:-1]]
    coarsest = pyramid[-1]
    # In bfloat16 the angles, up to 2 pi, would be off by 1/64, and the sines with them: round the results alone.
    positions = neck.position_encoding(coarsest.shape, coarsest.device, torch.float32)
    return pyramid, positions.to(coarsest.dtype)


def semantic_logits(model: Sam3, hidden: Tensor, depth: int, prompts: Tensor, prompt_mask: Tensor) -> Tensor:
    """Run everything after the prefix: see :func:`encode_images` and :func:`embed_pixels`.

    Args:
        model: SAM 3.
        hidden: Hidden states from :func:`encode_prefix`, shape (N, s, s, C).
        depth: How many layers they have passed.
        prompts: Features of K prompts, shape (K, L, C).
        prompt_mask: True for a token, False for padding, shape (K, L).

    Returns:
        Semantic logits, shape (N, K, 4s, 4s).
    """
    return semantic_features(model, hidden, depth, prompts, prompt_mask)[0]


def semantic_features(
    model: Sam3, hidden: Tensor, depth: int, prompts: Tensor, prompt_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`semantic_logits`, with what they are projected from.

    Returns:
        Semantic logits, shape (N, K, 4s, 4s), and pixel embeddings, shape (N * K, C, 4s, 4s).
    """
    embeddings = embed_pixels(model, *encode_images(model, hidden, depth), prompts, prompt_mask)
    logits = model.mask_decoder.semantic_projection(embeddings)
    return logits.unflatten(0, (hidden.shape[0], len(prompts))).squeeze(2), embeddings


def embed_pixels(model: Sam3, pyramid: list[Tensor], positions: Tensor, prompts: Tensor, prompt_mask: Tensor) -> Tensor:
    """Run the prompt-dependent part once for every pair of image and prompt.

    Args:
        model: SAM 3.
        pyramid: Image features of N images from :func:`encode_images`.
        positions: Position encoding of the coarsest features.
        prompts: Features of K prompts, shape (K, L, C).
        prompt_mask: True for a token, False for padding, shape (K, L).

    Returns:
        Embeddings of the pixel decoder, shape (N * K, C, 4s, 4s), all prompts of an image side by side.
    """
    images, classes = pyramid[0].shape[0], len(prompts)
    pyramid = [_pair(level, classes) for level in pyramid]
    prompts = prompts.repeat(images, 1, 1)
    # One mask for encoder and decoder, which both use a mask of four dimensions unchanged. To skip it where there is no
    # padding, the host would have to wait for the GPU.
    mask = create_bidirectional_mask(
        config=model.mask_decoder.config,
        inputs_embeds=pyramid[-1].flatten(2).transpose(1, 2),
        encoder_hidden_states=prompts,
        attention_mask=prompt_mask.repeat(images, 1),
        allow_is_bidirectional_skip=False,
    )
    encoded = model.detr_encoder(
        vision_features=[pyramid[-1]],
        text_features=prompts,
        vision_pos_embeds=[_pair(positions, classes)],
        text_mask=mask,
    ).last_hidden_state
    return _embed_pixels(model.mask_decoder, pyramid, encoded, prompts, mask)


def _embed_pixels(decoder: Any, pyramid: list[Tensor], encoded: Tensor, prompts: Tensor, mask: Any) -> Tensor:
    """``Sam3MaskDecoder.forward`` up to its pixel embeddings: it cannot leave out the instance masks."""
    normed = decoder.prompt_cross_attn_norm(encoded)
    attended, _ = decoder.prompt_cross_attn(query=normed, key=prompts, value=prompts, attention_mask=mask)
    encoded = encoded + decoder.prompt_cross_attn_dropout(attended)
    return decoder._embed_pixels(backbone_features=pyramid, encoder_hidden_states=encoded)


def _pair(features: Tensor, classes: int) -> Tensor:
    """Repeat (N, ...) to (N * K, ...), all prompts of an image side by side."""
    return features.repeat_interleave(classes, dim=0) if classes > 1 else features
