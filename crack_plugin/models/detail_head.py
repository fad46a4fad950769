"""A small convolutional head that corrects SAM 3's semantic logits at the resolution of the image.

SAM 3 gives one logit for each 3.5 x 3.5 pixels of its square input, so a thinner crack lies inside one cell whatever
adapters learn. The head sees the pixels themselves, beside the pixel decoder's embeddings and the logits, enlarged:

    image -> 3x3 -> 3x3 -------------------------------+
    embeddings -> 1x1 ----> (context) ----> enlarged --+--> 3x3 -> 3x3 -> 1x1 -> correction, added to enlarged logits
    logits -------------------------------> enlarged --+

The last layer starts at zero: an untrained head corrects nothing. What it sees is brought to one scale first: an image
has mean 0 and variance 1 in each channel, and logits are divided by their usual range. With levels, a U-Net
(:mod:`~crack_plugin.models.context`) of image, embeddings and logits takes the place of the embeddings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmseg.models import SegDataPreProcessor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crack_plugin.errors import ConfigError
from crack_plugin.models.adapters import BASE_HASH, HEAD_FILE, AdapterError, check_base
from crack_plugin.models.context import Context
from crack_plugin.models.logits import resize, resize_from_square, resize_raw, resize_to_square

SIZES = ('image', 'square')
MAX_PIXELS = 1008 * 1008
"""As many pixels as SAM 3's own square has."""
MAX_LEVELS = 8
"""A pixel of the coarsest is then 256 pixels wide."""

_HALO = 4
"""Rows on either side that a row of the correction depends on: one for each 3x3 convolution."""

_LOGIT_RANGE = 8.0
"""Of SAM 3's semantic logits: what it is sure of has about as many, or twice as many."""

_EPSILON = 1e-4
"""Added to the variance of normalised images, so that an image of one colour has no contrast but 0."""

_STRIP_PIXELS = 2**17
"""Pixels computed at once: 13 MB for each activation of 24 channels in fp32. On a CPU the fastest of 2^14 to 2^22."""


class DetailHead(nn.Module):
    """Correct coarse logits by what the image's pixels show.

    Args:
        embedding_channels: C, of the pixel decoder's embeddings.
        channels: Of each convolution.
        size: Resolution to work at: 'image' for that of the image, as the pipeline gives it, 'square' for the model's
            square input.
        max_pixels: An image of more pixels is reduced to as many for the head, and its correction enlarged again. The
            head's time grows with the pixels: 43 kFLOP each with 24 channels.
        levels: Of the context, a U-Net whose finest level has half the resolution of the image and the coarsest
            1 / 2^levels of it; 0 for none, and four convolutions that see 9 pixels.

    Raises:
        ConfigError: An argument is out of its range.
    """

    def __init__(
        self,
        embedding_channels: int,
        channels: int = 24,
        size: str = 'image',
        max_pixels: int = MAX_PIXELS,
        levels: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (('channels', channels), ('max_pixels', max_pixels)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f'detail_head has {name}={value!r}: give a positive whole number.')
        if not isinstance(levels, int) or isinstance(levels, bool) or not 0 <= levels <= MAX_LEVELS:
            raise ConfigError(f'detail_head has levels={levels!r}: give a whole number from 0 to {MAX_LEVELS}.')
        if size not in SIZES:
            raise ConfigError(f'detail_head has size={size!r}: choose {" or ".join(map(repr, SIZES))}.')
        self.size, self.max_pixels, self.levels = size, max_pixels, levels
        self.recompute = False
        self.image = _two_convolutions(3, channels)
        self.project = nn.Conv2d(embedding_channels, channels, kernel_size=1)
        self.context = Context(channels + 1, channels, levels) if levels else None
        self.refine = _two_convolutions(2 * channels + 1, channels)
        self.correct = nn.Conv2d(channels, 1, kernel_size=1)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, embeddings: Tensor, coarse: Tensor) -> Tensor:
        """Correction of the logits at the images' resolution.

        Args:
            images: Normalised, shape (N, 3, H, W).
            embeddings: Of the pixel decoder, shape (N * K, C, h, w), the K prompts of an image side by side.
            coarse: Logits, shape (N, K, h, w).

        Returns:
            Shape (N, K, H, W), fp32.
        """
        count, classes = coarse.shape[:2]
        size = images.shape[-2:]
        # A pale crack on asphalt differs from it by a hundredth of the logits' range, which would drown it.
        images = F.instance_norm(images, eps=_EPSILON)
        logits = coarse.float().reshape(-1, 1, *coarse.shape[2:]) / _LOGIT_RANGE
        # Before they are enlarged, and in their own precision: there are 256 channels of them.
        own = {name: value.to(embeddings.dtype) for name, value in self.project.named_parameters()}
        maps = torch.func.functional_call(self.project, own, embeddings).float()
        if self.context is not None:
            maps = self._recomputed(self.context, images, torch.cat([maps, logits], dim=1), classes)
        large = torch.cat(
            [F.interpolate(each, size=size, mode='bilinear', align_corners=False) for each in (maps, logits)], dim=1
        )
        if torch.compiler.is_compiling():
            # Exported, for images of any size.
            return self._correct(images, large, classes).reshape(count, classes, *size)
        rows = _row_ranges(size[0], len(large) * size[1])
        correction = torch.cat([self._strip(images, large, classes, some) for some in rows], dim=2)
        return correction.reshape(count, classes, *size)

    def _strip(self, images: Tensor, large: Tensor, classes: int, rows: range) -> Tensor:
        """Correction (N * K, 1, rows, W) of some rows, which equals those of a computation on entire images."""
        start, stop = max(0, rows.start - _HALO), min(images.shape[-2], rows.stop + _HALO)
        parts = images[..., start:stop, :], large[..., start:stop, :], classes
        correction = self._recomputed(self._correct, *parts)
        return correction[..., rows.start - start : rows.stop - start, :]

    def _recomputed(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _correct(self, images: Tensor, large: Tensor, classes: int) -> Tensor:
        pixels = self.image(images).repeat_interleave(classes, dim=0)
        return self.correct(self.refine(torch.cat([pixels, large.to(pixels.dtype)], dim=1))).float()


def corrections(
    head: DetailHead,
    images: Tensor,
    regions: Sequence[tuple[int, int]],
    side: int,
    embeddings: Tensor,
    coarse: Tensor,
) -> Tensor:
    """Corrections of the logits of a padded batch.

    Args:
        head: With the ``size`` to work at.
        images: Normalised, shape (N, 3, H, W).
        regions: (height, width) of each image in ``images``; what lies outside is padding.
        side: S, of the model's square input in pixels.
        embeddings, coarse: As for :meth:`DetailHead.forward`.

    Returns:
        Shape (N, K, H, W), fp32, 0 where an image is padded.
    """
    size = (images.shape[-2], images.shape[-1])
    if head.size == 'square':
        seen = limited(resize_to_square(images, regions, side), head.max_pixels)
        return resize_from_square(head(seen, embeddings, coarse), regions, size)
    if len(set(regions)) == 1:
        height, width = regions[0]
        seen = limited(images[..., :height, :width], head.max_pixels)
        return resize_from_square(head(seen, embeddings, coarse), regions, size)
    by_image = zip(images.split(1), regions, embeddings.split(coarse.shape[1]), coarse.split(1), strict=True)
    return torch.cat([corrections(head, image, [region], side, *rest) for image, region, *rest in by_image])


def correction_of_raw(
    head: DetailHead,
    image: Tensor,
    preprocessor: SegDataPreProcessor,
    square: Tensor,
    embeddings: Tensor,
    coarse: Tensor,
) -> Tensor:
    """Correction, at the head's resolution, of the logits of an 8-bit image; no more is normalised than the head sees.

    Args:
        head: With the ``size`` to work at.
        image: Shape (3, H, W), uint8.
        preprocessor: Normalises it.
        square: What the model sees of it, normalised, shape (1, 3, S, S).
        embeddings, coarse: As for :meth:`DetailHead.forward`.

    Returns:
        Shape (1, K, h, w), fp32, to be enlarged to (H, W).
    """
    if head.size == 'square':
        seen = limited(square, head.max_pixels)
    else:
        seen = resize_raw(image, preprocessor, _limited_size((image.shape[1], image.shape[2]), head.max_pixels))
    return head(seen, embeddings, coarse)


def head_file(head: DetailHead | None, base_hash: str) -> bytes | None:
    """Content of the file in an adapter's folder: the head's weights, its settings and the hash of the base."""
    if head is None:
        return None
    weights = {name: weight.detach().cpu().contiguous() for name, weight in head.state_dict().items()}
    return save(weights, metadata={**_settings(head), BASE_HASH: base_hash})


def load_head(head: DetailHead | None, folder: str | Path, base_hash: str) -> None:
    """Read the head's weights from an adapter's folder; an adapter without a head leaves it as it is.

    Args:
        head: Of the model; None if it has none.
        folder: Of the adapter.
        base_hash: Hash of the model's base.

    Raises:
        AdapterError: The adapter was trained with a head and the model has none, or another; or the file is damaged.
    """
    path = Path(folder, HEAD_FILE)
    if not path.is_file():
        if head is not None:
            print_log(f'{folder} has no {HEAD_FILE}: the detail head is as it starts', logger='current')
        return
    read_head(head, path, base_hash)


def read_head(head: DetailHead | None, path: Path, base_hash: str) -> None:
    """Read the head's weights from a file; arguments and errors as of :func:`load_head`."""
    try:
        with safe_open(str(path), framework='pt') as file:
            settings = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise AdapterError(f'{path} is damaged or cut short ({error}). Copy it again, or take another.') from error
    trained = _trained_as(weights, settings)
    if head is None:
        raise AdapterError(
            f'{path.parent} was trained with a detail head, and the model has none: its adapters alone predict '
            f'something else. Set model.{trained}; or delete {path}, to use the adapters without it.'
        )
    check_base(settings.get(BASE_HASH), base_hash, str(path))
    own = head.state_dict()
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in own.items()}:
        raise AdapterError(f'{path} does not fit the model: it is of {trained}, on a base of its own. Set the same.')
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise AdapterError(f'{path} holds values that are NaN or infinite. Take another, or an earlier checkpoint.')
    if 'levels' not in settings:
        raise AdapterError(f'{path} is of an earlier version, whose head saw other numbers. Train it again.')
    if any(settings.get(name) != value for name, value in _settings(head).items()):
        print_log(f'{path} was trained as {trained}; the settings of the config apply', logger='current', level=30)
    head.load_state_dict(weights)


def _settings(head: DetailHead) -> dict[str, str]:
    return {'size': head.size, 'max_pixels': str(head.max_pixels), 'levels': str(head.levels)}


def _trained_as(weights: Mapping[str, Tensor], settings: Mapping[str, str]) -> str:
    """The argument of the model that a file was trained with."""
    shape: tuple[int, ...] = tuple(weights['correct.weight'].shape) if 'correct.weight' in weights else ()
    channels = shape[1] if len(shape) == 4 else 0
    size, max_pixels, levels = (settings.get(name) for name in ('size', 'max_pixels', 'levels'))
    return f'detail_head=dict(channels={channels}, size={size!r}, max_pixels={max_pixels}, levels={levels})'


def limited(images: Tensor, max_pixels: int) -> Tensor:
    """Images of at most about ``max_pixels`` pixels, in their own proportions."""
    return resize(images, _limited_size((images.shape[-2], images.shape[-1]), max_pixels))


def _limited_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    height, width = size
    if height * width <= max_pixels:
        return size
    scale = math.sqrt(max_pixels / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _row_ranges(height: int, width: int) -> list[range]:
    rows = max(1, _STRIP_PIXELS // width)
    return [range(start, min(start + rows, height)) for start in range(0, height, rows)]


def _two_convolutions(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
    )
