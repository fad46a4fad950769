"""What comes with a pushed adapter is data, and is checked before anything is built from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from crack_plugin.models import portable
from crack_plugin.models.portable import PortableError

MODEL = {'base': 'facebook/sam3', 'prompts': ['crack']}
CONTENT = {'format': 1, 'model': MODEL, 'classes': ['crack'], 'fp16': False}


def read(folder: Path, content: Any) -> Config:
    (folder / portable.FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return portable.read_config(folder)


@pytest.mark.parametrize(
    'name', ['sam3_lora_crack', 'sam3_lora_crack_tiles', 'sam3_lora_crack_fast', 'sam3_tiny_lora_crack']
)
def test_shipped_configs_survive(name: str, tmp_path: Path) -> None:
    """All that decides a prediction is as it was."""
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs' / f'{name}.py')
    base = 'facebook/sam3@v1'
    back = read(tmp_path, portable.describe(cfg, base))
    assert back.model.base == base and back.model.lora is None
    for key in ('prompts', 'threshold', 'image_size', 'dtype'):
        assert back.model.get(key) == cfg.model.get(key), key
    assert back.model.data_preprocessor == cfg.model.data_preprocessor
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in back.model.test_cfg.items()} == (
        cfg.model.test_cfg
    )
    assert back.test_dataloader.dataset.classes == ['crack']


@pytest.mark.parametrize(
    'model',
    [
        {'type': 'os.system'},
        {'adapter': 'somebody/else'},
        {'loss_decode': {'type': 'Anything'}},
        {'base': {'attn_implementation': 'somebody/kernel'}},
        {'base': '/etc'},
        {'base': 'sam3'},
        {'base': '../somewhere/else'},
        {'prompts': []},
        {'prompts': 'crack'},
        {'prompts': [1]},
        {'threshold': 'nan'},
        {'threshold': True},
        {'image_size': -14},
        {'dtype': 'object'},
        {'test_cfg': {'mode': 'slide', 'crop_size': ['a', 'b']}},
        {'test_cfg': {'mode': 'slide', 'function': 'os.system'}},
        {'data_preprocessor': {'type': 'Other'}},
        {'data_preprocessor': {'type': 'SegDataPreProcessor', 'batch_augments': [{'type': 'Other'}]}},
    ],
)
def test_what_does_not_belong_there_is_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(PortableError, match=f'{portable.FILE} (holds|cannot be used).*{next(iter(model))}'):
        read(tmp_path, {**CONTENT, 'model': {**MODEL, **model}})


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('{"format": 1', 'not valid JSON'),
        ('[' * 200_000, 'not valid JSON'),
        ('[]', "no object 'model'"),
        ({**CONTENT, 'format': 2}, 'update crack_plugin'),
        ({**CONTENT, 'custom_imports': ['os']}, 'holds custom_imports'),
        ({**CONTENT, 'model': {'base': 'facebook/sam3'}}, 'prompts=None is missing'),
        ({**CONTENT, 'classes': 1}, 'classes=1'),
        ({**CONTENT, 'fp16': 'no'}, "fp16='no'"),
        ({**CONTENT, 'model': {**MODEL, 'detail_head': {}}}, r'detail_head\.safetensors.*is not beside it'),
    ],
)
def test_damaged_files(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(PortableError, match=said):
        read(tmp_path, content)


def test_adapter_without_it(tmp_path: Path) -> None:
    (tmp_path / 'adapter_config.json').write_text('{}')
    with pytest.raises(PortableError, match=r'has an adapter, but no crack_plugin\.json'):
        portable.find(tmp_path)
