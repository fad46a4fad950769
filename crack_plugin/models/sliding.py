"""Sliding windows over images of any size: their positions, and how they blend where they overlap.

Each axis has its own weights, raised cosines divided by their sum over all windows. A window's weight at (y, x) is the
product of the two, and because windows lie on a grid these products sum to 1 at every pixel. So logits can be summed
in place, without a map of weights.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

DEFAULT_BATCH = 4
"""Windows in one forward: enough to keep a GPU busy at 336 px, and some 2 GB of activations of SAM 3 at 1008 px."""

Windows = list[tuple[int, int, int]]
"""Image, row and column of some windows on the grid."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis, as in MMSegmentation: the last one is moved inwards.

    Args:
        length: Of the axis, in pixels.
        window: Of a window, in pixels; one as long as the axis if that is shorter.
        stride: From window to window, in pixels.
    """
    last = max(length - window, 0)
    return [min(i * stride, last) for i in range(math.ceil(last / stride) + 1)]


def blend_weights(length: int, window: int, stride: int) -> Tensor:
    """Weights of the windows along an axis, which sum to 1 at every pixel.

    Raised cosine (Hann window), sampled at pixel centres so that no weight is 0: w(i) = sin^2(pi (i + 1/2) / window).
    It falls to nearly 0 at a window's ends, where a model sees least of the surroundings, and so leaves no seam.

    Args:
        length, window, stride: As for :func:`window_starts`.

    Returns:
        Shape (windows, min(window, length)), float32.
    """
    window = min(window, length)
    starts = window_starts(length, window, stride)
    cosine = torch.sin(torch.pi * (torch.arange(window, dtype=torch.float64) + 0.5) / window).square()
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += cosine
    return torch.stack([cosine / total[start : start + window] for start in starts]).float()


def at_scales(
    images: Tensor, predict: Callable[[Tensor], Tensor], classes: int, scales: Sequence[float], batch: int
) -> Tensor:
    """Predict images as a whole and in smaller windows, which the model sees magnified, and average the logits.

    At scale 1.5 an image is seen in windows two thirds as high and as wide, blended as in :func:`blend_windows`, so
    cracks are half as wide again for the model. The whole image shows what is wide, windows show what is thin.

    Args:
        images: Shape (N, C, H, W).
        predict: From (B, C, h, w) to logits (B, K, h, w), float, for any h and w.
        classes: K.
        scales: At least one, each at least 1, which is the whole image.
        batch: Windows per call of ``predict``.

    Returns:
        The mean over the scales, shape (N, K, H, W).
    """
    mean = torch.zeros((len(images), classes, *images.shape[-2:]), device=images.device)
    for scale in scales:
        crop = [math.ceil(length / scale) for length in images.shape[-2:]]
        stride = [math.ceil(2 * length / 3) for length in crop]
        blend_windows(images, lambda windows: predict(windows) / len(scales), mean, crop, stride, batch)
    return mean


def blend_windows(
    images: Tensor,
    predict: Callable[[Tensor], Tensor],
    canvas: Tensor,
    crop_size: Sequence[int],
    stride: Sequence[int],
    batch: int = DEFAULT_BATCH,
    progress: Callable[[Sequence[Windows]], Iterable[Windows]] = iter,
) -> None:
    """Predict windows and blend them into ``canvas``.

    Args:
        images: Shape (N, C, H, W).
        predict: From windows (B, C, h, w) to (B, K, h, w), float; B is at most ``batch``.
        canvas: Zeros to add to, shape (N, K, H, W).
        crop_size: (h, w) of a window, in pixels. An image that is smaller has windows of its own size.
        stride: (vertical, horizontal) from window to window, in pixels, at most ``crop_size``.
        batch: Windows per call of ``predict``.
        progress: Iterates over the batches and shows the progress.
    """
    size = images.shape[-2:]
    axes = list(zip(size, crop_size, stride, strict=True))
    tops, lefts = (window_starts(*axis) for axis in axes)
    vertical, horizontal = (blend_weights(*axis).to(canvas.device) for axis in axes)
    height, width = vertical.shape[1], horizontal.shape[1]

    def view(tensor: Tensor, image: int, row: int, column: int) -> Tensor:
        return tensor[image, :, tops[row] : tops[row] + height, lefts[column] : lefts[column] + width]

    windows = list(itertools.product(range(len(images)), range(len(tops)), range(len(lefts))))
    for some in progress([windows[i : i + batch] for i in range(0, len(windows), batch)]):
        predicted = predict(torch.stack([view(images, *window) for window in some]))
        for (image, row, column), values in zip(some, predicted, strict=True):
            weights = vertical[row, :, None] * horizontal[column]
            view(canvas, image, row, column).add_(values * weights)
