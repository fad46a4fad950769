"""What the losses of foreground channels share: probabilities, checks, and sums over an image in strips."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crack_plugin.losses import LossError
from crack_plugin.models.strips import strips

Sums = Callable[[Tensor, Tensor, Tensor | None, slice], Tensor]
"""Sums (S, N, K) of a strip: of its logits, target, weight, and over which of its rows."""


class ForegroundLoss(nn.Module, ABC):
    """A loss on the foreground channels of a (K + 1)-class segmentor, as MMSegmentation's decode heads call it.

    Args:
        smooth (float): Smoothing term of its fractions, in pixels.
        loss_weight (float): Factor on the loss.
        loss_name (str): Name of the loss in the log.

    Raises:
        LossError: ``smooth`` is not positive.
    """

    def __init__(self, smooth: float, loss_weight: float, loss_name: str) -> None:
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
                give. Skeletons stay as they are. Defaults to None, every pixel 1.
            ignore_index (int): Label of the pixels left out. Defaults to 255.

        Returns:
            Tensor: The loss, a scalar in float32 (float64 for float64 logits).

        Raises:
            LossError: A shape does not fit, or a label is neither a class nor ``ignore_index``.
        """
        if pred.ndim != 4 or pred.shape[1] < 2:
            raise LossError(
                f'{type(self).__name__} needs logits of shape (N, K + 1, H, W) with a background channel, '
                f'got {tuple(pred.shape)}. For a one-logit head, set out_channels=2.'
            )
        _check_inputs(pred, target, weight, ignore_index, has_background=True)
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
        _check_inputs(logits, target, None, ignore_index, has_background=False)
        return self._loss(logits, target, None, ignore_index, has_background=False)

    @abstractmethod
    def _loss(
        self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
    ) -> Tensor:
        """The loss of checked inputs."""


def foreground_probability(logits: Tensor, has_background: bool) -> Tensor:
    """Softmax probabilities of the foreground classes, shape (N, K, H, W), in float32 (float64 of float64 logits).

    Args:
        logits: Shape (N, K + 1, H, W) with the background in channel 0, or (N, K, H, W) beside a background of 0.
        has_background: Which of the two.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if has_background:
        return logits.softmax(dim=1)[:, 1:]
    if logits.shape[1] == 1:
        # Softmax over [0, z].
        return logits.sigmoid()
    return F.pad(logits, (0, 0, 0, 0, 1, 0)).softmax(dim=1)[:, 1:]


def one_hot_foreground(target: Tensor, classes: int) -> Tensor:
    """Which pixels of labels (N, H, W) are of each foreground class 1 to K, shape (N, K, H, W), bool."""
    labels = torch.arange(1, classes + 1, device=target.device)
    return target[:, None] == labels[:, None, None]


def _check_inputs(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
) -> None:
    """Raise a ``LossError`` where shapes do not fit, or a label is neither a class nor ``ignore_index``."""
    pixels = (logits.shape[0], *logits.shape[2:])
    for name, tensor in (('target', target), ('weight', weight)):
        if tensor is not None and tuple(tensor.shape) != pixels:
            raise LossError(f'{name} has shape {tuple(tensor.shape)}, the logits need {pixels}')
    _check_labels(target, logits.shape[1] if has_background else logits.shape[1] + 1, ignore_index)


def strip_sums(sums: Sums, logits: Tensor, target: Tensor, weight: Tensor | None, halo: int = 0) -> Tensor:
    """Sums over whole images, strip by strip; the backward pass computes each strip again, so none stays in memory.

    Args:
        sums: Of one strip. It is given ``halo`` rows more on either side, as far as the image goes.
        logits: Shape (N, C, H, W); the sums can be differentiated by them, once.
        target: Shape (N, H, W).
        weight: Shape (N, H, W), or None.
        halo: Rows beside a pixel that its summands depend on.

    Returns:
        Shape (S, N, K).
    """
    return _StripSums.apply(logits, target, weight, sums, halo)


class _StripSums(torch.autograd.Function):
    """See :func:`strip_sums`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, sums: Sums, halo: int) -> Tensor:
        ctx.save_for_backward(logits, target, weight)
        ctx.options = sums, halo
        total: Tensor | None = None
        for rows, inside in _strips_of(logits, halo):
            strip, labels, factors = _cut(rows, logits, target, weight)
            part = sums(strip, labels, factors, inside)
            total = part if total is None else total + part
        assert total is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight = ctx.saved_tensors
        sums, halo = ctx.options
        result = torch.zeros_like(logits) if halo else torch.empty_like(logits)
        for rows, inside in _strips_of(logits, halo):
            strip, labels, factors = _cut(rows, logits, target, weight)
            with torch.enable_grad():
                strip = strip.detach().requires_grad_()
                part = sums(strip, labels, factors, inside)
            (own,) = torch.autograd.grad(part, strip, gradient)
            if halo:
                # Its neighbours' pixels depend on the rows beside it.
                result[..., rows, :] += own
            else:
                result[..., rows, :] = own
        return result, None, None, None, None


def _strips_of(logits: Tensor, halo: int) -> Any:
    """Rows of each strip with its halo, and which of these are the strip's own."""
    images, channels, height, width = logits.shape
    # With fewer rows than halo, most of the work would be done twice.
    for own in strips(height, images * channels * width, logits.device, least=max(1, 2 * halo)):
        start, stop = max(0, own.start - halo), min(height, own.stop + halo)
        yield slice(start, stop), slice(own.start - start, min(height, own.stop) - start)


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
