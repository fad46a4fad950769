"""tools/pretrain_tiny.py: pictures, training in parts, and a folder that plain Transformers reads."""

import subprocess
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, ROOT, load_script
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from transformers import Sam3Model

TOOL = load_script(ROOT / 'tools' / 'pretrain_tiny.py')


def test_prompts_are_the_classes_that_are_drawn() -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_tiny_pretrain.py')
    assert tuple(cfg.model.prompts) == TOOL.CLASSES
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.classes) == TOOL.CLASSES


@pytest.mark.slow
def test_a_part_ends_in_time_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ['--data', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work')]
    command = [
        str(tmp_path / 'base'),
        *places,
        '--pictures',
        '4',
        '--epochs',
        '1',
        '--head-pictures',
        '4',
        '--workers',
        '1',
    ]
    wait = subprocess.Popen.wait
    limits = iter([0.5])
    # A minute would be long.
    monkeypatch.setattr(subprocess.Popen, 'wait', lambda self, timeout=None: wait(self, next(limits, None)))
    TOOL.main([*command, '--minutes', '1'])
    assert not (tmp_path / 'base').exists() and len(list((tmp_path / 'data' / 'train' / 'images').iterdir())) == 4
    TOOL.main(command)
    model = Sam3Model.from_pretrained(tmp_path / 'base')
    assert (tmp_path / 'base' / 'detail_head.safetensors').is_file()
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6


def test_average_keeps_a_share_of_the_former_weights(tmp_path: Path) -> None:
    save_file({'a': torch.tensor([1.0, 2.0])}, tmp_path / 'new.safetensors')
    save_file({'a': torch.tensor([3.0, -2.0], dtype=torch.float16)}, tmp_path / 'old.safetensors')
    TOOL.average(tmp_path / 'new.safetensors', tmp_path / 'old.safetensors', 0.25)
    assert load_file(tmp_path / 'new.safetensors')['a'].tolist() == [1.5, 1.0]


def test_a_share_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        TOOL.main([str(tmp_path / 'base'), '--keep', '0.5'])
    assert 'of the weights of --start' in capsys.readouterr().err
