from crack_plugin.models.dice_loss import ForegroundDiceLoss  # first: it makes mmseg importable with mmcv-lite

# isort: split
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample


def binary_dice_loss(logit: torch.Tensor, mask: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - mean((2 sum(p g) + s) / (sum(p) + sum(g) + s)) of sigmoid probabilities, image by image."""
    dice = []
    for z, g in zip(logit, mask, strict=True):
        p = torch.sigmoid(z)
        dice.append((2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth))
    return 1 - torch.stack(dice).mean()


def random_batch(num_classes: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred = 3 * torch.randn(2, num_classes, 5, 7, generator=generator, dtype=dtype)
    return pred, torch.randint(num_classes, (2, 5, 7), generator=generator)


def test_equals_binary_dice_of_sigmoid_when_the_background_logit_is_zero():
    pred, target = random_batch(2)
    logit = pred[:, 1].requires_grad_()
    loss = ForegroundDiceLoss()(torch.stack([torch.zeros_like(logit), logit], dim=1), target)
    expected = binary_dice_loss(logit, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logit)[0] for value in (loss, expected)))


@pytest.mark.parametrize(
    ('foreground_logit', 'crack_pixels', 'expected'),
    [
        (40.0, 6, 0.0),  # all predicted, all crack
        (-40.0, 0, 0.0),  # nothing predicted, nothing there: smoothing makes it perfect
        (-40.0, 6, 1 - 1 / 7),  # nothing predicted, 6 pixels missed
        (40.0, 0, 1 - 1 / 7),  # 6 pixels predicted, nothing there
        (0.0, 2, 1 - (2 * 1 + 1) / (3 + 2 + 1)),  # p = 0.5 on 6 pixels, 2 of them crack
    ],
)
def test_closed_form(foreground_logit, crack_pixels, expected):
    pred = torch.zeros(1, 2, 2, 3)
    pred[:, 1] = foreground_logit
    target = (torch.arange(6) < crack_pixels).long().view(1, 2, 3)
    assert ForegroundDiceLoss()(pred, target).item() == pytest.approx(expected, abs=1e-6)


def test_smooth_and_loss_weight():
    pred, target = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 3, dtype=torch.long)
    loss = ForegroundDiceLoss(smooth=2.0, loss_weight=0.5)(pred, target)
    assert loss.item() == pytest.approx(0.5 * (1 - 2 / (3 + 2)))


def test_three_classes_are_the_mean_of_each_class_against_the_rest():
    pred, target = random_batch(4)
    probability = pred.softmax(dim=1)
    expected = [binary_dice_loss(torch.logit(probability[:, c]), (target == c).float()) for c in (1, 2, 3)]
    torch.testing.assert_close(ForegroundDiceLoss()(pred, target), torch.stack(expected).mean())


def test_ignored_pixels_have_no_influence():
    pred, target = random_batch(3)
    target[:, :, 4:] = 255
    changed = pred.clone()
    changed[..., 4:] += 7 * torch.randn(2, 3, 5, 3)
    loss, cropped, perturbed = (
        ForegroundDiceLoss()(logits, labels)
        for logits, labels in ((pred.requires_grad_(), target), (pred[..., :4], target[..., :4]), (changed, target))
    )
    torch.testing.assert_close(loss, cropped)
    torch.testing.assert_close(loss, perturbed)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert not gradient[..., 4:].any()
    assert gradient[..., :4].all()


def test_another_ignore_index():
    pred, target = random_batch(2)
    ignored = target.clone()
    ignored[:, 0] = 9
    expected = ForegroundDiceLoss()(pred[:, :, 1:], target[:, 1:])
    torch.testing.assert_close(ForegroundDiceLoss()(pred, ignored, ignore_index=9), expected)


def test_an_ignored_image_costs_nothing_and_stays_finite():
    pred, target = random_batch(2)
    pred.requires_grad_()
    loss = ForegroundDiceLoss()(pred, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert not pred.grad.any()


def test_weight_counts_pixels():
    """Weights 0 and 2 are leaving pixels out and counting them twice; an ignored pixel's weight is void."""
    pred, target = random_batch(2)
    weight = torch.ones_like(target, dtype=torch.float32)
    weight[:, 0], weight[:, 1] = 0, 2
    target[:, 4] = 255
    rows = [1, 1, 2, 3]
    expected = ForegroundDiceLoss()(pred[:, :, rows], target[:, rows])
    torch.testing.assert_close(ForegroundDiceLoss()(pred, target, weight=weight), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    """A sum over 512 x 512 pixels of p = 0.5 is 131072, which float16 cannot hold."""
    pred = torch.zeros(1, 2, 512, 512, dtype=dtype)
    target = torch.zeros(1, 512, 512, dtype=torch.long)
    target[:, :256] = 1
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = ForegroundDiceLoss()(pred, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - (131072 + 1) / (131072 + 131072 + 1), abs=1e-6)


@pytest.mark.parametrize('num_classes', [2, 4])
@pytest.mark.parametrize('has_weight', [False, True])
def test_strips_change_nothing(monkeypatch, num_classes, has_weight):
    """Against plain sums over the whole image, differentiated by autograd."""
    pred, target = random_batch(num_classes, dtype=torch.float64)
    target[0, 0] = 255
    weight = torch.rand(target.shape, dtype=torch.float64) if has_weight else None
    pred.requires_grad_()
    w = (target != 255).double() * (1 if weight is None else weight)
    probability = pred.softmax(dim=1)
    dice = []
    for c in range(1, num_classes):
        p, g = probability[:, c], (target == c).double()
        dice.append((2 * (w * p * g).sum((1, 2)) + 1) / ((w * p).sum((1, 2)) + (w * g).sum((1, 2)) + 1))
    expected = 1 - torch.stack(dice).mean()
    monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', 2 * 7 * num_classes * 2)
    loss = ForegroundDiceLoss()(pred, target, weight=weight)
    torch.testing.assert_close(loss, expected, atol=1e-14, rtol=0)
    gradient, expected = (torch.autograd.grad(value, pred)[0] for value in (loss, expected))
    torch.testing.assert_close(gradient, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize('num_classes', [2, 4])
@pytest.mark.parametrize('size', [(5, 7), (600, 700)])
def test_background_of_zero_need_not_be_given(num_classes, size, device):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_classes - 1, *size, generator=generator)
    target = torch.randint(num_classes, (2, *size), generator=generator)
    target[0, 0] = 255
    logits, target = logits.to(device).requires_grad_(), target.to(device)
    loss = ForegroundDiceLoss().of_foreground(logits, target)
    expected = ForegroundDiceLoss()(torch.nn.functional.pad(logits, (0, 0, 0, 0, 1, 0)), target)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    gradient, expected = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-4)


def test_label_errors_of_a_foreground_count_the_background():
    with pytest.raises(ValueError, match=r'label 2, but the logits have 2 classes \(0 to 1\)'):
        ForegroundDiceLoss().of_foreground(torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 2))


def test_gradcheck_in_float64():
    pred, target = random_batch(3, dtype=torch.float64)
    target[0, 0] = 255
    assert torch.autograd.gradcheck(lambda logits: ForegroundDiceLoss()(logits, target), pred.requires_grad_())


def test_as_the_loss_of_a_decode_head_with_a_pixel_sampler():
    """BaseDecodeHead passes weight and ignore_index by name and logs the loss under its name."""
    torch.manual_seed(0)
    head = FCNHead(
        in_channels=4,
        channels=4,
        num_classes=2,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        ignore_index=9,
        sampler={'type': 'OHEMPixelSampler', 'thresh': 0.9, 'min_kept': 5},
        loss_decode=[
            {'type': 'ForegroundDiceLoss', 'loss_weight': 2.0, 'loss_name': 'loss_crack'},
            {'type': 'CrossEntropyLoss'},
        ],
    )
    target = torch.randint(2, (1, 6, 8))
    target[:, 0] = 9
    sample = SegDataSample(gt_sem_seg=PixelData(data=target))
    logits = torch.randn(1, 2, 6, 8)
    losses = head.loss_by_feat(logits, [sample])
    weight = head.sampler.sample(logits, target[:, None])
    expected = 2 * ForegroundDiceLoss()(logits, target, weight=weight, ignore_index=9)
    torch.testing.assert_close(losses['loss_crack'], expected)
    assert 'loss_ce' in losses


def test_registered_with_its_name():
    loss = MODELS.build({'type': 'ForegroundDiceLoss', 'loss_name': 'loss_aux_dice'})
    assert isinstance(loss, ForegroundDiceLoss)
    assert loss.loss_name == 'loss_aux_dice'
    assert ForegroundDiceLoss().loss_name == 'loss_dice'


@pytest.mark.parametrize(
    ('pred', 'target', 'weight', 'message'),
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), None, 'background channel'),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2), None, 'target has shape'),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2), torch.ones(2), 'weight has shape'),
        (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), 2), None, 'label 2'),
        (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), -1), None, 'label -1'),
    ],
)
def test_what_does_not_fit_is_an_error(pred, target, weight, message):
    with pytest.raises(ValueError, match=message):
        ForegroundDiceLoss()(pred, target.long(), weight=weight)


def test_smooth_must_be_positive():
    with pytest.raises(ValueError, match='smooth'):
        ForegroundDiceLoss(smooth=0)
