"""A config for others: whole, but for folders and accounts."""

from typing import Any

import pytest
from conftest import CONFIGS
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from crack_plugin.sharing.public_config import public_config

BASE = 'facebook/sam3'


def test_transforms_can_be_built() -> None:
    """Some insist on tuples."""
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack_tiles.py')
    cfg.auto_scale_lr = {'enable': True, 'base_batch_size': 16}
    shown = Config.fromstring(public_config(cfg, BASE).pretty_text, '.py')
    assert shown.auto_scale_lr == cfg.auto_scale_lr
    for name in ('train_pipeline', 'test_pipeline', 'tta_pipeline'):
        assert shown[name] == cfg[name]
        for step in shown[name]:
            TRANSFORMS.build(step)


def test_secrets_and_folders() -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    private = {
        'token': 'a1',
        'hf_token': 'a2',
        'API_KEY': 'a3',
        'db_password': 'a4',
        'credentials': {'id': 'a5'},
        'url': 'https://user:a6@example.org/x',
    }
    kept = {
        'with_cls_token': True,
        'token_size': 3,
        'url': 'https://example.org/x',
        'data': 'images/train',
        'side': (1,),
    }
    paths = {'a': 'C:/photos/alice/x.png', 'b': r'C:\photos\alice\x.png', 'c': '/home/alice/x.png', 'd': '~/x.png'}
    cfg.custom_hooks = [{'type': 'MyHook', **private}, {'type': 'MyHook', **kept}, {'type': 'MyHook', **paths}]
    hooks = public_config(cfg, BASE).to_dict()['custom_hooks']
    names = dict.fromkeys(paths, 'x.png')
    assert hooks == [{'type': 'MyHook'}, {'type': 'MyHook', **kept}, {'type': 'MyHook', **names}]


@pytest.mark.parametrize(
    ('adapter', 'stays'), [('owner/cracks@v1', True), ('owner/cracks', False), ('/data/adapters/best', False)]
)
def test_first_adapter(adapter: Any, stays: bool) -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    cfg.model.adapter = adapter
    assert public_config(cfg, BASE).model.get('adapter') == (adapter if stays else None)
