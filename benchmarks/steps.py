"""What the speed and memory benchmarks share: the reference's work, ours from its configs, and fair timing.

The reference is written out as its users run it: the whole ``Sam3Model`` with its text encoder at every step, plain
PEFT, fp16 autocast with a gradient scaler on a GPU, fp32 on a CPU. Weights are random; times and bytes do not depend on
them.
"""

import gc
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

CONFIGS = Path(__file__).parents[1] / 'configs'
BEST_HEAD = Config.fromfile(CONFIGS / 'sam3_lora_crack_best.py').model.detail_head.to_dict()
"""The detail head that recipes are measured with."""
PICTURE = 640
"""Side of the photographs in pixels, that of a Roboflow export."""

LORA = {'r': 8, 'lora_alpha': 16, 'lora_dropout': 0.1, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}
PROMPT_TOKENS = 32
LITE_TEXT: dict[str, Any] = {'model_type': 'sam3_lite_text', 'text_config': {'num_hidden_layers': 6}}
"""A random base of the size that is reported of the public SAM3-LiteText S0."""


@dataclass
class Work:
    """One side of a comparison.

    Attributes:
        name: Its row in the table.
        run: Does the work once.
        model: What it works with.
        optimizer: That trains it; None in inference.
        images: How many a run takes.
        seconds: Of each timed run.
        peak: Bytes allocated at most in a run, weights and optimizer included; 0 where that is not measured.
    """

    name: str
    run: Callable[[], Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    images: int = 1
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def seconds_per_image(self) -> float:
        return median(self.seconds) / self.images


class PlainDice(nn.Module):
    """The reference's loss: Dice on sigmoid probabilities, per image over all pixels, smooth 1."""

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """From logits and masks, both (N, H, W)."""
        p, g = logits.float().sigmoid().flatten(1), masks.flatten(1)
        return (1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)).mean()


def reference_model(image_size: int, lora: Mapping[str, Any] = LORA) -> Any:
    """Hugging Face's SAM 3 with plain PEFT adapters."""
    config = Sam3Config()
    config.image_size = image_size
    return get_peft_model(Sam3Model(config), LoraConfig(**lora))


def prompt_tokens(images: int, device: str) -> dict[str, Tensor]:
    """The prompt 'crack' for each image: three tokens, padded."""
    ids = torch.full((images, PROMPT_TOKENS), 49407, device=device)
    ids[:, 0], ids[:, 1] = 49406, 10334
    mask = torch.zeros_like(ids)
    mask[:, :3] = 1
    return {'input_ids': ids, 'attention_mask': mask}


def reference_training(image_size: int, device: str, images: int = 1) -> Work:
    """The reference's training step."""
    model = reference_model(image_size).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    scaler = torch.amp.GradScaler(kind(device), enabled=on_gpu(device))
    pixels = torch.randn(images, 3, image_size, image_size, device=device)
    masks = random_labels(images).float().to(device)
    tokens, dice = prompt_tokens(images, device), PlainDice()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind(device), torch.float16, enabled=on_gpu(device)):
            low = model(pixel_values=pixels, **tokens).semantic_seg
            logits = F.interpolate(low, size=masks.shape[-2:], mode='bilinear', align_corners=False)
            loss = dice(logits[:, 0], masks)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return Work('reference', step, model, optimizer, images)


def reference_inference(image_size: int, device: str, images: int = 1) -> Work:
    """The reference's prediction: the full forward, adapters in place, fp16 autocast on a GPU."""
    model = reference_model(image_size).to(device).eval()
    pixels = torch.randn(images, 3, image_size, image_size, device=device)
    tokens = prompt_tokens(images, device)

    def predict() -> Tensor:
        with torch.no_grad(), torch.autocast(kind(device), torch.float16, enabled=on_gpu(device)):
            low = model(pixel_values=pixels, **tokens).semantic_seg
            logits = F.interpolate(low.float(), size=(PICTURE, PICTURE), mode='bilinear', align_corners=False)
            return logits.sigmoid() > 0.5

    return Work('reference', predict, model, images=images)


def our_config(name: str, image_size: int, **model: Any) -> Config:
    """A config of ours on a random base of full size, with values of ``model`` replaced."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.base, cfg.model.image_size = {}, image_size
    cfg.model.update(model)
    return cfg


def our_training(name: str, config: Config, device: str, images: int = 1) -> Work:
    """A training step of ours as MMEngine runs it, from uint8 pictures on."""
    model = MODELS.build(config.model).to(device).train()
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    batch = {'inputs': random_pictures(images), 'data_samples': samples(images)}
    return Work(name, lambda: model.train_step(batch, wrapper), model, wrapper.optimizer, images)


def our_inference(name: str, config: Config, device: str, images: int = 1) -> Work:
    """A prediction of ours with merged adapters, from uint8 pictures to label maps."""
    model = MODELS.build(config.model).to(device).eval()
    if config.model.lora is not None:
        model.merge_adapter()
    batch = {'inputs': random_pictures(images), 'data_samples': samples(images)}

    def predict() -> Any:
        with torch.no_grad():
            return model.test_step(batch)

    return Work(name, predict, model.eval(), images=images)


def kind(device: str) -> str:
    """'cuda' of 'cuda:1'."""
    return torch.device(device).type


def on_gpu(device: str) -> bool:
    """Whether that is a GPU, whichever of them."""
    return kind(device) == 'cuda'


def random_pictures(images: int) -> list[Tensor]:
    """Pictures (3, H, W), uint8."""
    return [torch.randint(0, 256, (3, PICTURE, PICTURE), dtype=torch.uint8) for _ in range(images)]


def random_labels(images: int) -> Tensor:
    """Label maps (N, H, W) with 5 % crack."""
    return (torch.rand(images, PICTURE, PICTURE) < 0.05).long()


def samples(images: int) -> list[SegDataSample]:
    """Data samples as the dataset makes them."""
    shape = {'img_shape': (PICTURE, PICTURE), 'ori_shape': (PICTURE, PICTURE)}
    return [
        SegDataSample(gt_sem_seg=PixelData(data=label[None]), metainfo=shape.copy()) for label in random_labels(images)
    ]


def time_alternately(works: list[Work], rounds: int, warmup: int, device: str) -> None:
    """Run the works in turn, so that whatever else the machine does meets them all alike; fill in times and peaks."""
    for turn in range(-warmup, rounds):
        for work in works:
            before = start_peak(device)
            start = time.perf_counter()
            work.run()
            synchronize(device)
            if turn >= 0:
                work.seconds.append(time.perf_counter() - start)
            if on_gpu(device):
                work.peak = max(work.peak, torch.cuda.max_memory_allocated(device) - before + resident_bytes(work))


def start_peak(device: str) -> int:
    """Allocated bytes as they are now, from where a peak is measured."""
    if not on_gpu(device):
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def resident_bytes(work: Work) -> int:
    """Bytes of weights, buffers and optimizer state."""
    tensors = [*work.model.parameters(), *work.model.buffers()]
    if work.optimizer is not None:
        tensors += [
            value for state in work.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Best measured FLOP/s of a square matrix product in ``dtype``."""
    best = 0.0
    for side in (4096, 8192, 12288) if on_gpu(device) else (1024, 2048):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for _ in range(10):
            synchronize(device)
            start = time.perf_counter()
            left @ right
            synchronize(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def print_machine(device: str) -> None:
    """One line that says what the figures were measured on."""
    if on_gpu(device):
        where = torch.cuda.get_device_name(device)
    else:
        where = f'CPU ({platform.machine()}), {torch.get_num_threads()} threads'
    print(f'{where}, torch {torch.__version__}, Python {platform.python_version()}\n')
