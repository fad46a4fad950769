"""Activation checkpointing and low-precision adapters: the same gradients from fewer saved bytes."""

import copy

import pytest
import torch
from conftest import ROOT, load_script
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from crack_plugin.models import SAM3TextLoRA

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


def build(base: dict, lora: dict = LORA, **arguments: object) -> SAM3TextLoRA:
    torch.manual_seed(2)
    model = SAM3TextLoRA(base=base, lora=lora, **arguments).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    return model


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor]:
    labels = torch.ones(1, 56, 56, dtype=torch.long, device=images.device)
    label = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={})
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
def test_gradients_are_those_without_checkpointing(tiny_sam3: dict, device: str, dtype: str | None) -> None:
    images = torch.randn(2, 3, 56, 56, device=device)
    plain = gradients(build(tiny_sam3, dtype=dtype).to(device), images)
    recomputed = gradients(build(tiny_sam3, dtype=dtype, activation_checkpointing=True).to(device), images)
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


def test_low_memory_path_saves_the_inputs_of_its_blocks_alone(tiny_sam3: dict) -> None:
    """What is kept of a picture for the backward pass, to the byte: it grows when anything else is kept."""
    lora = {**LORA, 'target_modules': r'(vision_encoder|detr_encoder|mask_decoder)\..*\.(q_proj|k_proj|v_proj|o_proj)'}
    model = build(tiny_sam3, lora, activation_checkpointing=True, dtype='bfloat16')
    images, tokens, width, narrow = 2, 16, 32, 16
    vit_and_neck = 3 * images * tokens * width
    encoder_and_prompt_attention = 3 * images * tokens * narrow
    means_and_deviations_of_a_norm = 2 * images * tokens
    finest_level = images * 16 * tokens * narrow
    elements = vit_and_neck + encoder_and_prompt_attention + means_and_deviations_of_a_norm + finest_level
    assert saved_bytes(model, torch.randn(images, 3, 56, 56)) == 2 * elements


def test_frozen_blocks_run_once(tiny_sam3: dict) -> None:
    """Below the first adapter nothing is recorded, and nothing computed again."""
    lora = {**LORA, 'target_modules': r'vision_encoder\.backbone\.layers\.1\..*q_proj'}
    model = build(tiny_sam3, lora, activation_checkpointing=True)
    runs = [0, 0]
    inputs_with_gradient = []
    for index, layer in enumerate(model.model.vision_encoder.backbone.layers):

        def count(module: object, inputs: tuple, output: Tensor, index: int = index) -> None:
            runs[index] += 1
            inputs_with_gradient.append(inputs[0].requires_grad)

        layer.attention.register_forward_hook(count)
    gradients(model, torch.randn(1, 3, 56, 56))
    assert runs == [1, 2]
    assert not any(inputs_with_gradient)


def test_low_precision_adapters_read_the_layers_own_input(tiny_sam3: dict) -> None:
    """PEFT's own keep an fp32 copy of it for each of query, key and value."""
    images = torch.randn(2, 3, 56, 56)
    ours, stock = build(tiny_sam3, dtype='bfloat16'), build(tiny_sam3, dtype='bfloat16')
    for module in stock.modules():
        if hasattr(module, 'cast_input_dtype_enabled'):
            module.cast_input_dtype_enabled = True
    assert saved_bytes(ours, images) < 0.75 * saved_bytes(stock, images)


def test_low_precision_gradients_are_those_of_a_low_precision_model(tiny_sam3: dict) -> None:
    """With all weights in bfloat16, adapters included; ours differ in what the optimizer adds the steps to."""
    images = torch.randn(2, 3, 56, 56)
    plain = build(tiny_sam3)
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    expected = gradients(plain, images)
    for name, gradient in gradients(build(tiny_sam3, dtype='bfloat16'), images).items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected[name].float()), name


@pytest.fixture
def live_bytes() -> type:
    return load_script(ROOT / 'benchmarks' / 'meta_device.py').LiveBytes


@pytest.mark.parametrize(('prompts', 'bytes_a_pixel'), [(['crack'], 8), (['crack', 'rust'], 16)])
def test_loss_at_a_photographs_size_needs_its_logits_and_their_gradient(
    tiny_sam3: dict, live_bytes: type, prompts: list[str], bytes_a_pixel: int
) -> None:
    """Of a step, losses and ``train_iou`` included; strips of probabilities and masks come on top."""
    model = build(tiny_sam3, prompts=prompts)

    def peak(height: int, width: int) -> int:
        images = torch.zeros(1, 3, height, width)
        label = SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, height, width, dtype=torch.long)), metainfo={})
        with live_bytes([*model.parameters(), *model.buffers(), images, label.gt_sem_seg.data]) as live:
            sum(value for name, value in model.loss(images, [label]).items() if name != 'train_iou').backward()
        model.zero_grad()
        return live.peak

    small, large = peak(1024, 512), peak(1024, 2048)
    assert 0.9 * bytes_a_pixel < (large - small) / (1024 * 1536) < 1.1 * bytes_a_pixel + 1


@pytest.mark.parametrize(
    'arguments',
    [{'activation_checkpointing': True}, pytest.param({'compile': {'backend': 'eager'}}, marks=pytest.mark.slow)],
)
def test_copies_are_independent(tiny_sam3: dict, arguments: dict) -> None:
    """EMA copies the model: the copy must run its own weights."""
    model = build(tiny_sam3, **arguments).eval()
    twin = copy.deepcopy(model)
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        before = model.encode_decode(images, [{}])
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model.encode_decode(images, [{}]), before)
        assert not torch.equal(twin.encode_decode(images, [{}]), before)
