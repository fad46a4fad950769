"""``--cfg-options``: values as in a config file, and where they go."""

import argparse
from typing import Any

import pytest
from mmengine.config import Config

from crack_plugin.config_options import KeyValueAction, merge_options
from crack_plugin.errors import ToolError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction)
    return parser


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('thin crack', 'thin crack'),
        ("['thin crack', 'spalling']", ['thin crack', 'spalling']),
        ('[thin crack,spalling of concrete]', ['thin crack', 'spalling of concrete']),
        ('[(1, 2), (3, 4)]', [(1, 2), (3, 4)]),
        ('(1008,1008)', (1008, 1008)),
        ('1e-4', 1e-4),
        ('None', None),
        ('True', True),
        ('1,2', [1, 2]),
        ('[]', []),
        (r'(?!detr_decoder|neck).*\.(q_proj|v_proj)', r'(?!detr_decoder|neck).*\.(q_proj|v_proj)'),
        ("[crack's edge, spalling]", ["crack's edge", 'spalling']),
    ],
)
def test_overrides_keep_blanks_inside_values(value: str, expected: Any, parser: argparse.ArgumentParser) -> None:
    args = parser.parse_args(['--cfg-options', f'key={value}'])
    assert args.cfg_options == {'key': expected}


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ("{'crack': 'crack'}", {'crack': 'crack'}),
        (
            "{'Crack-fine': 'crack', 'scale bar': None, '0': 'crack'}",
            {'Crack-fine': 'crack', 'scale bar': None, '0': 'crack'},
        ),
        ('{Crack fine: crack, scale bar: None}', {'Crack fine': 'crack', 'scale bar': None}),
        ('{}', {}),
        (
            "[{'type':'ForegroundDiceLoss'},{'type':'CrossEntropyLoss','loss_weight':0.5}]",
            [{'type': 'ForegroundDiceLoss'}, {'type': 'CrossEntropyLoss', 'loss_weight': 0.5}],
        ),
        (
            "[dict(type='FocalLoss', gamma=2.0), dict(type='DiceLoss', use_sigmoid=False)]",
            [{'type': 'FocalLoss', 'gamma': 2.0}, {'type': 'DiceLoss', 'use_sigmoid': False}],
        ),
        (
            "{'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341), 'batch': 2}",
            {'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341), 'batch': 2},
        ),
        (
            '{"type": "CrossEntropyLoss", "use_sigmoid": true, "class_weight": [1, -2.5], "x": null}',
            {'type': 'CrossEntropyLoss', 'use_sigmoid': True, 'class_weight': [1, -2.5], 'x': None},
        ),
        ("['a, b', 'c']", ['a, b', 'c']),
        ("['1', 2]", ['1', 2]),
        ("[('a',), ['b: c', {}]]", [('a',), ['b: c', {}]]),
        (
            r"{'target_modules': r'.*\.(2[4-9]|3[01])\.q_proj', 'r': 8}",
            {'target_modules': r'.*\.(2[4-9]|3[01])\.q_proj', 'r': 8},
        ),
        (r'{target_modules: .*\.(q_proj|v_proj), r: 8}', {'target_modules': r'.*\.(q_proj|v_proj)', 'r': 8}),
        (r"{'it\'s': 1}", {"it's": 1}),
        ("{0: 'crack', 1: None}", {0: 'crack', 1: None}),
    ],
)
def test_overrides_hold_dicts_and_quoted_texts(value: str, expected: Any, parser: argparse.ArgumentParser) -> None:
    args = parser.parse_args(['--cfg-options', f'key={value}', 'other=1'])
    assert args.cfg_options == {'key': expected, 'other': 1}
    assert repr(args.cfg_options['key']) == repr(expected)  # 1 is not True, nor a list a tuple


@pytest.mark.parametrize(
    ('value', 'reason'),
    [
        ("{'crack': 'crack'", "'}' is missing"),
        ("{'crack'}", "':' and a value are missing after 'crack'"),
        ("{'crack': }", 'a value is missing'),
        ("{'crack: crack}", 'the quote of'),
        ("{'a': 1} b", "'b' follows where the value ends"),
        ("['a' 'b']", "a comma or ']' is missing before"),
        ('[a, (b]', 'a bracket is not closed'),
        ('{crack:', 'it ends too early'),
    ],
)
def test_override_that_cannot_be_read_is_one_line(value, reason, parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['--cfg-options', 'a=1', f'b.c={value}'])
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'b.c={value}'[:8] in error and reason in error and 'double quotes' in error


def merged(content: dict, **options) -> dict:
    cfg = Config(content)
    merge_options(cfg, {key.replace('__', '.'): value for key, value in options.items()})
    return cfg.to_dict()


def test_dict_override_is_merged_or_takes_the_place_of_what_is_none():
    assert merged({'m': {'a': {'x': 1}}}, m__a={'y': 2}) == {'m': {'a': {'x': 1, 'y': 2}}}
    for present in (None, 5, [{'type': 'A'}, {'type': 'B'}]):
        assert merged({'m': {'a': present}}, m__a={'type': 'C'}) == {'m': {'a': {'type': 'C'}}}
    assert merged({'m': {}}, m__a={'type': 'C'}) == {'m': {'a': {'type': 'C'}}}
    assert merged({'m': {'a': {'x': 1}}}, m__a={0: 'crack'}) == {'m': {'a': {'x': 1, 0: 'crack'}}}
    assert merged({'m': [{'x': 1}]}, m__0={'y': 2}) == {'m': [{'x': 1, 'y': 2}]}
    assert merged({'m': {'a': {'x': 1}}}, m__a=None) == {'m': {'a': None}}


@pytest.mark.parametrize('key', ['m.a.type', 'm.b.7.x', 'm.b.x', 'm.c.x'])
def test_override_without_a_place_is_named(key):
    content = {'m': {'a': None, 'b': [{'x': 1}], 'c': 5}}
    with pytest.raises(ToolError, match=f'--cfg-options {key}: the config has no place'):
        merge_options(Config(content), {'m.d': 1, key: 'B'})
