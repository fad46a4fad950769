"""Images to the model's square and back, labels from logits, and the IoU of a batch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmseg.models import SegDataPreProcessor
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.structures import SegDataSample

from crack_plugin.models import logits
from crack_plugin.models.logits import foreground_iou, threshold_labels


def test_regions_go_to_the_square_and_back_as_each_image_alone() -> None:
    images = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    regions = [(20, 30), (12, 17)]
    square = logits.resize_to_square(images, regions, 8)
    back = logits.resize_from_square(square, regions, (20, 30))
    for index, (height, width) in enumerate(regions):
        own = images[index : index + 1, :, :height, :width]
        expected = F.interpolate(own, size=(8, 8), mode='bilinear', align_corners=False, antialias=True)
        torch.testing.assert_close(square[index : index + 1], expected)
        expected = F.interpolate(expected, size=(height, width), mode='bilinear', align_corners=False)
        torch.testing.assert_close(back[index : index + 1, :, :height, :width], expected)
    assert not back[1, :, 12:].any() and not back[1, :, :, 17:].any()


@pytest.mark.parametrize('size', [(20, 30), (9, 30), (7, 8), (40, 11)])
@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_raw_image_is_resized_as_the_normalised_one(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], bgr_to_rgb: bool
) -> None:
    """In strips, bitwise."""
    monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', 100)
    image = torch.randint(0, 256, (3, 20, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stock = SegDataPreProcessor(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], bgr_to_rgb=bgr_to_rgb)
    normalised = stock({'inputs': [image]})['inputs']
    expected = F.interpolate(normalised, size=size, mode='bilinear', align_corners=False, antialias=True)
    assert torch.equal(logits.resize_raw(image, stock, size), expected)


@pytest.mark.parametrize('classes', [1, 3])
def test_enlarged_logits_are_interpolated_beside_a_background(classes: int) -> None:
    coarse = torch.randn(1, classes, 7, 9, generator=torch.Generator().manual_seed(0))
    enlarged = logits.enlarge(coarse, (40, 31))
    assert torch.equal(enlarged[:, 1:], F.interpolate(coarse, size=(40, 31), mode='bilinear', align_corners=False))
    assert enlarged.shape == (1, classes + 1, 40, 31) and not enlarged[:, 0].any()


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
def test_original_size_is_restored_as_in_mmsegmentation(flip: str | None) -> None:
    values = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0))
    meta = {'ori_shape': (45, 51), 'img_padding_size': (1, 3, 0, 5), 'flip': flip is not None, 'flip_direction': flip}
    stock: Any = BaseSegmentor.postprocess_result
    (expected,) = stock(_Stock(), values[None], [SegDataSample(metainfo=meta)])
    torch.testing.assert_close(logits.restore_original(values, meta), expected.seg_logits.data)


def test_diagonal_flip_is_both_others() -> None:
    values = torch.arange(24.0).view(2, 3, 4)
    restored = logits.restore_original(values, {'flip': True, 'flip_direction': 'diagonal'})
    assert torch.equal(restored, values.flip(1).flip(2))


class _Stock:
    """What MMSegmentation's function reads of a segmentor."""

    align_corners = False
    out_channels = 3


def test_threshold_labels_takes_the_best_foreground_class() -> None:
    probabilities = torch.tensor([[0.40, 0.35, 0.25], [0.60, 0.30, 0.10], [0.10, 0.20, 0.70]])
    logits = probabilities.log().T.reshape(1, 3, 1, 3)
    assert threshold_labels(logits, 0.5).tolist() == [[[1, 0, 2]]]
    assert threshold_labels(logits, 0.3).tolist() == [[[1, 1, 2]]]


def test_train_iou_leaves_ignored_pixels_out() -> None:
    logits = torch.tensor([[[[1.0, 1.0, -1.0, 1.0]]]])
    labels = torch.tensor([[[1, 0, 1, 255]]])
    assert foreground_iou(logits, labels, 0.5).item() == pytest.approx(1 / 3, abs=1e-5)
    assert foreground_iou(logits, labels, 0.8).item() == pytest.approx(0, abs=1e-5)
    assert foreground_iou(torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 2, 2), 0.5).item() == 1


def test_train_iou_of_several_classes_and_images_over_many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from whole label maps: the mean over images and classes of their own IoU."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 50, 40, generator=generator), torch.randint(0, 4, (2, 50, 40))
    labels[:, :5] = 255
    probability = F.pad(logits, (0, 0, 0, 0, 1, 0)).softmax(dim=1)
    predicted = torch.where(1 - probability[:, 0] > 0.8, probability[:, 1:].argmax(dim=1) + 1, 0)
    predicted[labels == 255] = 0
    ious = [
        ((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum()
        for p, t in zip(predicted, labels, strict=True)
        for c in (1, 2, 3)
    ]
    monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', 700)
    assert foreground_iou(logits, labels, 0.8).item() == pytest.approx(torch.stack(ious).mean().item(), abs=1e-6)
