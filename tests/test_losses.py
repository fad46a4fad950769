"""Every loss of MMSegmentation on the model's logits: its value against a formula written anew, or its refusal."""

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from crack_plugin.losses import LossError, build_losses, decode_losses

IGNORED = 255


def example(classes: int = 1, ignored: bool = True, size: int = 9) -> tuple[Tensor, Tensor]:
    """Logits with a background of 0, and labels, two pictures."""
    generator = torch.Generator().manual_seed(classes)
    foreground = torch.randn(2, classes, size, size + 1, generator=generator)
    logits = F.pad(foreground, (0, 0, 0, 0, 1, 0)).requires_grad_()
    labels = torch.randint(0, classes + 1, (2, size, size + 1), generator=generator)
    if ignored:
        labels[0, :3] = IGNORED
        labels[1, :, 4] = IGNORED
    return logits, labels


def value(config: dict, logits: Tensor, labels: Tensor) -> Tensor:
    (result,) = decode_losses(build_losses(config, logits.shape[1]), logits, labels).values()
    return result


def cross_entropy(logits: Tensor, labels: Tensor, **arguments) -> Tensor:
    """Summed over all pixels but divided by their number, ignored ones included, as MMSegmentation does by default."""
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction='sum', **arguments) / labels.numel()


def one_hot(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    valid = (labels != IGNORED)[:, None].to(logits.dtype)
    truth = torch.stack([labels == index for index in range(logits.shape[1])], dim=1).to(logits.dtype)
    return truth, valid


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, weights: list[float] | None = None) -> Tensor:
    truth, valid = one_hot(logits, labels)
    p = logits.sigmoid()
    positive = torch.tensor(weights or [1.0] * logits.shape[1])[:, None, None]
    values = -(positive * truth * p.log() + (1 - truth) * (1 - p).log()) * valid
    return values[:, 1:].mean()


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 0.5) -> Tensor:
    truth, valid = one_hot(logits, labels)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.log() * truth
    negative = -(1 - alpha) * p**gamma * (1 - p).log() * (1 - truth)
    return ((positive + negative) * valid)[:, 1:].mean()


def dice(logits: Tensor, labels: Tensor, first: int, naive: bool = False, eps: float = 1e-3) -> Tensor:
    truth, valid = one_hot(logits, labels)
    p = ((logits.sigmoid() if first else logits.softmax(1)) * valid)[:, first:].flatten(1)
    g = (truth * valid)[:, first:].flatten(1)
    if naive:
        return (1 - (2 * (p * g).sum(1) + eps) / (p.sum(1) + g.sum(1) + eps)).mean()
    return (1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + 2 * eps)).mean()


def tversky(logits: Tensor, labels: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    truth, valid = one_hot(logits, labels)
    p = logits.softmax(1)
    tp, fp, fn = ((x * valid).sum((2, 3)) for x in (p * truth, p * (1 - truth), (1 - p) * truth))
    return (1 - (tp + 1) / (tp + alpha * fp + beta * fn + 1)).mean()


def jaccard_of_errors(errors: np.ndarray, truth: np.ndarray) -> float:
    """Lovasz extension of the Jaccard loss: sorted errors, each times what its pixel adds to the loss."""
    order = np.argsort(-errors)
    total, previous = 0.0, 0.0
    for count in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:count]] = True
        found = truth & ~wrong
        current = 1 - found.sum() / (truth | wrong).sum()
        total += errors[order[count - 1]] * (current - previous)
        previous = current
    return total


def lovasz(logits: Tensor, labels: Tensor) -> float:
    valid = (labels != IGNORED).numpy().ravel()
    p = logits.detach().softmax(1).movedim(1, -1).flatten(0, -2).numpy()[valid]
    truth = labels.numpy().ravel()[valid]
    classes = [c for c in range(logits.shape[1]) if (truth == c).any()]
    return float(np.mean([jaccard_of_errors(np.abs((truth == c) - p[:, c]), truth == c) for c in classes]))


def hinge(logits: Tensor, labels: Tensor) -> float:
    valid = (labels != IGNORED).numpy().ravel()
    z, truth = logits.detach()[:, 1].numpy().ravel()[valid], labels.numpy().ravel()[valid] == 1
    # The extension of a loss is linear where errors are negative; those are cut at 0
    return jaccard_of_errors(np.maximum(1 - z * (2 * truth - 1), 0), truth)


def ohem(logits: Tensor, labels: Tensor, threshold: float, kept: int) -> Tensor:
    valid = labels != IGNORED
    losses = F.cross_entropy(logits, labels.where(valid, 0), reduction='none')[valid]
    certainty = (-losses).exp()
    cut = max(certainty.sort().values[min(kept, len(certainty) - 1)].item(), threshold)
    return losses[certainty < cut].mean()


def hausdorff(logits: Tensor, labels: Tensor) -> Tensor:
    valid = labels != IGNORED
    p = logits.softmax(1)[:, 1]
    total = torch.zeros(())
    for probability, truth, counts in zip(p, (labels == 1) & valid, valid, strict=True):
        found = (probability > 0.5) & counts
        distances = sum(distance_transform_edt(mask.numpy()) ** 2 if mask.any() else 0 for mask in (truth, found))
        total = total + ((probability - truth.float()) ** 2 * torch.as_tensor(distances).float() * counts).mean()
    return total / len(p) / 2


CASES = [
    ({'type': 'CrossEntropyLoss'}, cross_entropy),
    (
        {'type': 'CrossEntropyLoss', 'reduction': 'sum', 'loss_weight': 0.5},
        lambda z, y: cross_entropy(z, y) * y.numel() / 2,
    ),
    (
        {'type': 'CrossEntropyLoss', 'avg_non_ignore': True},
        lambda z, y: F.cross_entropy(z, y, ignore_index=IGNORED),
    ),
    ({'type': 'CrossEntropyLoss', 'use_sigmoid': True}, sigmoid_cross_entropy),
    ({'type': 'FocalLoss'}, focal),
    ({'type': 'FocalLoss', 'gamma': 1.5, 'alpha': 0.25, 'loss_weight': 3.0}, lambda z, y: 3 * focal(z, y, 1.5, 0.25)),
    ({'type': 'DiceLoss'}, lambda z, y: dice(z, y, first=1)),
    ({'type': 'DiceLoss', 'naive_dice': True}, lambda z, y: dice(z, y, first=1, naive=True)),
    ({'type': 'DiceLoss', 'use_sigmoid': False}, lambda z, y: dice(z, y, first=0)),
    ({'type': 'TverskyLoss'}, tversky),
    ({'type': 'TverskyLoss', 'alpha': 0.5, 'beta': 0.5}, lambda z, y: tversky(z, y, 0.5, 0.5)),
    ({'type': 'LovaszLoss', 'reduction': 'none'}, lovasz),
    ({'type': 'OhemCrossEntropy', 'thres': 0.6, 'min_kept': 10}, lambda z, y: ohem(z, y, 0.6, 10)),
]


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize(('config', 'expected'), CASES, ids=lambda x: str(x) if isinstance(x, dict) else '')
def test_value_and_gradient(config: dict, expected, classes: int) -> None:
    for ignored in (False, True):
        logits, labels = example(classes, ignored)
        result = value(config, logits, labels)
        torch.testing.assert_close(result, torch.as_tensor(expected(logits, labels), dtype=torch.float32))
        (gradient,) = torch.autograd.grad(result, logits)
        assert gradient.isfinite().all() and gradient[:, 1:].abs().max() > 0
        assert not gradient.movedim(1, 0)[:, labels == IGNORED].any()


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (
            {'type': 'CrossEntropyLoss', 'class_weight': [0.5, 4.0]},
            # Of all pixels that count the weighted mean, as torch's own
            lambda z, y: F.cross_entropy(z, y, weight=torch.tensor([0.5, 4.0]), ignore_index=IGNORED),
        ),
        (
            {'type': 'CrossEntropyLoss', 'use_sigmoid': True, 'class_weight': [1.0, 4.0]},
            lambda z, y: sigmoid_cross_entropy(z, y, [1.0, 4.0]),
        ),
        ({'type': 'FocalLoss', 'class_weight': [1.0, 4.0]}, lambda z, y: 4 * focal(z, y)),
        ({'type': 'FocalLoss', 'alpha': [0.9, 0.25]}, lambda z, y: focal(z, y, alpha=0.25)),
        ({'type': 'LovaszLoss', 'loss_type': 'binary', 'reduction': 'none'}, hinge),
        (
            {'type': 'LovaszLoss', 'per_image': True},
            lambda z, y: np.mean([lovasz(z[i : i + 1], y[i : i + 1]) for i in range(2)]),
        ),
        ({'type': 'HuasdorffDisstanceLoss'}, hausdorff),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else '',
)
def test_value_and_gradient_for_one_class(config: dict, expected) -> None:
    test_value_and_gradient(config, expected, 1)


def test_class_weights_need_no_ignored_pixels() -> None:
    logits, labels = example(ignored=False)
    config = {'type': 'CrossEntropyLoss', 'class_weight': [0.5, 4.0]}
    plain = MODELS.build(config)(logits, labels, ignore_index=IGNORED)
    torch.testing.assert_close(value(config, logits, labels), plain)


@pytest.mark.parametrize('config', [config for config, _ in CASES] + [{'type': 'HuasdorffDisstanceLoss'}], ids=str)
def test_nothing_but_ignored_pixels(config: dict) -> None:
    """Costs nothing, and still has a path to the weights, which DDP asks for."""
    logits, labels = example()
    result = value(config, logits, torch.full_like(labels, IGNORED))
    (gradient,) = torch.autograd.grad(result, logits)
    assert result.isfinite() and not gradient.any()
    if config['type'] == 'LovaszLoss':
        labels[0] = IGNORED
        alone = value(config, logits[1:], labels[1:])
        torch.testing.assert_close(value({**config, 'per_image': True}, logits, labels), alone)


def test_ohem_of_certain_pixels_is_0() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1] = -200
    logits.requires_grad_()
    result = value({'type': 'OhemCrossEntropy'}, logits, torch.zeros(1, 4, 4, dtype=torch.long))
    assert result.item() == 0 and not torch.autograd.grad(result, logits)[0].any()


@pytest.mark.parametrize(
    ('config', 'classes', 'message'),
    [
        ({'type': 'BoundaryLoss'}, 1, 'BoundaryLoss is for the boundary output'),
        ({'type': 'KLDivLoss'}, 1, 'KLDivLoss compares two predictions'),
        ({'type': 'SiLogLoss'}, 1, 'SiLogLoss is for depth'),
        ({'type': 'LovaszLoss'}, 1, "reduction should be 'none' when per_image is False"),
        ({'type': 'LovaszLoss', 'loss_type': 'binary', 'reduction': 'none'}, 2, "loss_type='multi_class'"),
        ({'type': 'FocalLoss', 'use_sigmoid': False}, 1, 'Only sigmoid focal loss supported'),
        ({'type': 'FocalLoss', 'alpha': [0.5]}, 1, 'give a number, or 2'),
        ({'type': 'CrossEntropyLoss', 'use_mask': True}, 1, 'Leave use_mask out'),
        ({'type': 'CrossEntropyLoss', 'class_weight': [1.0, 2.0, 3.0]}, 1, 'give a list of 2 numbers'),
        ({'type': 'OhemCrossEntropy', 'class_weight': 'weights.npy'}, 1, 'give a list of 2 numbers'),
        ({'type': 'OhemCrossEntropy', 'ignore_label': 0}, 1, 'Set ignore_label=255'),
        ({'type': 'TverskyLoss', 'ignore_index': 0}, 1, 'Set ignore_index=255'),
        ({'type': 'DiceLoss', 'activate': False}, 1, 'Leave activate out'),
        ({'type': 'HuasdorffDisstanceLoss'}, 2, 'several foreground classes'),
        ({'type': 'HuasdorffDisstanceLoss', 'class_weight': [1.0, 2.0]}, 1, 'Leave class_weight out'),
        ({'type': 'CrossEntropyLoss', 'loss_name': 'ce'}, 1, 'nothing would be trained'),
        ({'type': 'CrossEntropyLoss', 'loss_name': 'loss'}, 1, 'the name of the total'),
        ({'type': 'UnfitLoss'}, 1, r'UnfitLoss.forward takes \(pred, target, depth\)'),
        ([], 1, 'give a dict'),
        (None, 1, 'give a dict'),
        (['FocalLoss'], 1, 'give a dict'),
    ],
    ids=str,
)
def test_refusal_names_the_loss(config, classes: int, message: str) -> None:
    with pytest.raises(LossError, match=message) as error:
        build_losses(config, classes + 1)
    assert '\n' not in str(error.value)


@MODELS.register_module()
class UnfitLoss(nn.Module):
    def forward(self, pred: Tensor, target: Tensor, depth: Tensor) -> Tensor:
        return pred.mean()


@MODELS.register_module()
class PlainEdgeLoss(nn.Module):
    """A user's, who knows nothing of weights, ignored labels and names."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(pred, target, ignore_index=IGNORED)


def test_loss_without_name_and_without_further_arguments() -> None:
    logits, labels = example()
    losses = build_losses([{'type': 'PlainEdgeLoss'}, {'type': 'CrossEntropyLoss', 'avg_non_ignore': True}], 2)
    values = decode_losses(losses, logits, labels)
    assert list(values) == ['loss_plain_edge', 'loss_ce']
    torch.testing.assert_close(values['loss_plain_edge'], values['loss_ce'])


def test_losses_of_one_name_are_added_up() -> None:
    logits, labels = example()
    losses = build_losses([{'type': 'CrossEntropyLoss'}, {'type': 'CrossEntropyLoss', 'loss_weight': 2.0}], 2)
    (total,) = decode_losses(losses, logits, labels).values()
    torch.testing.assert_close(total, 3 * cross_entropy(logits, labels))


def test_losses_are_computed_in_fp32_under_autocast() -> None:
    logits, labels = example()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = value({'type': 'CrossEntropyLoss'}, logits, labels)
    assert torch.equal(result, value({'type': 'CrossEntropyLoss'}, logits, labels))


@pytest.mark.parametrize('name', ['FocalLoss', 'OhemCrossEntropy'])
def test_model_trains_on_it(name: str, tiny_sam3: dict) -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    cfg.merge_from_dict({'model.loss_decode.type': name})
    model = MODELS.build({**cfg.model, 'base': tiny_sam3})
    data = {'inputs': [torch.randint(0, 255, (3, 40, 50), dtype=torch.uint8)]}
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 40, 50, dtype=torch.uint8)))
    batch = model.data_preprocessor({**data, 'data_samples': [sample]}, training=True)
    total, _ = model.parse_losses(model(**batch, mode='loss'))
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


def test_model_refuses_when_it_is_built(tiny_sam3: dict) -> None:
    with pytest.raises(LossError, match='BoundaryLoss'):
        MODELS.build({'type': 'SAM3TextLoRA', 'base': tiny_sam3, 'loss_decode': {'type': 'BoundaryLoss'}})
