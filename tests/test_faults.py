"""Whatever ends a training, what was saved before is whole, the message says what to do, and --resume ends the same."""

import contextlib
import errno
import fnmatch
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RANDOM_PIPELINE, ROOT, TOOLS, load_script
from mmengine.config import Config
from mmengine.runner import Runner
from processes import LIMIT, finish, run, start
from safetensors.torch import load_file

from crack_plugin.hooks.work_dir_lock import WorkDirInUseError, WorkDirLockHook
from crack_plugin.models import SAM3TextLoRA

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
# Cross-entropy, which gets better with every epoch even on a random model, so that one best replaces another
loss = dict(_delete_=True, type='CrossEntropyLoss')
model = dict(lora=dict(lora_dropout=0.2), loss_decode=loss)
val_evaluator = dict(loss_decode=loss)
default_hooks = dict(checkpoint=dict(save_best='val_loss', rule='less'))
train_dataloader = dict(dataset=dict(pipeline={RANDOM_PIPELINE!r}))
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
FAST_KILLS = ('in a validation',)


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
    """Anywhere in the training, which goes on and is killed again; ten times, and until one was in a validation."""
    loader = tmp_path / 'loader.py'
    data = f'dict(num_workers={workers}, persistent_workers={workers > 0})'
    loader.write_text(f'_base_ = {str(config)!r}\ntrain_dataloader = {data}\nval_dataloader = {data}\n')
    began = time.monotonic()
    run('train', loader, '--work-dir', tmp_path / 'timed', log=tmp_path / 'timed.log')
    length = time.monotonic() - began
    moments = random.Random(workers)
    kills, in_validation, resumed = 0, 0, 0
    while kills < 10 or not in_validation:
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
            history = work_dir / 'history.json'
            in_validation += history.exists() and 'val_seconds' not in json.loads(history.read_text())[-1]
            assert_saved_is_whole(work_dir)
        resumed += 1
        assert_same(outcome(work_dir), outcome(whole / 'work_dir'))


# ---- SIGTERM and Ctrl-C


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, -15)], ids=['SIGINT', 'SIGTERM'])
def test_stopped_by_a_signal(config: Path, whole: Path, tmp_path: Path, number: int, code: int) -> None:
    work_dir = tmp_path / 'broken'
    log = tmp_path / 'log'
    process = start('train', config, '--work-dir', work_dir, log=log, prepare=_signal_self_at, prepare_with=(5, number))
    printed = finish(process, log, code)
    if number == signal.SIGINT:
        assert 'a training goes on with --resume' in printed and 'Traceback' not in printed
    resumes_to_the_same(config, work_dir, whole)


def _signal_self_at(iteration: int, number: int) -> None:
    _call_at('IterTimerHook', 'after_train_iter', iteration, lambda: os.kill(os.getpid(), number))


# ---- no room on the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', folder], capture_output=True).returncode:
        pytest.skip('may not mount')
    yield folder
    subprocess.run(['umount', folder], check=True)


def _fill(disk: Path, room: int) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / 'filler').write_bytes(bytes(max(free - room, 0)))


def _fill_at(hook: str, method: str, nth: int, disk: Path, room: int) -> None:
    _call_at(hook, method, nth, _fill, disk, room)


FULL = [
    # The room that is left: for what is written before, and not for this.
    pytest.param('history.json', ('HistoryHook', 'after_train_epoch', 2), 0, id='for the history'),
    pytest.param('epoch_2.pth', ('AtomicCheckpointHook', 'after_train_epoch', 2), 40_000, id='for a checkpoint'),
    pytest.param('best_', ('AtomicCheckpointHook', 'after_val_epoch', 2), 0, id='for the best checkpoint'),
    pytest.param('adapters/epoch_2', ('AdapterCheckpointHook', 'after_train_epoch', 2), 0, id='for an adapter'),
    pytest.param('predictions/epoch_2', ('PredictionHook', 'before_val_epoch', 2), 0, id='for a prediction'),
]


@pytest.mark.slow
@pytest.mark.parametrize(('file', 'when', 'room'), FULL)
def test_no_room(
    config: Path, whole: Path, small_disk: Path, tmp_path: Path, file: str, when: tuple, room: int
) -> None:
    work_dir, log = small_disk / 'work', tmp_path / 'log'
    how = (*when, small_disk, room)
    printed = run('train', config, '--work-dir', work_dir, log=log, code=1, prepare=_fill_at, prepare_with=how)
    said = printed.splitlines()[-1]
    assert f'{work_dir}/{file}' in said and 'No space left on device' in said and '--resume' in said
    (small_disk / 'filler').unlink()
    resumes_to_the_same(config, work_dir, whole)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _limit_files_at(hook: str, method: str, nth: int, size: int) -> None:
    _call_at(hook, method, nth, _limit_files, size)


@pytest.mark.slow
def test_checkpoint_larger_than_a_file_may_be(config: Path, whole: Path, tmp_path: Path) -> None:
    """As by `ulimit -f`, or a quota: without the right to mount, the same as a full disk."""
    work_dir, log = tmp_path / 'broken', tmp_path / 'log'
    how = ('AtomicCheckpointHook', 'after_train_epoch', 2, 50_000)
    printed = run('train', config, '--work-dir', work_dir, log=log, code=1, prepare=_limit_files_at, prepare_with=how)
    assert f'{work_dir}/epoch_2.pth could not be written: File too large' in printed.splitlines()[-1]
    resumes_to_the_same(config, work_dir, whole)


def test_log_on_a_full_disk(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by mmengine: what it says reaches the user through the tool."""

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'scalars.json')

    monkeypatch.setattr('mmengine.visualization.LocalVisBackend.add_scalars', full)
    said = command('train', '--cfg-options', 'default_hooks.logger.interval=1')
    assert 'could not be written: No space left on device (scalars.json)' in said


# ---- work dirs that cannot be used


@pytest.fixture
def command(tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A tool in this process, on the tiny config, that ends with an error; returns what it says."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def call(tool: str, *arguments: str | Path, config: Path = tiny_config) -> str:
        with pytest.raises(SystemExit) as end:
            getattr(load_script(TOOLS / f'{tool}.py'), tool)([str(config), *map(str, arguments)])
        assert end.value.code == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(Path(sys.argv[0]).name)
        return said

    return call


@pytest.mark.parametrize('tool', ['train', 'test'])
@pytest.mark.parametrize('place', ['below a file', 'read-only', '/proc'])
def test_work_dir_that_cannot_be_written(command: Callable[..., str], tmp_path: Path, tool: str, place: str) -> None:
    work_dir = Path('/proc/work_dir')
    with contextlib.ExitStack() as undo:
        if place == 'below a file':
            (tmp_path / 'file').write_text('')
            work_dir = tmp_path / 'file' / 'work_dir'
        elif place == 'read-only':
            work_dir = tmp_path / 'read_only'
            work_dir.mkdir()
            work_dir.chmod(0o555)
            # root writes where it may not
            if os.access(work_dir, os.W_OK):
                mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'none', work_dir]
                if subprocess.run(mount, capture_output=True).returncode:
                    pytest.skip('may not mount')
                undo.callback(subprocess.run, ['umount', work_dir], check=True)
        said = command(tool, '--work-dir', work_dir)
    assert f'the work dir {work_dir} cannot be written' in said and '--work-dir' in said


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.05)


def _wait_at(hook: str, method: str, nth: int, file: Path) -> None:
    _call_at(hook, method, nth, _wait_for, file)


@pytest.mark.slow
def test_two_trainings_in_one_work_dir(config: Path, whole: Path, tmp_path: Path) -> None:
    work_dir, log = tmp_path / 'shared', tmp_path / 'log'
    how = ('IterTimerHook', 'after_train_iter', 5, tmp_path / 'never')
    first = start('train', config, '--work-dir', work_dir, log=log, prepare=_wait_at, prepare_with=how)
    while not (work_dir / 'epoch_1.pth').exists():
        assert first.is_alive(), log.read_text()
        time.sleep(0.05)
    printed = run('train', config, '--work-dir', work_dir, log=tmp_path / 'second', code=1)
    said = printed.splitlines()[-1]
    assert f'another training is writing into {work_dir}: process {first.pid} on ' in said and '--work-dir' in said
    # Killed, it holds the folder no longer, though its last words are still there.
    first.kill()
    first.join()
    resumes_to_the_same(config, work_dir, whole)


def test_lock_is_held_against_other_processes_alone(tiny_config: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(tiny_config)
    runner = Runner.from_cfg(cfg)
    lock = Path(cfg.work_dir, '.training.lock')
    lock.parent.mkdir(exist_ok=True)
    hold = (
        f'import fcntl, time; f = open({str(lock)!r}, "w"); f.write("held"); f.flush(); fcntl.lockf(f, fcntl.LOCK_EX)'
    )
    holder = subprocess.Popen([sys.executable, '-c', f'{hold}; print(flush=True); time.sleep(60)'], stdout=-1)
    assert holder.stdout is not None and holder.stdout.readline()
    first, second = WorkDirLockHook(), WorkDirLockHook()
    with pytest.raises(WorkDirInUseError, match=r'another training is writing into .*: held\. Wait for it'):
        first.before_train(runner)
    holder.kill()
    holder.wait()
    leftover = lock.parent / '.epoch_1.pth-abc.unfinished'
    leftover.write_text('')
    first.before_train(runner)
    assert f'process {os.getpid()} on ' in lock.read_text() and not leftover.exists()
    second.before_train(runner)


# ---- checkpoints that cannot be resumed from


@pytest.fixture
def trained(whole: Path, config: Path, tmp_path: Path) -> Path:
    """A copy of the uninterrupted training's folder."""
    work_dir = tmp_path / 'trained'
    shutil.copytree(whole / 'work_dir', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_3.pth'))
    return work_dir


def cut_short(work_dir: Path) -> None:
    path = work_dir / 'epoch_3.pth'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(work_dir: Path) -> None:
    (work_dir / 'epoch_3.pth').write_bytes(b'')


def overwritten(work_dir: Path) -> None:
    (work_dir / 'epoch_3.pth').write_text('<html>404</html>')


def deleted(work_dir: Path) -> None:
    (work_dir / 'epoch_3.pth').unlink()


@pytest.mark.parametrize('damage', [cut_short, emptied, overwritten, deleted])
def test_damaged_checkpoint_names_the_one_before(
    config: Path, command: Callable[..., str], trained: Path, damage: Callable[..., None]
) -> None:
    damage(trained)
    said = command('train', '--resume', '--work-dir', trained, config=config)
    assert f'checkpoint {trained}/epoch_3.pth' in said
    assert f'--resume --cfg-options load_from={trained}/epoch_2.pth' in said


@pytest.mark.slow
def test_the_one_before_leads_to_the_same_end(config: Path, trained: Path, whole: Path) -> None:
    cut_short(trained)
    options = ['--cfg-options', f'load_from={trained}/epoch_2.pth']
    run('train', config, '--work-dir', trained, '--resume', *options, log=trained.with_suffix('.log'))
    assert_same(outcome(trained), outcome(whole / 'work_dir'))


def test_damaged_checkpoint_is_not_tested(config: Path, command: Callable[..., str], trained: Path) -> None:
    cut_short(trained)
    assert 'is damaged, cut short' in command('test', trained / 'epoch_3.pth', config=config)


@pytest.mark.parametrize('content', ['', None], ids=['empty', 'deleted'])
def test_lost_last_checkpoint(config: Path, command: Callable[..., str], trained: Path, content: str | None) -> None:
    """Stock MMEngine would start from scratch, over the checkpoints."""
    before = outcome(trained)
    pointer = trained / 'last_checkpoint'
    pointer.unlink()
    if content is not None:
        pointer.write_text(content)
    said = command('train', '--resume', '--work-dir', trained, config=config)
    assert '--resume --cfg-options load_from=' in said and 'last_checkpoint' in said
    pointer.write_text(str(trained / 'epoch_3.pth'))
    assert_same(outcome(trained), before)


@pytest.mark.slow
def test_resume_in_an_empty_work_dir_starts(config: Path, whole: Path, tmp_path: Path) -> None:
    """As jobs that are put back into a queue count on."""
    run('train', config, '--resume', '--work-dir', tmp_path / 'new', log=tmp_path / 'log')
    assert_same(outcome(tmp_path / 'new'), outcome(whole / 'work_dir'))


@pytest.mark.slow
def test_history_cut_short(config: Path, trained: Path, whole: Path) -> None:
    history, text = trained / 'history.json', (trained / 'history.json').read_text()
    history.write_text(text[: len(text) // 2])
    options = ['--cfg-options', f'load_from={trained}/epoch_2.pth']
    printed = run('train', config, '--resume', '--work-dir', trained, *options, log=trained.with_suffix('.log'), code=1)
    assert f'{history} is no history' in printed.splitlines()[-1]
    history.write_text(text)
    resumes_to_the_same(config, trained, whole)


# ---- memory and data


@pytest.mark.parametrize('step', ['train_step', 'val_step'])
def test_out_of_gpu_memory(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError(
            'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1 is free.'
        )

    monkeypatch.setattr(SAM3TextLoRA, step, full)
    said = command('train')
    assert 'CUDA out of memory' in said and 'configs/sam3_lora_crack_lowmem.py' in said
    assert 'model.image_size=672' in said and '--resume' in said


def _kill_worker_in_epoch(epoch: int) -> None:
    from crack_plugin.hooks.reproducibility import _SeededFetch

    fetch = _SeededFetch.__call__

    def deadly(self: Any, indices: list[int]) -> list[Any]:
        if torch.utils.data.get_worker_info() is not None and int(self.epoch) == epoch - 1:
            _kill()
        return fetch(self, indices)

    _SeededFetch.__call__ = deadly  # type: ignore[method-assign]


@pytest.mark.slow
def test_dead_data_worker(config: Path, whole: Path, tmp_path: Path) -> None:
    work_dir, log = tmp_path / 'broken', tmp_path / 'log'
    workers = tmp_path / 'workers.py'
    workers.write_text(f'_base_ = {str(config)!r}\ntrain_dataloader = dict(num_workers=1)\n')
    kill = {'prepare': _kill_worker_in_epoch, 'prepare_with': (2,)}
    printed = run('train', workers, '--work-dir', work_dir, log=log, code=1, **kill)
    said = printed.splitlines()[-1]
    assert (
        re.search(r'data worker \d+ died \((Killed|signal unknown)\)', said)
        and 'num_workers=1' in said
        and '--resume' in said
    )
    resumes_to_the_same(config, work_dir, whole)


def _rename(old: Path, new: Path) -> None:
    old.rename(new)


@pytest.mark.slow
@pytest.mark.parametrize('kind', [pytest.param('images', id='image'), pytest.param('labels', id='label')])
def test_sample_that_is_damaged_while_training(config: Path, whole: Path, tmp_path: Path, kind: str) -> None:
    data, work_dir, log = tmp_path / 'data', tmp_path / 'broken', tmp_path / 'log'
    shutil.copytree(Config.fromfile(config).data_root, data)
    (file,) = sorted((data / 'train' / kind).iterdir())[:1]
    damaged = tmp_path / f'damaged{file.suffix}'
    damaged.write_bytes(file.read_bytes()[:20] if kind == 'images' else b'0 0.1 nonsense\n')
    good = tmp_path / 'good'
    shutil.copy(file, good)
    moved = tmp_path / 'moved.py'
    moved.write_text(
        f'_base_ = {str(config)!r}\ndataset = dict(data_root={str(data)!r})\n'
        'train_dataloader = dict(dataset=dataset)\nval_dataloader = dict(dataset=dataset)\n'
    )
    how = ('IterTimerHook', 'before_train_epoch', 2, damaged, file)
    printed = run('train', moved, '--work-dir', work_dir, log=log, code=1, prepare=_rename_at, prepare_with=how)
    assert str(file) in printed.splitlines()[-1]
    good.rename(file)
    resumes_to_the_same(moved, work_dir, whole)


def _rename_at(hook: str, method: str, nth: int, old: Path, new: Path) -> None:
    _call_at(hook, method, nth, _rename, old, new)


# ---- slips in the config


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.type=SAM3TextLora', "type='SAM3TextLora', and no model has that name"),
        ('train_dataloader.dataset.type=YoloCrack', "type='YoloCrack', and no dataset has that name"),
        ('model.promts=[crack]', "unexpected keyword argument 'promts'"),
        ('default_hooks.non_finite_loss.on_nan=ignore', "choose 'stop' or 'skip'"),
        ('train_dataloader.dataset.data_root=nowhere', 'nowhere'),
    ],
)
def test_slip_in_the_config(command: Callable[..., str], option: str, message: str) -> None:
    assert message in command('train', '--cfg-options', option)


def test_config_that_is_not_python(command: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / 'slip.py'
    path.write_text('model = dict(type=\n')
    assert str(path) in command('train', config=path)


# ---- the page


def test_every_row_of_the_page_is_a_test() -> None:
    page = (ROOT / 'docs' / 'reliability.md').read_text()
    table = page[page.index('| fault |') : page.index('Two faults are not covered')]
    rows = [line for line in table.splitlines() if line.startswith('|')][2:]
    tests = ''.join(path.read_text() for path in (ROOT / 'tests').rglob('test_*.py'))
    assert len(rows) >= 20
    for row in rows:
        names = re.findall(r'(test_\w+)[\[`]', row.split('|')[-2])
        assert names, row
        assert all(f'def {name}(' in tests for name in names), row
