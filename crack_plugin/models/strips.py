"""Large images a few rows at a time, so that intermediate results are small compared with the image."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

CPU_PIXELS = 2**16
"""Pixels of a strip on a CPU: intermediate results stay in the cache."""

GPU_PIXELS = 2**22
"""Pixels of a strip on a GPU, where every strip costs the launch of kernels: 16 MB for each fp32 number of a pixel."""


def strips(height: int, width: int, device: torch.device, least: int = 1) -> Iterator[slice]:
    """Divide the rows of an image into strips.

    Args:
        height: Rows of the image.
        width: Pixels of a row, of all images that are cut together.
        device: Where they are.
        least: Rows that a strip has at least.

    Returns:
        Slices of rows, from the top.
    """
    pixels = CPU_PIXELS if device.type == 'cpu' else GPU_PIXELS
    rows = max(least, pixels // max(1, width))
    return (slice(start, start + rows) for start in range(0, height, rows))


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As ``torch.empty``, for what has a value for each pixel of a photograph.

    On a CPU the memory is NumPy's, which asks Linux for large pages: to fill 100 MB then takes a quarter of the time.
    """
    if device.type != 'cpu':
        return torch.empty(*shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, str(dtype).removeprefix('torch.')))
