"""Recipes of LoRA as PEFT's users write them: outputs, adapter folder, checkpoint and merged model as plain PEFT's."""

from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import TINY_SAM3
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.tokenizer import clip_tokenizer, tokenize

ATTENTION = ['q_proj', 'k_proj', 'v_proj', 'o_proj']
VIT = r'vision_encoder\.backbone\.layers\.\d+\.(attention\.[qkvo]_proj|mlp\.fc[12])'

RECIPES: dict[str, dict[str, Any]] = {
    # where
    'attention': {'target_modules': ATTENTION},
    'MLP': {'target_modules': ['fc1', 'fc2']},
    'attention and MLP': {'target_modules': [*ATTENTION, 'fc1', 'fc2']},
    'all linear layers': {'target_modules': 'all-linear'},
    'convolutions of the neck': {'target_modules': ['proj1', 'proj2']},
    'convolutions of the pixel decoder': {'target_modules': r'mask_decoder\.pixel_decoder\.conv_layers\.\d+'},
    'patch embedding': {'target_modules': ['patch_embeddings.projection', 'q_proj']},
    'token embedding': {'target_modules': ['token_embedding', 'v_proj']},
    'pattern for the whole name': {'target_modules': VIT},
    'last layer': {'target_modules': ATTENTION, 'layers_to_transform': [1], 'layers_pattern': 'layers'},
    'all but': {'target_modules': ATTENTION, 'exclude_modules': r'(text_encoder|detr_decoder).*'},
    'ranks and alphas by pattern': {
        'target_modules': [*ATTENTION, 'fc1'],
        'rank_pattern': {r'layers\.1\..*q_proj': 6, 'fc1': 3},
        'alpha_pattern': {'v_proj': 9},
    },
    'one parameter': {'target_modules': ['q_proj'], 'target_parameters': ['fc1.weight']},
    # kinds
    'DoRA': {'target_modules': ATTENTION, 'use_dora': True},
    'DoRA on convolutions': {'target_modules': ['proj1', 'proj2'], 'use_dora': True},
    'rsLoRA': {'target_modules': ATTENTION, 'use_rslora': True, 'r': 8},
    'bias of LoRA': {'target_modules': [*ATTENTION, 'fc2'], 'lora_bias': True},
    'Gaussian': {'target_modules': ATTENTION, 'init_lora_weights': 'gaussian'},
    'orthogonal': {'target_modules': ATTENTION, 'init_lora_weights': 'orthogonal'},
    'PiSSA': {'target_modules': ATTENTION, 'init_lora_weights': 'pissa'},
    'OLoRA': {'target_modules': ATTENTION, 'init_lora_weights': 'olora'},
    'random B': {'target_modules': ATTENTION, 'init_lora_weights': False},
    'KaSA': {'target_modules': ATTENTION, 'kasa_config': {}},
    'BD-LoRA': {
        'target_modules': ATTENTION,
        'use_bdlora': {'target_modules_bd_a': ['q_proj'], 'nblocks': 2, 'match_strict': False},
    },
    'MiCA': {'target_modules': ATTENTION, 'init_lora_weights': 'mica'},
    # beside LoRA
    'semantic projection': {'target_modules': ATTENTION, 'modules_to_save': ['semantic_projection']},
    'pixel decoder': {'target_modules': ATTENTION, 'modules_to_save': ['pixel_decoder']},
    'mask decoder': {'target_modules': ['fc1', 'q_proj'], 'modules_to_save': ['mask_decoder']},
    'norms': {'target_modules': ATTENTION, 'modules_to_save': ['layer_norm1', 'layer_norm2']},
    'prompt attention': {'target_modules': ATTENTION, 'modules_to_save': ['prompt_cross_attn']},
    'neck': {'target_modules': ATTENTION, 'modules_to_save': ['neck']},
    'last layer whole': {'target_modules': ['q_proj'], 'modules_to_save': ['backbone.layers.1']},
    'text encoder': {'target_modules': VIT, 'modules_to_save': ['text_encoder']},
    'text projection': {'target_modules': VIT, 'modules_to_save': ['text_projection']},
    'embeddings': {'target_modules': VIT, 'modules_to_save': ['backbone.embeddings']},
    'whole vision encoder': {'target_modules': r'detr_encoder.*q_proj', 'modules_to_save': ['vision_encoder']},
    'DETR decoder': {'target_modules': VIT, 'modules_to_save': ['detr_decoder']},
    'biases of LoRA layers': {'target_modules': ATTENTION, 'bias': 'lora_only'},
    'all biases': {'target_modules': ATTENTION, 'bias': 'all'},
    # together
    'biases and saved modules': {
        'target_modules': [*ATTENTION, 'fc1'],
        'bias': 'all',
        'modules_to_save': ['pixel_decoder', 'semantic_projection', 'layer_norm1'],
    },
    'biases of LoRA layers and saved modules': {
        'target_modules': VIT,
        'bias': 'lora_only',
        'modules_to_save': ['mask_decoder'],
    },
    'DoRA, rsLoRA and norms': {
        'target_modules': 'all-linear',
        'use_dora': True,
        'use_rslora': True,
        'modules_to_save': ['layer_norm2'],
    },
    'PiSSA and all biases': {'target_modules': VIT, 'init_lora_weights': 'pissa', 'bias': 'all'},
}


FAST = ('all linear layers', 'PiSSA and all biases', 'biases and saved modules')
NEW = (
    # kinds that PEFT 0.20 does not know, and biases that it does not save
    'KaSA', 'BD-LoRA', 'MiCA', 'biases of LoRA layers', 'biases of LoRA layers and saved modules',
)  # fmt: skip


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that plain Hugging Face wrote."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp('base')
    Sam3Model(Sam3Config(**TINY_SAM3)).save_pretrained(folder)
    return str(folder)


def randomise(model: torch.nn.Module) -> None:
    """As after training: every weight that trains moves."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


@cache
def tokens() -> tuple[Tensor, Tensor]:
    return tokenize(clip_tokenizer(), ['crack'])


def plain_logits(model: Any, images: Tensor) -> Tensor:
    """Of ``Sam3Model`` itself, at its own size."""
    ids, mask = tokens()
    size = (len(images), -1)
    with torch.no_grad():
        return model.eval()(
            pixel_values=images, input_ids=ids.expand(size), attention_mask=mask.expand(size)
        ).semantic_seg


def logits(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().foreground_logits(images, [{}] * len(images))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in RECIPES]
)
def test_recipe(base: str, tmp_path: Path, name: str) -> None:
    if name in NEW and Version(peft.__version__) < Version('0.21'):
        pytest.skip('needs PEFT 0.21')
    lora = {'r': 2, 'lora_alpha': 4, **RECIPES[name]}
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))

    def same(result: Tensor) -> None:
        expected_here = torch.nn.functional.interpolate(expected, size=result.shape[-2:], mode='bilinear')
        torch.testing.assert_close(result, expected_here, atol=1e-5, rtol=1e-5)

    # Trained and saved by plain PEFT, and read here.
    plain = get_peft_model(Sam3Model.from_pretrained(base), LoraConfig(**lora))
    untrained = plain_logits(plain, images)
    randomise(plain)
    expected = plain_logits(plain, images)
    assert (expected - untrained).abs().max() > 1e-3
    plain.save_pretrained(str(tmp_path / 'plain'))
    loaded = SAM3TextLoRA(base=base, adapter=str(tmp_path / 'plain'))
    same(logits(loaded, images))
    # Saved here, and read by plain PEFT, and here again.
    loaded.save_adapter(tmp_path / 'ours')
    saved, theirs = (load_file(tmp_path / folder / 'adapter_model.safetensors') for folder in ('ours', 'plain'))
    assert saved.keys() <= theirs.keys()
    same(plain_logits(PeftModel.from_pretrained(Sam3Model.from_pretrained(base), str(tmp_path / 'ours')), images))
    # A checkpoint, and a training that goes on from it.
    torch.save({'state_dict': loaded.state_dict()}, tmp_path / 'x.pth')
    state = torch.load(tmp_path / 'x.pth')['state_dict']
    assert len(state) == len(saved)
    resumed = SAM3TextLoRA(base=base, lora=lora)
    resumed.load_state_dict(state)
    assert torch.equal(logits(resumed, images), logits(loaded, images))
    # Everything that trains gets a gradient, which DDP waits for.
    resumed.train().foreground_logits(images, [{}] * 2).square().mean().backward()
    assert not [key for key, value in resumed.named_parameters() if value.requires_grad and value.grad is None]
    assert {key for key, value in resumed.named_parameters() if value.requires_grad} <= state.keys()
    # Merged, as a folder and in place.
    resumed.save_pretrained(tmp_path / 'merged')
    same(plain_logits(Sam3Model.from_pretrained(str(tmp_path / 'merged')), images))
    loaded.merge_adapter()
    same(logits(loaded, images))
    same(plain_logits(plain.merge_and_unload(), images))
