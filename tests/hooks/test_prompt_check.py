"""Prompts and dataset classes must speak of the same things."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner


@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
def test_wrong_number_of_prompts_is_named(tiny_config: Path, phase: str) -> None:
    cfg = Config.fromfile(tiny_config)
    cfg.model.prompts = ['crack', 'rust stain']
    cfg.experiment_name = f'prompts_{phase}'
    with pytest.raises(ValueError, match=r"2 foreground classes \['crack', 'rust stain'\], the dataset has 1"):
        getattr(Runner.from_cfg(cfg), phase)()
