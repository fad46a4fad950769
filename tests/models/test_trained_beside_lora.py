"""``modules_to_save`` and ``bias``: what trains beside LoRA is computed, kept in fp32, saved and held fixed alike."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_SAM3
from peft import LoraConfig, get_peft_model
from reference import plain_sam3
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA, semantic_path
from crack_plugin.models.adapters import AdapterError

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}
VIT = {**LORA, 'target_modules': r'vision_encoder.*\.q_proj'}
BESIDE: dict[str, dict] = {
    'norms': {**LORA, 'modules_to_save': ['layer_norm1', 'layer_norm2']},
    'decoder': {**LORA, 'modules_to_save': ['mask_decoder', 'patch_embeddings'], 'bias': 'lora_only'},
    'biases': {**LORA, 'bias': 'all', 'modules_to_save': ['neck', 'token_embedding', 'position_embedding']},
}


def build(base: Any = TINY_SAM3, lora: dict = LORA, **arguments: Any) -> SAM3TextLoRA:
    torch.manual_seed(2)
    model = SAM3TextLoRA(base=copy.deepcopy(base), lora=lora, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            # One sequence of random numbers for every precision.
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.03)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def logits(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().foreground_logits(images, [{}] * len(images))


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor | None]:
    model.train().foreground_logits(images, [{}] * len(images)).square().mean().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def error(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).norm() / expected.norm()).item()


# ---- precision


@pytest.mark.parametrize('name', BESIDE)
def test_trained_in_fp32_on_bf16_weights(images: Tensor, name: str) -> None:
    low, exact = build(lora=BESIDE[name], dtype='bfloat16'), build(lora=BESIDE[name])
    kept = low.state_dict()
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert all(torch.equal(value, kept[key]) for key, value in exact.state_dict().items())
    frozen = {value.dtype for key, value in low.named_parameters() if key not in kept}
    assert frozen == {torch.bfloat16}
    assert 0 < error(logits(low, images), logits(exact, images)) < 0.05
    slopes, expected = gradients(low, images), gradients(exact, images)
    assert slopes.keys() == expected.keys()
    for key, slope in slopes.items():
        assert slope is not None and slope.dtype == torch.float32, key
    total = torch.cat([slope.flatten() for slope in slopes.values()])
    assert error(total, torch.cat([expected[key].flatten() for key in slopes])) < 0.1
    # A step that bfloat16 would lose.
    step = {key: value.clone() for key, value in kept.items() if 'norm' in key}
    torch.optim.SGD([value for value in low.parameters() if value.requires_grad], lr=1e-6).step()
    assert any(not torch.equal(low.state_dict()[key], value) for key, value in step.items())


def test_merging_with_low_precision_starts_from_the_stored_base(images: Tensor) -> None:
    low, exact = build(lora=BESIDE['biases'], dtype='bfloat16'), build(lora=BESIDE['biases'])
    low.merge_adapter()
    exact.merge_adapter()
    exact_weights = dict(exact.sam3.named_parameters())
    for name, weight in low.sam3.named_parameters():
        assert torch.equal(weight, exact_weights[name].to(torch.bfloat16)), name
    assert error(logits(low, images), logits(exact, images)) < 0.05


def test_base_stored_in_bf16(images: Tensor, tmp_path: Path) -> None:
    """Its layers compute in bf16; what trains starts at their values, and moves in fp32."""
    plain_sam3(TINY_SAM3).to(torch.bfloat16).save_pretrained(tmp_path / 'bf16')
    lora = {**LORA, 'modules_to_save': ['layer_norm1', 'semantic_projection'], 'bias': 'all'}
    trained = build(str(tmp_path / 'bf16'), lora)
    assert {value.dtype for value in trained.state_dict().values()} == {torch.float32}
    trained.save_adapter(tmp_path / 'adapter')
    again = SAM3TextLoRA(base=str(tmp_path / 'bf16'), adapter=str(tmp_path / 'adapter'))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in again.state_dict().items())
    trained.train().foreground_logits(images, [{}] * 2).sum().backward()


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_checkpointed(images: Tensor, dtype: str | None) -> None:
    lora = {**LORA, 'bias': 'all', 'modules_to_save': ['pixel_decoder', 'prompt_cross_attn', 'backbone.layers.1']}
    lora['target_modules'] = ['fc1']
    plain = gradients(build(lora=lora, dtype=dtype), images)
    result = gradients(build(lora=lora, dtype=dtype, activation_checkpointing=True), images)
    assert result.keys() == plain.keys()
    for name, gradient in plain.items():
        assert (result[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize('options', [{'fullgraph': True}, {'target': 'blocks'}], ids=str)
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_compiled(images: Tensor, dtype: str | None, options: dict) -> None:
    """In one graph, without a break. In bf16 compiled code rounds elsewhere: as close to fp32 as the plain path is."""
    lora = {**BESIDE['biases'], 'modules_to_save': ['neck', 'layer_norm1', 'prompt_cross_attn']}
    exact, plain = (gradients(build(lora=lora, dtype=each), images) for each in (None, dtype))
    torch.compiler.reset()
    result = gradients(build(lora=lora, dtype=dtype, compile={'backend': 'aot_eager', **options}), images)
    torch.compiler.reset()
    assert result.keys() == exact.keys()
    flat, expected, usual = (torch.cat([side[name].flatten() for name in exact]) for side in (result, exact, plain))
    assert error(flat, expected) <= 1e-4 + 2 * error(usual, expected)


# ---- what is computed, dropped and held fixed


def test_prompts_are_encoded_once_unless_their_encoder_trains() -> None:
    beside = {'modules_to_save': ['semantic_projection']}
    assert build(lora={**VIT, **beside}).prompt_features is not None
    for trained in (
        {'bias': 'all'},
        {'modules_to_save': ['text_projection']},
        {'modules_to_save': ['final_layer_norm']},
    ):
        assert build(lora={**VIT, **trained}).prompt_features is None, trained


def test_depth_that_is_frozen(tmp_path: Path) -> None:
    last = {**LORA, 'target_modules': r'.*backbone\.layers\.1\..*q_proj'}
    assert semantic_path.frozen_depth(build(lora=last).model) == 1
    assert semantic_path.frozen_depth(build(lora={**last, 'bias': 'lora_only'}).model) == 1
    assert semantic_path.frozen_depth(build(lora={**last, 'modules_to_save': ['layers.0.layer_norm2']}).model) == 0
    assert semantic_path.frozen_depth(build(lora={**last, 'bias': 'all'}).model) == 0
    assert semantic_path.frozen_depth(build(lora={**last, 'modules_to_save': ['pixel_decoder']}).model) == 1


def test_rotary_positions_are_shared_with_a_saved_layer() -> None:
    model = build(lora={**LORA, 'target_modules': ['fc1'], 'modules_to_save': ['backbone.layers.1']}).model
    layers = model.vision_encoder.backbone.layers
    assert type(layers[1].modules_to_save['default'].rotary_emb) is type(layers[0].rotary_emb)


@pytest.mark.parametrize('beside', [{'modules_to_save': ['detr_decoder']}, {'bias': 'all'}])
def test_parts_without_a_path_are_saved_and_held_fixed(images: Tensor, log: list[str], beside: dict) -> None:
    model = build(lora={**VIT, **beside})
    dead = {name: value for name, value in model.named_parameters() if 'detr_decoder' in name}
    saved = model.state_dict()
    in_file = {name for name in dead if name in saved}
    assert in_file and not any(value.requires_grad for value in dead.values())
    count = sum(dead[name].numel() for name in in_file)
    others = sum(
        value.numel()
        for name, value in model.named_parameters()
        if name in saved and not value.requires_grad and name not in dead
    )
    assert f'; {count + others:,} adapter parameters have no path to the output and are held fixed' in log[-1]
    assert all(gradient is not None for gradient in gradients(model, images).values())


def test_dropout_inside_a_saved_module_follows_the_mode() -> None:
    base = copy.deepcopy(TINY_SAM3)
    base['detr_encoder_config']['dropout'] = 0.5
    model = build(base, {**VIT, 'modules_to_save': ['detr_encoder.layers.1']}).train()
    layers = model.model.detr_encoder.layers
    assert layers[1].modules_to_save['default'].dropout.training
    assert not layers[0].dropout.training and not layers[1].original_module.dropout.training
    assert not model.eval().model.detr_encoder.layers[1].modules_to_save['default'].dropout.training


@pytest.mark.parametrize('kind', [{}, {'use_dora': True}])
def test_dropout_of_lora_follows_the_mode(images: Tensor, kind: dict) -> None:
    model = build(lora={**LORA, 'lora_dropout': 0.5, **kind})
    metas = [{}] * len(images)
    assert torch.equal(logits(model, images), logits(model, images))
    model.train()
    assert not torch.equal(model.foreground_logits(images, metas), model.foreground_logits(images, metas))
    layer = model.model.detr_encoder.layers[0].self_attn.q_proj
    assert layer.training and not layer.base_layer.training


# ---- checkpoints


def test_checkpoint_holds_what_trains_and_no_more(images: Tensor) -> None:
    model = build(lora=BESIDE['biases'])
    state = model.state_dict()
    assert {name for name, value in model.named_parameters() if value.requires_grad} <= state.keys()
    assert not any('original_module' in name for name in state)
    fresh = SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora=BESIDE['biases'])
    # As EMA copies: nothing requires gradients.
    averaged = copy.deepcopy(fresh).requires_grad_(False)
    assert averaged.state_dict().keys() == state.keys()
    fresh.load_state_dict(state, strict=False)
    assert torch.equal(logits(fresh, images), logits(model, images))
    for wanted in ('neck', 'layer_norm1.bias'):
        damaged = model.state_dict()
        del damaged[next(name for name in damaged if wanted in name)]
        with pytest.raises(AdapterError, match='1 weights are missing'):
            fresh.load_state_dict(damaged, strict=False)
    with pytest.raises(AdapterError, match='are not in the model'):
        SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora=LORA).load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    'lora', [BESIDE['decoder'], BESIDE['biases'], {**LORA, 'init_lora_weights': 'pissa'}, {**LORA, 'kasa_config': {}}]
)
def test_everything_trains_beside_them(images: Tensor, tmp_path: Path, lora: dict) -> None:
    """``trainable='all'``: the saved modules' originals compute nothing, and PiSSA is not taken away twice."""
    model = build(lora=lora, trainable='all')
    slopes = gradients(model, images)
    assert all(slope is not None for slope in slopes.values())
    assert model.state_dict().keys() >= slopes.keys()
    assert not any('original_module' in name for name in model.state_dict())
    expected = logits(model, images)
    resumed = SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora=lora, trainable='all')
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(logits(resumed, images), expected)
    resumed.save_pretrained(tmp_path / 'whole')
    merged = SAM3TextLoRA(base=str(tmp_path / 'whole'), lora=None)
    torch.testing.assert_close(logits(merged, images), expected, atol=1e-5, rtol=1e-4)


# ---- what is refused


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'modules_to_save': ['mask_decoder', 'semantic_projection']}, 'mask_decoder, and there is a module to save'),
        ({'modules_to_save': ['encoder']}, 'encoder, and there is a module to save, or LoRA'),
        ({'modules_to_save': ['layer_norm9']}, r"'layer_norm9' \(nearest: layer_norm"),
        ({'modules_to_save': ['fpn_layers']}, 'was refused by PEFT'),
        ({'init_lora_weights': 'pissa_niter_4'}, "random numbers.*'pissa'"),
        ({'inference_mode': True}, 'nothing would train'),
        ({'use_qalora': True}, 'is for quantised layers'),
        ({'loftq_config': {'loftq_bits': 4}}, 'PEFT would ignore loftq_config'),
    ],
)
def test_refused(changes: dict, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora={**LORA, **changes})


@pytest.fixture
def base(tmp_path: Path) -> str:
    plain_sam3(TINY_SAM3).save_pretrained(tmp_path / 'base')
    return str(tmp_path / 'base')


def plain_adapter(base: str, folder: Path, **changes: Any) -> Path:
    """Written by plain PEFT."""
    get_peft_model(Sam3Model.from_pretrained(base), LoraConfig(**{**LORA, **changes})).save_pretrained(str(folder))
    return folder / 'adapter_model.safetensors'


@pytest.mark.filterwarnings('ignore')
def test_adapter_without_its_biases(base: str, tmp_path: Path) -> None:
    """PEFT 0.20 saves ``bias='lora_only'`` without a single bias."""
    path = plain_adapter(base, tmp_path / 'adapter', bias='lora_only')
    save_file({name: value for name, value in load_file(path).items() if 'lora_' in name}, path)
    with pytest.raises(AdapterError, match=r'lacks the \d+ biases .*PEFT before 0\.21'):
        SAM3TextLoRA(base=base, adapter=str(path.parent))
    config = json.loads((path.parent / 'adapter_config.json').read_text())
    (path.parent / 'adapter_config.json').write_text(json.dumps({**config, 'bias': 'none'}))
    SAM3TextLoRA(base=base, adapter=str(path.parent))


@pytest.mark.filterwarnings('ignore')
def test_adapter_whose_base_cannot_be_rebuilt(base: str, tmp_path: Path) -> None:
    path = plain_adapter(base, tmp_path / 'adapter', init_lora_weights='pissa_niter_4')
    with pytest.raises(AdapterError, match='path_initial_model_for_weight_conversion'):
        SAM3TextLoRA(base=base, adapter=str(path.parent))


def test_weights_that_no_folder_would_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of LoRA that PEFT may bring."""
    from crack_plugin.models import adapters

    def with_more(*arguments: Any) -> nn.Module:
        model = get_peft_model(*arguments)
        model.get_base_model().mask_decoder.semantic_projection.requires_grad_(True)
        return model

    monkeypatch.setattr(adapters, 'get_peft_model', with_more)
    with pytest.raises(AdapterError, match=r'trains 2 weights that .*semantic_projection'):
        SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora=LORA)
