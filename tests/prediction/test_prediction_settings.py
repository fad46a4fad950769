"""What ``predict.json`` says of a model."""

from pathlib import Path

from conftest import CONFIGS
from mmengine.config import Config

from crack_plugin.prediction.settings import prediction_settings


def test_every_file_of_an_adapter_counts(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    names = ['adapter_config.json', 'adapter_model.safetensors', 'detail_head.safetensors']
    for name in [*names, 'README.md']:
        (tmp_path / name).write_text(name)
    before = prediction_settings(cfg, adapter=str(tmp_path))['sha256']
    assert sorted(before) == names
    (tmp_path / names[-1]).write_text('trained on')
    after = prediction_settings(cfg, adapter=str(tmp_path))['sha256']
    assert {name for name in names if after[name] != before[name]} == {names[-1]}
