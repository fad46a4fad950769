"""What ``predict.json`` says of a model."""

from pathlib import Path

from conftest import CONFIGS
from mmengine.config import Config

from crack_plugin.prediction.settings import apply_options, prediction_settings, seen_as


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


def test_what_is_seen_at_once_is_told() -> None:
    whole = Config({'model': {}})
    windows = Config({'model': {'test_cfg': {'mode': 'slide', 'crop_size': (600, 800), 'stride': (400, 500)}}})
    assert seen_as(whole) == 'Photographs are seen whole. In windows: --slide CROP STRIDE.'
    assert '800 x 600 pixels is seen in windows of that size, one every 500 x 400' in seen_as(windows)
    assert 'scales' not in seen_as(windows)
    windows.model.test_cfg.scales = (1, 1.5)
    assert 'is seen at the scales 1, 1.5 (faster: ' in seen_as(windows)


def test_other_windows_leave_the_rest_as_it_is() -> None:
    cfg = Config({'model': {'test_cfg': {'mode': 'whole', 'scales': (1, 1.5)}}})
    apply_options(cfg, {}, merge=False, slide=(336, 224))
    expected = {'mode': 'slide', 'crop_size': (336, 336), 'stride': (224, 224), 'scales': (1, 1.5)}
    assert cfg.model.test_cfg.to_dict() == expected


def test_windows_that_are_not_used_do_not_count() -> None:
    cfg = Config.fromfile(CONFIGS / 'sam3_tiny_lora_crack.py')
    cfg.model.test_cfg.mode = 'whole'
    assert prediction_settings(cfg)['model.test_cfg'] == {'mode': 'whole'}
