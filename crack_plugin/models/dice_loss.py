"""Dice loss over the foreground channels of a (K + 1)-class segmentor."""

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn


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

    Args:
        smooth (float): The smoothing term s, in pixels. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        loss_name (str): Name of the loss in the log; ``loss_`` in front of it makes MMEngine add it to the total.
            Defaults to 'loss_dice'.

    Raises:
        ValueError: ``smooth`` is not positive. Without smoothing an image without foreground gives 0 / 0.
    """

    def __init__(self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = 'loss_dice') -> None:
        super().__init__()
        if smooth <= 0:
            raise ValueError(f'smooth must be positive, got {smooth}: an image without foreground would give 0 / 0')
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
            ValueError: A shape does not fit, or a label is neither a class nor ``ignore_index``.
        """
        if pred.ndim != 4 or pred.shape[1] < 2:
            raise ValueError(
                f'ForegroundDiceLoss needs logits of shape (N, K + 1, H, W) with a background channel, '
                f'got {tuple(pred.shape)}. For a one-logit head, set out_channels=2.'
            )
        pixels = (pred.shape[0], *pred.shape[2:])
        for name, tensor in (('target', target), ('weight', weight)):
            if tensor is not None and tuple(tensor.shape) != pixels:
                raise ValueError(f'{name} has shape {tuple(tensor.shape)}, the logits ask for {pixels}')

        valid = target != ignore_index
        num_classes = pred.shape[1]
        unknown = valid & ((target < 0) | (target >= num_classes))
        if unknown.any():
            raise ValueError(
                f'target holds label {target[unknown][0].item()}, but the logits have {num_classes} classes '
                f'(0 to {num_classes - 1}) and ignore_index is {ignore_index}'
            )

        dtype = torch.promote_types(pred.dtype, torch.float32)
        probability = pred.softmax(dim=1, dtype=dtype)[:, 1:]
        labels = torch.arange(1, num_classes, device=target.device)
        truth = (target[:, None] == labels[:, None, None]).to(dtype)
        pixel_weight = valid.to(dtype) if weight is None else valid * weight.to(dtype)
        pixel_weight = pixel_weight[:, None]

        intersection = (pixel_weight * probability * truth).sum(dim=(2, 3))
        cardinality = (pixel_weight * (probability + truth)).sum(dim=(2, 3))
        dice = (2 * intersection + self.smooth) / (cardinality + self.smooth)
        return self.loss_weight * (1 - dice.mean())
