"""Activation checkpointing: the same gradients from fewer saved bytes."""

import copy

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from crack_plugin.models import SAM3TextLoRA

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


def build(base: dict, **arguments: object) -> SAM3TextLoRA:
    torch.manual_seed(2)
    model = SAM3TextLoRA(base=base, lora=LORA, **arguments).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    return model


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor]:
    label = SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 56, 56, dtype=torch.long)), metainfo={})
    model.loss(images, [label] * len(images))['loss_dice'].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def saved_bytes(model: SAM3TextLoRA, images: Tensor) -> int:
    """Bytes of distinct storages that the forward keeps for the backward, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.encode_decode(images, [{}] * len(images))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_gradients_are_those_without_checkpointing(tiny_sam3: dict, dtype: str | None) -> None:
    images = torch.randn(2, 3, 56, 56)
    plain = gradients(build(tiny_sam3, dtype=dtype), images)
    recomputed = gradients(build(tiny_sam3, dtype=dtype, activation_checkpointing=True), images)
    for name, gradient in plain.items():
        assert recomputed[name] is not None, name
        assert (recomputed[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_dropout_is_drawn_once(tiny_sam3: dict) -> None:
    """The second forward must see the masks of the first."""
    images = torch.randn(1, 3, 56, 56)
    lora = {**LORA, 'lora_dropout': 0.5}
    results = []
    for checkpointing in (False, True):
        model = SAM3TextLoRA(base=tiny_sam3, lora=lora, activation_checkpointing=checkpointing).train()
        model.load_state_dict(build(tiny_sam3).state_dict())
        torch.manual_seed(3)
        results.append(gradients(model, images))
    assert all(torch.allclose(results[0][name], results[1][name], rtol=1e-4, atol=1e-7) for name in results[0])


def test_fewer_bytes_are_saved(tiny_sam3: dict) -> None:
    images = torch.randn(2, 3, 56, 56)
    plain = saved_bytes(build(tiny_sam3), images)
    assert saved_bytes(build(tiny_sam3, activation_checkpointing=True), images) < 0.35 * plain


def test_copies_are_independent(tiny_sam3: dict) -> None:
    """EMA copies the model: the copy must run its own weights."""
    model = build(tiny_sam3, activation_checkpointing=True).eval()
    twin = copy.deepcopy(model)
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        before = model.encode_decode(images, [{}])
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model.encode_decode(images, [{}]), before)
        assert not torch.equal(twin.encode_decode(images, [{}]), before)
