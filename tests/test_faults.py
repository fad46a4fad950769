"""Whatever ends a training, what was saved before is whole, the message says what to do, and --resume ends the same."""

import contextlib
import errno
import fnmatch
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOOLS, load_script
from processes import LIMIT, finish, run, start
from safetensors.torch import load_file

EPOCHS = 3
NOT_REPEATABLE = ('seconds', 'memory')


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the uninterrupted training's ``work_dir`` and its ``config.py``."""
    return tmp_path_factory.mktemp('whole')


@pytest.fixture
def config(tiny_config: Path, whole: Path, tmp_path: Path) -> Path:
    """Three epochs of three iterations, with dropout and random transforms; one of the loader's workers a process."""
    text = f"""
_base_ = {str(tiny_config)!r}
model = dict(lora=dict(lora_dropout=0.2))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs={EPOCHS})
"""
    path = tmp_path / 'faults.py'
    path.write_text(text)
    if not (whole / 'work_dir').exists():
        run('train', path, '--work-dir', whole / 'work_dir', log=whole / 'log')
    return path


def rows(work_dir: Path) -> list[dict[str, Any]]:
    """The history without what no two trainings share."""
    history = json.loads((work_dir / 'history.json').read_text())
    return [
        {key: value for key, value in row.items() if not any(word in key for word in NOT_REPEATABLE)} for row in history
    ]


def read_json(path: Path) -> dict[str, Any]:
    """PEFT writes sets as lists in any order."""
    return {key: sorted(v) if isinstance(v, list) else v for key, v in json.loads(path.read_text()).items()}


# In bytes, two saved adapters differ by the order of their metadata.
READERS: dict[str, Callable[[Path], Any]] = {'.png': Path.read_bytes, '.safetensors': load_file, '.json': read_json}


def outcome(work_dir: Path) -> dict[str, Any]:
    """What a training leaves, by name: checkpoints, adapters, predictions, history."""
    found: dict[str, Any] = {'history': rows(work_dir)}
    for path in sorted(work_dir.glob('*.pth')):
        checkpoint = torch.load(path)
        found[path.name] = {key: checkpoint.get(key) for key in ('state_dict', 'optimizer', 'param_schedulers')}
        found[path.name]['position'] = [checkpoint['meta'][key] for key in ('epoch', 'iter')]
        scores = checkpoint['message_hub']['runtime_info']
        found[path.name]['best'] = [scores.get('best_score'), Path(scores.get('best_ckpt', '')).name]
    for path in sorted([*work_dir.glob('predictions/**/*.png'), *work_dir.glob('adapters/*/*')]):
        found[str(path.relative_to(work_dir))] = READERS[path.suffix](path)
    found['last_checkpoint'] = Path((work_dir / 'last_checkpoint').read_text()).name
    return found


def assert_same(actual: Any, expected: Any, where: str = '') -> None:
    """Equal to the last bit, and in no more and no fewer files."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], f'{where}/{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(actual[index], value, f'{where}/{index}')
    else:
        assert actual == expected, where


def assert_saved_is_whole(work_dir: Path) -> None:
    """Every checkpoint and adapter under its final name can be read, and last_checkpoint names one of them."""
    for path in work_dir.glob('*.pth'):
        torch.load(path)
    for path in work_dir.glob('adapters/*/adapter_config.json'):
        json.loads(path.read_text())
    pointer = work_dir / 'last_checkpoint'
    if pointer.exists():
        assert Path(pointer.read_text()).is_file()


def resumes_to_the_same(config: Path, work_dir: Path, whole: Path, *options: str) -> str:
    assert_saved_is_whole(work_dir)
    printed = run('train', config, '--work-dir', work_dir, '--resume', *options, log=work_dir.with_suffix('.resumed'))
    assert_same(outcome(work_dir), outcome(whole / 'work_dir'))
    assert not [path for path in work_dir.rglob('.*') if path.name != '.training.lock']
    return printed


# ---- SIGKILL at chosen moments


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_when_moving(target: str, nth: int, after: bool) -> None:
    """Kill where an unfinished file is moved to its name: before that with half of it written, or right after."""
    replace, seen = Path.replace, []

    def deadly(self: Path, path: Path) -> Path:
        hit = fnmatch.fnmatch(str(path), target)
        seen.extend([path] * hit)
        if hit and len(seen) == nth and not after:
            self.write_bytes(self.read_bytes()[: self.stat().st_size // 2])
            _kill()
        moved = replace(self, path)
        if hit and len(seen) == nth:
            _kill()
        return moved

    Path.replace = deadly  # type: ignore[method-assign]


def _call_at(hook: str, method: str, nth: int, action: Callable[..., None], *arguments: Any) -> None:
    """Do something at the start of the nth call of a hook's method."""
    from mmseg.registry import HOOKS

    hook_class = HOOKS.get(hook)
    original, calls = getattr(hook_class, method), []

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == nth:
            action(*arguments)
        return original(self, *args, **kwargs)

    setattr(hook_class, method, called)


KILLS = [
    pytest.param(_call_at, ('IterTimerHook', 'after_train_iter', 5, _kill), id='in an iteration'),
    pytest.param(_call_at, ('IterTimerHook', 'after_val_iter', 5, _kill), id='in a validation'),
    pytest.param(_call_at, ('PredictionHook', 'after_val_epoch', 2, _kill), id='after the best checkpoint'),
    pytest.param(_call_at, ('AdapterCheckpointHook', 'after_train_epoch', 2, _kill), id='before the adapter'),
    pytest.param(_kill_when_moving, ('*/epoch_2.pth', 1, False), id='in a checkpoint'),
    pytest.param(_kill_when_moving, ('*/epoch_2.pth', 1, True), id='before last_checkpoint'),
    pytest.param(_kill_when_moving, ('*/last_checkpoint', 3, False), id='in last_checkpoint'),
    pytest.param(_kill_when_moving, ('*/best_*', 2, False), id='in the best checkpoint'),
    pytest.param(_kill_when_moving, ('*/best_*', 2, True), id='before the former best goes'),
    pytest.param(_kill_when_moving, ('*/epoch_2/adapter_model.safetensors', 1, False), id='in an adapter'),
    pytest.param(_kill_when_moving, ('*/epoch_2/adapter_config.json', 1, False), id='in an adapter config'),
    pytest.param(_kill_when_moving, ('*/history.json', 3, False), id='in a history row'),
    pytest.param(_kill_when_moving, ('*/epoch_2/*.png', 2, False), id='in a prediction'),
]
FAST_KILLS = ('in a validation', 'before the former best goes')


@pytest.mark.parametrize(
    ('prepare', 'how'),
    [p if p.id in FAST_KILLS else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in KILLS],
)
def test_killed(config: Path, whole: Path, tmp_path: Path, prepare: Callable[..., None], how: tuple) -> None:
    work_dir = tmp_path / 'broken'
    killed = start('train', config, '--work-dir', work_dir, log=tmp_path / 'log', prepare=prepare, prepare_with=how)
    finish(killed, tmp_path / 'log', -signal.SIGKILL)
    resumes_to_the_same(config, work_dir, whole)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_killed_at_ten_random_moments(config: Path, whole: Path, tmp_path: Path, workers: int) -> None:
    """Anywhere between the first log line and the end, in the same training again and again until ten have hit."""
    loader = tmp_path / 'loader.py'
    data = f'dict(num_workers={workers}, persistent_workers={workers > 0})'
    loader.write_text(f'_base_ = {str(config)!r}\ntrain_dataloader = {data}\nval_dataloader = {data}\n')
    began = time.monotonic()
    run('train', loader, '--work-dir', tmp_path / 'timed', log=tmp_path / 'timed.log')
    length = time.monotonic() - began
    moments = random.Random(workers)
    kills, resumed = 0, 0
    while kills < 10:
        work_dir = tmp_path / f'random_{resumed}'
        while True:
            log = tmp_path / f'log_{kills}'
            process = start('train', loader, '--work-dir', work_dir, '--resume', log=log)
            while process.is_alive() and not list(work_dir.glob('*/vis_data/config.py')):
                time.sleep(0.01)
            process.join(moments.uniform(0, length))
            if not process.is_alive():
                finish(process, log)
                break
            process.kill()
            process.join(LIMIT)
            kills += 1
            assert_saved_is_whole(work_dir)
        resumed += 1
        assert_same(outcome(work_dir), outcome(whole / 'work_dir'))


# ---- SIGTERM and Ctrl-C


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, -15, marks=pytest.mark.slow)]
)
def test_stopped_by_a_signal(config: Path, whole: Path, tmp_path: Path, number: int, code: int) -> None:
    work_dir = tmp_path / 'broken'
    log = tmp_path / 'log'
    process = start('train', config, '--work-dir', work_dir, log=log, prepare=_signal_self_at, prepare_with=(5, number))
    printed = finish(process, log, code)
    if number == signal.SIGINT:
        assert 'goes on from its last checkpoint with --resume' in printed and 'Traceback' not in printed
    resumes_to_the_same(config, work_dir, whole)


def _signal_self_at(iteration: int, number: int) -> None:
    _call_at('IterTimerHook', 'after_train_iter', iteration, lambda: os.kill(os.getpid(), number))
