"""Hold this package against plain Hugging Face, PEFT and torch, and print the table of ``docs/fidelity.md``.

    python benchmarks/fidelity.py

The reference side is a training loop as a researcher would write it, with nothing of this package in it: ``Sam3Model``,
``get_peft_model``, ``AdamW``. Our side is ``configs/sam3_lora_crack.py``, read from image and label files and run by
MMEngine's runner. Both start from the same weights and see the same pictures in the same order, in fp32 on the CPU and
without dropout, so that whatever differs is a difference of method.
"""

import copy
import logging
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch import Tensor, nn
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.models import SAM3TextLoRA

CONFIG = Path(__file__).parents[1] / 'configs' / 'sam3_lora_crack.py'

# <|startoftext|>, 'crack</w>' and <|endoftext|> in CLIP's vocabulary; SAM 3's processor pads with the last one to 32.
PROMPT_IDS = (49406, 10334, 49407)
PROMPT_LENGTH = 32
LORA = {
    'r': 8,
    'lora_alpha': 16,
    'lora_dropout': 0.0,
    'bias': 'none',
    'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
}
EPOCHS = 6
LOGIT_SPREAD = 1.0
B_SPREAD = 0.02
DEAD_PARTS = ('detr_decoder', 'geometry_encoder')
SCORES = ('IoU', 'Dice', 'Precision', 'Recall')

REFERENCE_PARTS = {
    'vision_encoder': 2_097_152,
    'text_encoder': 1_179_648,
    'detr_decoder': 294_912,
    'detr_encoder': 196_608,
    'geometry_encoder': 98_304,
    'mask_decoder': 16_384,
}
REFERENCE_BASE = 840_376_374

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


class Picture(NamedTuple):
    """An RGB image (H, W, 3) and its 0/255 mask (H, W), both uint8."""

    image: np.ndarray
    mask: np.ndarray


@dataclass
class Trace:
    """What a training did, adapters under PEFT's names.

    Attributes:
        losses: One value a step.
        gradients: By adapter weight, each step's after clipping; a weight that got none is not in it.
        weights: By adapter weight, after each step.
        learning_rates: The one each step was made with.
        scores: Validation after each epoch: means over images.
        masks: Predicted in the last validation.
        norms: Of the whole gradient before clipping; recorded on the reference side.
    """

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


# ---- what both sides start from


def draw_pictures(count: int, size: int, seed: int) -> list[Picture]:
    """Pictures of coloured noise with a dark bar; the mask is the bar."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), np.uint8)
        top, left = rng.integers(2, size // 2, 2)
        height, width = rng.integers(4, size // 2, 2)
        bar = np.s_[top : top + height, left : left + width]
        mask[bar] = 255
        image[bar] //= 4
        pictures.append(Picture(image, mask))
    return pictures


def write_pictures(folder: Path, split: str, pictures: Iterable[Picture]) -> None:
    """Write a YOLO split: PNG images, and for each mask its corners, as fractions of width and height."""
    images, labels = folder / split / 'images', folder / split / 'labels'
    images.mkdir(parents=True)
    labels.mkdir()
    (folder / 'data.yaml').write_text('names: [crack]\ntrain: train/images\nval: valid/images\n')
    for index, (image, mask) in enumerate(pictures):
        Image.fromarray(image).save(images / f'{index:03d}.png')
        rows, columns = np.nonzero(mask)
        (top, bottom), (left, right) = (np.array([axis.min(), axis.max()]) for axis in (rows, columns))
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) / mask.shape[::-1]
        (labels / f'{index:03d}.txt').write_text('0 ' + ' '.join(f'{value:.9f}' for value in corners.ravel()) + '\n')


def plain_sam3(overrides: Mapping[str, Any], seed: int = 0) -> Any:
    """A random SAM 3 by Hugging Face alone, in evaluation mode.

    Its last layer is scaled so that logits have a mean of 0 and a deviation of ``LOGIT_SPREAD``: untrained ones all lie
    on one side of the threshold, and there would be nothing to score and no gradient to clip.
    """
    torch.manual_seed(seed)
    model: Any = Sam3Model(Sam3Config(**copy.deepcopy(dict(overrides)))).eval()
    side = model.config.vision_config.backbone_config.image_size
    with torch.no_grad():
        logits = plain_logits(model, torch.rand(1, 3, side, side) * 2 - 1, (side, side))
        head, scale = model.mask_decoder.semantic_projection, LOGIT_SPREAD / logits.std()
        head.weight.mul_(scale)
        head.bias.sub_(logits.mean()).mul_(scale)
    return model


def draw_adapters(overrides: Mapping[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """Values for all adapter weights, under PEFT's names. B is not 0, or every gradient of A would be."""
    model = get_peft_model(plain_sam3(overrides), LoraConfig(**LORA))
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator)
        * (B_SPREAD if 'lora_B' in name else weight.shape[1] ** -0.5)
        for name, weight in model.named_parameters()
        if 'lora_' in name
    }


# ---- the reference


def plain_pixels(image: np.ndarray) -> Tensor:
    """SAM 3's normalisation of an RGB image that has the model's size: (1, 3, S, S) from -1 to 1."""
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5


def plain_logits(model: nn.Module, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Semantic logits of one image at ``size``, shape (H, W)."""
    ids = torch.full((1, PROMPT_LENGTH), PROMPT_IDS[-1])
    ids[0, : len(PROMPT_IDS)] = torch.tensor(PROMPT_IDS)
    mask = (torch.arange(PROMPT_LENGTH) < len(PROMPT_IDS)).long()[None]
    low = model(pixel_values=pixels, input_ids=ids, attention_mask=mask).semantic_seg
    return F.interpolate(low, size=size, mode='bilinear', align_corners=False)[0, 0]


def plain_loss(logits: Tensor, mask: np.ndarray) -> Tensor:
    """Dice on sigmoid probabilities over all pixels of one image."""
    p, g = logits.sigmoid(), torch.from_numpy(mask > 127).float()
    return 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)


def plain_masks(model: nn.Module, pictures: Iterable[Picture]) -> list[np.ndarray]:
    """The predicted 0/255 mask of each picture."""
    with torch.no_grad():
        logits = [plain_logits(model, plain_pixels(image), mask.shape) for image, mask in pictures]
    return [((values.sigmoid() > 0.5) * 255).numpy().astype(np.uint8) for values in logits]


def plain_scores(masks: Iterable[np.ndarray], pictures: Iterable[Picture]) -> dict[str, float]:
    """IoU, Dice, precision and recall of each image, then the plain mean over images."""
    rows = []
    for mask, picture in zip(masks, pictures, strict=True):
        predicted, true = mask > 127, picture.mask > 127
        both, either = (predicted & true).sum(), (predicted | true).sum()
        ratios = {
            'IoU': (both, either),
            'Dice': (2 * both, predicted.sum() + true.sum()),
            'Precision': (both, predicted.sum()),
            'Recall': (both, true.sum()),
        }
        rows.append({name: (part + 1e-6) / (whole + 1e-6) for name, (part, whole) in ratios.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}


def plain_training(
    overrides: Mapping[str, Any],
    adapters: Mapping[str, Tensor],
    train: list[Picture],
    valid: list[Picture],
    epochs: int = EPOCHS,
) -> Trace:
    """Train by a loop of Hugging Face, PEFT and torch; batch 1, in the order given."""
    # PEFT leaves the mode alone, so every dropout stays off; nothing else depends on the mode.
    model = get_peft_model(plain_sam3(overrides), LoraConfig(**LORA))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    _set_values(weights, adapters)
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-4, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    trace = Trace()
    for _ in range(epochs):
        for image, mask in train:
            loss = plain_loss(plain_logits(model, plain_pixels(image), mask.shape), mask)
            optimizer.zero_grad()
            loss.backward()
            trace.norms.append(float(nn.utils.clip_grad_norm_(weights.values(), max_norm=1.0)))
            trace.losses.append(loss.item())
            trace.gradients.append(_gradients(weights))
            trace.learning_rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            trace.weights.append(_values(weights))
        scheduler.step()
        trace.masks = plain_masks(model, valid)
        trace.scores.append(plain_scores(trace.masks, valid))
    return trace


# ---- ours


class Recorder(Hook):
    """Writes a ``Trace`` of a runner's training."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.trace = Trace()

    def before_train(self, runner: Runner) -> None:
        """Listen to the optimizer, which is called after the gradients have been clipped."""
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda optimizer, *_: self._record(runner, optimizer))

    def _record(self, runner: Runner, optimizer: torch.optim.Optimizer) -> None:
        self.trace.gradients.append(_gradients(our_adapters(runner.model)))
        self.trace.learning_rates.append(optimizer.param_groups[0]['lr'])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Record the loss, and the weights that the step led to."""
        assert outputs is not None
        self.trace.losses.append(outputs['loss'].item())
        self.trace.weights.append(_values(our_adapters(runner.model)))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Record the scores."""
        assert metrics is not None
        self.trace.scores.append({name: metrics[f'crack/{name}'] for name in SCORES})


def our_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The segmentor's adapter weights under PEFT's names."""
    return {name.removeprefix('sam3.'): weight for name, weight in model.named_parameters() if 'lora_' in name}


def our_training(
    overrides: Mapping[str, Any],
    adapters: Mapping[str, Tensor],
    train: list[Picture],
    valid: list[Picture],
    folder: Path,
    epochs: int = EPOCHS,
) -> Trace:
    """Train by ``configs/sam3_lora_crack.py`` from files in ``folder``; the run's own are in ``folder / 'work_dir'``.

    Changed against the config: the base and the data, fp32, no dropout, no shuffling, no workers; and the predictions
    are written as PNG.
    """
    plain_sam3(overrides).save_pretrained(folder / 'base')
    for split, pictures in (('train', train), ('valid', valid)):
        write_pictures(folder / 'data', split, pictures)
    cfg = Config.fromfile(CONFIG)
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    cfg.merge_from_dict(
        {
            'model.base': str(folder / 'base'),
            'model.lora.lora_dropout': 0.0,
            **{f'{loader}.dataset.data_root': str(folder / 'data') for loader in loaders},
            **{f'{loader}.{key}': value for loader in loaders for key, value in _IN_PROCESS.items()},
            'train_dataloader.sampler.shuffle': False,
            'optim_wrapper.type': 'OptimWrapper',
            'train_cfg.max_epochs': epochs,
            'work_dir': str(folder / 'work_dir'),
            'experiment_name': f'fidelity_{time.monotonic_ns()}',
            'log_level': 'WARNING',
        }
    )
    runner = Runner.from_cfg(cfg)
    _set_values(our_adapters(runner.model), adapters)
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    predictions = folder / 'work_dir' / 'predictions' / f'epoch_{epochs}'
    recorder.trace.masks = [np.asarray(Image.open(path)) for path in sorted(predictions.iterdir())]
    return recorder.trace


_IN_PROCESS = {'num_workers': 0, 'persistent_workers': False}


def our_prediction(model: SAM3TextLoRA, image: np.ndarray, folder: Path) -> tuple[Tensor, Tensor]:
    """What enters the ViT, (1, 3, S, S), and the crack's logits at the image's own size, (H, W).

    The image goes through a file, the config's test pipeline and the data preprocessor, as in testing.
    """
    from mmseg.registry import TRANSFORMS

    path = folder / 'picture.png'
    Image.fromarray(image).save(path)
    data: Any = {'img_path': str(path)}
    for transform in Config.fromfile(CONFIG).test_pipeline:
        data = TRANSFORMS.build(transform)(data)
    seen: list[Tensor] = []
    patches = model.model.vision_encoder.backbone.embeddings
    handle = patches.register_forward_pre_hook(lambda _, arguments: seen.append(*arguments))
    try:
        with torch.no_grad():
            sample = model.test_step({'inputs': [data['inputs']], 'data_samples': [data['data_samples']]})[0]
    finally:
        handle.remove()
    return seen[0], sample.seg_logits.data[1]


# ---- what is compared


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm; 0 where both are 0."""
    difference = (ours.double() - theirs.double()).norm().item()
    return difference / theirs.double().norm().item() if difference else 0.0


def worst_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest ``relative_difference`` of any tensor.

    Raises:
        ValueError: The two do not hold the same tensors.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f'only one side has {sorted(ours.keys() ^ theirs.keys())}')
    return max(relative_difference(ours[name], theirs[name]) for name in theirs)


def is_dead(name: str) -> bool:
    """Whether an adapter has no path to the semantic logits."""
    return any(part in name for part in DEAD_PARTS)


def grey_levels(pixels: Tensor) -> np.ndarray:
    """Undo the normalisation: (1, 3, S, S) to (S, S, 3), 0 to 255, not rounded."""
    return (pixels[0].permute(1, 2, 0).double().numpy() + 1) * 127.5


def resized_by_pillow(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, antialiased, in whole grey levels: the resize of SAM 3's slow processor."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resized_by_torch(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, antialiased, in whole grey levels: the resize of SAM 3's fast processor (torchvision's, on uint8)."""
    channels_first = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(channels_first, size=(size, size), mode='bilinear', align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _gradients(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}


def _values(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def _set_values(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    if weights.keys() != values.keys():
        raise ValueError(f'only one side has {sorted(weights.keys() ^ values.keys())}')
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


# ---- the table


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
    _set_values(our_adapters(model), draw_adapters(SMALL_SAM3))
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
