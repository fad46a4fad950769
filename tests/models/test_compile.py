"""Compilation, checkpointing and precision: whatever is combined, every adapter learns, and learns the same."""

import copy
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
# Largest difference from the plain path: rounding, and where blocks are compiled apart, another order of sums.
TOLERANCES = {None: 1e-5, 'bfloat16': 5e-2, 'float16': 2e-2}


@pytest.fixture(autouse=True)
def _forget_compiled() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(base: dict, **arguments: Any) -> SAM3TextLoRA:
    model = SAM3TextLoRA(base=base, lora=LORA, **arguments).train()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_' in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor | None]:
    label = SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 56, 56, dtype=torch.long)), metainfo={})
    model.loss(images, [label] * len(images))['loss_dice'].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(base: dict, dtype: str | None, checkpointing: bool, compile: Any, tolerance: float) -> None:
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    plain = gradients(build(base, dtype=dtype), images)
    model = build(base, dtype=dtype, activation_checkpointing=checkpointing, compile=compile)
    result = gradients(model, images)
    assert len(result) == len(plain) > 0
    for name, expected in plain.items():
        gradient = result[name]
        assert gradient is not None and gradient.dtype == torch.float32, name
        assert expected.norm() > 0, name
        assert (gradient - expected).norm() <= tolerance * expected.norm(), name
    # Inference is compiled apart from training.
    with torch.no_grad():
        logits = model.eval().encode_decode(images, [{}] * 2)
        exact = build(base, dtype=dtype).eval().encode_decode(images, [{}] * 2)
    assert (logits - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'compile'),
    [
        *product(PRECISIONS, (True,), (False,)),
        ('bfloat16', True, TRACED),
        ('bfloat16', True, {'target': 'blocks', **TRACED}),
    ],
)
def test_every_adapter_gets_the_plain_gradient(tiny_sam3: dict, dtype: Any, checkpointing: bool, compile: Any) -> None:
    assert_same_gradients(tiny_sam3, dtype, checkpointing, compile, TOLERANCES[dtype])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'target'), list(product(PRECISIONS, (False, True), ('path', 'blocks')))
)
def test_every_combination(tiny_sam3: dict, dtype: str | None, checkpointing: bool, target: str) -> None:
    assert_same_gradients(tiny_sam3, dtype, checkpointing, {'target': target, **TRACED}, TOLERANCES[dtype])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'checkpointing', 'compile'),
    [(None, False, True), (None, True, {'target': 'blocks'}), ('bfloat16', True, True)],
)
def test_generated_code(tiny_sam3: dict, dtype: str | None, checkpointing: bool, compile: Any) -> None:
    """By the default backend. Its fused fp32 sums take another order: a few 1e-5 on the smallest gradients."""
    tolerance = 2e-4 if dtype is None else 2 * TOLERANCES[dtype]
    assert_same_gradients(tiny_sam3, dtype, checkpointing, compile, tolerance)


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


def test_copies_run_their_own_weights(tiny_sam3: dict) -> None:
    """EMA copies the model."""
    model = build(tiny_sam3, compile={'backend': 'eager'}).eval()
    twin = copy.deepcopy(model)
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        before = model.encode_decode(images, [{}])
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model.encode_decode(images, [{}]), before)
        assert not torch.equal(twin.encode_decode(images, [{}]), before)


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
