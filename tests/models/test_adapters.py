"""Adapters and checkpoints: what goes out comes in again, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model, get_state_dict
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.adapters import AdapterError
from crack_plugin.models.tokenizer import clip_tokenizer, tokenize

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


@pytest.fixture
def base(tiny_sam3: dict, tmp_path: Path) -> str:
    """A folder that plain Hugging Face wrote."""
    torch.manual_seed(3)
    folder = tmp_path / 'base'
    Sam3Model(Sam3Config(**tiny_sam3)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def trained(base: str) -> SAM3TextLoRA:
    """Adapters that do something, as after training."""
    model = SAM3TextLoRA(base=base, lora=LORA).eval()
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 56, 56)


def logits(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encode_decode(images, [{}] * len(images))[:, 1:]


def plain_logits(model: Any, images: Tensor) -> Tensor:
    ids, mask = tokenize(clip_tokenizer(), ['crack'])
    size = (len(images), -1)
    with torch.no_grad():
        low = model(pixel_values=images, input_ids=ids.expand(size), attention_mask=mask.expand(size)).semantic_seg
    return torch.nn.functional.interpolate(low, size=images.shape[-2:], mode='bilinear', align_corners=False)


def test_saved_adapter_loads_into_plain_peft(trained: SAM3TextLoRA, base: str, images: Tensor, tmp_path: Path) -> None:
    trained.save_adapter(tmp_path / 'adapter')
    plain = PeftModel.from_pretrained(Sam3Model.from_pretrained(base), str(tmp_path / 'adapter')).eval()
    torch.testing.assert_close(plain_logits(plain, images), logits(trained, images), atol=1e-5, rtol=0)
    fresh = SAM3TextLoRA(base=base, lora=LORA).eval()
    assert (logits(trained, images) - logits(fresh, images)).abs().max() > 1e-3
    config = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    assert config['base_model_name_or_path'] == base
    assert sorted(path.name for path in (tmp_path / 'adapter').iterdir()) == [
        'adapter_config.json',
        'adapter_model.safetensors',
    ]


def test_adapter_of_plain_peft_loads(base: str, images: Tensor, tmp_path: Path) -> None:
    """As the reference saves it: keys for all six parts, no base hash."""
    torch.manual_seed(6)
    plain = get_peft_model(Sam3Model.from_pretrained(base), LoraConfig(**{**LORA, 'init_lora_weights': False})).eval()
    plain.save_pretrained(str(tmp_path / 'adapter'))
    model = SAM3TextLoRA(base=base, adapter=str(tmp_path / 'adapter')).eval()
    torch.testing.assert_close(logits(model, images), plain_logits(plain, images), atol=1e-5, rtol=0)
    assert len(model.state_dict()) == len(load_file(tmp_path / 'adapter' / 'adapter_model.safetensors'))


def test_checkpoint_holds_the_adapters_alone_and_restores_them(
    trained: SAM3TextLoRA, base: str, images: Tensor, tmp_path: Path
) -> None:
    state = trained.state_dict()
    assert all('lora_' in name for name in state)
    assert len(state) == sum('lora_' in name for name, _ in trained.named_parameters())
    assert get_state_dict(trained).keys() == state.keys()
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    fresh = SAM3TextLoRA(base=base, lora=LORA).eval()
    _load_checkpoint_to_model(fresh, torch.load(tmp_path / 'x.pth'))
    assert torch.equal(logits(fresh, images), logits(trained, images))


@pytest.mark.parametrize('change', ['missing', 'unexpected', 'other rank'])
def test_checkpoint_that_does_not_fit_is_refused(trained: SAM3TextLoRA, base: str, change: str) -> None:
    state = trained.state_dict()
    name = next(iter(state))
    if change == 'missing':
        del state[name]
    elif change == 'unexpected':
        state['decode_head.conv_seg.weight'] = torch.zeros(2, 2)
    model = SAM3TextLoRA(base=base, lora={**LORA, 'r': 3} if change == 'other rank' else LORA)
    with pytest.raises(AdapterError, match='does not fit'):
        _load_checkpoint_to_model(model, {'state_dict': state})


def test_checkpoint_and_adapter_of_another_base_are_refused(
    trained: SAM3TextLoRA, tiny_sam3: dict, tmp_path: Path
) -> None:
    trained.save_adapter(tmp_path / 'adapter')
    other = SAM3TextLoRA(base={**tiny_sam3, 'seed': 9}, lora=LORA)
    with pytest.raises(AdapterError, match='other base weights'):
        _load_checkpoint_to_model(other, {'state_dict': trained.state_dict()})
    with pytest.raises(AdapterError, match='other base weights'):
        SAM3TextLoRA(base={**tiny_sam3, 'seed': 9}, adapter=str(tmp_path / 'adapter'))


def test_damaged_or_foreign_adapter_is_refused(trained: SAM3TextLoRA, base: str, tmp_path: Path) -> None:
    folder = tmp_path / 'adapter'
    trained.save_adapter(folder)
    weights = folder / 'adapter_model.safetensors'
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterError, match='cut short'):
        SAM3TextLoRA(base=base, adapter=str(folder))
    save_file({'base_model.model.other.lora_A.weight': torch.zeros(2, 2)}, weights)
    with pytest.raises(AdapterError, match='does not match'):
        SAM3TextLoRA(base=base, adapter=str(folder))
    weights.unlink()
    with pytest.raises(AdapterError, match='no PEFT adapter'):
        SAM3TextLoRA(base=base, adapter=str(folder))


def test_structure_of_a_saved_adapter_wins(trained: SAM3TextLoRA, base: str, images: Tensor, tmp_path: Path) -> None:
    trained.save_adapter(tmp_path / 'adapter')
    model = SAM3TextLoRA(
        base=base, adapter=str(tmp_path / 'adapter'), lora={**LORA, 'r': 7, 'lora_dropout': 0.3}
    ).eval()
    assert torch.equal(logits(model, images), logits(trained, images))
    dropouts = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p}
    assert 0.3 in dropouts


def test_merging_changes_nothing_but_the_speed(trained: SAM3TextLoRA, images: Tensor) -> None:
    before = logits(trained, images)
    trained.merge_adapter()
    torch.testing.assert_close(logits(trained, images), before, atol=1e-5, rtol=0)
    assert not trained.state_dict()
    assert trained.prompt_features is not None
    with pytest.raises(ValueError, match='no adapters'):
        trained.save_adapter('nowhere')


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_merge_without_adapters_in_the_text_encoder(base: str, images: Tensor, dtype: str | None) -> None:
    """As of the last blocks: the prompts were encoded, and the text encoder dropped, before the merge."""
    lora = {'r': 2, 'target_modules': r'(.*backbone\.layers\.1|detr_encoder|mask_decoder)\..*(q|k|v|o)_proj'}
    model = SAM3TextLoRA(base=base, lora=lora, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    before = logits(model, images)
    model.merge_adapter()
    tolerance = {'atol': 1e-5, 'rtol': 0} if dtype is None else {'atol': 0.05, 'rtol': 0.05}
    torch.testing.assert_close(logits(model, images), before, **tolerance)


@pytest.mark.parametrize('trainable', ['lora', 'all'])
def test_saved_after_the_merge_as_before(base: str, images: Tensor, tmp_path: Path, trainable: str) -> None:
    """The merged model itself has no text encoder any more, whose adapters count too."""
    model = SAM3TextLoRA(base=base, lora=LORA, trainable=trainable).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05 if 'lora_B' in name else 0.01)
    expected = logits(model, images)
    model.merge_adapter()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path / 'whole')
    plain = Sam3Model.from_pretrained(str(tmp_path / 'whole')).eval()
    torch.testing.assert_close(plain_logits(plain, images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('trainable', ['lora', 'all'])
def test_save_pretrained_writes_a_whole_sam3(
    base: str, trained: SAM3TextLoRA, images: Tensor, tmp_path: Path, trainable: str
) -> None:
    if trainable == 'all':
        trained = SAM3TextLoRA(base=base, lora=None, trainable='all').eval()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.mul_(1.1)
    trained.save_pretrained(tmp_path / 'whole')
    plain, report = Sam3Model.from_pretrained(str(tmp_path / 'whole'), output_loading_info=True)
    assert not report['missing_keys']
    assert not report['unexpected_keys']
    torch.testing.assert_close(plain_logits(plain.eval(), images), logits(trained, images), atol=1e-5, rtol=0)
    assert (tmp_path / 'whole' / 'tokenizer.json').is_file()
    decoder = 'detr_decoder.query_embed.weight'
    original = Sam3Model.from_pretrained(base).state_dict()
    assert torch.equal(plain.state_dict()[decoder], original[decoder])
    with pytest.raises(FileExistsError, match='not empty'):
        trained.save_pretrained(tmp_path / 'whole')


def test_video_checkpoint_gives_its_detector(base: str, tiny_sam3: dict, images: Tensor, tmp_path: Path) -> None:
    """The hub's facebook/sam3 is laid out so: a video model's config, weights under ``detector_model.``."""
    folder = tmp_path / 'video'
    folder.mkdir()
    weights = load_file(f'{base}/model.safetensors')
    video = {f'detector_model.{name}': value for name, value in weights.items()}
    save_file({**video, 'tracker_model.x': torch.zeros(1)}, folder / 'model.safetensors', metadata={'format': 'pt'})
    config = json.loads(Path(base, 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({'model_type': 'sam3_video', 'detector_config': config}))
    expected = SAM3TextLoRA(base=base, lora=None).eval()
    model = SAM3TextLoRA(base=str(folder), lora=None).eval()
    assert torch.equal(logits(model, images), logits(expected, images))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'target_modules': ['q_proj', 'vproj', 'qkv']}, r"target_modules .*'qkv' \(.*'vproj' \(nearest: v_proj"),
        ({'target_modules': ['q_proj', 'attention.v_prj']}, r"'attention.v_prj' \(nearest: attention\.v_proj"),
        ({'target_modules': 'q_proj'}, r"'q_proj' \(a text is a pattern .* a list, \['q_proj'\]"),
        ({'target_modules': r'.*\.qkv'}, r'target_modules that match nothing'),
        (
            {'target_modules': ['q_proj', 'prompt_cross_attn.k_proj'], 'layers_to_transform': [0]},
            "'prompt_cross_attn.k_proj' .*layers_to_transform leave it out",
        ),
        ({'exclude_modules': ['q_pro']}, r"exclude_modules .*'q_pro' \(nearest: q_proj"),
        ({'exclude_modules': r'decoder\..*'}, 'exclude_modules that match nothing'),
        ({'layers_to_transform': [1, 7]}, 'layers_to_transform that match nothing: 7'),
        ({'layers_to_transform': [1], 'layers_pattern': ['layers', 'blocks']}, "layers_pattern .*'blocks'"),
        ({'rank_pattern': {'q_prj': 4}}, r"rank_pattern .*'q_prj' \(nearest: q_proj"),
        ({'target_modules': ['q_proj'], 'alpha_pattern': {'v_proj': 4}}, "alpha_pattern .*'v_proj'"),
        ({'modules_to_save': ['presence_head2']}, "modules_to_save .*'presence_head2'"),
        ({'target_parameters': ['fc9.weight']}, "target_parameters .*'fc9.weight'"),
    ],
)
def test_names_that_match_nothing(tiny_sam3: dict, changes: dict, said: str) -> None:
    """PEFT adapts what the other names match, and says nothing."""
    with pytest.raises(AdapterError, match=said):
        SAM3TextLoRA(base=tiny_sam3, lora={**LORA, **changes})


@pytest.mark.parametrize(
    'changes',
    [
        {'target_modules': 'all-linear'},
        {'target_modules': ['q_proj', 'layers.1.attention.v_proj'], 'exclude_modules': ['mask_decoder']},
        {'layers_to_transform': 1, 'layers_pattern': 'layers'},
        {'rank_pattern': {r'layers\.1\..*q_proj': 4}, 'alpha_pattern': {'^detr_encoder.*k_proj': 4}},
    ],
)
def test_names_that_match_something(tiny_sam3: dict, changes: dict) -> None:
    if 'exclude_modules' in changes:
        changes = {**changes, 'exclude_modules': ['mask_decoder.prompt_cross_attn.q_proj']}
    SAM3TextLoRA(base=tiny_sam3, lora={**LORA, **changes})


@pytest.mark.filterwarnings('ignore')
def test_foreign_adapter_with_a_target_too_many(base: str, tmp_path: Path, log: list[str]) -> None:
    """It loads if every weight has its place; if not, the error says which names are not those of this base."""
    plain = get_peft_model(Sam3Model.from_pretrained(base), LoraConfig(**LORA))
    plain.save_pretrained(str(tmp_path / 'adapter'))
    config = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    config['target_modules'].append('qkv')
    (tmp_path / 'adapter' / 'adapter_config.json').write_text(json.dumps(config))
    SAM3TextLoRA(base=base, adapter=str(tmp_path / 'adapter'))
    assert any("'qkv'" in message and 'all its weights fit' in message for message in log)
    weights = load_file(tmp_path / 'adapter' / 'adapter_model.safetensors')
    save_file({**weights, 'base_model.model.x.qkv.lora_A.weight': torch.zeros(2, 2)}, tmp_path / 'other.safetensors')
    (tmp_path / 'other.safetensors').replace(tmp_path / 'adapter' / 'adapter_model.safetensors')
    with pytest.raises(AdapterError, match=r"1 are not in the model.*target_modules that match nothing: 'qkv'"):
        SAM3TextLoRA(base=base, adapter=str(tmp_path / 'adapter'))


@pytest.mark.parametrize('kind', [AdaLoraConfig, LoHaConfig, IA3Config])
def test_other_kinds_of_adapters_are_refused(base: str, tmp_path: Path, kind: Any) -> None:
    """AdaLora's configuration is a LoRA configuration to isinstance, and its weights do not merge."""
    options: dict = {'target_modules': ['q_proj']}
    if kind is AdaLoraConfig:
        options['total_step'] = 9
    if kind is IA3Config:
        options['feedforward_modules'] = []
    get_peft_model(Sam3Model.from_pretrained(base), kind(**options)).save_pretrained(str(tmp_path / 'adapter'))
    with pytest.raises(AdapterError, match='only LoRA is supported'):
        SAM3TextLoRA(base=base, adapter=str(tmp_path / 'adapter'))
    with pytest.raises(AdapterError, match='ADALORA; only LoRA is supported'):
        SAM3TextLoRA(base=base, lora={**LORA, 'peft_type': 'ADALORA'})


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'init_lora_weights': 'lora_ga'}, 'computed from data'),
        ({'init_lora_weights': 'EVA'}, 'computed from data'),
        ({'init_lora_weights': 'loftq', 'loftq_config': {'loftq_bits': 4}}, 'refused by PEFT'),
        ({'alora_invocation_tokens': [1]}, 'generated text'),
        ({'arrow_config': {}}, 'several adapters'),
        ({'monteclora_config': {}}, 'a loss of its own'),
        ({'trainable_token_indices': [1]}, 'token embedding'),
        ({'task_type': 'CAUSAL_LM'}, 'task CAUSAL_LM'),
    ],
)
def test_arguments_that_cannot_work_here(tiny_sam3: dict, changes: dict, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        SAM3TextLoRA(base=tiny_sam3, lora={**LORA, **changes})


BAD_VALUES: list[dict] = [
    {'target_modules': r'.*\.(q_proj'},
    {'target_modules': [1]},
    {'exclude_modules': '['},
    {'rank_pattern': {'q_proj(': 4}},
    {'rank_pattern': ['q_proj']},
    {'bias': 'some'},
    {'r': '8'},
]


@pytest.mark.parametrize('changes', BAD_VALUES, ids=str)
def test_values_that_peft_cannot_read(trained: SAM3TextLoRA, base: str, tmp_path: Path, changes: dict) -> None:
    """In a config and in a saved adapter."""
    with pytest.raises(AdapterError, match=r'lora=.* was refused by PEFT'):
        SAM3TextLoRA(base=base, lora={**LORA, **changes})
    trained.save_adapter(tmp_path)
    path = tmp_path / 'adapter_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AdapterError, match=f'adapter {tmp_path} does not fit'):
        SAM3TextLoRA(base=base, adapter=str(tmp_path))


def test_lora_beside_an_adapter_is_checked(trained: SAM3TextLoRA, base: str, tmp_path: Path) -> None:
    trained.save_adapter(tmp_path)
    for lora, said in (({'rr': 4}, 'refused by PEFT'), (['q_proj'], 'give a dict')):
        with pytest.raises(AdapterError, match=said):
            SAM3TextLoRA(base=base, adapter=str(tmp_path), lora=lora)  # type: ignore[arg-type]


@pytest.mark.parametrize('mapping', [['os'], 'os'])
def test_mapping_that_is_none(trained: SAM3TextLoRA, base: str, tmp_path: Path, mapping: Any) -> None:
    trained.save_adapter(tmp_path)
    path = tmp_path / 'adapter_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'auto_mapping': mapping}))
    with pytest.raises(AdapterError, match=r'auto_mapping.* is not an object'):
        SAM3TextLoRA(base=base, adapter=str(tmp_path))


@pytest.mark.parametrize('change', [lambda w: w * float('nan'), lambda w: w / 0, lambda w: w.to(torch.int8)])
def test_adapter_without_sound_values(trained: SAM3TextLoRA, base: str, tmp_path: Path, change: Any) -> None:
    """A prediction from them would be "no crack" everywhere."""
    trained.save_adapter(tmp_path)
    path = tmp_path / 'adapter_model.safetensors'
    weights = load_file(path)
    name = next(name for name in weights if 'lora_A' in name)
    save_file({**weights, name: change(weights[name])}, path)
    with pytest.raises(AdapterError, match=f'{name} holds values'):
        SAM3TextLoRA(base=base, adapter=str(tmp_path))


def test_adapter_that_is_none_says_what_it_is(
    trained: SAM3TextLoRA, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_dir = tmp_path / 'work_dir'
    trained.save_adapter(work_dir / 'adapters' / 'best')
    trained.save_adapter(work_dir / 'adapters' / 'epoch_1')
    best = work_dir / 'adapters' / 'best'
    (tmp_path / 'empty').mkdir()

    def refused(adapter: str | Path) -> str:
        with pytest.raises(AdapterError) as caught:
            SAM3TextLoRA(base=base, adapter=str(adapter))
        return str(caught.value)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    # A folder where its owner would be: not asked for on the hub.
    (tmp_path / 'someone').mkdir()
    assert "name its revision: 'someone/cracks@main'" in refused('someone/cracks')
    for folder in (work_dir, work_dir / 'adapters'):
        assert f'contains adapters: {best}, ' in refused(folder) and f'for example {best}' in refused(folder)
    assert f'{best.parent} exists, with best in it' in refused(best.parent / 'bst')
    assert 'there is no such folder' in refused('work_dir/adapters_of_last_year')
    assert f'Give its folder, {best}' in refused(best / 'adapter_model.safetensors')
    (tmp_path / 'epoch_1.pth').touch()
    assert '--checkpoint' in refused(tmp_path / 'epoch_1.pth')
    assert 'is empty' in refused(tmp_path / 'empty')
    SAM3TextLoRA(base=base, adapter='~/work_dir/adapters/best')
