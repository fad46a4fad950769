"""``predict.json``: the settings that all predictions in a folder were made with, so that two models never mix."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.models.adapters import HEAD_FILE
from crack_plugin.prediction.predictor import has_prompts, pipeline_of
from crack_plugin.prediction.sources import MASKS, OVERLAYS

SETTINGS = 'predict.json'


class OutputError(CrackPluginError, ValueError):
    """A folder whose present content does not go with the predictions that are to be written to it."""


class OptionError(CrackPluginError, ValueError):
    """Options that do not go with the model, or make no sense."""


def apply_options(cfg: Config, given: Mapping[str, Any], merge: bool, slide: Sequence[int] | None) -> None:
    """Let options of a command line replace what the config says of its model.

    Args:
        cfg: Is changed.
        given: 'prompts', 'threshold' and 'adapter'; None for what was not given.
        merge: Whether adapters are to be merged.
        slide: Side of a window and stride, in pixels; None for none.

    Raises:
        OptionError: They do not go with the model, or leave pixels out.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if (given or merge) and not has_prompts(cfg):
        raise OptionError(
            f'--prompt, --threshold, --adapter and --merge are for SAM3TextLoRA; {cfg.filename} has {cfg.model.type}'
        )
    if merge and 'adapter' not in given and cfg.model.get('adapter') is None and cfg.model.get('lora', 1) is None:
        raise OptionError(f'--merge: the model of {cfg.filename} has no adapters (lora=None). Leave --merge out.')
    cfg.model.update(given)
    if slide:
        crop, stride = slide
        if not 0 < stride <= crop:
            raise OptionError(f'--slide {crop} {stride}: wanted are 0 < STRIDE <= CROP, or pixels are left out')
        windows = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
        cfg.model.test_cfg = {**(cfg.model.get('test_cfg') or {}), **windows}


def seen_as(cfg: Config) -> str:
    """Tells how much of a photograph the model sees at once, and what changes that."""
    windows = cfg.model.get('test_cfg') or {}
    if windows.get('mode') != 'slide':
        return 'Photographs are seen whole. In windows: --slide CROP STRIDE.'
    (height, width), (down, right) = windows['crop_size'], windows['stride']
    scales = windows.get('scales')
    magnified = ''
    if scales:
        listed = ', '.join(f'{scale:g}' for scale in scales)
        magnified = (
            f'Each window, and each smaller photograph, is seen at the scales {listed} (faster: --cfg-options '
            'model.test_cfg.scales=[1]). '
        )
    return (
        f'What is larger than {width} x {height} pixels is seen in windows of that size, one every {right} x {down}. '
        f'{magnified}Whole: --cfg-options model.test_cfg.mode=whole.'
    )


def prediction_settings(
    cfg: Config, checkpoint: str | None = None, adapter: str | None = None, merge: bool = False
) -> dict[str, Any]:
    """All that a prediction depends on, as JSON has it.

    Args:
        cfg: Config with prompts and threshold as they are predicted with.
        checkpoint: Checkpoint file.
        adapter: PEFT adapter folder.
        merge: Whether adapters on weights in low precision are merged.
    """
    weights = [checkpoint] if checkpoint else []
    if adapter:
        weights = [str(path) for name in ('adapter_*', HEAD_FILE) for path in sorted(Path(adapter).glob(name))]
    hashes = {}
    for name in weights:
        with Path(name).open('rb') as file:
            hashes[Path(name).name] = hashlib.file_digest(file, 'sha256').hexdigest()
    model = {f'model.{key}': value for key, value in cfg.model.to_dict().items() if key != 'adapter'}
    windows = model.get('model.test_cfg') or {}
    if windows.get('mode') == 'whole':
        # Of windows that a config inherits nothing counts then.
        model['model.test_cfg'] = {'mode': 'whole'}
    settings = {**model, 'pipeline': pipeline_of(cfg), 'sha256': hashes}
    if merge:
        settings['merge'] = True
    return json.loads(json.dumps(settings, default=str))


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix predictions of different models, and to overwrite files that are no predictions.

    Raises:
        OutputError: ``out`` holds such.
    """
    file = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise OutputError(f'{out} is no folder. Take another --out.')
    if not file.is_file():
        for folder in (out / MASKS, out / OVERLAYS):
            if folder.is_dir() and any(folder.iterdir()):
                raise OutputError(
                    f'{folder} holds files that no prediction wrote. Take another --out, or pass --overwrite.'
                )
        return
    try:
        former = dict(json.loads(file.read_text(encoding='utf-8')))
    except (TypeError, ValueError) as error:
        raise OutputError(
            f'{file} is not as it was written. Restore it, take another --out, or pass --overwrite to predict '
            'everything again.'
        ) from error
    differing = [key for key in {**former, **settings} if former.get(key) != settings.get(key)]
    if differing:
        raise OutputError(
            f'{out} holds predictions made with other settings ({", ".join(differing)}). Take another --out, or pass '
            '--overwrite to predict everything again.'
        )


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write predict.json to a folder, which is made if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / SETTINGS, json.dumps(settings, indent=2).encode())
