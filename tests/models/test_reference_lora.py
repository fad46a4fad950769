"""The targets of the reference LoRA: written once in the package, and the same wherever they are written out."""

import re
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, ROOT, load_script
from mmengine.config import Config
from reference import LORA as PLAIN_LORA
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA, semantic_path
from crack_plugin.models.lora_config import REFERENCE_LORA


def test_once_in_the_package() -> None:
    targets = REFERENCE_LORA['target_modules']
    pattern = re.compile(r'\W+'.join(targets))
    files = [path for path in (ROOT / 'crack_plugin').rglob('*.py') if pattern.search(path.read_text())]
    assert files == [ROOT / 'crack_plugin' / 'models' / 'lora_config.py']
    assert len(pattern.findall(files[0].read_text())) == 1


def test_config_and_plain_references_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    assert Config.fromfile(CONFIGS / '_base_' / 'models' / 'sam3_text_lora.py').model.lora == REFERENCE_LORA
    assert load_script(ROOT / 'benchmarks' / 'steps.py').LORA == REFERENCE_LORA
    # Without dropout, so that losses can be compared step by step.
    assert PLAIN_LORA == {**REFERENCE_LORA, 'lora_dropout': 0.0, 'bias': 'none'}


@pytest.fixture(scope='module')
def reference_modules() -> set[str]:
    """Names of the modules of SAM 3 that the reference adapts."""
    with torch.device('meta'):
        model = Sam3Model(Sam3Config())
    return {name for name, _ in model.named_modules() if name.rpartition('.')[2] in REFERENCE_LORA['target_modules']}


@pytest.mark.parametrize(
    ('name', 'left_out'),
    [
        ('sam3_lora_crack_fast.py', r'(detr_decoder|geometry_encoder)\..*'),
        ('sam3_lora_crack_lowmem.py', r'(detr_decoder|geometry_encoder)\..*'),
        (
            'sam3_lora_crack_last8.py',
            r'(detr_decoder|geometry_encoder|text_encoder|vision_encoder\.backbone\.layers\.(1?\d|2[0-3]))\..*',
        ),
    ],
)
def test_configs_that_adapt_fewer_modules(name: str, left_out: str, reference_modules: set[str]) -> None:
    pattern = Config.fromfile(Path(CONFIGS, name)).model.lora.target_modules
    adapted = {module for module in reference_modules if re.fullmatch(pattern, module)}
    assert adapted
    assert reference_modules - adapted == {module for module in reference_modules if re.fullmatch(left_out, module)}


def test_configs_that_adapt_other_modules() -> None:
    """Every linear layer but those whose adapters would have no path to the output, and of the MLPs the same."""
    with torch.device('meta'):
        sam3 = Sam3Model(Sam3Config())
        lora = Config.fromfile(CONFIGS / 'sam3_lora_crack_all_linear.py').model.lora
        model = SAM3TextLoRA(base={}, lora=lora.to_dict())
    linear = {name for name, module in sam3.named_modules() if isinstance(module, torch.nn.Linear)}
    parts = tuple(f'{name}.' for name in semantic_path.unused_modules(sam3))
    alive = {name for name in linear if not f'{name}.'.startswith(parts)}
    keys = {key.removeprefix('sam3.base_model.model.') for key in model.state_dict()}
    assert {key.partition('.lora_')[0] for key in keys} == alive
    mlp = Config.fromfile(CONFIGS / 'sam3_lora_crack_mlp.py').model.lora.target_modules
    assert {name for name in linear if re.fullmatch(mlp, name)} == {
        name for name in alive if name.rpartition('.')[2] in ('fc1', 'fc2')
    }
