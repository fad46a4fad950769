"""Negative prompts: trained towards empty masks, and no part of a prediction."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from crack_plugin.errors import ConfigError
from crack_plugin.models import SAM3TextLoRA

EVERYWHERE = {'r': 2, 'lora_alpha': 4, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}
VISION = {'r': 2, 'lora_alpha': 4, 'target_modules': r'vision_encoder.*\.q_proj'}
"""With frozen prompts, which are encoded once."""


def build(base: Any, **arguments: Any) -> SAM3TextLoRA:
    torch.manual_seed(1)
    return MODELS.build({'type': 'SAM3TextLoRA', 'base': base, **arguments}).eval()


def sample(labels: Tensor) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': tuple(labels.shape[-2:])})


@pytest.mark.parametrize('lora', [EVERYWHERE, VISION], ids=['text encoder trains', 'prompts encoded once'])
def test_loss_is_the_binary_cross_entropy_of_an_empty_mask(tiny_sam3: dict, lora: dict) -> None:
    """Of the logits that the same model has for 'shadow' as a class; ignored pixels are left out."""
    image = torch.randn(1, 3, 40, 60)
    labels = (torch.rand(1, 40, 60) > 0.5).long()
    labels[:, :10] = 255
    model = build(tiny_sam3, lora=lora, negative_prompts=['shadow'])
    losses = model.loss(image, [sample(labels)])
    with torch.no_grad():
        logits = build(tiny_sam3, lora=lora, prompts=['shadow']).foreground_logits(image, [{}])[:, :, 10:]
    expected = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
    torch.testing.assert_close(losses['loss_negative'].detach(), expected)
    plain = build(tiny_sam3, lora=lora).loss(image, [sample(labels)])
    torch.testing.assert_close(losses['loss_dice'], plain['loss_dice'], rtol=0, atol=1e-6)
    assert 'loss_negative' not in plain


def test_they_have_no_part_in_predictions(tiny_sam3: dict) -> None:
    image = torch.randn(1, 3, 40, 60)
    with torch.no_grad():
        logits = build(tiny_sam3, prompts=['crack', 'rust']).encode_decode(image, [{}])
        others = build(tiny_sam3, prompts=['crack', 'rust'], negative_prompts=['shadow']).encode_decode(image, [{}])
    assert torch.equal(logits, others)


def test_each_is_drawn_and_a_seed_repeats_the_draws(tiny_sam3: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tiny_sam3, lora=VISION, negative_prompts=['shadow', 'joint', 'wire'])
    drawn: list[int] = []
    plain = model.foreground_logits
    monkeypatch.setattr(model, 'foreground_logits', lambda *args: drawn.append(args[2]) or plain(*args))
    for _ in range(2):
        torch.manual_seed(0)
        for _ in range(12):
            model.loss(torch.zeros(1, 3, 56, 56), [sample(torch.zeros(1, 56, 56, dtype=torch.long))])
    assert set(drawn) == {0, 1, 2}
    assert drawn[:12] == drawn[12:]


@pytest.mark.parametrize(
    ('negative', 'message'),
    [
        ('shadow', 'give a list of texts'),
        ([''], 'give a list of texts'),
        (['Crack'], "'crack' is in prompts"),
        (['joint', 'joint '], "'joint' is in prompts"),
    ],
)
def test_texts_that_cannot_be_learned_as_empty(tiny_sam3: dict, negative: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_sam3, negative_prompts=negative)
