"""The semantic path through Hugging Face ``Sam3Model``; the only module that knows its internals.

Image -> ViT -> neck -> DETR encoder (attends to the prompt) -> prompt cross-attention -> pixel decoder -> one logit per
pixel. The DETR decoder, the geometry encoder, the scoring and the instance masks have no part in it.
"""

import copy
import gzip
import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from mmengine import dist
from mmengine.logging import print_log
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, Sam3Config
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import base_files
from crack_plugin.models.base_files import BaseModelError as BaseModelError

# A ``Sam3Model``, adapters in place or not. transformers types its sub-configs and submodules too widely to check.
Sam3: TypeAlias = Any

PROMPT_LENGTH = 32
"""Tokens a prompt is padded to, as SAM 3's processor does."""

UNUSED = (
    'geometry_encoder',
    'detr_decoder',
    'dot_product_scoring',
    'mask_decoder.mask_embedder',
    'mask_decoder.instance_projection',
    'text_encoder.text_projection',
)
"""Modules of ``Sam3Model`` without a path to the semantic logits, besides surplus layers of the two pyramids."""


def load_base(base: str | dict[str, Any], image_size: int | None = None) -> tuple[Sam3, PreTrainedTokenizerBase]:
    """Build a SAM 3 with its tokenizer.

    Args:
        base: Hub id (``name@revision`` for a branch, tag or commit), local folder, or overrides of ``Sam3Config`` for a
            random model (with ``seed``, default 0).
        image_size: Side of the model's square input in pixels; None keeps the base's own.

    Returns:
        The model in eval mode, and the tokenizer of its text encoder.

    Raises:
        BaseModelError: The hub refused, could not be reached, or the folder holds no SAM 3 or another tokenizer.
        ValueError: ``image_size`` does not fill the ViT's attention windows.
    """
    if isinstance(base, dict):
        overrides = copy.deepcopy(dict(base))
        seed = overrides.pop('seed', 0)
        if isinstance(overrides.get('vision_config'), dict) and 'backbone_config' in overrides['vision_config']:
            overrides['vision_config']['backbone_config'].setdefault('model_type', 'sam3_vit_model')
        config = Sam3Config(**overrides)
        _set_image_size(config, image_size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model: Sam3 = Sam3Model(config)
        tokenizer = clip_tokenizer()
    else:
        folder = base_files.fetch(base)
        config = base_files.read_config(base, folder)
        _set_image_size(config, image_size)
        tokenizer = _load_tokenizer(base, folder)
        base_files.fetch_weights(base, folder)
        base_files.check_weights(base, folder, config)
        try:
            loaded: Any = Sam3Model.from_pretrained(str(folder), config=config, output_loading_info=True)
        except (OSError, SafetensorError) as error:
            raise BaseModelError(base_files.unavailable(base, error)) from error
        except pickle.UnpicklingError as error:
            raise BaseModelError(
                f'base={base!r} is refused: loading its pickled weights would run code. Nothing of it was run. Take a '
                'folder with model.safetensors, which is data alone.'
            ) from error
        model, report = loaded
        if report['missing_keys']:
            missing = sorted(report['missing_keys'])
            raise BaseModelError(
                f'base={base!r} is not a whole SAM 3: {len(missing)} weights are missing, the first is {missing[0]!r}. '
                'Point base at a folder that Sam3Model.save_pretrained wrote, or at the hub id facebook/sam3.'
            )
    _restore_positions(model)
    vocabulary = model.config.text_config.vocab_size
    if vocabulary < len(tokenizer):
        raise ValueError(
            f'text_config.vocab_size={vocabulary} is smaller than the tokenizer of the prompts ({len(tokenizer)} '
            f'tokens). Leave vocab_size at {len(tokenizer)} and cut text_config.hidden_size instead.'
        )
    return model.eval(), tokenizer


def clip_tokenizer() -> PreTrainedTokenizerBase:
    """Build CLIP's tokenizer, which is SAM 3's, from the BPE merges that mmsegmentation carries."""
    spec = find_spec('mmseg')
    assert spec is not None and spec.origin is not None
    merges_file = Path(spec.origin).parent / 'utils' / 'bpe_simple_vocab_16e6.txt.gz'
    lines = gzip.decompress(merges_file.read_bytes()).decode('utf-8').split('\n')
    # CLIP's vocabulary: 256 bytes, the same ending a word, 48,894 merges, two special tokens: 49,408.
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = _byte_alphabet()
    words = [*alphabet, *(f'{letter}</w>' for letter in alphabet), *(''.join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, '<|startoftext|>', '<|endoftext|>'])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_LENGTH)


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokenize prompts as SAM 3's processor does.

    Returns:
        Token ids and attention mask, both of shape (K, 32).

    Raises:
        ValueError: A prompt is longer than 32 tokens.
    """
    for prompt in prompts:
        length = len(tokenizer(prompt).input_ids)
        if length > PROMPT_LENGTH:
            raise ValueError(f'prompt {prompt!r} has {length} tokens, SAM 3 reads {PROMPT_LENGTH}. Shorten it.')
    tokens = tokenizer(list(prompts), padding='max_length', max_length=PROMPT_LENGTH, return_tensors='pt')
    return tokens.input_ids, tokens.attention_mask


def base_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights (of names and shapes alone on the meta device)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tuple(tensor.shape)}'.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def shared_base_hash(model: nn.Module) -> str:
    """:func:`base_hash`, which in a distributed run the first process computes for all, so every one has to call this.

    They have the same weights: DDP hands those of the first process to the others.
    """
    if not dist.is_distributed():
        return base_hash(model)
    told = [base_hash(model) if dist.is_main_process() else None]
    dist.broadcast_object_list(told)
    assert told[0] is not None
    return told[0]


def input_size(model: Sam3) -> int:
    """Side of the model's square input in pixels."""
    return int(model.config.vision_config.backbone_config.image_size)


def unused_modules(model: Sam3) -> list[str]:
    """Names of the modules, of those still there, that the semantic logits do not depend on."""
    # The neck's last level is not handed on, and the pixel decoder takes one step fewer than it has levels.
    levels = len(model.config.vision_config.scale_factors)
    steps = model.config.mask_decoder_config.num_upsampling_stages
    surplus = [f'vision_encoder.neck.fpn_layers.{levels - 1}']
    for step in range(levels - 2, steps):
        surplus += [f'mask_decoder.pixel_decoder.conv_layers.{step}', f'mask_decoder.pixel_decoder.norms.{step}']
    present = dict(model.named_modules())
    return [name for name in (*UNUSED, *surplus) if name in present]


def drop_modules(model: Sam3, names: Sequence[str]) -> None:
    """Free the named modules. An emptied module keeps its place, so no other weight changes its name."""
    for name in names:
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, nn.Identity())


def share_rotary_embeddings(model: Sam3) -> None:
    """Compute the sines and cosines of the rotary positions once, instead of in every layer of every forward.

    There are two kinds of layers: those that attend in windows, and those that attend to the whole image.
    """
    tables: dict[int, nn.Module] = {}
    for layer in model.vision_encoder.backbone.layers:
        if layer.window_size not in tables:
            tables[layer.window_size] = _RotaryTable(*layer.rotary_emb(layer.position_ids, layer.position_ids))
        layer.rotary_emb = tables[layer.window_size]


class _RotaryTable(nn.Module):
    """Stands where a layer asks for the cosines and sines of its positions."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.register_buffer('cos', cos, persistent=False)
        self.register_buffer('sin', sin, persistent=False)

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Any, Any]:
        return self.cos, self.sin


PARTS = ('text_encoder', 'vit', 'neck', 'detr_encoder', 'mask_decoder')
"""Where activations can be computed again, in the order of the path."""


def blocks(model: Sam3, parts: Sequence[str] = PARTS) -> list[nn.Module]:
    """What the named parts consist of: layers, and of the mask decoder prompt attention and pixel decoder."""
    text, vision, decoder = model.text_encoder, model.vision_encoder, model.mask_decoder
    found = {
        # Once a frozen prompt has been encoded, there is no text encoder any more.
        'text_encoder': () if isinstance(text, nn.Identity) else text.text_model.encoder.layers,
        'vit': vision.backbone.layers,
        'neck': vision.neck.fpn_layers[:-1],
        'detr_encoder': model.detr_encoder.layers,
        'mask_decoder': (decoder.prompt_cross_attn, decoder.pixel_decoder),
    }
    return [block for part in parts for block in found[part]]


def checkpoint_activations(model: Sam3, parts: Sequence[str] = PARTS) -> None:
    """Keep only the inputs of each block for the backward pass, which computes the rest again.

    ``gradient_checkpointing_enable`` raises for ``Sam3Model``, and its ViT layers would heed only training mode, which
    a frozen model is not in. Non-reentrant, because the reentrant kind gives no gradient to adapters behind inputs
    that need none.
    """
    for block in blocks(model, parts):
        if not isinstance(block.forward, _Checkpointed):
            block.forward = _Checkpointed(block.forward)


def compile_blocks(model: Sam3, **options: Any) -> None:
    """Compile each block for itself: blocks alike share their code, so this takes a fraction of the whole path's time.

    Args:
        model: SAM 3.
        **options: Of ``torch.compile``.
    """
    _allow_recompiles()
    for block in blocks(model):
        block.compile(**options)


def compile_path(**options: Any) -> dict[str, Callable[..., Tensor]]:
    """Compile the semantic path.

    Args:
        **options: Of ``torch.compile``.

    Returns:
        :func:`encode_prompts`, :func:`encode_prefix` and :func:`semantic_logits` under their names, compiled when they
        are first called with a shape, and again with and without gradients.
    """
    _allow_recompiles()
    functions = (encode_prompts, encode_prefix, semantic_logits)
    return {function.__name__: torch.compile(function, **options) for function in functions}


def _allow_recompiles() -> None:
    # torch counts by function, and takes the ninth variant for a mistake. Ours: kinds of blocks, with and without
    # adapters, training and inference, the sizes of batches.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)


class _Checkpointed:
    """A forward that is run again in the backward pass, wherever gradients are being recorded."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def save_base(model: Sam3, tokenizer: Any, folder: str | Path, preprocessor: Any) -> None:
    """Write a Hugging Face folder that ``Sam3Model`` and ``Sam3Processor`` load.

    Args:
        model: SAM 3, whole.
        tokenizer: Of its text encoder.
        folder: Where to.
        preprocessor: MMSeg's ``SegDataPreProcessor`` that the model was trained with: its mean and standard deviation
            become the processor's.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Once more without indentation, which is half of its 3.6 MB.
    tokenizer.backend_tokenizer.save(str(Path(folder, 'tokenizer.json')), pretty=False)
    text = json.dumps(_processor_config(model, preprocessor), indent=2, sort_keys=True)
    Path(folder, 'processor_config.json').write_text(f'{text}\n')


def _processor_config(model: Sam3, preprocessor: Any) -> dict[str, Any]:
    """What ``Sam3Processor.save_pretrained`` writes. The class itself can be had only with torchvision."""
    side = input_size(model)
    # The semantic logits have 4 x 4 for each of the ViT's patches.
    mask_side = 4 * side // model.config.vision_config.backbone_config.patch_size
    normalises = preprocessor._enable_normalize
    return {
        'image_processor': {
            'do_convert_rgb': True,
            'do_normalize': normalises,
            'do_rescale': normalises,
            'do_resize': True,
            # MMSeg's are in grey levels, these in shares of 255.
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


def encode_prompts(model: Sam3, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Encode tokenized prompts.

    Args:
        model: SAM 3 with its text encoder.
        input_ids: Token ids, shape (K, L).
        attention_mask: 1 for a token, 0 for padding, shape (K, L).

    Returns:
        Prompt features, shape (K, L, C).
    """
    # Not Sam3Model.get_text_features: that runs CLIP's projection of the pooled token too, which nothing reads.
    hidden = model.text_encoder.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return model.text_projection(hidden)


def frozen_depth(model: Sam3) -> int:
    """Number of leading ViT layers that nothing trains in or before, nor drops out: they depend on the image alone."""
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


def prefix_hash(model: Sam3, depth: int) -> str:
    """SHA-256 over everything that :func:`encode_prefix` depends on besides the images."""
    backbone = model.vision_encoder.backbone
    parts = nn.ModuleList([backbone.embeddings, backbone.layer_norm, *backbone.layers[:depth]])
    return hashlib.sha256(f'{depth} {backbone.config.to_json_string()} {base_hash(parts)}'.encode()).hexdigest()


def prefix_shape(model: Sam3) -> tuple[int, int, int]:
    """Shape (s, s, C) of one image's hidden states from :func:`encode_prefix`."""
    vit = model.vision_encoder.backbone.config
    return input_size(model) // vit.patch_size, input_size(model) // vit.patch_size, vit.hidden_size


def encode_images(model: Sam3, hidden: Tensor, depth: int) -> tuple[list[Tensor], Tensor]:
    """Run the rest of the ViT, and the neck.

    Args:
        model: SAM 3.
        hidden: Hidden states from :func:`encode_prefix`, shape (N, s, s, C).
        depth: How many layers those have been through.

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
    """Run everything behind the prefix: see :func:`encode_images` and :func:`decode_semantic`.

    Returns:
        Semantic logits, shape (N, K, 4s, 4s).
    """
    return decode_semantic(model, *encode_images(model, hidden, depth), prompts, prompt_mask)


def decode_semantic(
    model: Sam3, pyramid: list[Tensor], positions: Tensor, prompts: Tensor, prompt_mask: Tensor
) -> Tensor:
    """Run the prompt-dependent part once for every pair of image and prompt.

    Args:
        model: SAM 3.
        pyramid: Image features of N images from :func:`encode_images`.
        positions: Position encoding of the coarsest features.
        prompts: Features of K prompts, shape (K, L, C).
        prompt_mask: True for a token, False for padding, shape (K, L).

    Returns:
        Semantic logits, shape (N, K, 4s, 4s).
    """
    images, classes = pyramid[0].shape[0], len(prompts)
    pyramid = [_pair(level, classes) for level in pyramid]
    prompts = prompts.repeat(images, 1, 1)
    # One mask for encoder and decoder, made without looking whether there is any padding: a GPU would have to be waited
    # for to know. A mask that is made is taken as it is.
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
    pixels = _embed_pixels(model.mask_decoder, pyramid, encoded, prompts, mask)
    return model.mask_decoder.semantic_projection(pixels).unflatten(0, (images, classes)).squeeze(2)


def _embed_pixels(decoder: Any, pyramid: list[Tensor], encoded: Tensor, prompts: Tensor, mask: Any) -> Tensor:
    """``Sam3MaskDecoder.forward`` up to its pixel embeddings; it has no entry that leaves the instance masks out."""
    normed = decoder.prompt_cross_attn_norm(encoded)
    attended, _ = decoder.prompt_cross_attn(query=normed, key=prompts, value=prompts, attention_mask=mask)
    encoded = encoded + decoder.prompt_cross_attn_dropout(attended)
    return decoder._embed_pixels(backbone_features=pyramid, encoder_hidden_states=encoded)


def _pair(features: Tensor, classes: int) -> Tensor:
    """Repeat (N, ...) to (N * K, ...), all prompts of an image side by side."""
    return features.repeat_interleave(classes, dim=0) if classes > 1 else features


def _set_image_size(config: Any, image_size: int | None) -> None:
    if image_size is None:
        return
    vit = config.vision_config.backbone_config
    window = vit.patch_size * vit.window_size
    if image_size < window or image_size % window:
        raise ValueError(
            f'image_size={image_size} does not fill the attention windows of the ViT: choose a multiple of {window}, '
            f'for example {max(1, round(image_size / window)) * window}.'
        )
    config.image_size = image_size


def _restore_positions(model: Sam3) -> None:
    """Rebuild the rotary positions in fp32: a checkpoint loaded in bf16 has them rounded to 1/8 of their spacing."""
    for layer in model.vision_encoder.backbone.layers:
        device = layer.position_ids.device
        layer.position_ids = layer.precompute_positions(layer.config, layer.window_size).float().to(device)
        rotary = layer.rotary_emb
        rotary.inv_freq, rotary.attention_scaling = rotary.compute_axial_rope_parameters(rotary.config, device)


def _byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes in CLIP's order, as GPT-2's byte-level BPE defines them."""
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def _load_tokenizer(base: str, folder: Path) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer, if the folder's is that one, or if there is none.

    It is never loaded itself: of files that are missing or damaged transformers makes one that gives every prompt the
    same ids.

    Raises:
        BaseModelError: The files are damaged, or hold another vocabulary.
    """
    tokenizer = clip_tokenizer()
    given = base_files.read_vocabulary(base, folder)
    if given is None:
        print_log(f"{base} holds no tokenizer: using CLIP's, which is SAM 3's", logger='current')
        return tokenizer
    own = tokenizer.get_vocab()
    differing = [token for token, index in own.items() if given.get(token) != index]
    # Embeddings belong to ids: a text encoder trained on another vocabulary cannot be fed CLIP's.
    if len(given) != len(own) or len(differing) > len(own) // 100:
        raise BaseModelError(
            f"base={base!r}: the tokenizer in {folder} is not SAM 3's, which is CLIP's: {len(given):,} tokens instead "
            f"of {len(own):,}, and {len(differing):,} of CLIP's have other ids or none, such as {differing[:3]}. If "
            "the weights are SAM 3's, remove tokenizer.json, vocab.json and merges.txt: CLIP's is used then. If they "
            'were trained with this tokenizer, prompts for them cannot be read here.'
        )
    if differing:
        print_log(
            f"{base}: {len(differing)} tokens of its tokenizer have other ids than in CLIP's, which is SAM 3's, such "
            f"as {differing[:3]}: using CLIP's",
            logger='current',
            level=30,
        )
    return tokenizer
