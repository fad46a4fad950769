"""Soft clDice: a loss of centerlines, for cracks that are thin and must not be broken."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from crack_plugin.losses import LossError
from crack_plugin.models.foreground_loss import (
    ForegroundLoss,
    foreground_probability,
    one_hot_foreground,
    strip_sums,
)

CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Neighbours (rows, columns) that erosion looks at: those of a 3 x 1 and a 1 x 3 window."""

SQUARE = (*CROSS, (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Neighbours that dilation looks at: those of a 3 x 3 window."""


@MODELS.register_module()
class CenterlineDiceLoss(ForegroundLoss):
    r"""Soft clDice loss of the softmax probabilities of the foreground classes, per image and class.

    By Shit et al., "clDice - a novel topology-preserving loss function for tubular structure segmentation", CVPR 2021:
    with the probabilities p of a class, its one-hot labels g, soft skeletons S (:func:`soft_skeleton`) and sums over
    the image's pixels that are not ignored,

    .. math::
        P = \frac{\sum S(p) g + s}{\sum S(p) + s}, \quad
        T = \frac{\sum S(g) p + s}{\sum S(g) + s}, \quad
        L = 1 - \operatorname{mean}_{n, c} \frac{2 P T}{P + T}

    P is how much of the predicted centerline lies in the crack, T how much of the crack's centerline is predicted. A
    hairline counts as much as a wide crack of the same length. The width of a crack matters little: use the loss beside
    one of areas, such as :class:`~crack_plugin.models.ForegroundDiceLoss`, as its authors do.

    An ignored pixel takes part in no minimum, maximum or sum: the loss is that of an image that ends there, as it ends
    at its edge.

    The sums are taken over strips of the image, and each strip is computed again in the backward pass. A strip has
    4 (``iterations`` + 2) rows or more, of which half are its neighbours': besides the logits' gradient, a loss of any
    height needs about 8 ``iterations`` + 100 bytes for each pixel of a strip, each class and each image of the batch.
    ``benchmarks/centerline_loss.py`` measures memory and time. It can be differentiated once.

    Args:
        smooth (float): The smoothing term s, in pixels. Defaults to 1.0.
        iterations (int): How many pixels are peeled off either side of a crack to find its centerline: half the width
            of the widest crack, in pixels of the training picture. ``tools/check_dataset.py`` measures widths. Of a
            crack more than ``2 * iterations + 2`` pixels wide the middle is not found, and its centerline has no part
            in the loss; more iterations than needed change nothing but the time. Defaults to 10.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        loss_name (str): Name of the loss in the log; ``loss_`` in front of it makes MMEngine add it to the total.
            Defaults to 'loss_cldice'.

    Raises:
        LossError: ``smooth`` is not positive, without which an image without foreground gives 0 / 0; or ``iterations``
            is no whole number of at least 1.
    """

    def __init__(
        self, smooth: float = 1.0, iterations: int = 10, loss_weight: float = 1.0, loss_name: str = 'loss_cldice'
    ) -> None:
        super().__init__(smooth, loss_weight, loss_name)
        if not isinstance(iterations, int) or iterations < 1:
            raise LossError(
                f'iterations={iterations!r}: give half the width of the widest crack in pixels, a whole number of at '
                'least 1'
            )
        self.iterations = iterations

    def _loss(
        self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, has_background: bool
    ) -> Tensor:
        sums = partial(_sums, ignore_index=ignore_index, has_background=has_background, iterations=self.iterations)
        # Each iteration looks one pixel further, and the first opening two.
        found, predicted, hit, true = strip_sums(sums, logits, target, weight, halo=self.iterations + 2)
        precision = (found + self.smooth) / (predicted + self.smooth)
        sensitivity = (hit + self.smooth) / (true + self.smooth)
        cl_dice = 2 * precision * sensitivity / (precision + sensitivity)
        return self.loss_weight * (1 - cl_dice.mean())


def soft_skeleton(image: Tensor, iterations: int, ignored: Tensor | None = None) -> Tensor:
    """Soft skeleton of Shit et al. (CVPR 2021, algorithm 1).

    What an opening takes away is skeleton; then a layer of pixels is peeled off, and so on. As in their code, a layer
    is peeled by a minimum over the cross of a 3 x 1 and a 1 x 3 window; an opening is that, then a maximum over 3 x 3.
    Of a bar w pixels wide the middle is found after ceil(w / 2) - 1 iterations.

    Args:
        image: In [0, 1], 0 where ignored, shape (N, K, H, W). It can be differentiated by, once; where several pixels
            are the minimum or maximum, they share the gradient.
        iterations: Layers to peel off.
        ignored: Pixels left out, bool, shape (N, 1, H, W); None if there are none.

    Returns:
        In [0, 1], 0 where ignored, shape (N, K, H, W).
    """
    eroded = _erode(image, ignored)
    skeleton = (image - _dilate(eroded)).relu()
    for _ in range(iterations):
        if eroded.requires_grad:
            # Only two images of each iteration stay in memory.
            eroded, skeleton = checkpoint(
                _peel, eroded, skeleton, ignored, use_reentrant=False, preserve_rng_state=False
            )
        else:
            eroded, skeleton = _peel(eroded, skeleton, ignored)
    return skeleton


def _peel(image: Tensor, skeleton: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    eroded = _erode(image, ignored)
    delta = (image - _dilate(eroded)).relu()
    # S + (1 - S) delta, not below S
    return eroded, skeleton + (delta - skeleton * delta).relu()


def _sums(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    rows: slice,
    ignore_index: int,
    has_background: bool,
    iterations: int,
) -> Tensor:
    """Sums over ``rows`` of S(p) g, S(p), S(g) p and S(g) for each image, by class, shape (4, N, K)."""
    ignored = (target == ignore_index)[:, None]
    probability = foreground_probability(logits, has_background).masked_fill(ignored, 0)
    truth = one_hot_foreground(target, probability.shape[1]).masked_fill(ignored, 0).to(probability.dtype)
    # A GPU would have to be waited for, and fills pixels in no time.
    left_out = None if target.device.type == 'cpu' and not ignored.any() else ignored
    predicted_line = soft_skeleton(probability, iterations, left_out)
    true_line = soft_skeleton(truth, iterations, left_out)
    products = [predicted_line * truth, predicted_line, true_line * probability, true_line]
    own = [product[..., rows, :] for product in products]
    if weight is not None:
        own = [product * weight[:, None, rows] for product in own]
    return torch.stack([product.sum(dim=(2, 3)) for product in own])


def _erode(image: Tensor, ignored: Tensor | None) -> Tensor:
    """Least value of each pixel and those beside, above and below it; 0 where ignored."""
    if ignored is None:
        return _Extreme.apply(image, CROSS, torch.minimum)
    # No value is above 1, so that a 1 is as good as nothing.
    return _Extreme.apply(image.masked_fill(ignored, 1), CROSS, torch.minimum).masked_fill(ignored, 0)


def _dilate(image: Tensor) -> Tensor:
    """Largest value of each pixel and the eight around it. No value is below 0, which ignored pixels have."""
    return _Extreme.apply(image, SQUARE, torch.maximum)


class _Extreme(torch.autograd.Function):
    """Extreme value of each pixel of (..., H, W) and its neighbours in the image.

    ``max_pool2d`` takes several times as long on the CPU, and keeps an index of 8 bytes for each pixel.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, neighbours: Sequence[tuple[int, int]], extreme: Any) -> Tensor:
        result = image.clone()
        for offset in neighbours:
            here, there = _overlap(*offset)
            own = result[here]
            extreme(own, image[there], out=own)
        ctx.save_for_backward(image, result)
        ctx.neighbours = neighbours
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        image, result = ctx.saved_tensors
        pairs = [_overlap(*offset) for offset in ((0, 0), *ctx.neighbours)]
        chosen = [(image[there] == result[here]).to(gradient.dtype) for here, there in pairs]
        count = torch.zeros_like(gradient)
        for (here, _), mask in zip(pairs, chosen, strict=True):
            count[here] += mask
        share = gradient / count
        total = torch.zeros_like(gradient)
        for (here, there), mask in zip(pairs, chosen, strict=True):
            total[there].addcmul_(share[here], mask)
        return total, None, None


def _overlap(rows: int, columns: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where pixels have a neighbour at this offset, and where these neighbours are, as indices of (..., H, W)."""
    here: list[Any] = [...]
    there: list[Any] = [...]
    for step in (rows, columns):
        here.append(slice(max(0, -step), -step if step > 0 else None))
        there.append(slice(max(0, step), step if step < 0 else None))
    return tuple(here), tuple(there)
