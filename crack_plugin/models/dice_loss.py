"""Dice loss over the foreground channels of a (K + 1)-class segmentor."""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crack_plugin.losses import LossError
from crack_plugin.models.strips import strips


@MODELS.register_module()
class ForegroundDiceLoss(nn.Module):
    r"""Dice loss of the softmax probabilities of the foreground classes, per image and class.

    For image n and foreground class c, with probabilities p, one-hot labels g and sums over the image's pixels that
    are not ignored,

    .. math:: L = 1 - \operatorname{mean}_{n, c} \frac{2 \sum p g + s}{\sum p + \sum g + s}

    which is the Dice loss of V-Net (Milletari et al., 3DV 2016) with first-order sums in the denominator and a
    smoothing term s. Channel 0 is the background and enters through the softmax alone: with logits [0, z] the
    foreground probability is sigmoid(z), so one class with a zero background logit is the binary Dice loss of
    sigmoid(z).

    The class of an image that has no such pixels still counts: its loss falls as its probabilities fall to zero.

    The sums are taken over strips of the image, whose probabilities are computed again in the backward pass: besides
    the logits' gradient, a loss of any size needs the memory of a strip. It can be differentiated once.

    Args:
        smooth (float): The smoothing term s, in pixels. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        loss_name (str): Name of the loss in the log; ``loss_`` in front of it makes MMEngine add it to the total.
            Defaults to 'loss_dice'.

    Raises:
        LossError: ``smooth`` is not positive. Without smoothing an image without foreground gives 0 / 0.
    """

    def __init__(self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = 'loss_dice') -> None:
        super().__init__()
        if smooth <= 0:
            raise LossError(f'smooth must be positive, got {smooth}: an image without foreground would give 0 / 0')
        self.smooth = smooth
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name of the loss in the log."""
        return self._loss_name

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
        """Compute the loss as ``BaseDecodeHead.loss_by_feat`` calls it.

        Args:
            pred (Tensor): Logits, shape (N, K + 1, H, W), channel 0 the background. Half precision is computed in
                float32, under autocast too.
            target (Tensor): Integer labels, shape (N, H, W): 0 the background, 1 to K the classes, ``ignore_index``.
            weight (Tensor, optional): Factor on each pixel in all sums, shape (N, H, W): what MMSeg's pixel samplers
                give. Defaults to None, every pixel 1.
            ignore_index (int): Label of the pixels left out of all sums. Defaults to 255.

        Returns:
            Tensor: The loss, a scalar in float32 (float64 for float64 logits).

        Raises:
            LossError: A shape does not fit, or a label is neither a class nor ``ignore_index``.
        """
        if pred.ndim != 4 or pred.shape[1] < 2:
            raise LossError(
                f'ForegroundDiceLoss needs logits of shape (N, K + 1, H, W) with a background channel, '
                f'got {tuple(pred.shape)}. For a one-logit head, set out_channels=2.'
            )
        return self._loss(pred, target, weight, ignore_index, has_background=True)

    def of_foreground(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        """The same for a background logit of 0 everywhere, which then need not be in memory.

        Args:
            logits (Tensor): Foreground logits, shape (N, K, H, W), K at least 1.
            target (Tensor): As for :meth:`forward`.
            ignore_index (int): As for :meth:`forward`.

        Returns:
            Tensor: The loss, as from :meth:`forward`.

        Raises:
            LossError: As from :meth:`forward`.
        """
        return self._loss(logits, target, None, ignore_index, has_background=False)

    def _loss(
        self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
    ) -> Tensor:
        pixels = (logits.shape[0], *logits.shape[2:])
        for name, tensor in (('target', target), ('weight', weight)):
            if tensor is not None and tuple(tensor.shape) != pixels:
                raise LossError(f'{name} has shape {tuple(tensor.shape)}, the logits need {pixels}')
        num_classes = logits.shape[1] if has_background else logits.shape[1] + 1
        _check_labels(target, num_classes, ignore_index)
        intersection, cardinality = _StripSums.apply(logits, target, weight, ignore_index, has_background)
        dice = (2 * intersection + self.smooth) / (cardinality + self.smooth)
        return self.loss_weight * (1 - dice.mean())


class _StripSums(torch.autograd.Function):
    """:func:`_sums` over whole images, strip by strip in both passes."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, target, weight)
        ctx.options = ignore_index, has_background
        total: Tensor | None = None
        for rows in _strips_of(logits):
            sums = torch.stack(_sums(*_cut(rows, logits, target, weight), *ctx.options))
            total = sums if total is None else total + sums
        assert total is not None
        intersection, cardinality = total
        return intersection, cardinality

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in _strips_of(logits):
            strip, *others = _cut(rows, logits, target, weight)
            with torch.enable_grad():
                strip = strip.detach().requires_grad_()
                sums = _sums(strip, *others, *ctx.options)
            (result[..., rows, :],) = torch.autograd.grad(sums, strip, gradients)
        return result, None, None, None, None


def _sums(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
) -> tuple[Tensor, Tensor]:
    """Sums of p g and of p + g over the pixels of each image, by class, both of shape (N, K)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if has_background:
        probability = logits.softmax(dim=1)[:, 1:]
    elif logits.shape[1] == 1:
        # Softmax over [0, z].
        probability = logits.sigmoid()
    else:
        probability = F.pad(logits, (0, 0, 0, 0, 1, 0)).softmax(dim=1)[:, 1:]
    labels = torch.arange(1, probability.shape[1] + 1, device=target.device)
    truth = target[:, None] == labels[:, None, None]
    pixel_weight = (target != ignore_index).to(logits.dtype)
    if weight is not None:
        pixel_weight = pixel_weight * weight
    weighted = pixel_weight[:, None] * probability
    intersection = (weighted * truth).sum(dim=(2, 3))
    return intersection, weighted.sum(dim=(2, 3)) + (pixel_weight[:, None] * truth).sum(dim=(2, 3))


def _strips_of(logits: Tensor) -> Any:
    images, channels, height, width = logits.shape
    return strips(height, images * channels * width, logits.device)


def _cut(rows: slice, *images: Tensor | None) -> list[Any]:
    return [None if image is None else image[..., rows, :] for image in images]


def _check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    # On the meta device there are no labels to look at.
    if target.is_meta:
        return
    # The host has to wait for the answer, once for all strips.
    unknown: Tensor = torch.zeros((), dtype=torch.bool, device=target.device)
    for rows in strips(target.shape[1], target.shape[0] * target.shape[2], target.device):
        labels = target[:, rows]
        unknown = unknown | ((labels != ignore_index) & ((labels < 0) | (labels >= num_classes))).any()
    if unknown:
        wrong = target[(target != ignore_index) & ((target < 0) | (target >= num_classes))]
        raise LossError(
            f'target holds label {wrong[0].item()}, but the logits have {num_classes} classes '
            f'(0 to {num_classes - 1}) and ignore_index is {ignore_index}'
        )
