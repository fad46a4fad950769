"""Compilation, checkpointing and precision: whatever is combined, every adapter learns, and learns the same."""

from itertools import product
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from crack_plugin.models import SAM3TextLoRA

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}
# By aot_eager PyTorch traces the graphs of both passes, and spares the minutes that generating code takes.
TRACED = {'backend': 'aot_eager'}
PRECISIONS = (None, 'bfloat16', 'float16')


@pytest.fixture(autouse=True)
def _forget_compiled() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(base: dict, device: str = 'cpu', **arguments: Any) -> SAM3TextLoRA:
    model = SAM3TextLoRA(base=base, lora=LORA, **arguments).train()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_' in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.to(device)


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor | None]:
    labels = (torch.rand(1, 56, 56, generator=torch.Generator().manual_seed(1)) < 0.3).long()
    label = SegDataSample(gt_sem_seg=PixelData(data=labels.to(images.device)), metainfo={})
    model.loss(images, [label] * len(images))['loss_dice'].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients, over the norm of those on the right."""
    difference = sum((left[name] - right[name]).square().sum() for name in right)
    return (difference / sum(gradient.square().sum() for gradient in right.values())).sqrt().item()


def assert_faithful(base: dict, device: str, dtype: str | None, checkpointing: bool, compile: Any) -> None:
    """Every adapter has a gradient: in fp32 the plain path's, else one as close to fp32 as the plain path's is."""
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)).to(device)
    plain = gradients(build(base, device, dtype=dtype), images)
    model = build(base, device, dtype=dtype, activation_checkpointing=checkpointing, compile=compile)
    result = gradients(model, images)
    assert result.keys() == plain.keys()
    for name, expected in plain.items():
        gradient = result[name]
        assert gradient is not None and gradient.dtype == torch.float32, name
        assert expected.norm() > 0, name
        if dtype is None:
            assert (gradient - expected).norm() <= 1e-5 * expected.norm(), name
    if dtype is not None:
        exact = gradients(build(base, device), images)
        assert distance(result, exact) <= 1.5 * distance(plain, exact) < 0.3
    # Inference is compiled apart from training.
    with torch.no_grad():
        logits = model.eval().encode_decode(images, [{}] * 2)
        expected = build(base, device, dtype=dtype).eval().encode_decode(images, [{}] * 2)
    assert (logits - expected).norm() <= (1e-5 if dtype is None else 0.02) * expected.norm()


@pytest.mark.parametrize('dtype', PRECISIONS)
def test_every_adapter_gets_its_gradient(tiny_sam3: dict, device: str, dtype: Any) -> None:
    """With checkpointing, not compiled."""
    assert_faithful(tiny_sam3, device, dtype, True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'target'), list(product(PRECISIONS, (False, True), ('path', 'blocks')))
)
def test_every_combination(tiny_sam3: dict, device: str, dtype: str | None, checkpointing: bool, target: str) -> None:
    assert_faithful(tiny_sam3, device, dtype, checkpointing, {'target': target, **TRACED})


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'compile'),
    [(None, False, True), (None, True, {'target': 'blocks'}), ('bfloat16', True, True)],
)
def test_generated_code(tiny_sam3: dict, device: str, dtype: str | None, checkpointing: bool, compile: Any) -> None:
    """By the default backend, inductor, which in low precision rounds in other places."""
    assert_faithful(tiny_sam3, device, dtype, checkpointing, compile)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'target'),
    [(None, False, 'path'), ('bfloat16', True, 'path'), ('bfloat16', True, 'blocks')],
)
def test_lite_text(tiny_lite_text: dict, device: str, dtype: str | None, checkpointing: bool, target: str) -> None:
    """SAM3-LiteText's text encoder has blocks of two kinds, one of them with batch normalisations."""
    assert_faithful(tiny_lite_text, device, dtype, checkpointing, {'target': target, **TRACED})


@pytest.mark.slow
def test_one_compilation_a_shape(tiny_sam3: dict) -> None:
    counter = CompileCounter()
    model = build(tiny_sam3, compile={'backend': counter})
    # Prompts, prefix and the rest
    for batch, compilations in ((2, 3), (2, 3), (1, 5), (2, 5)):
        model.encode_decode(torch.randn(batch, 3, 56, 56), [{}] * batch).sum().backward()
        assert counter.frame_count == compilations
    # Pictures of any size are stretched to the one square.
    model.encode_decode(torch.randn(1, 3, 40, 70), [{}])
    assert counter.frame_count == 5


def test_merged_model_is_compiled_again(tiny_sam3: dict) -> None:
    images = torch.randn(1, 3, 56, 56)
    counter = CompileCounter()
    model = build(tiny_sam3, compile={'backend': counter}).eval()
    with torch.no_grad():
        before = model.encode_decode(images, [{}])
        compilations = counter.frame_count
        model.merge_adapter()
        assert torch.allclose(model.encode_decode(images, [{}]), before, atol=1e-4)
    assert counter.frame_count > compilations


@pytest.mark.parametrize(
    ('compile', 'message'), [({'target': 'model'}, "target='model'"), ('blocks', 'give True, False')]
)
def test_wrong_values_are_named(tiny_sam3: dict, compile: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAM3TextLoRA(base=tiny_sam3, compile=compile)


def test_wrong_parts_are_named(tiny_sam3: dict) -> None:
    with pytest.raises(ValueError, match="'vit', 'neck'"):
        SAM3TextLoRA(base=tiny_sam3, activation_checkpointing=['backbone'])
