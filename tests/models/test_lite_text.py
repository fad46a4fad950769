"""SAM3-LiteText as a base, held against plain transformers and PEFT.

Its text encoder differs from SAM 3's: blocks of convolutions with batch normalisations, and interpolated positions.
"""

import copy
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CONFIGS, TINY_LITE_TEXT, TINY_SAM3
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_bases import KINDS, foreground_logits, with_trained_adapters
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Sam3LiteTextConfig
from transformers.models.sam3.processing_sam3 import Sam3Processor
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from crack_plugin.errors import ConfigError
from crack_plugin.models import SAM3TextLoRA, export, semantic_path
from crack_plugin.models.adapters import AdapterError
from crack_plugin.models.base import BaseModelError, load_base
from crack_plugin.models.lora_config import REFERENCE_LORA
from crack_plugin.models.tokenizer import clip_tokenizer, tokenize

TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'out_proj']
LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': TARGETS}
IMAGE_LORA = {**LORA, 'target_modules': r'(detr_encoder|mask_decoder|.*backbone\.layers\.1)\..*(q|k|v|o)_proj'}
PROMPTS = ['crack', 'rust stain']


def plain_model() -> Any:
    """What ``base=TINY_LITE_TEXT`` stands for, by transformers alone."""
    overrides = copy.deepcopy(TINY_LITE_TEXT)
    del overrides['model_type']
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sam3LiteTextModel(Sam3LiteTextConfig(**overrides)).eval()


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that plain transformers wrote."""
    write, _ = KINDS['SAM3-LiteText']
    return str(write(tmp_path_factory.mktemp('lite_text') / 'base'))


@pytest.fixture(scope='module')
def plain(base: str) -> Any:
    """The same as plain transformers loads it."""
    return Sam3LiteTextModel.from_pretrained(base).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(2))


def normalisations(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics(model: nn.Module) -> list[Tensor]:
    return [buffer.clone() for module in normalisations(model) for buffer in module.buffers()]


def adapted(base: Any, lora: dict | None = LORA, **arguments: Any) -> SAM3TextLoRA:
    """A model whose adapters do something, as after training."""
    return with_trained_adapters(SAM3TextLoRA(base=base, lora=lora, prompts=PROMPTS, **arguments))


def plain_logits(model: Any, images: Tensor, length: int = 32) -> Tensor:
    maps = []
    for prompt in PROMPTS:
        tokens = {name: value.expand(len(images), -1) for name, value in plain_tokens(prompt, length).items()}
        with torch.no_grad():
            maps.append(model(pixel_values=images.to(model.dtype), **tokens).semantic_seg.float())
    return interpolate(torch.cat(maps, dim=1), size=images.shape[-2:], mode='bilinear', align_corners=False)


@functools.cache
def plain_tokens(prompt: str, length: int) -> dict[str, Tensor]:
    return dict(clip_tokenizer()(prompt, padding='max_length', max_length=length, return_tensors='pt'))


def loss(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    labels = (torch.rand(1, 56, 56, generator=torch.Generator().manual_seed(5)) < 0.3).long()
    label = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={})
    return model.loss(images, [label] * len(images))['loss_dice']


def gradients(model: SAM3TextLoRA, images: Tensor) -> dict[str, Tensor]:
    loss(model.train(), images).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---- outputs


@pytest.mark.parametrize('lora', [LORA, IMAGE_LORA, None], ids=['fresh adapters', 'frozen prompts', 'no adapters'])
def test_logits_equal_those_of_plain_transformers(base: str, plain: Any, images: Tensor, lora: dict | None) -> None:
    model = SAM3TextLoRA(base=base, prompts=PROMPTS, lora=lora).eval()
    expected = plain_logits(plain, images)
    torch.testing.assert_close(foreground_logits(model, images), expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.01
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 1e-3
    # With nothing that trains in it, the text encoder goes as soon as the prompts are encoded.
    assert semantic_path.has_text_encoder(model.model) == (lora is LORA)


def test_random_base_is_that_of_plain_transformers(images: Tensor) -> None:
    torch.testing.assert_close(
        foreground_logits(SAM3TextLoRA(base=copy.deepcopy(TINY_LITE_TEXT), prompts=PROMPTS, lora=None).eval(), images),
        plain_logits(plain_model(), images),
        atol=1e-6,
        rtol=0,
    )


def test_low_precision_is_as_exact_as_plain_transformers(base: str, plain: Any, images: Tensor) -> None:
    exact = plain_logits(plain, images)
    rounded = plain_logits(Sam3LiteTextModel.from_pretrained(base, dtype=torch.bfloat16).eval(), images)
    model = SAM3TextLoRA(base=base, prompts=PROMPTS, lora=LORA, dtype='bfloat16').eval()
    assert {weight.dtype for module in normalisations(model) for weight in module.parameters()} == {torch.float32}
    difference = (foreground_logits(model, images) - exact).norm()
    assert 0 < difference < 1.5 * (rounded - exact).norm()


def test_prompts_are_as_long_as_its_processor_pads_them(plain: Any, images: Tensor) -> None:
    """``Sam3Processor`` pads to 32 whatever the model: its 77 positions are interpolated then, as everywhere else."""
    tokenizer = clip_tokenizer()
    processor = SimpleNamespace(tokenizer=tokenizer, _resolve_text_prompts=lambda text, boxes: text)
    given = Sam3Processor.__call__(processor, text=PROMPTS, return_tensors='pt')
    ids, mask = tokenize(tokenizer, PROMPTS)
    assert torch.equal(given['input_ids'], ids)
    assert torch.equal(given['attention_mask'], mask)
    assert plain.config.text_config.max_position_embeddings == 77
    assert (plain_logits(plain, images, length=77) - plain_logits(plain, images)).abs().max() > 1e-3


# ---- adapters


def test_reference_targets_leave_out_the_attention_output_of_the_text_encoder(base: str) -> None:
    def adapted_text(lora: dict) -> set[str]:
        names = [name for name, _ in SAM3TextLoRA(base=base, lora=lora).named_parameters() if 'lora_A' in name]
        return {name.split('.')[-4] for name in names if '.text_encoder.' in name}

    assert adapted_text({**REFERENCE_LORA, 'r': 2}) == {'q_proj', 'k_proj', 'v_proj'}
    lora = Config.fromfile(CONFIGS / 'sam3_litetext_lora_crack.py').model.lora
    assert lora == {**REFERENCE_LORA, 'target_modules': TARGETS}
    assert adapted_text(lora.to_dict()) == {'q_proj', 'k_proj', 'v_proj', 'out_proj'}


@pytest.mark.parametrize(
    ('text', 'parameters', 'held', 'training'),
    [
        ({'num_hidden_layers': 6}, 529_224_246, 2_834_432, 2_441_216),
        pytest.param({'use_repmixer_blocks': False}, 550_211_126, 3_096_576, 2_703_360, marks=pytest.mark.slow),
        pytest.param(
            {
                'use_repmixer_blocks': False,
                'hidden_size': 768,
                'intermediate_size': 3072,
                'projection_dim': 768,
                'num_attention_heads': 12,
            },
            610_498_870,
            3_293_184,
            2_899_968,
            marks=pytest.mark.slow,
        ),
    ],
    ids=['S0', 'S1', 'L'],
)
def test_adapters_at_full_size(text: dict, parameters: int, held: int, training: int) -> None:
    """Counted on the meta device, of a base of the sizes that are reported of the public ones."""
    cfg = Config.fromfile(CONFIGS / 'sam3_litetext_lora_crack.py').model
    cfg.base = {'model_type': 'sam3_lite_text', 'text_config': text}
    with torch.device('meta'):
        plain = Sam3LiteTextModel(Sam3LiteTextConfig(text_config=text))
        model = MODELS.build(cfg)
    assert sum(parameter.numel() for parameter in plain.parameters()) == parameters
    assert sum(value.numel() for value in model.state_dict().values()) == held
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == training


def test_saved_adapter_loads_into_plain_peft(base: str, plain: Any, images: Tensor, tmp_path: Path) -> None:
    model = adapted(base)
    model.save_adapter(tmp_path / 'adapter')
    peft = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / 'adapter')).eval()
    expected = plain_logits(peft, images)
    torch.testing.assert_close(foreground_logits(model, images), expected, atol=1e-5, rtol=0)
    assert (expected - plain_logits(plain, images)).abs().max() > 1e-3
    again = SAM3TextLoRA(base=base, adapter=str(tmp_path / 'adapter'), prompts=PROMPTS).eval()
    assert torch.equal(foreground_logits(again, images), foreground_logits(model, images))
    # It was trained on these weights.
    with pytest.raises(AdapterError, match='other base weights'):
        SAM3TextLoRA(base={**TINY_LITE_TEXT, 'seed': 7}, adapter=str(tmp_path / 'adapter'))


@pytest.mark.slow
@pytest.mark.parametrize('lora', [LORA, IMAGE_LORA], ids=['text adapted', 'text dropped'])
def test_merged_and_saved_as_a_whole(base: str, images: Tensor, tmp_path: Path, lora: dict) -> None:
    model = adapted(base, lora)
    expected = foreground_logits(model, images)
    model.merge_adapter()
    assert not semantic_path.has_text_encoder(model.model)
    torch.testing.assert_close(foreground_logits(model, images), expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / 'whole')
    plain, report = Sam3LiteTextModel.from_pretrained(str(tmp_path / 'whole'), output_loading_info=True)
    assert not report['missing_keys'] and not report['unexpected_keys']
    torch.testing.assert_close(plain_logits(plain.eval(), images), expected, atol=1e-5, rtol=0)
    # Statistics are the base's, and the folder is a base again.
    for saved, own in zip(statistics(plain), statistics(load_base(base)[0]), strict=True):
        assert torch.equal(saved, own)
    again = SAM3TextLoRA(base=str(tmp_path / 'whole'), prompts=PROMPTS, lora=None).eval()
    torch.testing.assert_close(foreground_logits(again, images), expected, atol=1e-5, rtol=0)
    processor = json.loads((tmp_path / 'whole' / 'processor_config.json').read_text())
    assert processor['processor_class'] == 'Sam3Processor'


# ---- training


@pytest.mark.parametrize(
    'arguments',
    [{'lora': LORA}, {'lora': LORA, 'dtype': 'bfloat16'}, {'lora': None, 'trainable': 'all'}],
    ids=['lora', 'bfloat16', 'all'],
)
def test_statistics_do_not_move(base: str, images: Tensor, arguments: dict) -> None:
    """Checkpointing runs each block twice."""
    model = SAM3TextLoRA(base=base, prompts=PROMPTS, activation_checkpointing=True, **arguments).train()
    before, scale = statistics(model), normalisations(model)[0].weight.clone()
    assert len(before) == 2 * 4 * 3
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss(model, images).backward()
    optimizer.step()
    for now, then in zip(statistics(model), before, strict=True):
        assert torch.equal(now, then)
    trains = arguments.get('trainable') == 'all'
    assert torch.equal(normalisations(model)[0].weight, scale) != trains


def test_batch_normalisations_train_in_fp32(base: str, images: Tensor) -> None:
    """Their biases, beside the adapters, on weights in bfloat16."""
    model = SAM3TextLoRA(base=base, lora={**LORA, 'bias': 'all'}, dtype='bfloat16')
    model.foreground_logits(images, [{}] * len(images)).sum().backward()
    layers = [module for module in model.model.text_encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers
    assert all(layer.bias.dtype == torch.float32 and layer.bias.grad is not None for layer in layers)


def test_checkpoint_of_all_weights_holds_the_statistics(base: str, images: Tensor, tmp_path: Path) -> None:
    model = SAM3TextLoRA(base=base, prompts=PROMPTS, lora=None, trainable='all').eval()
    with torch.no_grad():
        for module in normalisations(model):
            module.running_mean.add_(1)
    state = model.state_dict()
    assert sum('running_mean' in name for name in state) == len(normalisations(model))
    assert not any('text_encoder.projection' in name for name in state)
    other = SAM3TextLoRA(base=base, prompts=PROMPTS, lora=None, trainable='all').eval()
    assert not torch.equal(foreground_logits(other, images), foreground_logits(model, images))
    other.load_state_dict(state)
    assert torch.equal(foreground_logits(other, images), foreground_logits(model, images))
    # Whole, with them
    model.save_pretrained(tmp_path / 'whole')
    plain = Sam3LiteTextModel.from_pretrained(str(tmp_path / 'whole')).eval()
    torch.testing.assert_close(plain_logits(plain, images), foreground_logits(model, images), atol=1e-5, rtol=0)


def test_gradients_are_those_without_checkpointing(base: str, images: Tensor) -> None:
    expected = gradients(adapted(base), images)
    model = adapted(base, activation_checkpointing=['text_encoder'])
    assert len(semantic_path.blocks(model.model, ['text_encoder'])) == 3
    for name, gradient in gradients(model, images).items():
        assert expected[name].norm() > 0, name
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.slow
def test_text_encoder_compiles_in_one_piece(base: str, images: Tensor) -> None:
    """See also ``test_compile.py``."""
    model = adapted(base)
    compiled = torch.compile(semantic_path.encode_prompts, backend='eager', fullgraph=True)
    tokens = model.prompt_ids, model.prompt_mask
    with torch.no_grad():
        expected = semantic_path.encode_prompts(model.model, *tokens)
        torch.testing.assert_close(compiled(model.model, *tokens), expected, atol=1e-6, rtol=0)


def test_prefix_cache(base: str, images: Tensor, tmp_path: Path) -> None:
    model = adapted(base, IMAGE_LORA, dtype='bfloat16')
    expected = foreground_logits(model, images)
    cache = model.cache_prefix(tmp_path / 'cache', limit=2)
    for _ in range(2):
        assert torch.equal(foreground_logits(model, images), expected)
    assert len(cache) == 2


class Stop(Hook):
    """Ends a training in its second epoch."""

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 4:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_resumed_training_ends_in_the_same_weights(base: str, tiny_config: Path, tmp_path: Path) -> None:
    def run(name: str, *hooks: Hook, **options: Any) -> Runner:
        cfg = Config.fromfile(tiny_config)
        cfg.model.base, cfg.model.lora.target_modules = base, TARGETS
        cfg.merge_from_dict({'work_dir': str(tmp_path / name), 'experiment_name': f'{name}{len(options)}', **options})
        runner = Runner.from_cfg(cfg)
        for hook in hooks:
            runner.register_hook(hook, priority='LOWEST')
        runner.train()
        return runner

    whole = run('whole').model
    with pytest.raises(KeyboardInterrupt):
        run('stopped', Stop())
    resumed = run('stopped', resume=True).model
    trained = {name: value for name, value in whole.state_dict().items() if '.text_encoder.' in name}
    assert len(trained) == 4 * 2
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for now, then in zip(statistics(resumed), statistics(load_base(base)[0]), strict=True):
        assert torch.equal(now, then)


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['onnx', 'pt2'])
def test_exported_file(base: str, tmp_path: Path, file_format: str) -> None:
    """That the file computes the same is checked before it gets its name."""
    if file_format == 'onnx':
        pytest.importorskip('onnxruntime')
    assert export.export(adapted(base), tmp_path / f'model.{file_format}', file_format) < 1e-4
    assert (tmp_path / f'model.{file_format}').stat().st_size > 1e5


# ---- errors


def test_unknown_type_of_a_random_model() -> None:
    with pytest.raises(ConfigError, match="model_type='sam2': known are sam3, sam3_lite_text"):
        load_base({'model_type': 'sam2'})


def test_weights_of_other_shapes(base: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / 'base'))
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['max_position_embeddings'] = 16
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r'position_embedding, has shape \(1, 1, 77, 16\), and \(1, 1, 16, 16\)'):
        load_base(str(folder))


def test_weights_of_sam3_under_its_configuration(base: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / 'base'))
    weights = load_base(copy.deepcopy(TINY_SAM3))[0].state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / 'model.safetensors')
    with pytest.raises(BaseModelError, match=r'not a complete SAM 3: \d+ weights are missing, .*text_encoder'):
        load_base(str(folder))


def test_counters_of_batches_may_be_missing(plain: Any, base: str, tmp_path: Path) -> None:
    """Conversions leave them out: nothing reads them."""
    folder = Path(shutil.copytree(base, tmp_path / 'base'))
    weights = load_file(folder / 'model.safetensors')
    kept = {name: value for name, value in weights.items() if not name.endswith('num_batches_tracked')}
    assert len(kept) == len(weights) - 8
    save_file(kept, folder / 'model.safetensors', metadata={'format': 'pt'})
    loaded = load_base(str(folder))[0].state_dict()
    assert loaded.keys() == plain.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())
