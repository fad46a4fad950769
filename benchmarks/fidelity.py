"""Hold this package against plain Hugging Face, PEFT and torch, and print the table of ``docs/fidelity.md``.

    python benchmarks/fidelity.py

Both sides of the comparison are in ``tests/reference.py``, so the tests hold what this page says.
"""

import logging
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.models import SAM3TextLoRA

# The reference loop is shared with the tests, which are no package.
sys.path.append(str(Path(__file__).parents[1] / 'tests'))

from reference import (
    DEAD_PARTS,
    LORA,
    PROMPT_IDS,
    SCORES,
    draw_adapters,
    draw_pictures,
    grey_levels,
    is_dead,
    our_adapters,
    our_prediction,
    our_training,
    plain_logits,
    plain_sam3,
    plain_training,
    relative_difference,
    resized_by_pillow,
    resized_by_torch,
    set_values,
    worst_difference,
)

REFERENCE_BASE = 840_376_374
REFERENCE_PARTS = {
    'vision_encoder': 2_097_152,
    'text_encoder': 1_179_648,
    'detr_decoder': 294_912,
    'detr_encoder': 196_608,
    'geometry_encoder': 98_304,
    'mask_decoder': 16_384,
}

# A random SAM 3 of 8 x 8 tokens, local and global attention, with all six parts.
SMALL_SAM3: dict[str, Any] = {
    'vision_config': {
        'backbone_config': {
            'model_type': 'sam3_vit_model',
            'hidden_size': 64,
            'intermediate_size': 128,
            'num_hidden_layers': 4,
            'num_attention_heads': 4,
            'image_size': 112,
            'pretrain_image_size': 56,
            'patch_size': 14,
            'window_size': 4,
            'global_attn_indexes': [1, 3],
        },
        'fpn_hidden_size': 32,
    },
    'text_config': {
        'model_type': 'clip_text_model',
        'vocab_size': 49408,
        'hidden_size': 32,
        'intermediate_size': 64,
        'projection_dim': 32,
        'num_hidden_layers': 3,
        'num_attention_heads': 4,
        'max_position_embeddings': 32,
        'hidden_act': 'gelu',
    },
    'geometry_encoder_config': {'hidden_size': 32, 'num_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 64},
    'detr_encoder_config': {'hidden_size': 32, 'num_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 64},
    'detr_decoder_config': {
        'hidden_size': 32,
        'num_layers': 2,
        'num_attention_heads': 4,
        'intermediate_size': 64,
        'num_queries': 8,
    },
    'mask_decoder_config': {'hidden_size': 32, 'num_attention_heads': 4},
    # Larger than SAM 3's own 0.02, or the logits of so few layers hardly depend on the picture.
    'initializer_range': 0.2,
}


class Row(NamedTuple):
    """One line of the table."""

    what: str
    theirs: str
    ours: str
    difference: str


def count_parameters() -> list[Row]:
    """Rows on the size of the full model, counted on the meta device."""
    with torch.device('meta'):
        base = Sam3Model(Sam3Config())
        base_count = sum(weight.numel() for weight in base.parameters())
        plain = get_peft_model(base, LoraConfig(**LORA))
        ours = SAM3TextLoRA(base={})
    total = sum(weight.numel() for weight in plain.parameters())
    theirs_by_part, ours_by_part = (_count_by_part(_adapter_weights(model)) for model in (plain, ours))
    trained = _count_by_part({n: w for n, w in ours.named_parameters() if w.requires_grad})
    fixed = sum(ours_by_part.values()) - sum(trained.values())
    if theirs_by_part != REFERENCE_PARTS or base_count != REFERENCE_BASE:
        raise ValueError(f'plain Hugging Face and PEFT count {base_count} and {theirs_by_part}, not the report')
    adapters = sum(REFERENCE_PARTS.values())
    dead = sum(REFERENCE_PARTS[part] for part in DEAD_PARTS)
    share = f'{adapters / total:.4%}'.replace('%', ' %')
    return [
        Row(
            'base',
            f'`Sam3Model`, {base_count:,} parameters, fp32, 1008 x 1008',
            f'`Sam3Model`, fp32, {ours.image_size} x {ours.image_size}; what the semantic output does not need and no '
            'adapter sits in is freed',
            'none: the same class and weights',
        ),
        Row(
            'LoRA',
            f'r 8, alpha 16, dropout 0.1, on q, k, v, o in the whole model: {adapters:,} of {total:,} ({share})',
            f'the same: {sum(ours_by_part.values()):,}',
            f'{sum(ours_by_part.values()) - adapters:,} parameters',
        ),
        Row(
            'by part',
            ' · '.join(f'{_title(part)} {count:,}' for part, count in theirs_by_part.items()),
            ' · '.join(f'{_title(part)} {ours_by_part[part]:,}' for part in theirs_by_part),
            f'{sum(abs(ours_by_part[part] - count) for part, count in theirs_by_part.items()):,} parameters',
        ),
        Row(
            'dead weight',
            f'{dead:,} adapter parameters (DETR decoder, geometry encoder) never get a gradient',
            f'held fixed and saved: {fixed:,}; {sum(trained.values()):,} train',
            f'{fixed - dead:,} parameters',
        ),
    ]


def compare_trainings(folder: Path) -> dict[str, Row]:
    """Rows on training and selection, on a small random SAM 3."""
    size = SMALL_SAM3['vision_config']['backbone_config']['image_size']
    train, valid = draw_pictures(3, size, seed=1), draw_pictures(4, size, seed=2)
    adapters = draw_adapters(SMALL_SAM3)
    theirs = plain_training(SMALL_SAM3, adapters, train, valid)
    ours = our_training(SMALL_SAM3, adapters, train, valid, folder)
    steps = range(len(theirs.losses))
    losses = max(abs(a - b) / abs(b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    gradients = [worst_difference(ours.gradients[step], theirs.gradients[step]) for step in steps]
    weights = [worst_difference(ours.weights[step], theirs.weights[step]) for step in steps]
    rates = max(abs(a - b) for a, b in zip(ours.learning_rates, theirs.learning_rates, strict=True))
    scores = max(abs(a[name] - b[name]) for a, b in zip(ours.scores, theirs.scores, strict=True) for name in SCORES)
    differing = sum(int((a != b).sum()) for a, b in zip(ours.masks, theirs.masks, strict=True))
    best_of_theirs = 1 + int(np.argmax([score['IoU'] for score in theirs.scores]))
    (best_file,) = (folder / 'work_dir').glob('best_*.pth')
    moved = max(
        relative_difference(trace.weights[-1][name], adapters[name])
        for trace in (ours, theirs)
        for name in adapters
        if is_dead(name)
    )
    clipped = sum(norm > 1 for norm in theirs.norms)
    return {
        'dead': Row('dead weight, over 18 steps', 'no gradient', 'no gradient', f'moved by {_number(moved)} in both'),
        'loss': Row(
            'loss',
            '`1 - mean((2 sum(p g) + 1) / (sum(p) + sum(g) + 1))`, per image',
            '`ForegroundDiceLoss`',
            f'{_number(losses)} relative, worst of {len(steps)} steps',
        ),
        'gradients': Row(
            'gradients',
            'of every adapter weight',
            'the same',
            f'{_number(max(gradients[:3]))} over 3 steps, {_number(max(gradients))} over {len(steps)}',
        ),
        'optimizer': Row(
            'optimizer',
            f'AdamW 1e-4, weight decay 0.01, gradient norm clipped to 1.0 (here in {clipped} of {len(steps)} steps)',
            'the same',
            f'weights {_number(weights[2])} after 3 steps, {_number(weights[-1])} after {len(steps)}',
        ),
        'schedule': Row(
            'schedule',
            '6 epochs, batch 1, cosine stepped once an epoch, T_max 6, seed 42, fp16 autocast with gradient scaler',
            "the same (`AmpOptimWrapper` is torch's autocast and gradient scaler)",
            f'learning rate {_number(rates)} at every step of 6 epochs; fp16 needs a GPU and is not compared',
        ),
        'selection': Row(
            'selection',
            f'best validation IoU, mean over images (here: epoch {best_of_theirs})',
            f"`save_best='crack/IoU'` (here: `{best_file.name}`)",
            f'{_number(scores)} in IoU, Dice, precision and recall, worst of 6 epochs',
        ),
        'masks': Row(
            'outputs: predictions',
            'of the validation images, 0/255 PNG, in a second pass each epoch',
            '`PredictionHook`, in the pass that scores them',
            f'{differing} of {sum(mask.size for mask in theirs.masks):,} pixels after the last epoch',
        ),
    }


def compare_prediction(folder: Path) -> dict[str, Row]:
    """Rows on prompt, preprocessing, output and the exported adapter, on a small random SAM 3."""
    base, adapter = folder / 'base', folder / 'adapter'
    plain_sam3(SMALL_SAM3).save_pretrained(base)
    model = SAM3TextLoRA(base=str(base), lora=LORA).eval()
    set_values(our_adapters(model), draw_adapters(SMALL_SAM3))
    model.save_adapter(adapter)
    plain = PeftModel.from_pretrained(Sam3Model.from_pretrained(str(base)), str(adapter)).eval()

    rng = np.random.default_rng(3)
    sizes = [(40, 30), (90, 140), (112, 112), (200, 170), (480, 640), (1000, 700)]
    levels: dict[str, list[np.ndarray]] = {'Pillow': [], 'torch on uint8': []}
    logits = 0.0
    for height, width in sizes:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels, ours = our_prediction(model, image, folder)
        for library, resize in zip(levels, (resized_by_pillow, resized_by_torch), strict=True):
            levels[library].append(np.abs(grey_levels(pixels) - resize(image, model.image_size)))
        with torch.no_grad():
            theirs = plain_logits(plain, pixels, (height, width))
        logits = max(logits, (ours - theirs).abs().max().item())
    differences = np.stack([size for library in levels.values() for size in library])
    worst, mean = differences.max(), differences.mean()
    ids = model.prompt_ids[0, : len(PROMPT_IDS)].tolist()
    return {
        'prompt': Row(
            'prompt',
            f'"crack" for every image: tokens {list(PROMPT_IDS)}',
            f"`prompts=['crack']`: tokens {ids}",
            'none' if ids == list(PROMPT_IDS) else 'other tokens',
        ),
        'output': Row(
            'output',
            "`semantic_seg` (288 x 288 at 1008 input), bilinear to the mask's own size",
            'the same, by the semantic path alone; a second channel of 0 is the background',
            f'{_number(logits)} in the logits ({_span(sizes)})',
        ),
        'data': Row(
            'data',
            'RGB, stretched to the square, bilinear with antialias, mean and std 0.5; masks at > 127',
            "the same, without rounding to whole grey levels; polygons rasterised at the image's own size",
            f'at most {worst:.2f} grey levels to {" and ".join(levels)}, {mean:.2f} in the mean ({_span(sizes)})',
        ),
        'exchange': Row(
            'outputs: adapters',
            'adapters every epoch, in PEFT format',
            '`save_adapter`, loaded by plain `PeftModel.from_pretrained`',
            f'{_number(logits)} in the logits',
        ),
    }


def measure_adapter_file(folder: Path) -> Row:
    """The row on the size of an adapter of the full model, which is built for it: 3.4 GB of memory."""
    model = SAM3TextLoRA(base={})
    model.save_adapter(folder)
    count = sum(weight.numel() for weight in our_adapters(model).values())
    size = (folder / 'adapter_model.safetensors').stat().st_size
    return Row(
        'outputs: file size',
        f'{sum(REFERENCE_PARTS.values()):,} parameters',
        f'{count:,} parameters in fp32',
        f'{size / 1e6:.2f} MB ({size / count:.3f} bytes a parameter)',
    )


def make_table() -> list[Row]:
    """Measure all rows, in the order of the recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, name) for name in ('training', 'prediction', 'adapter')]
        for folder in folders:
            folder.mkdir()
        base, lora, parts, dead = count_parameters()
        training, prediction = compare_trainings(folders[0]), compare_prediction(folders[1])
        return [
            base,
            prediction['prompt'],
            prediction['output'],
            lora,
            parts,
            dead,
            *(training[name] for name in ('dead', 'loss', 'gradients', 'optimizer', 'schedule')),
            prediction['data'],
            training['selection'],
            training['masks'],
            prediction['exchange'],
            measure_adapter_file(folders[2]),
        ]


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    # With several threads sums are rounded in another order on each side, and over many steps Adam, which divides a
    # gradient by its own size, makes much of that where a gradient is next to nothing.
    torch.set_num_threads(1)
    rows = make_table()
    print('| | the reference | `configs/sam3_lora_crack.py` | measured difference |\n|---|---|---|---|')
    for row in rows:
        print('| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |')
    print(f'\nMeasured on {torch.get_num_threads()} CPU thread(s), {platform.machine()}, torch {torch.__version__}.')


def _adapter_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if 'lora_' in name}


def _count_by_part(weights: Mapping[str, nn.Parameter]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, weight in weights.items():
        (part,) = (part for part in REFERENCE_PARTS if f'.{part}.' in name)
        counts[part] += weight.numel()
    return {part: counts[part] for part in REFERENCE_PARTS}


def _number(value: float) -> str:
    return f'{value:.1e}' if value else '0'


def _title(part: str) -> str:
    return part.replace('_', ' ').replace('detr', 'DETR')


def _span(sizes: list[tuple[int, int]]) -> str:
    (height, width), (last_height, last_width) = sizes[0], sizes[-1]
    return f'{height} x {width} to {last_height} x {last_width}'


if __name__ == '__main__':
    main()
