"""Large images a few rows at a time: what is computed from a strip is small beside the image."""

from collections.abc import Iterator

import torch

CPU_PIXELS = 2**16
"""Of a strip on a CPU: what is computed from it stays in the cache."""

GPU_PIXELS = 2**22
"""Of a strip on a GPU, where every strip costs the launch of some kernels: 16 MB for each fp32 number of a pixel."""


def strips(height: int, width: int, device: torch.device) -> Iterator[slice]:
    """Rows of an image that lies on ``device``.

    Args:
        height: Rows of the image.
        width: Pixels of a row, of all images that are cut together.
        device: Where they lie.
    """
    pixels = CPU_PIXELS if device.type == 'cpu' else GPU_PIXELS
    rows = max(1, pixels // max(1, width))
    return (slice(start, start + rows) for start in range(0, height, rows))
