"""Context of each pixel for the detail head: a small U-Net, whose finest level has half the image's resolution.

    image -> 3x3, stride 2 --+--> two 3x3 ----------------------> two 3x3 -> context
    maps, resized -----------+       | max pooling                   | enlarged
                                  two 3x3 ----------------------> two 3x3
                                     | max pooling                   | enlarged
                                    ...                             ...

Ronneberger et al. 2015, arXiv 1505.04597, but padded, so that each level is as large as what it is of, and with group
normalisation (Wu and He 2018, arXiv 1803.08494), which does not depend on how many images are seen at once.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDEST = 4
"""Channels double from level to level, up to so many times those of the first."""

_GROUPS = 8
"""Of channels, which are normalised together."""


class Context(nn.Module):
    """Summarise what surrounds each pixel.

    Args:
        inputs: Channels of the maps beside the image.
        channels: Of the context, and of the first level.
        levels: Resolutions, each half the one before, at least 1.
    """

    def __init__(self, inputs: int, channels: int, levels: int) -> None:
        super().__init__()
        widths = [channels * min(2**level, _WIDEST) for level in range(levels)]
        self.image = nn.Conv2d(3, channels, kernel_size=3, stride=2, padding=1)
        self.down = nn.ModuleList(map(_two_convolutions, [channels + inputs, *widths[:-1]], widths))
        self.up = nn.ModuleList(_two_convolutions(fine + coarse, fine) for fine, coarse in pairwise(widths))

    def forward(self, images: Tensor, maps: Tensor, classes: int) -> Tensor:
        """Context of the images.

        Args:
            images: Shape (N, 3, H, W).
            maps: Those of the K classes of an image side by side, shape (N * K, inputs, h, w), of any h and w.
            classes: K.

        Returns:
            Shape (N * K, channels, ceil(H / 2), ceil(W / 2)).
        """
        seen = self.image(images).repeat_interleave(classes, dim=0)
        seen = self.down[0](torch.cat([seen, _enlarged(maps, seen)], dim=1))
        levels = []
        for down in self.down[1:]:
            levels.append(seen)
            # One row and column more for those of odd length, as ceil_mode would add; exported, it fixes their number.
            seen = down(F.max_pool2d(F.pad(seen, (0, 1, 0, 1)), kernel_size=2))
        for up in reversed(self.up):
            fine = levels.pop()
            seen = up(torch.cat([fine, _enlarged(seen, fine)], dim=1))
        return seen


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode='bilinear', align_corners=False)


def _two_convolutions(inputs: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, channels):
        layers += [
            nn.Conv2d(before, channels, kernel_size=3, padding=1),
            nn.GroupNorm(math.gcd(_GROUPS, channels), channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
