"""Logits of a photograph that are enlarged where they are needed, and when they are asked for.

A network sees a photograph of 12 megapixels as some hundred pixels square. Its logits at the photograph's size take 96
MB, and the labels as many again; most of that is background, which the coarse logits tell: a bilinearly interpolated
value lies between those it is interpolated from.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor

from crack_plugin.models.logits import enlarge, labels_of

_ROWS, _COLUMNS = 64, 256
"""Of a tile, which is decided as a whole. Narrower ones would cost more calls of torch, and wider ones hold more."""

_SMALL = 128
"""Rows and columns of an image that is enlarged as a whole."""

_ROUNDING = 1e-5
"""By what share of the largest coarse logit an interpolated one may exceed its neighbours: rounding is below 1e-6."""


class Enlarged:
    """Foreground logits of one image: coarse maps, each enlarged bilinearly, and added.

    Args:
        maps: Of the K foreground classes, shapes (1, K, h, w), fp32.
        size: (H, W) of the image.
    """

    def __init__(self, maps: Sequence[Tensor], size: tuple[int, int]) -> None:
        self.maps = [coarse.detach() for coarse in maps]
        self.size = size

    @property
    def is_partial(self) -> bool:
        """Whether :meth:`labels` can be had.

        Torch has three kernels for this on a CPU, whose results differ in their last bits: for up to 128 rows and
        columns together, for three channels, and for what else there is. Of the last, that of a photograph and one
        prompt, the parts are bitwise those of the whole (``at::native::_use_vectorized_kernel_cond_2d``, torch 2.8 to
        2.13). A GPU would have to be waited for, and NaN to be searched.
        """
        return min(self.size) > _SMALL and all(
            coarse.shape[1] == 1 and coarse.device.type == 'cpu' and bool(coarse.isfinite().all())
            for coarse in self.maps
        )

    def whole(self) -> Tensor:
        """Logits beside a background of zeros, shape (1, K + 1, H, W)."""
        first, *others = self.maps
        canvas = enlarge(first, self.size)
        for coarse in others:
            canvas[:, 1:] += _enlarged(coarse, self.size)
        return canvas

    def labels(self, threshold: float, dtype: torch.dtype = torch.int64, marked: list[Tensor] | None = None) -> Tensor:
        """Labels, shape (1, H, W), of :func:`~crack_plugin.models.logits.threshold_labels` for :meth:`whole`.

        Args:
            threshold: In (0, 1).
            dtype: int64 or uint8.
            marked: To it are added the logits of the foreground pixels, beside the background's, (2, n) of some at a
                time.
        """
        # Not torch's zeros, which are written: of the background, memory of the system's that is never touched.
        found = torch.from_numpy(np.zeros((1, *self.size), str(dtype).removeprefix('torch.')))
        for rows, columns, values in self._possible(math.log(threshold / (1 - threshold))):
            chosen = labels_of(values[None], None, threshold)[0]
            if not chosen.any():
                continue
            found[0, rows, columns] = chosen
            if marked is not None:
                marked.append(F.pad(values[0][chosen][None], (0, 0, 1, 0)))
        return found

    def _possible(self, least: float) -> Iterator[tuple[slice, slice, Tensor]]:
        """Parts of the image outside which no pixel is foreground, with their logits (1, rows, columns).

        Args:
            least: What a foreground logit exceeds.
        """
        height, width = self.size
        most, rounding = torch.zeros(1), 0.0
        for coarse in self.maps:
            highest = _maxima(coarse[0], 1, height, _ROWS)
            most = most + _maxima(highest, 2, width, _COLUMNS)
            rounding += _ROUNDING * float(coarse.abs().max())
        possible = (most[0] + rounding > least).numpy()
        # Torch interpolates along the width first. So these are its values between, and of a column its own results:
        # along an axis that keeps its length the weights are 1 and 0.
        wide = [_enlarged(coarse, (coarse.shape[2], width)) for coarse in self.maps]
        for number in np.flatnonzero(possible.any(axis=0)).tolist():
            columns = slice(number * _COLUMNS, min(width, (number + 1) * _COLUMNS))
            size = height, columns.stop - columns.start
            values, *others = (_enlarged(each[..., columns].contiguous(), size)[0] for each in wide)
            for other in others:
                values.add_(other)
            edges = np.flatnonzero(np.diff(possible[:, number], prepend=False, append=False))
            for start, stop in edges.reshape(-1, 2).tolist():
                rows = slice(start * _ROWS, min(height, stop * _ROWS))
                yield rows, columns, values[:, rows]


def _enlarged(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(coarse, size=size, mode='bilinear', align_corners=False)


def _maxima(values: Tensor, dim: int, enlarged: int, tile: int) -> Tensor:
    """For each tile along ``dim`` the highest of the values (K, h, w) between which it is interpolated, or more.

    Args:
        values: Before they are enlarged.
        dim: Axis.
        enlarged: Its length afterwards.
        tile: Length of a tile.
    """
    length = values.shape[dim]
    parts = []
    for start in range(0, enlarged, tile):
        # Pixel i lies at (i + 1/2) length / enlarged - 1/2; one more on either side for rounding.
        first = max(0, (2 * start + 1) * length // (2 * enlarged) - 2)
        last = min(length - 1, (2 * min(start + tile, enlarged) + 1) * length // (2 * enlarged) + 1)
        parts.append(values.narrow(dim, first, last + 1 - first).amax(dim))
    return torch.stack(parts, dim=dim)


class EnlargedData(PixelData):
    """``PixelData`` whose ``data`` is computed when it is first asked for: logits, or labels by a threshold.

    Args:
        source: What it is computed from; None for an ordinary ``PixelData``, as MMEngine makes copies.
        threshold: Of the labels; None for logits.
    """

    def __init__(self, source: Enlarged | None = None, threshold: float | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        if source is not None:
            # Past PixelData, for which every attribute is a tensor.
            self.__dict__.update(computed_from=source, labelled_above=threshold)
            self._data_fields.add('data')

    @property
    def source(self) -> Enlarged | None:
        """What ``data`` will be computed from; None if it is there already, and may have been changed."""
        return None if 'data' in self.__dict__ else self.__dict__.get('computed_from')

    @property
    def threshold(self) -> float | None:
        """As it was given."""
        return self.__dict__.get('labelled_above')

    def __getattr__(self, name: str) -> Any:
        """``data``, the first time."""
        if name != 'data' or self.source is None or name not in self._data_fields:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        data = self.source.whole()[0] if self.threshold is None else self.source.labels(self.threshold)
        return self.__dict__.setdefault('data', data)
