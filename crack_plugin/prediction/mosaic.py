"""Sliding windows over an image that comes row by row: only a band of the height of a window is in memory.

The windows, their order and their weights are those of :func:`crack_plugin.models.sliding.blend_windows`, so that the
logits are those of ``mode='slide'``. Once a row of windows is blended, what the next one does not reach is complete.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crack_plugin.models.sliding import blend_weights, window_starts

_ROWS_READ = 64


@dataclass(frozen=True)
class Windows:
    """How an image is cut.

    Attributes:
        crop_size: (h, w) of a window, in pixels.
        stride: (vertical, horizontal), in pixels.
        batch: Windows in one forward.
    """

    crop_size: tuple[int, int]
    stride: tuple[int, int]
    batch: int

    def bands(self, height: int) -> list[tuple[int, int]]:
        """First row, and the one after the last, of what each row of windows completes."""
        tops = window_starts(height, self.crop_size[0], self.stride[0])
        return list(zip(tops, [*tops[1:], height], strict=True))


@dataclass(frozen=True, eq=False)
class Blended:
    """Rows that are complete; views that hold until the next ones are asked for.

    Attributes:
        number: Of the band, from 0.
        top: The first row.
        image: BGR, shape (3, h, W), uint8.
        valid: Where there are data, shape (h, W), bool.
        logits: Of the foreground classes, shape (K, h, W), float32; 0 where there are no data.
    """

    number: int
    top: int
    image: np.ndarray
    valid: np.ndarray
    logits: Tensor


def blend_bands(
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int],
    predict: Callable[[Tensor], Tensor],
    classes: int,
    windows: Windows,
    device: torch.device,
    first: int = 0,
) -> Iterator[Blended]:
    """Predict an image band by band. Windows without any data are left out.

    Args:
        read: From the first row and the one after the last to the image and where there are data, as
            :meth:`crack_plugin.prediction.raster.Raster.read`.
        shape: (H, W) of the image.
        predict: From 8-bit windows (B, 3, h, w) to logits (B, K, h, w).
        classes: K.
        windows: How the image is cut.
        device: Where to predict.
        first: The band to begin with. Windows above that reach into it are predicted again.
    """
    vertical, horizontal = (blend_weights(*axis) for axis in zip(shape, windows.crop_size, windows.stride, strict=True))
    horizontal = horizontal.to(device)
    height, width = vertical.shape[1], horizontal.shape[1]
    lefts = window_starts(shape[1], windows.crop_size[1], windows.stride[1])
    bands = windows.bands(shape[0])
    image = np.empty((3, height, shape[1]), np.uint8)
    valid = np.empty((height, shape[1]), bool)
    canvas = torch.zeros((classes, height, shape[1]), device=device)
    # Rows that image and canvas hold already
    end = begin = next(top for top, _ in bands if top + height > bands[first][0])
    for number, (top, bottom) in enumerate(bands):
        if top < begin:
            continue
        kept = max(0, end - top)
        shift = height - kept
        for buffer in (image, canvas, valid[None]):
            _move_up(buffer, shift)
        canvas[:, kept:] = 0
        # Read at once, they would be in memory twice.
        for start in range(kept, height, _ROWS_READ):
            stop = min(start + _ROWS_READ, height)
            image[:, start:stop], valid[start:stop] = read(top + start, top + stop)
        end = top + height
        places = [(index, left) for index, left in enumerate(lefts) if valid[:, left : left + width].any()]
        for start in range(0, len(places), windows.batch):
            some = places[start : start + windows.batch]
            cut = torch.from_numpy(np.stack([image[..., left : left + width] for _, left in some]))
            for (index, left), values in zip(some, predict(cut.to(device)), strict=True):
                weights = vertical[number].to(device)[:, None] * horizontal[index]
                canvas[..., left : left + width].add_(values * weights)
        if number >= first:
            rows = slice(0, bottom - top)
            yield Blended(number, top, image[:, rows], valid[rows], canvas[:, rows])


def _move_up(buffer: np.ndarray | Tensor, shift: int) -> None:
    """Move rows up, as many at a time as do not overlap: without a copy of all."""
    height = buffer.shape[1]
    for start in range(0, height - shift, max(shift, 1)) if shift else ():
        stop = min(start + shift, height - shift)
        buffer[:, start:stop] = buffer[:, start + shift : stop + shift]  # type: ignore[assignment]
