"""From images to the model's square input, and from its logits to labels: pure functions.

Regions are (height, width) in pixels, from the top left corner of an image; what lies outside is padding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from crack_plugin.losses import IGNORE_INDEX
from crack_plugin.models.strips import empty, strips


def image_region(images: Tensor, meta: Mapping[str, Any]) -> tuple[int, int]:
    """Region of an image in a padded batch.

    Args:
        images: Shape (N, C, H, W).
        meta: Meta information of one of them; without ``img_shape`` it fills (H, W).
    """
    height, width = images.shape[-2:]
    # In slide mode MMSegmentation gives windows the shape of the entire image.
    own_height, own_width = meta.get('img_shape', (height, width))[:2]
    return min(height, own_height), min(width, own_width)


def resize_to_square(images: Tensor, regions: Sequence[tuple[int, int]], side: int) -> Tensor:
    """Resize the region of each image to a square, without keeping its aspect ratio.

    Args:
        images: Shape (N, C, H, W).
        regions: One per image.
        side: S, in pixels.

    Returns:
        Shape (N, C, S, S).
    """
    if len(set(regions)) == 1:
        height, width = regions[0]
        return resize(images[..., :height, :width], (side, side))
    parts = zip(images, regions, strict=True)
    return torch.cat([resize(image[None, :, :h, :w], (side, side)) for image, (h, w) in parts])


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear; antialiased, which matters only along an axis that shrinks (as SAM 3's processor does)."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode='bilinear', align_corners=False, antialias=True)


def takes_raw(preprocessor: Any, images: Sequence[Tensor], metas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether :func:`resize_raw` does with such images what the preprocessor does: none has padding to be cut off."""
    is_stock = type(preprocessor) is SegDataPreProcessor and hasattr(preprocessor, 'mean')
    whole = (image_region(image, meta) == image.shape[1:] for image, meta in zip(images, metas, strict=True))
    return is_stock and all(whole)


def _flips_channels(preprocessor: SegDataPreProcessor) -> bool:
    """Whether it turns BGR to RGB: mmsegmentation's attribute, or where it is onedl-mmsegmentation's, mmengine's."""
    if hasattr(preprocessor, 'channel_conversion'):
        return preprocessor.channel_conversion
    return preprocessor._channel_conversion


def resize_raw(image: Tensor, preprocessor: SegDataPreProcessor, size: tuple[int, int]) -> Tensor:
    """Normalise an 8-bit image and :func:`resize` it, without an entire image in fp32.

    On a CPU bitwise what the two give one after the other: antialiasing is separable, and torch reduces the width
    first.

    Args:
        image: Shape (3, H, W), uint8.
        preprocessor: Its mean, standard deviation and order of channels are taken.
        size: (h, w) of the result.

    Returns:
        Shape (1, 3, h, w), fp32.
    """
    height, width = image.shape[1:]
    flipped = _flips_channels(preprocessor)
    mean, std = (value.flip(0) if flipped else value for value in (preprocessor.mean, preprocessor.std))
    narrow = empty((1, 3, height, size[1]), torch.float32, image.device)
    for rows in strips(height, width, image.device):
        pixels = image[None, :, rows].float().sub_(mean).div_(std)
        narrow[:, :, rows] = resize(pixels, (pixels.shape[2], size[1]))
    resized = resize(narrow, size)
    return resized.flip(1) if flipped else resized


def enlarge(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits of one image, enlarged bilinearly beside a background of zeros; for predictions, not for gradients.

    Args:
        coarse: Of the foreground classes, shape (1, K, h, w), fp32.
        size: (H, W) of the image.

    Returns:
        Shape (1, K + 1, H, W).
    """
    canvas = empty((1, coarse.shape[1] + 1, *size), coarse.dtype, coarse.device)
    canvas[:, 0] = 0
    torch.ops.aten.upsample_bilinear2d.out(coarse, size, False, None, None, out=canvas[:, 1:])
    return canvas


def resize_from_square(logits: Tensor, regions: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Resize logits of the square input bilinearly to the region of each image.

    Args:
        logits: Shape (N, K, h, w).
        regions: One per image.
        size: (H, W) of the padded images.

    Returns:
        Shape (N, K, H, W), 0 where an image is padded.
    """
    if set(regions) == {size}:
        return F.interpolate(logits, size=size, mode='bilinear', align_corners=False)
    padded = logits.new_zeros(*logits.shape[:2], *size)
    for index, (height, width) in enumerate(regions):
        region = F.interpolate(logits[index, None], size=(height, width), mode='bilinear', align_corners=False)
        padded[index, :, :height, :width] = region[0]
    return padded


def restore_original(logits: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Undo padding, flip and resizing of the test pipeline.

    Args:
        logits: Shape (K + 1, H, W).
        meta: Meta information of the image.

    Returns:
        Logits of the image as its file has it, shape (K + 1, *ori_shape).
    """
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    logits = logits[:, top : logits.shape[1] - bottom, left : logits.shape[2] - right]
    if meta.get('flip'):
        logits = logits.flip({'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}[meta['flip_direction']])
    size = tuple(meta.get('ori_shape', logits.shape[1:])[:2])
    if tuple(logits.shape[1:]) == size:
        return logits
    return F.interpolate(logits[None], size=size, mode='bilinear', align_corners=False)[0]


def is_original(size: tuple[int, int], meta: Mapping[str, Any]) -> bool:
    """Whether :func:`restore_original` leaves logits of (H, W) as they are."""
    padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    return not any(padding) and not meta.get('flip') and tuple(meta.get('ori_shape', size)[:2]) == size


def add_background(foreground: Tensor) -> Tensor:
    """Put a channel of zeros before foreground logits (N, K, H, W)."""
    return F.pad(foreground, (0, 0, 0, 0, 1, 0))


def threshold_labels(seg_logits: Tensor, threshold: float) -> Tensor:
    """Label maps from logits: the best foreground class where 1 - p(background) > threshold, background elsewhere.

    Args:
        seg_logits: Shape (N, K + 1, H, W), channel 0 the background.
        threshold: In (0, 1).

    Returns:
        Labels, shape (N, H, W), int64.
    """
    count, _, height, width = seg_logits.shape
    labels = empty((count, height, width), torch.int64, seg_logits.device)
    for rows in strips(height, count * width, seg_logits.device):
        strip = seg_logits[..., rows, :]
        labels[:, rows] = labels_of(strip[:, 1:], strip[:, 0], threshold)
    return labels


def foreground_iou(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Mean IoU over images and foreground classes; 1 where both are empty. Ignored pixels are left out.

    Args:
        logits: Of the foreground classes, shape (N, K, H, W), beside a background of 0.
        labels: Ground truth, shape (N, H, W), 255 where ignored.
        threshold: As for :func:`threshold_labels`.

    Returns:
        A scalar in [0, 1].
    """
    count, classes, height, width = logits.shape
    intersection, union = (torch.zeros(count, classes, dtype=torch.int64, device=logits.device) for _ in range(2))
    index = torch.arange(1, classes + 1, device=logits.device).view(1, -1, 1, 1)
    for rows in strips(height, count * classes * width, logits.device):
        truth = labels[:, None, rows]
        predicted = labels_of(logits[..., rows, :], None, threshold)[:, None]
        actual, predicted = truth == index, (predicted == index) & (truth != IGNORE_INDEX)
        intersection += (predicted & actual).sum(dim=(2, 3))
        union += (predicted | actual).sum(dim=(2, 3))
    return ((intersection.float() + 1e-6) / (union.float() + 1e-6)).mean()


def empty_mask_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of logits towards an empty mask: the mean of log(1 + exp(z)).

    Args:
        logits: Shape (N, K, H, W).
        labels: Ground truth, shape (N, H, W), 255 where ignored.

    Returns:
        A scalar; 0 if all pixels are ignored.
    """
    valid = (labels != IGNORE_INDEX)[:, None]
    return (F.softplus(logits) * valid).sum() / (valid.sum() * logits.shape[1]).clamp_min(1)


def labels_of(foreground: Tensor, background: Tensor | None, threshold: float) -> Tensor:
    """Labels, of one class as bool, from logits (N, K, H, W) and the background's (N, H, W), None for 0."""
    # 1 - p0 > t  <=>  logsumexp(foreground) - z0 > logit(t), which keeps its precision where softmax saturates
    margin = foreground[:, 0] if foreground.shape[1] == 1 else foreground.logsumexp(dim=1)
    if background is not None:
        margin = margin - background
    chosen = margin > math.log(threshold / (1 - threshold))
    return chosen if foreground.shape[1] == 1 else torch.where(chosen, foreground.argmax(dim=1) + 1, 0)
