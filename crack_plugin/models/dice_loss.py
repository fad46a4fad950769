"""Dice loss over the foreground channels of a (K + 1)-class segmentor."""

from functools import partial

import torch
from mmseg.registry import MODELS
from torch import Tensor

from crack_plugin.models.foreground_loss import (
    ForegroundLoss,
    foreground_probability,
    one_hot_foreground,
    strip_sums,
)


@MODELS.register_module()
class ForegroundDiceLoss(ForegroundLoss):
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
        super().__init__(smooth, loss_weight, loss_name)

    def _loss(
        self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
    ) -> Tensor:
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
