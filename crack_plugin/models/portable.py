"""``crack_plugin.json``: what a prediction needs beside an adapter, as data that nothing runs.

MMEngine's configs are Python code, and what comes from a repository of somebody else must not be run. A pushed adapter
therefore carries this file, whose entries are checked one by one, and from which the config of a predictor is built.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin import hub
from crack_plugin.errors import CrackPluginError
from crack_plugin.models import adapters
from crack_plugin.models.base import PREPROCESSOR
from crack_plugin.models.base_files import EMBEDDED
from crack_plugin.models.detail_head import MAX_LEVELS, SIZES
from crack_plugin.models.sam3_text_lora import SAM3TextLoRA

FILE = 'crack_plugin.json'
FORMAT = 1
_READERS = {'LoadImageFromFile', 'InferencerLoader'}
_LABELS = {'LoadAnnotations', 'LoadYOLOPolygons', 'PackSegInputs'}
"""Steps of a pipeline that change no image."""


class PortableError(CrackPluginError, ValueError):
    """A model cannot be described as data, or a description cannot be used; the message names it."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100_000


def _are(check: Callable[[Any], bool], count: int | None = None) -> Callable[[Any], bool]:
    """A check of lists: not empty, or of ``count`` values."""
    return lambda value: (
        isinstance(value, (list, tuple)) and len(value) == (count or len(value) or 1) and all(map(check, value))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 500


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_public_base(value: Any) -> bool:
    """Whether ``value`` names a base on every machine: a hub id with its owner, or the embedded one."""
    on_hub = hub.split_revision(value) if isinstance(value, str) else None
    return value == EMBEDDED or (on_hub is not None and '/' in on_hub[0])


_PREPROCESSOR: dict[str, Callable[[Any], bool]] = {
    'type': lambda value: value == PREPROCESSOR['type'],
    'mean': _are(_is_number, 3),
    'std': _are(_is_number, 3),
    'bgr_to_rgb': _is_bool,
    'rgb_to_bgr': _is_bool,
    'size': _are(_is_size, 2),
    'size_divisor': _is_size,
    'pad_val': _is_number,
    'seg_pad_val': _is_number,
}
_TEST_CFG: dict[str, Callable[[Any], bool]] = {
    'mode': lambda value: value in ('whole', 'slide'),
    'crop_size': _are(_is_size, 2),
    'stride': _are(_is_size, 2),
    'batch': _is_size,
    'scales': _are(lambda value: _is_number(value) and value >= 1),
}


_DETAIL_HEAD: dict[str, Callable[[Any], bool]] = {
    'channels': _is_size,
    'size': lambda value: value in SIZES,
    'max_pixels': lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    'levels': lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LEVELS,
}


def _is_object(entries: Mapping[str, Callable[[Any], bool]], needed: str | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and (needed is None or needed in value)
        and all(name in entries and (each is None or entries[name](each)) for name, each in value.items())
    )


_MODEL: dict[str, Callable[[Any], bool]] = {
    'base': is_public_base,
    'prompts': _are(_is_text),
    'threshold': lambda value: _is_number(value) and 0 < value < 1,
    'image_size': _is_size,
    'dtype': lambda value: value in ('bfloat16', 'float16'),
    'data_preprocessor': _is_object(_PREPROCESSOR, 'type'),
    'test_cfg': _is_object(_TEST_CFG, 'mode'),
    'detail_head': _is_object(_DETAIL_HEAD),
}
"""Arguments of ``SAM3TextLoRA`` that a prediction depends on, beside the adapter."""


def describe(cfg: Config, base: str) -> dict[str, Any]:
    """What :func:`read_config` builds a predictor's config from.

    Args:
        cfg: Config of a training of ``SAM3TextLoRA``.
        base: Name of its base on every machine.

    Raises:
        PortableError: The config has what this form does not hold: another preprocessor, or steps in the test pipeline
            that change images.
    """
    for step in cfg.test_dataloader.dataset.get('pipeline') or cfg.test_pipeline:
        changes = step.type in _READERS and len(step) > 1
        if changes or step.type not in _READERS | _LABELS:
            raise PortableError(
                f'the test pipeline has the step {dict(step)}, which a pushed model cannot carry: it would have to be '
                'built from what strangers wrote. Leave it out of test_pipeline (the model resizes images itself).'
            )
    model = {name: _plain(cfg.model[name]) for name in _MODEL if cfg.model.get(name) is not None} | {'base': base}
    if 'detail_head' in model:
        model['detail_head'].pop('weights', None)  # what is pushed has weights of its own
    model.setdefault('prompts', ['crack'])
    classes = list(cfg.test_dataloader.dataset.get('classes') or model['prompts'])
    description = {
        'format': FORMAT,
        'model': model,
        'classes': classes,
        'fp16': bool((cfg.get('test_cfg') or {}).get('fp16', False)),
    }
    _check(description, 'the config')
    return description


def find(repo: str | Path, revision: str | None = None) -> Path:
    """Find what ``tools/push_to_hub.py`` wrote, in a folder or on the hub.

    Args:
        repo: Hub id (``owner/name``, ``owner/name@revision``), or a folder.
        revision: Branch, tag or commit, if ``repo`` does not name one.

    Returns:
        A folder with the adapter and :data:`FILE`.

    Raises:
        AdapterError: There is no adapter, or the hub refused.
        PortableError: There is an adapter alone.
    """
    given = str(repo) if revision is None else f'{repo}@{revision}'
    folder = adapters.fetch(given)
    if not (folder / FILE).is_file() and not Path(given).expanduser().is_dir():
        on_hub = hub.split_revision(given)
        assert on_hub is not None
        try:
            # The commit that the adapter is from, whatever has been pushed since.
            hub.download(given, on_hub[0], folder.name, [FILE], argument='adapter')
        except hub.HubError as error:
            raise PortableError(str(error)) from error
    if not (folder / FILE).is_file():
        raise PortableError(
            f'{given} has an adapter, but no {FILE}, which says how to predict with it: tools/push_to_hub.py did not '
            "write it. Name a config as well: --config in tools/predict.py, Predictor(config, adapter='...') in Python."
        )
    return folder


def read_config(folder: Path) -> Config:
    """A config of a predictor from :data:`FILE` in ``folder``; nothing in the file is run.

    Raises:
        PortableError: The file is damaged, of a newer version, or holds what does not belong in it; or it has a detail
            head, whose weights are missing.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise PortableError(f'{path} is damaged or cut short: it is not valid JSON ({error}).') from error
    _check(content, str(path))
    if 'detail_head' in content['model'] and not (folder / adapters.HEAD_FILE).is_file():
        raise PortableError(
            f'{path} has a detail head, and {adapters.HEAD_FILE}, which holds its weights, is not beside it. Copy the '
            'folder again, or push the training again.'
        )
    steps = [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]
    return Config(
        {
            # The adapter has its own structure.
            'model': {**content['model'], 'type': SAM3TextLoRA.__name__, 'lora': None},
            'test_pipeline': steps,
            'test_dataloader': {'dataset': {'classes': content['classes'], 'pipeline': steps}},
            'test_cfg': {'fp16': content['fp16']},
        }
    )


def _check(content: Any, source: str) -> None:
    """Refuse a description that has more or other entries than :func:`describe` writes."""
    if not isinstance(content, dict) or not isinstance(content.get('model'), dict):
        raise PortableError(f"{source} is no description of a model: it has no object 'model'.")
    if content.get('format') != FORMAT:
        raise PortableError(
            f'{source} has format {content.get("format")!r}, and this version reads {FORMAT}: update crack_plugin.'
        )
    top = {'format', 'model', 'classes', 'fp16'}
    unknown = sorted(map(str, (content.keys() - top) | (content['model'].keys() - _MODEL.keys())))
    if unknown:
        raise PortableError(
            f'{source} holds {", ".join(unknown)}, which a description of a model does not have: it holds '
            f'{", ".join(_MODEL)}. Nothing of it was used.'
        )
    sound = {name: check(content['model'].get(name)) for name, check in _MODEL.items() if name in content['model']}
    sound |= {name: name in content['model'] for name in ('base', 'prompts') if name not in content['model']}
    sound['classes'] = _are(_is_text)(content.get('classes'))
    sound['fp16'] = _is_bool(content.get('fp16'))
    wrong = [name for name, is_sound in sound.items() if not is_sound]
    if wrong:
        values = ', '.join(f'{name}={content.get(name, content["model"].get(name))!r}' for name in wrong)
        raise PortableError(f'{source} cannot be used: {values} is missing or not as it has to be.')


def _plain(value: Any) -> Any:
    """A value of a config as JSON has it: lists for tuples, and no entries that are None."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items() if each is not None}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
