"""Low-precision weights and autocast: how far from fp32, and what the rotary positions need."""

from pathlib import Path

import pytest
import torch
import transformers
from conftest import tensor_on
from packaging.version import Version
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA, adapters, semantic_path
from crack_plugin.models.base import load_base

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


@pytest.fixture
def large(tiny_sam3: dict) -> dict:
    """A tiny SAM 3 with the token grid of the real one, 72 x 72 at 1008 px, where rounded positions hurt."""
    vit = tiny_sam3['vision_config']['backbone_config']
    vit.update(image_size=1008, pretrain_image_size=336, window_size=24, hidden_size=32, num_hidden_layers=1)
    # Larger weights than at the start of training: attention that is not uniform has to know where it looks.
    vit.update(global_attn_indexes=[0], initializer_range=0.5)
    return tiny_sam3


def error(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).norm() / expected.norm()).item()


def logits(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().encode_decode(images, [{}] * len(images))[:, 1:]


def image_features(model: Sam3Model, images: Tensor) -> Tensor:
    pyramid, _ = semantic_path.encode_images(model, semantic_path.encode_prefix(model, images, depth=0), depth=0)
    return pyramid[0]


def randomised(model: SAM3TextLoRA) -> SAM3TextLoRA:
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_' in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


def test_bf16_weights_with_fp32_adapters(tiny_sam3: dict, device: str) -> None:
    images = torch.randn(2, 3, 56, 56, device=device)
    exact = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA)).to(device)
    low = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA, dtype='bfloat16')).to(device)
    assert low.base_hash == exact.base_hash
    assert {p.dtype for name, p in low.named_parameters() if 'lora_' in name} == {torch.float32}
    assert {p.dtype for name, p in low.named_parameters() if 'lora_' not in name} == {torch.bfloat16}
    result = logits(low, images)
    assert result.dtype == torch.float32
    assert 0 < error(result, logits(exact, images)) < 0.05
    low.train().encode_decode(images, [{}] * 2).sum().backward()
    assert all(p.grad is not None for p in low.parameters() if p.requires_grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(tiny_sam3: dict, device: str, dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 56, 56, device=device)
    model = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA)).to(device)
    expected = logits(model, images)
    with torch.autocast(device, dtype=dtype):
        result = logits(model, images)
    assert result.dtype == torch.float32
    assert 0 < error(result, expected) < 0.05


@pytest.fixture
def bf16_checkpoint(large: dict, tmp_path: Path) -> str:
    """A folder with the large one in bf16."""
    SAM3TextLoRA(base=large, lora=None).save_pretrained(tmp_path / 'fp32')
    Sam3Model.from_pretrained(str(tmp_path / 'fp32')).to(torch.bfloat16).save_pretrained(tmp_path / 'bf16')
    return str(tmp_path / 'bf16')


def exact_positions() -> Tensor:
    """Of a 72 x 72 grid, 1/3 apart."""
    grid = torch.arange(72) * (24 / 72)
    return torch.stack([grid.repeat(72), grid.repeat_interleave(72)], dim=-1)


def test_positions_of_a_bf16_checkpoint_are_exact(bf16_checkpoint: str) -> None:
    """Whether transformers rounds them or not."""
    model, _ = load_base(bf16_checkpoint)
    assert torch.equal(model.vision_encoder.backbone.layers[0].position_ids, exact_positions())


@pytest.mark.skipif(
    Version(transformers.__version__) >= Version('5.24'),
    reason='transformers keeps positions in fp32 from 5.24 on: with that as lower bound, restore_positions can go',
)
def test_positions_that_transformers_rounds_would_change_the_features(bf16_checkpoint: str) -> None:
    """Why they are restored: before 5.24, loaded in bf16, they are off by up to 1/24."""
    careful, _ = load_base(bf16_checkpoint)
    careless = Sam3Model.from_pretrained(bf16_checkpoint, dtype=torch.bfloat16)
    layer, rounded = (model.vision_encoder.backbone.layers[0] for model in (careful, careless))
    assert (rounded.position_ids.float() - exact_positions()).abs().max() > 0.03
    images = torch.randn(1, 3, 1008, 1008)
    # The same bf16 weights in fp32 arithmetic, so that positions are the only difference.
    with torch.no_grad():
        expected = image_features(careful.float(), images)
        layer.position_ids = rounded.position_ids.float()
        without_care = image_features(careful, images)
    assert error(without_care, expected) > 1e-4


def test_merging_low_precision_weights_rounds_once(tiny_sam3: dict, device: str) -> None:
    images = torch.randn(1, 3, 56, 56, device=device)
    exact = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA)).to(device)
    low = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA, dtype='bfloat16')).to(device)
    exact.merge_adapter()
    low.merge_adapter()
    name = 'vision_encoder.backbone.layers.0.attention.q_proj.weight'
    weight, expected = (dict(model.sam3.named_parameters())[name] for model in (low, exact))
    assert torch.equal(weight, expected.to(torch.bfloat16))
    assert error(logits(low, images), logits(exact, images)) < 0.05


def test_the_whole_base_in_fp32_stays_on_the_cpu(tiny_sam3: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on a GPU goes to the CPU, is merged there, and comes back in its own precision."""
    low = randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA, dtype='bfloat16'))
    low.prompt_ids = tensor_on('cuda:1')
    events: list[tuple[str, object]] = []

    def cpu(self: SAM3TextLoRA) -> SAM3TextLoRA:
        events.append(('cpu', None))
        self.prompt_ids = torch.ones(1, 32, dtype=torch.long)
        return self

    merge_into = adapters.merge_into

    def watched(base: torch.nn.Module, adapter: adapters.Snapshot) -> object:
        events.append(('merge_into', {parameter.device.type for parameter in base.parameters()}))
        return merge_into(base, adapter)

    def to(self: SAM3TextLoRA, device: torch.device) -> SAM3TextLoRA:
        events.append((str(device), {parameter.dtype for parameter in self.parameters()}))
        return self

    monkeypatch.setattr(SAM3TextLoRA, 'cpu', cpu)
    monkeypatch.setattr(SAM3TextLoRA, 'to', to)
    monkeypatch.setattr(adapters, 'merge_into', watched)
    low.merge_adapter()
    assert events == [('cpu', None), ('merge_into', {'cpu'}), ('cuda:1', {torch.bfloat16})]


def test_saved_model_is_merged_in_fp32_whatever_dtype_it_ran_in(tiny_sam3: dict, tmp_path: Path) -> None:
    for name, dtype in (('exact', None), ('low', 'bfloat16')):
        randomised(SAM3TextLoRA(base=tiny_sam3, lora=LORA, dtype=dtype)).save_pretrained(tmp_path / name)
    exact, low = (Sam3Model.from_pretrained(str(tmp_path / name)).state_dict() for name in ('exact', 'low'))
    assert all(torch.equal(value, low[name]) for name, value in exact.items())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'dtype': 'int8'}, 'choose None'), ({'dtype': 'bfloat16', 'trainable': 'all'}, 'freezes none')],
)
def test_wrong_precisions_are_named(tiny_sam3: dict, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAM3TextLoRA(base=tiny_sam3, **arguments)


def test_sine_positions_are_computed_in_fp32(tiny_sam3: dict) -> None:
    """They are those of fp32, rounded once: by at most 1/2 of bfloat16's spacing below 1."""
    images = torch.randn(1, 3, 56, 56)
    positions = {}
    for dtype in (None, 'bfloat16'):
        model = SAM3TextLoRA(base=tiny_sam3, lora=None, dtype=dtype)
        hidden = model._encode_prefix(images)
        positions[dtype] = semantic_path.encode_images(model.model, hidden, model._frozen_depth)[1]
    assert positions['bfloat16'].dtype == torch.bfloat16
    assert torch.equal(positions['bfloat16'], positions[None].to(torch.bfloat16))
    assert (positions['bfloat16'].float() - positions[None]).abs().max() <= 2**-9


@pytest.mark.parametrize('merged', [False, True])
def test_frozen_prompts_are_encoded_in_fp32(tiny_sam3: dict, merged: bool) -> None:
    lora = {**LORA, 'target_modules': r'vision_encoder\..*q_proj'} if merged else None
    exact = SAM3TextLoRA(base=tiny_sam3, lora=lora)
    low = SAM3TextLoRA(base=tiny_sam3, lora=lora, dtype='bfloat16')
    if merged:
        low.merge_adapter()
    assert exact.prompt_features.dtype == torch.float32
    assert torch.equal(low.prompt_features, exact.prompt_features.to(torch.bfloat16))
