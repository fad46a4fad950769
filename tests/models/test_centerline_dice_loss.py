"""Soft clDice against its definition, written with SciPy's grey morphology and differentiated by torch's pooling."""

from crack_plugin.models.centerline_dice_loss import CenterlineDiceLoss, soft_skeleton  # first, for mmcv-lite

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from scipy import ndimage
from torch import Tensor

from crack_plugin.losses import build_losses, decode_losses

IGNORED = 255
CROSS = ndimage.generate_binary_structure(2, 1)


def scipy_skeleton(image: np.ndarray, iterations: int, ignored: np.ndarray | None = None) -> np.ndarray:
    """Algorithm 1 of Shit et al. on an image (H, W); what is ignored is as what lies outside of the image."""
    outside = np.zeros(image.shape, bool) if ignored is None else ignored

    def erode(x: np.ndarray) -> np.ndarray:
        filled = np.where(outside, np.inf, x)
        return ndimage.grey_erosion(filled, footprint=CROSS, mode='constant', cval=np.inf)

    def dilate(x: np.ndarray) -> np.ndarray:
        filled = np.where(outside, -np.inf, x)
        return ndimage.grey_dilation(filled, footprint=np.ones((3, 3)), mode='constant', cval=-np.inf)

    def opened_away(x: np.ndarray) -> np.ndarray:
        return np.where(outside, 0, np.maximum(np.where(outside, 0, x) - dilate(erode(x)), 0))

    skeleton = opened_away(image)
    for _ in range(iterations):
        image = erode(image)
        skeleton = skeleton + (1 - skeleton) * opened_away(image)
    return skeleton


def reference(pred: Tensor, target: Tensor, iterations: int, smooth: float = 1.0) -> float:
    """The loss by image and class."""
    probabilities, labels = pred.detach().softmax(dim=1).numpy(), target.numpy()
    scores = []
    for probability, label in zip(probabilities, labels, strict=True):
        ignored = label == IGNORED
        for c in range(1, pred.shape[1]):
            p, g = np.where(ignored, 0, probability[c]), (label == c).astype(float)
            found, true = (scipy_skeleton(image, iterations, ignored) for image in (p, g))
            precision = ((found * g).sum() + smooth) / (found.sum() + smooth)
            sensitivity = ((true * p).sum() + smooth) / (true.sum() + smooth)
            scores.append(2 * precision * sensitivity / (precision + sensitivity))
    return 1 - float(np.mean(scores))


def pooled(pred: Tensor, target: Tensor, iterations: int) -> Tensor:
    """The loss of one foreground class by torch's pooling, as the authors compute it; nothing is ignored."""

    def erode(x: Tensor) -> Tensor:
        return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))

    def skeleton(x: Tensor) -> Tensor:
        result = F.relu(x - F.max_pool2d(erode(x), 3, 1, 1))
        for _ in range(iterations):
            x = erode(x)
            delta = F.relu(x - F.max_pool2d(erode(x), 3, 1, 1))
            result = result + F.relu(delta - result * delta)
        return result

    p, g = pred.softmax(dim=1)[:, 1:], (target == 1)[:, None].to(pred.dtype)
    found, true = skeleton(p), skeleton(g)
    precision = ((found * g).sum((2, 3)) + 1) / (found.sum((2, 3)) + 1)
    sensitivity = ((true * p).sum((2, 3)) + 1) / (true.sum((2, 3)) + 1)
    return 1 - (2 * precision * sensitivity / (precision + sensitivity)).mean()


def batch(classes: int = 1, size: tuple[int, int] = (24, 19), ignored: bool = False) -> tuple[Tensor, Tensor]:
    """Logits in float64 that follow bars of several widths, and their labels."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, *size, dtype=torch.long)
    target[0, 2:9, 1:17] = 1
    target[1, :, 4:7] = classes
    target[1, -4] = 1
    if ignored:
        target[0, 5:15, 6:9] = IGNORED
        target[1, size[0] // 2 :] = IGNORED
    noise = torch.randn(2, classes + 1, *size, generator=generator, dtype=torch.float64)
    truth = torch.stack([target == c for c in range(classes + 1)], dim=1)
    return (noise + 2 * truth).requires_grad_(), target


@pytest.mark.parametrize('iterations', [1, 4])
@pytest.mark.parametrize('ignored', [False, True])
@pytest.mark.parametrize('classes', [1, 3])
def test_value_is_that_of_the_definition(classes: int, ignored: bool, iterations: int) -> None:
    pred, target = batch(classes, ignored=ignored)
    loss = CenterlineDiceLoss(iterations=iterations)(pred, target)
    assert loss.item() == pytest.approx(reference(pred, target, iterations), abs=1e-12)


def test_gradient_is_that_of_the_authors_pooling() -> None:
    pred, target = batch()
    values = CenterlineDiceLoss(iterations=4)(pred, target), pooled(pred, target, 4)
    gradients = [torch.autograd.grad(value, pred)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert gradients[0][:, 1].abs().max() > 1e-3


@pytest.mark.parametrize(('classes', 'ignored'), [(1, False), (2, True)])
def test_gradcheck_in_float64(classes: int, ignored: bool) -> None:
    pred, target = batch(classes, (9, 8), ignored)
    loss = CenterlineDiceLoss(iterations=2, smooth=0.5, loss_weight=3.0)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), pred)


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = batch(2, (40, 12), ignored=True)
    weight = torch.rand(target.shape, dtype=torch.float64)
    results = []
    for pixels in (2**16, 1):
        monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', pixels)
        loss = CenterlineDiceLoss(iterations=2)(pred, target, weight=weight)
        results.append((loss, *torch.autograd.grad(loss, pred)))
    for whole, strips in zip(*results, strict=True):
        torch.testing.assert_close(whole, strips, rtol=0, atol=1e-15)


def test_nothing_leaks_out_of_what_is_ignored() -> None:
    pred, target = batch(2)
    target[..., 12:] = IGNORED
    changed = pred.detach().clone()
    changed[..., 12:] = 30 * torch.randn_like(changed[..., 12:])
    loss, cropped, perturbed = (
        CenterlineDiceLoss(iterations=3)(logits, labels)
        for logits, labels in ((pred, target), (pred[..., :12], target[..., :12]), (changed, target))
    )
    assert loss.item() == pytest.approx(cropped.item(), abs=1e-14)
    assert loss.item() == perturbed.item()
    gradient, expected = (torch.autograd.grad(value, pred)[0] for value in (loss, cropped))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-15)
    assert not gradient[..., 12:].any()


@pytest.mark.parametrize('logit', [-200.0, -5.0, 0.0, 5.0, 200.0])
@pytest.mark.parametrize('label', [0, 1, IGNORED])
def test_flat_images_have_a_finite_gradient(logit: float, label: int) -> None:
    pred = torch.tensor([0.0, logit]).view(1, 2, 1, 1).expand(1, 2, 7, 9).clone().requires_grad_()
    loss = CenterlineDiceLoss(iterations=3)(pred, torch.full((1, 7, 9), label))
    (gradient,) = torch.autograd.grad(loss, pred)
    assert 0 <= loss.item() < 1 and gradient.isfinite().all()
    if label == IGNORED:
        assert loss.item() == 0 and not gradient.any()


def test_ties_share_the_gradient() -> None:
    """A mirrored picture has the mirrored gradient."""
    pred, target = batch()
    symmetric = (pred + pred.flip(-1)).round().detach().requires_grad_()
    loss = CenterlineDiceLoss(iterations=4)(symmetric, target[:1].expand(2, -1, -1).clone().fill_(1))
    (gradient,) = torch.autograd.grad(loss, symmetric)
    torch.testing.assert_close(gradient, gradient.flip(-1), rtol=0, atol=1e-15)


@pytest.mark.parametrize('width', [1, 2, 5, 6, 11])
def test_iterations_of_half_the_width_find_the_middle(width: int) -> None:
    """Of a bar, and fewer do not; that is what the docstring tells users to set."""
    bar = torch.zeros(1, 1, 60, width + 6)
    bar[..., 3 : 3 + width] = 1
    needed = -(-width // 2) - 1
    middle = soft_skeleton(bar, needed)[0, 0, 20:40].sum(dim=1)
    assert (middle == (1 if width % 2 else 2)).all()
    assert torch.equal(soft_skeleton(bar, needed), soft_skeleton(bar, width))
    if needed:
        assert not soft_skeleton(bar, needed - 1)[0, 0, 20:40].any()


def test_a_gap_costs_more_than_a_wrong_width() -> None:
    target = torch.zeros(1, 20, 60, dtype=torch.long)
    target[:, 8:13] = 1
    thin, broken = torch.zeros(2, 20, 60, dtype=torch.bool)
    thin[10], broken[8:13] = True, True
    broken[:, 20:40] = False
    loss = CenterlineDiceLoss()
    of_thin, of_broken = (
        loss(torch.stack([torch.zeros(20, 60), 40.0 * mask - 20])[None], target).item() for mask in (thin, broken)
    )
    assert of_thin < 0.01 < 0.15 < of_broken


@pytest.mark.parametrize('ignored', [False, True])
def test_in_a_segmentor(ignored: bool) -> None:
    """Without a background channel, under autocast, in a list, by its name in the log."""
    pred, target = batch(2, ignored=ignored)
    foreground = pred[:, 1:].detach().float().requires_grad_()
    losses = build_losses([{'type': 'ForegroundDiceLoss'}, {'type': 'CenterlineDiceLoss', 'loss_weight': 0.5}], 3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        values = decode_losses(losses, foreground, target, has_background=False)
    whole = F.pad(foreground.double(), (0, 0, 0, 0, 1, 0))
    assert values['loss_cldice'].item() == pytest.approx(0.5 * reference(whole, target, 10), abs=1e-6)
    assert values['loss_cldice'].dtype == torch.float32
    expected = 0.5 * CenterlineDiceLoss()(whole, target)
    torch.testing.assert_close(
        torch.autograd.grad(values['loss_cldice'], foreground)[0],
        torch.autograd.grad(expected, foreground)[0],
        rtol=0,
        atol=1e-6,
    )


def test_half_precision_is_computed_in_float32() -> None:
    pred, target = batch()
    loss = CenterlineDiceLoss()(pred.half(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(pred.half().double(), target, 10), abs=1e-6)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'smooth': 0}, 'smooth'), ({'iterations': 0}, 'half the width'), ({'iterations': 2.5}, 'half the width')],
)
def test_arguments_that_do_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build({'type': 'CenterlineDiceLoss', **arguments})


def test_inputs_that_do_not_fit() -> None:
    loss = CenterlineDiceLoss()
    with pytest.raises(ValueError, match='CenterlineDiceLoss needs logits'):
        loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match='label 2'):
        loss(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 2))
