"""Losses on the logits of a model that takes the background's for 0: MMSegmentation's, and a user's own.

MMSegmentation's decode heads call every loss alike, and not every loss of its own can be called so. What does not fit
is refused by name when it is built, instead of failing, or measuring something else, in the first iteration.

Losses of sigmoid probabilities see the foreground's channels alone. They take each class for a question of its own, and
the background's logit, a constant 0, would answer its own with 1/2 everywhere.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmseg.models import losses as mmseg_losses
from mmseg.models.losses.cross_entropy_loss import cross_entropy
from mmseg.models.losses.focal_loss import py_sigmoid_focal_loss
from mmseg.models.losses.kldiv_loss import KLDivLoss
from mmseg.registry import MODELS
from torch import Tensor, nn

from crack_plugin.errors import CrackPluginError

IGNORE_INDEX = 255


class LossError(CrackPluginError, ValueError):
    """A loss cannot be used on (N, K + 1, H, W) logits; the message names it and says what to do."""


def build_losses(
    loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    num_classes: int | None,
    ignore_index: int = IGNORE_INDEX,
) -> nn.ModuleList:
    """Build losses for :func:`decode_losses`.

    Args:
        loss_decode: Config of one loss or of several.
        num_classes: K + 1, with the background; None if it is not known yet.
        ignore_index: Label of the pixels left out.

    Raises:
        LossError: There is no loss, or one that cannot be used on such logits or with these arguments.
    """
    configs = [loss_decode] if isinstance(loss_decode, Mapping) else loss_decode
    if not isinstance(configs, (list, tuple)) or not configs or not all(isinstance(each, Mapping) for each in configs):
        raise LossError(f"loss_decode={loss_decode!r}: give a dict such as dict(type='ForegroundDiceLoss'), or a list.")
    losses = nn.ModuleList(_build(config) for config in configs)
    for loss in losses:
        _check(loss, num_classes, ignore_index)
    names = [loss_name(loss) for loss in losses]
    if 'loss' in names:
        raise LossError("loss_decode: loss_name='loss' is the name of the total. Choose another, such as 'loss_crack'.")
    logged = [name for name in names if 'loss' not in name]
    if len(logged) == len(names):
        raise LossError(
            f'loss_decode: nothing would be trained: MMEngine adds up what has "loss" in its loss_name, and the names '
            f'are {names}. Begin them with loss_.'
        )
    if logged:
        print_log(
            f'loss_decode: {logged} are logged, and not trained: no "loss" in the name',
            logger='current',
        )
    return losses


def decode_losses(
    losses: Iterable[nn.Module],
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE_INDEX,
    has_background: bool = True,
) -> dict[str, Tensor]:
    """Each loss of a prediction under its name; those of one name are added up.

    Args:
        losses: As :func:`build_losses` gives them.
        logits: Shape (N, K + 1, H, W), float32, channel 0 the background. Computed so under autocast, too.
        labels: Shape (N, H, W), int64: 0 to K, or ``ignore_index``.
        ignore_index: Label of the pixels left out.
        has_background: False for logits of shape (N, K, H, W) without channel 0, which is 0 everywhere. At a
            photograph's size the channel counts: a loss whose class has a method ``of_foreground`` does without.

    Returns:
        Scalars.
    """
    values: dict[str, Tensor] = {}
    device = logits.device.type
    # A model on the meta device, built to be counted, has no autocast.
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        for loss in losses:
            of_foreground = None if has_background else _of_foreground(loss)
            if of_foreground is not None:
                value = of_foreground(logits, labels, ignore_index)
            else:
                whole = logits if has_background else F.pad(logits, (0, 0, 0, 0, 1, 0))
                call = _CALLS.get(type(loss), _call)
                # The mean of a loss without reduction, as MMEngine takes it.
                value = call(loss, whole, labels, ignore_index).mean()
            if logits.requires_grad and not value.requires_grad:
                # A constant, where all pixels are ignored; DDP and the optimizer want a path to the weights.
                value = value + 0 * logits.sum()
            name = loss_name(loss)
            values[name] = values[name] + value if name in values else value
    return values


def loss_name(loss: nn.Module) -> str:
    """What a loss calls itself, or its class's name in MMSegmentation's style: 'loss_edge' for ``EdgeLoss``."""
    if hasattr(loss, 'loss_name'):
        return str(loss.loss_name)
    words = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', type(loss).__name__).lower()
    return f'loss_{words.removesuffix("_loss")}'


def _of_foreground(loss: nn.Module) -> Callable[..., Tensor] | None:
    """The loss's method for logits without background, of the class that has its ``forward``.

    A subclass with a ``forward`` of its own may have another formula.
    """
    owner = next(kind for kind in type(loss).__mro__ if 'forward' in vars(kind))
    return getattr(loss, 'of_foreground', None) if 'of_foreground' in vars(owner) else None


def _build(config: Mapping[str, Any]) -> nn.Module:
    try:
        return MODELS.build(dict(config))
    except AssertionError as error:
        # MMSegmentation's losses assert what they want of their arguments.
        reason = ' '.join(str(error).removeprefix('AssertionError: ').split())
        raise LossError(f'loss_decode: {config.get("type")} with {dict(config)}: {reason}') from error


def _check(loss: nn.Module, num_classes: int | None, ignore_index: int) -> None:
    """Refuse a loss that could not be called, or would silently measure something else."""
    name = type(loss).__name__
    fault = _FAULTS[type(loss)](loss, num_classes) if type(loss) in _FAULTS else None
    if fault:
        raise LossError(f'loss_decode: {name} {fault}')
    parameters = _parameters(loss)
    wanted = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(wanted) > 2 or required or not (len(taken) >= 2 or any(p.kind is p.VAR_POSITIONAL for p in taken)):
        raise LossError(
            f'loss_decode: {name}.forward takes ({", ".join(p.name for p in parameters)}), and is given logits '
            '(N, K + 1, H, W) and labels (N, H, W) alone. Write it so: forward(pred, target, ignore_index=255).'
        )
    if not any(p.name == 'ignore_index' for p in parameters):
        for argument in ('ignore_index', 'ignore_label'):
            own = getattr(loss, argument, ignore_index)
            if own != ignore_index:
                raise LossError(
                    f'loss_decode: {name} has {argument}={own!r}, but the pixels to leave out have label '
                    f'{ignore_index}. Set {argument}={ignore_index}.'
                )
    weights = getattr(loss, 'class_weight', None)
    if weights is None or num_classes is None:
        return
    if isinstance(weights, str) or not hasattr(weights, '__len__') or len(weights) != num_classes:
        raise LossError(
            f'loss_decode: {name} has class_weight={weights!r}; give a list of {num_classes} numbers, for the '
            'background and each class.'
        )


def _parameters(loss: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(loss.forward).parameters.values())


def _accepts(loss: nn.Module, name: str) -> bool:
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in _parameters(loss))


def _call(loss: nn.Module, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """As a decode head calls it, with what its signature has a place for."""
    arguments = {'weight': None, 'ignore_index': ignore_index}
    return loss(logits, labels, **{name: value for name, value in arguments.items() if _accepts(loss, name)})


def _foreground(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and truth (0 or 1) of the foreground classes by pixel, (P, K), and whether a pixel counts, (P, 1)."""
    classes = torch.arange(1, logits.shape[1], device=labels.device)
    pixels = labels.reshape(-1, 1)
    return logits[:, 1:].movedim(1, -1).flatten(0, -2), (pixels == classes).long(), pixels != ignore_index


def _cross_entropy(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    if loss.use_sigmoid:
        pred, target, valid = _foreground(logits, labels, ignore_index)
        # With classes last, weights for them line up. One dimension more, or a single channel is taken for the class
        weights = None if loss.class_weight is None else pred.new_tensor(loss.class_weight[1:])
        value = loss.cls_criterion(
            pred[None],
            target.where(valid, ignore_index)[None],
            reduction=loss.reduction,
            class_weight=weights,
            ignore_index=ignore_index,
            avg_non_ignore=loss.avg_non_ignore,
        )
        return loss.loss_weight * value
    if loss.class_weight is None or loss.reduction != 'mean':
        return _call(loss, logits, labels, ignore_index)
    # MMSegmentation looks up the weight of every label, and there is none of an ignored one.
    weights = logits.new_tensor(loss.class_weight)
    total = weights[labels[labels != ignore_index]].sum()
    return loss.loss_weight * cross_entropy(
        logits, labels, class_weight=weights, avg_factor=total, ignore_index=ignore_index
    )


def _focal(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """MMSegmentation's own formula; its ``forward`` has it fail on the CPU, and want full mmcv on a GPU."""
    pred, target, valid = _foreground(logits, labels, ignore_index)
    alpha = loss.alpha[1:] if isinstance(loss.alpha, list) else loss.alpha
    weights = None if loss.class_weight is None else loss.class_weight[1:]
    return loss.loss_weight * py_sigmoid_focal_loss(
        pred, target, gamma=loss.gamma, alpha=alpha, class_weight=weights, valid_mask=valid, reduction=loss.reduction
    )


def _dice(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """On probabilities that are 0 where ignored: MMSegmentation counts those pixels as falsely found."""
    valid = (labels != ignore_index)[:, None]
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    truth = (labels[:, None] == classes) & valid
    first = 1 if loss.use_sigmoid else 0
    probabilities = logits[:, 1:].sigmoid() if loss.use_sigmoid else logits.softmax(dim=1)
    return loss.loss_weight * mmseg_losses.dice_loss.dice_loss(
        probabilities * valid,
        truth[:, first:],
        weight=None,
        eps=loss.eps,
        reduction=loss.reduction,
        naive_dice=loss.naive_dice,
        ignore_index=None if loss.ignore_index is None else loss.ignore_index - first,
    )


def _lovasz(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    # Of an image without a pixel that counts, it has no value.
    counts = (labels != ignore_index).flatten(1).any(dim=1)
    if not counts.any():
        return 0 * logits.sum()
    binary = loss.cls_criterion is mmseg_losses.lovasz_loss.lovasz_hinge
    return _call(loss, (logits[:, 1] if binary else logits)[counts], labels[counts], ignore_index)


def _ohem(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    value = _call(loss, logits, labels, ignore_index)
    # Where every pixel is as certain as can be, none is hard, and the mean over none is NaN
    return torch.where(logits.isfinite().all(), value.nan_to_num(0.0), value)


def _hausdorff(loss: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    # MMSegmentation takes ignored pixels for background, and what is found there for an error: certain there, they
    # add nothing.
    certain = torch.full_like(logits, -torch.inf)
    certain[:, 0] = 0
    return _call(loss, logits.where((labels != ignore_index)[:, None], certain), labels, ignore_index)


_CALLS: dict[type, Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    mmseg_losses.CrossEntropyLoss: _cross_entropy,
    mmseg_losses.DiceLoss: _dice,
    mmseg_losses.FocalLoss: _focal,
    mmseg_losses.HuasdorffDisstanceLoss: _hausdorff,
    mmseg_losses.LovaszLoss: _lovasz,
    mmseg_losses.OhemCrossEntropy: _ohem,
}


def _cross_entropy_fault(loss: Any, num_classes: int | None) -> str | None:
    if loss.use_mask:
        return 'with use_mask=True is for the masks of single objects. Leave use_mask out.'
    return None


def _dice_fault(loss: Any, num_classes: int | None) -> str | None:
    if not loss.activate:
        return 'with activate=False takes probabilities, and is given logits. Leave activate out.'
    if num_classes == 2 and loss.use_sigmoid and loss.ignore_index == 1:
        return 'with ignore_index=1 leaves out the only foreground class: there, it is the number of a class.'
    return None


def _focal_fault(loss: Any, num_classes: int | None) -> str | None:
    if isinstance(loss.alpha, list) and num_classes is not None and len(loss.alpha) != num_classes:
        return f'has alpha={loss.alpha}; give a number, or {num_classes}: for the background and each class.'
    return None


def _hausdorff_fault(loss: Any, num_classes: int | None) -> str | None:
    if num_classes is not None and num_classes > 2:
        return 'tells foreground from background only, and there are several foreground classes. Choose another loss.'
    if loss.class_weight is not None:
        return 'fails with class_weight in MMSegmentation. Leave class_weight out.'
    return None


def _lovasz_fault(loss: Any, num_classes: int | None) -> str | None:
    if loss.cls_criterion is mmseg_losses.lovasz_loss.lovasz_hinge and num_classes is not None and num_classes > 2:
        return "with loss_type='binary' has one foreground class, and there are several. Use loss_type='multi_class'."
    return None


def _never(reason: str) -> Callable[[Any, int | None], str]:
    return lambda loss, num_classes: f'{reason} Choose another loss (see docs/extend.md).'


_FAULTS: dict[type, Callable[[Any, int | None], str | None]] = {
    mmseg_losses.BoundaryLoss: _never(
        'is for the boundary output of a head like PIDNet, which this model does not have.'
    ),
    KLDivLoss: _never('compares two predictions, and there are labels instead of a second.'),
    mmseg_losses.SiLogLoss: _never('is for depth, and there are labels instead.'),
    mmseg_losses.CrossEntropyLoss: _cross_entropy_fault,
    mmseg_losses.DiceLoss: _dice_fault,
    mmseg_losses.FocalLoss: _focal_fault,
    mmseg_losses.HuasdorffDisstanceLoss: _hausdorff_fault,
    mmseg_losses.LovaszLoss: _lovasz_fault,
}
