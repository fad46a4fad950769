"""What the package uses of other libraries beyond their public interface: all of it is listed here, and still there.

Where a test fails after an upgrade, read the library's new code, and change the module that uses the name.
"""

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import ROOT
from mmengine.optim import AmpOptimWrapper
from mmseg.models import SegDataPreProcessor
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import Sam3Config, Sam3LiteTextConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3 import modeling_sam3
from transformers.models.sam3.modeling_sam3 import (
    Sam3Attention,
    Sam3DetrEncoder,
    Sam3FPNLayer,
    Sam3MaskDecoder,
    Sam3Model,
    Sam3SinePositionEmbedding,
    Sam3ViTLayer,
    Sam3ViTRotaryEmbedding,
)
from transformers.models.sam3_lite_text import modeling_sam3_lite_text
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from crack_plugin.models import semantic_path

MODELS = ROOT / 'crack_plugin' / 'models'

MODULES = {
    'text_encoder.text_model.encoder.layers': 'ModuleList',
    'text_encoder.text_projection': 'Linear',
    'text_projection': 'Linear',
    'vision_encoder': 'Sam3VisionModel',
    'vision_encoder.backbone': 'Sam3ViTModel',
    'vision_encoder.backbone.embeddings': 'Sam3ViTEmbeddings',
    'vision_encoder.backbone.layer_norm': 'LayerNorm',
    'vision_encoder.backbone.layers': 'ModuleList',
    'vision_encoder.backbone.layers.0': 'Sam3ViTLayer',
    'vision_encoder.backbone.layers.0.rotary_emb': 'Sam3ViTRotaryEmbedding',
    'vision_encoder.neck': 'Sam3VisionNeck',
    'vision_encoder.neck.fpn_layers': 'ModuleList',
    'vision_encoder.neck.fpn_layers.0': 'Sam3FPNLayer',
    'vision_encoder.neck.position_encoding': 'Sam3SinePositionEmbedding',
    'geometry_encoder': 'Sam3GeometryEncoder',
    'detr_encoder': 'Sam3DetrEncoder',
    'detr_encoder.layers': 'ModuleList',
    'detr_decoder': 'Sam3DetrDecoder',
    'dot_product_scoring': 'Sam3DotProductScoring',
    'mask_decoder': 'Sam3MaskDecoder',
    'mask_decoder.prompt_cross_attn': 'Sam3Attention',
    'mask_decoder.prompt_cross_attn_norm': 'LayerNorm',
    'mask_decoder.prompt_cross_attn_dropout': 'Dropout',
    'mask_decoder.pixel_decoder': 'Sam3PixelDecoder',
    'mask_decoder.pixel_decoder.conv_layers': 'ModuleList',
    'mask_decoder.pixel_decoder.norms': 'ModuleList',
    'mask_decoder.mask_embedder': 'Sam3MaskEmbedder',
    'mask_decoder.instance_projection': 'Conv2d',
    'mask_decoder.semantic_projection': 'Conv2d',
}
"""Submodules of ``Sam3Model`` that ``semantic_path.py`` names, and their classes, in transformers 5.23.0."""

LITE_TEXT_MODULES = {
    'text_encoder': 'Sam3LiteTextTextModel',
    'text_encoder.layers': 'ModuleList',
    'text_encoder.layers.0': 'Sam3LiteTextRepMixerBlock',
    'text_encoder.layers.1': 'Sam3LiteTextTextEncoderLayer',
    'text_encoder.layers.1.self_attn.out_proj': 'Linear',
    'text_encoder.projection': 'Linear',
}
"""Those of ``Sam3LiteTextModel`` that ``Sam3Model`` does not have."""

SIGNATURES: list[tuple[Callable, list[str]]] = [
    (Sam3ViTLayer.precompute_positions, ['config', 'window_size']),
    (Sam3ViTLayer.forward, ['self', 'hidden_states']),
    (Sam3ViTRotaryEmbedding.compute_axial_rope_parameters, ['config', 'device']),
    (Sam3ViTRotaryEmbedding.forward, ['self', 'x', 'position_ids']),
    (Sam3FPNLayer.forward, ['self', 'hidden_states']),
    (Sam3SinePositionEmbedding.forward, ['self', 'shape', 'device', 'dtype', 'mask']),
    (Sam3Attention.forward, ['self', 'query', 'key', 'value', 'attention_mask']),
    (
        Sam3DetrEncoder.forward,
        ['self', 'vision_features', 'text_features', 'vision_pos_embeds', 'text_mask', 'spatial_sizes'],
    ),
    (Sam3MaskDecoder._embed_pixels, ['self', 'backbone_features', 'encoder_hidden_states']),
    # Sam3MaskDecoder.forward is written out in semantic_path: another argument may mean another computation.
    (
        Sam3MaskDecoder.forward,
        ['self', 'decoder_queries', 'backbone_features', 'encoder_hidden_states', 'prompt_features', 'prompt_mask'],
    ),
    (check_target_module_exists, ['config', 'key']),
    (get_pattern_key, ['pattern_keys', 'key_to_match']),
]

PRIVATE_ATTRIBUTES = {
    # transformers: see semantic_path
    ('semantic_path.py', '_embed_pixels'),
    # torch: the number of variants that are compiled has no other name
    ('semantic_path.py', '_dynamo'),
    # mmengine: what a preprocessor of onedl-mmsegmentation inherits
    ('logits.py', '_channel_conversion'),
    # mmengine: the fixed scale of a gradient scaler
    ('precision.py', '_scale_update_param'),
    # torch: what a state dict says of its modules; tests/prediction/test_threshold.py loads one
    ('tuned_threshold.py', '_metadata'),
}
"""Private names of other libraries in ``models``, by file."""


@pytest.fixture
def sam3(tiny_sam3: dict) -> Any:
    with torch.device('meta'):
        return Sam3Model(Sam3Config(**tiny_sam3))


def test_submodules_of_sam3(sam3: Any) -> None:
    found = {name: type(module).__name__ for name, module in sam3.named_modules()}
    assert {name: found.get(name) for name in MODULES} == MODULES
    assert {*semantic_path.UNUSED, *semantic_path.TEXT_MODULES} <= {*MODULES, *LITE_TEXT_MODULES}


def test_submodules_of_lite_text(tiny_lite_text: dict) -> None:
    """Its own, and SAM 3's under the same names: their classes have a name of their own, or are SAM 3's."""
    del tiny_lite_text['model_type']
    with torch.device('meta'):
        model = Sam3LiteTextModel(Sam3LiteTextConfig(**tiny_lite_text))
    found = {name: type(module).__name__ for name, module in model.named_modules()}
    assert {name: found.get(name) for name in LITE_TEXT_MODULES} == LITE_TEXT_MODULES
    shared = {name: kind for name, kind in MODULES.items() if not name.startswith('text_encoder')}
    assert {name: found.get(name, '').replace('Sam3LiteText', 'Sam3') for name in shared} == shared


@pytest.mark.parametrize('name', ['Attention', 'DetrEncoder', 'MaskDecoder', 'PixelDecoder', 'SinePositionEmbedding'])
def test_what_lite_text_shares_computes_the_same(name: str) -> None:
    """transformers copies SAM 3's classes for it: their code differs in names alone."""
    ours, theirs = (
        inspect.getsource(getattr(module, f'{prefix}{name}')).replace('Sam3LiteText', 'Sam3')
        for module, prefix in ((modeling_sam3, 'Sam3'), (modeling_sam3_lite_text, 'Sam3LiteText'))
    )
    assert ours.replace('DETR', 'Detr') == theirs.replace('DETR', 'Detr')


@pytest.mark.parametrize(('function', 'arguments'), SIGNATURES, ids=lambda value: getattr(value, '__qualname__', ''))
def test_signatures(function: Callable, arguments: list[str]) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD] == arguments


def test_arguments_of_the_mask() -> None:
    used = {'config', 'inputs_embeds', 'encoder_hidden_states', 'attention_mask', 'allow_is_bidirectional_skip'}
    assert used <= inspect.signature(create_bidirectional_mask).parameters.keys()


def test_rotary_positions(tiny_sam3: dict) -> None:
    """What is rebuilt, or replaced by a table, is all that a layer of the ViT knows of positions."""
    layer = Sam3ViTLayer(Sam3Config(**tiny_sam3).vision_config.backbone_config, window_size=2)
    assert layer.window_size == 2
    buffers = {name for name, _ in layer.named_buffers()}
    assert buffers == {'position_ids', 'rotary_emb.inv_freq', 'rotary_emb.original_inv_freq'}
    assert layer.rotary_emb.attention_scaling == 1
    assert len(layer.rotary_emb(layer.position_ids, layer.position_ids)) == 2


def test_layers_with_adapters() -> None:
    """Attributes and names that ``adapters.py`` relies on, in peft 0.21.2."""
    model = get_peft_model(nn.Sequential(nn.Linear(2, 3)), LoraConfig(r=1, target_modules=['0']))
    layer = model.get_base_model()[0]
    assert isinstance(layer, Linear) and isinstance(layer, LoraLayer)
    assert layer.cast_input_dtype_enabled is True
    assert layer.lora_variant == {}
    for modules in (layer.lora_A, layer.lora_B, layer.lora_dropout):
        assert isinstance(modules, nn.ModuleDict) and set(modules) == {'default'}
    names = {'0.base_layer.weight', '0.base_layer.bias', '0.lora_A.default.weight', '0.lora_B.default.weight'}
    assert set(model.get_base_model().state_dict()) == names
    variant = get_peft_model(
        nn.Sequential(nn.Linear(2, 3)), LoraConfig(r=1, target_modules=['0'], use_dora=True)
    ).get_base_model()[0]
    assert variant.lora_variant


def test_names_in_a_configuration() -> None:
    config = LoraConfig(target_modules=['q_proj'])
    assert check_target_module_exists(config, 'layers.0.q_proj')
    assert not check_target_module_exists(config, 'layers.0.v_proj')
    assert get_pattern_key(['q_proj'], 'layers.0.q_proj') == 'q_proj'
    assert get_pattern_key(['v_proj'], 'layers.0.q_proj') == 'layers.0.q_proj'


@pytest.mark.parametrize(('scale', 'fixed'), [('dynamic', None), (1.0, 1.0), (512.0, 512.0)])
def test_scale_of_gradients(amp_on_cpu: dict, scale: str | float, fixed: float | None) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    assert AmpOptimWrapper(loss_scale=scale, optimizer=optimizer)._scale_update_param == fixed


def test_mean_of_a_preprocessor() -> None:
    assert not hasattr(SegDataPreProcessor(), 'mean')
    assert SegDataPreProcessor(mean=[1, 2, 3], std=[1, 1, 1]).mean.flatten().tolist() == [1, 2, 3]


def test_limit_of_variants_that_are_compiled() -> None:
    assert isinstance(torch._dynamo.config.recompile_limit, int)


def test_no_other_private_name_is_used() -> None:
    found = set()
    for path in MODELS.glob('*.py'):
        text = path.read_text()
        own = set(re.findall(r'self\.(_\w+)', text))
        for node in ast.walk(ast.parse(text)):
            # asked for by attribute, or by getattr
            name = getattr(node, 'attr', None) or getattr(node, 'value', None)
            if isinstance(node, ast.Attribute | ast.Constant) and isinstance(name, str):
                found |= {(path.name, name)} if re.fullmatch(r'_[a-z]\w+', name) and name not in own else set()
    assert found == PRIVATE_ATTRIBUTES


def test_one_place_for_each_library() -> None:
    """Modules and weights of SAM 3 are named in two files: its path, Meta's checkpoints. PEFT's: in four others."""
    submodules = re.compile(r'vision_encoder|mask_decoder|detr_encoder|\.text_encoder\b')
    sam3, peft = set(), set()
    for path in MODELS.glob('*.py'):
        code = _without_docstrings(path.read_text())
        sam3 |= {path.name} if submodules.search(code) else set()
        peft |= {path.name} if re.search(r'^\s*(from|import) peft', code, re.MULTILINE) else set()
    assert sam3 == {'semantic_path.py', 'meta_checkpoint.py'}
    assert peft == {'adapters.py', 'adapter_precision.py', 'adapter_weights.py', 'lora_config.py'}


def _without_docstrings(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            is_text = [isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) for child in node.body]
            node.body = [child for child, text in zip(node.body, is_text, strict=True) if not text] or [ast.Pass()]
    return ast.unparse(tree)
