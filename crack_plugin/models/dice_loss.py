"""Dice loss over the foreground channels of a (K + 1)-class segmentor."""

from functools import partial

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from crack_plugin.losses import LossError
from crack_plugin.models.foreground_loss import (
    check_background,
    check_inputs,
    foreground_probability,
    one_hot_foreground,
    strip_sums,
)


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
        check_background(self, pred)
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
        check_inputs(logits, target, weight, ignore_index, has_background)
        sums = partial(_sums, ignore_index=ignore_index, has_background=has_background)
        intersection, cardinality = strip_sums(sums, logits, target, weight)
        dice = (2 * intersection + self.smooth) / (cardinality + self.smooth)
        return self.loss_weight * (1 - dice.mean())


def _sums(
    logits: Tensor, target: Tensor, weight: Tensor | None, rows: slice, ignore_index: int, has_background: bool
) -> Tensor:
    """Sums of p g and of p + g over the pixels of each image, by class, shape (2, N, K); ``rows`` are all rows."""
    probability = foreground_probability(logits, has_background)
    truth = one_hot_foreground(target, probability.shape[1])
    pixel_weight = (target != ignore_index).to(probability.dtype)
    if weight is not None:
        pixel_weight = pixel_weight * weight
    weighted = pixel_weight[:, None] * probability
    intersection = (weighted * truth).sum(dim=(2, 3))
    cardinality = weighted.sum(dim=(2, 3)) + (pixel_weight[:, None] * truth).sum(dim=(2, 3))
    return torch.stack([intersection, cardinality])
