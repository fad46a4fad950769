"""The reference recipe in plain Hugging Face, PEFT and torch, and ours in a form to be held against it.

The reference side is a training loop as a researcher would write it, with nothing of this package in it: ``Sam3Model``,
``get_peft_model``, ``AdamW``. Our side is ``configs/sam3_lora_crack.py``, read from image and label files and run by
MMEngine's runner. Both start from the same weights and see the same pictures in the same order, in fp32 on the CPU and
without dropout, so that whatever differs is a difference of method.
"""

import copy
import time
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
from peft import LoraConfig, get_peft_model
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
    set_values(weights, adapters)
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
    set_values(our_adapters(runner.model), adapters)
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


def set_values(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    if weights.keys() != values.keys():
        raise ValueError(f'only one side has {sorted(weights.keys() ^ values.keys())}')
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
