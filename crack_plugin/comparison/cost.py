"""What predictions of a model cost: size, arithmetic, speed and memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from crack_plugin.inference import predict
from crack_plugin.peak_memory import peak_memory, reset_peak_memory

TIMED_IMAGES = 10


@dataclass(frozen=True)
class Cost:
    """Attributes:
    parameters: Number of the model's parameters.
    trainable: How many of them the config trains.
    weights_mb: What a checkpoint stores of the model, without an optimizer, in MB (10 ** 6 bytes).
    tflop: Floating point operations (10 ** 12) of predicting one image: two for a multiplication with addition, of
        matrix products, convolutions and attention.
    images_per_second: At batch 1, median over images; without loading and scoring.
    peak_memory_mb: Peak of a prediction, weights included, in MiB.
    peak_memory_of: What that is the memory of.
    input_size: (height, width) in pixels of what the network sees of the first image.
    device: Where the model ran.
    """

    parameters: int
    trainable: int
    weights_mb: float
    tflop: float
    images_per_second: float
    peak_memory_mb: float
    peak_memory_of: str
    input_size: tuple[int, int]
    device: str


def measure_cost(model: Any, loader: DataLoader, cfg: Config, device: str) -> Cost:
    """Size, arithmetic, speed and memory of predicting the loader's first images one by one."""
    batches = [batch for batch, _ in zip(loader, range(TIMED_IMAGES), strict=False)]
    inputs = model.data_preprocessor(batches[0], False)['inputs']
    # SAM 3 stretches the image itself.
    side = getattr(model, 'image_size', None)
    input_size = tuple(inputs.shape[-2:]) if side is None else (side, side)
    tflop = count_flop(lambda: predict(model.test_step, batches[0], cfg)) / 1e12
    # A compiled model generates its code in the first prediction, which is neither its speed nor its memory.
    predict(model.test_step, batches[0], cfg)
    peak_of = reset_peak_memory(device)
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        predict(model.test_step, batch, cfg)
        seconds.append(time.perf_counter() - start)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        weights_mb=sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6,
        tflop=tflop,
        images_per_second=1 / float(np.median(seconds)),
        peak_memory_mb=peak_memory(device),
        peak_memory_of=peak_of,
        input_size=input_size,
        device=torch.cuda.get_device_name(device) if device.startswith('cuda') else device,
    )


def count_flop(run: Callable[[], Any]) -> int:
    """Floating point operations of calling ``run``, by torch's counter.

    The counter does not know the fused attention of every device: for the count, attention is computed from its
    matrix products. For the same reason nothing runs compiled: the counter sees no operation of generated code, and
    under ``fullgraph=True`` compiling fails while it looks on.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.compiler.set_stance('force_eager'),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops()
