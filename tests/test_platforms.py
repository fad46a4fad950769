"""What differs on Windows and macOS, where the code decides: both systems are stood in for."""

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import CONFIGS, TOOLS, run_tool
from mmengine.config import Config

from crack_plugin import file_lock, inference, mps, peak_memory
from crack_plugin.files import link_or_copy


def test_windows_locks_a_byte_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows keeps others from reading what is locked, and they have to read who holds the lock."""
    locked: list[tuple[int, int, int]] = []
    msvcrt: Any = ModuleType('msvcrt')
    msvcrt.LK_NBLCK = 2
    msvcrt.locking = lambda handle, mode, count: locked.append((os.lseek(handle, 0, os.SEEK_CUR), mode, count))
    monkeypatch.setitem(sys.modules, 'msvcrt', msvcrt)
    monkeypatch.setattr(sys, 'platform', 'win32')
    lock = runpy.run_path(file_lock.__file__)['lock']
    with (tmp_path / 'lock').open('a+') as file:
        lock(file)
        file.seek(0)
        file.truncate(0)
        file.write('process 1')
    assert locked == [(2**30, 2, 1)]
    assert (tmp_path / 'lock').read_text() == 'process 1'


def test_peak_of_memory_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, '_STATUS', tmp_path / 'no such file')
    monkeypatch.setattr(sys, 'platform', 'win32')
    used = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**20))
    monkeypatch.setattr(psutil, 'Process', lambda: used)
    assert peak_memory.peak_memory('cpu') == 3.0


@pytest.mark.parametrize('code', [1314, 5, None], ids=['no privilege', 'no access', 'not Windows'])
def test_a_copy_stands_for_a_link_where_windows_forbids_links(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | None
) -> None:
    def refuse(self: Path, target: Path) -> None:
        error = OSError('refused')
        if code is not None:
            error.winerror = code  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    (tmp_path / 'a.jpg').write_bytes(b'picture')
    if code == 1314:
        link_or_copy(tmp_path / 'a.jpg', tmp_path / 'b.jpg')
        assert (tmp_path / 'b.jpg').read_bytes() == b'picture'
    else:
        with pytest.raises(OSError, match='refused'):
            link_or_copy(tmp_path / 'a.jpg', tmp_path / 'b.jpg')


@pytest.mark.parametrize(('platform', 'method'), [('darwin', 'spawn'), ('linux', 'fork')])
def test_data_workers_are_not_forked_on_macos(monkeypatch: pytest.MonkeyPatch, platform: str, method: str) -> None:
    monkeypatch.setattr(sys, 'platform', platform)
    cfg = Config.fromfile(CONFIGS / 'sam3_tiny_lora_crack.py')
    assert cfg.env_cfg.mp_cfg.mp_start_method == method
    assert 'sys' not in cfg


@pytest.mark.parametrize(
    ('platform', 'before', 'after'), [('darwin', None, '1'), ('darwin', '0', '0'), ('linux', None, None)]
)
def test_missing_operators_of_mps_run_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, platform: str, before: str | None, after: str | None
) -> None:
    monkeypatch.setattr(sys, 'platform', platform)
    monkeypatch.setattr(os, 'environ', {} if before is None else {mps.FALLBACK: before})
    mps.allow_fallback()
    assert os.environ.get(mps.FALLBACK) == after


@pytest.mark.parametrize(('device', 'expected'), [('mps', False), ('cuda', True)])
def test_mixed_precision_is_left_out_on_mps(monkeypatch: pytest.MonkeyPatch, device: str, expected: bool) -> None:
    monkeypatch.setattr(inference, 'get_device', lambda: device)
    warnings: list[str] = []
    monkeypatch.setattr(inference, 'print_log', lambda text, *_: warnings.append(text))
    inference._warn_of_mps.cache_clear()
    # As for each batch
    for _ in range(2):
        assert inference.mixed_precision(Config({'test_cfg': {'fp16': True}})) is expected
    assert len(warnings) == (not expected)
    assert inference.mixed_precision(Config({})) is False


@pytest.mark.slow
def test_training_with_spawned_workers(tiny_config: Path, tmp_path: Path) -> None:
    """As on macOS and Windows: datasets and hooks have to be pickled."""
    options = ['env_cfg.mp_cfg.mp_start_method=spawn', 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=1']
    result = run_tool(TOOLS / 'train.py', tiny_config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'epoch_1.pth').is_file()
