"""Crops of large pictures that hold cracks."""

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import TRANSFORMS

from crack_plugin.datasets.errors import DatasetError


@TRANSFORMS.register_module()
class CrackRandomCrop(RandomCrop):
    """MMSegmentation's ``RandomCrop``, of which a share is sure to hold foreground.

    A crack fills a few thousandths of a large photograph, so most crops taken anywhere are without one. (MMSegmentation
    itself has ``cat_max_ratio``: it draws again, at most ten times, until the commonest class fills less than that
    share, which a hairline crack never achieves.) Here a foreground pixel is drawn, and then one of all the crops that
    hold it: the pixel lies anywhere in the crop, so that no model learns to look for cracks in the middle.

    Keys are those of ``RandomCrop``. A picture without foreground is cropped anywhere; one smaller than ``crop_size``
    along an axis keeps that side.

    Args:
        crop_size: (h, w) in pixels, or the side of a square.
        crack_prob: Share of the crops that hold foreground, in [0, 1]. The others are taken anywhere, so that the model
            sees plain surface as well.
        cat_max_ratio: Of the crops taken anywhere, see ``RandomCrop``.
        ignore_index: Label of pixels that are neither foreground nor background.

    Raises:
        DatasetError: ``crack_prob`` is out of range.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        crack_prob: float = 0.75,
        cat_max_ratio: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(crop_size, cat_max_ratio, ignore_index)
        if not 0 <= crack_prob <= 1:
            raise DatasetError(f'CrackRandomCrop has crack_prob={crack_prob!r}: a share is a number from 0 to 1.')
        self.crack_prob = crack_prob

    @cache_randomness
    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Draw a crop.

        Args:
            results: With ``img`` of shape (H, W, 3) and ``gt_seg_map`` of shape (H, W).

        Returns:
            Top, bottom, left and right, in pixels.
        """
        if np.random.random() >= self.crack_prob:  # noqa: NPY002 - what MMSegmentation's transforms draw from
            return super().crop_bbox(results)
        labels = results['gt_seg_map']
        foreground = np.flatnonzero((labels != 0) & (labels != self.ignore_index))
        if not foreground.size:
            return super().crop_bbox(results)
        pixel = np.unravel_index(np.random.choice(foreground), labels.shape)  # noqa: NPY002
        (top, bottom), (left, right) = (
            _span_around(int(place), side, length)
            for place, side, length in zip(pixel, self.crop_size, labels.shape, strict=True)
        )
        return top, bottom, left, right

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size}, crack_prob={self.crack_prob})'


def _span_around(place: int, side: int, length: int) -> tuple[int, int]:
    """One of the spans of ``side`` within ``length`` that hold ``place``, drawn."""
    first = max(0, place - side + 1)
    last = max(0, min(place, length - side))
    start = int(np.random.randint(min(first, last), last + 1))  # noqa: NPY002
    return start, start + side
