"""``predict.json``: the settings that all predictions in a folder were made with, so that two models never mix."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.models.adapters import HEAD_FILE
from crack_plugin.prediction.predictor import pipeline_of
from crack_plugin.prediction.sources import MASKS, OVERLAYS

SETTINGS = 'predict.json'


class OutputError(CrackPluginError, ValueError):
    """A folder whose present content does not go with the predictions that are to be written to it."""


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
