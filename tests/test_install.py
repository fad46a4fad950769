"""The interpreter that ``make install`` takes, and the commands that an installation has."""

import importlib
import os
import subprocess
import sys
from distutils.core import run_setup
from pathlib import Path

import pytest

from crack_plugin import __main__ as commands

ROOT = Path(__file__).parents[1]
FAKE = """#!/bin/sh
# Passes every check, and stops where the environment would be made.
case "$1" in
    -m) echo "$0" > "$CHOSEN"; exit 1 ;;
    --version) echo 'Python 3.12.0' ;;
esac
"""


def fake_python(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE)
    path.chmod(0o755)
    return path


def chosen(tmp_path: Path, *arguments: str, **environment: str) -> Path:
    """The interpreter that ``make install`` makes the environment with, of those in ``tmp_path/bin``."""
    log = tmp_path / 'chosen'
    path = f'{tmp_path / "bin"}{os.pathsep}/usr/bin{os.pathsep}/bin'
    inherited = {name: value for name, value in os.environ.items() if name not in ('VIRTUAL_ENV', 'CONDA_PREFIX')}
    subprocess.run(
        ['make', 'install', f'VENV={tmp_path / "venv"}', *arguments],
        cwd=ROOT,
        env={**inherited, 'PATH': path, 'CHOSEN': str(log), **environment},
        capture_output=True,
        check=False,
    )
    return Path(log.read_text().strip())


def test_oldest_python_is_taken(tmp_path: Path) -> None:
    oldest = fake_python(tmp_path / 'bin' / 'python3.11')
    for name in ('python3.12', 'python'):
        fake_python(tmp_path / 'bin' / name)
    assert chosen(tmp_path) == oldest


@pytest.mark.parametrize('variable', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
def test_python_of_an_active_environment_comes_first(tmp_path: Path, variable: str) -> None:
    fake_python(tmp_path / 'bin' / 'python3.11')
    active = fake_python(tmp_path / 'bin' / 'python')
    assert chosen(tmp_path, **{variable: str(tmp_path)}) == active


def test_named_python_may_have_blanks_in_its_path(tmp_path: Path) -> None:
    fake_python(tmp_path / 'bin' / 'python3.11')
    named = fake_python(tmp_path / 'my own' / 'python 3.12')
    assert chosen(tmp_path, f'PYTHON={named}') == named


def test_environment_of_uv_is_left_to_uv(tmp_path: Path) -> None:
    """Without pip in it, it would be taken for a broken one and be made anew."""
    fake_python(tmp_path / 'bin' / 'python3.11')
    uv = tmp_path / 'bin' / 'uv'
    uv.write_text('#!/bin/sh\necho "$0 $*" > "$CHOSEN"\n')
    uv.chmod(0o755)
    (tmp_path / 'venv').mkdir()
    (tmp_path / 'venv' / 'pyvenv.cfg').write_text('home = /usr/bin\nuv = 0.13.9\nversion_info = 3.12\n')
    assert str(chosen(tmp_path)) == f'{uv} sync --inexact'
    assert (tmp_path / 'venv' / '.installed').is_file()


def console_scripts() -> dict[str, str]:
    """Function of ``crack_plugin.__main__`` by command."""
    distribution = run_setup(str(ROOT / 'setup.py'), stop_after='init')
    entries = dict(entry.split(' = ') for entry in distribution.entry_points['console_scripts'])
    return {command: function.partition('crack_plugin.__main__:')[2] for command, function in entries.items()}


@pytest.mark.parametrize(
    ('command', 'tool'),
    [
        ('crack-train', 'train.py'),
        ('crack-test', 'test.py'),
        ('crack-predict', 'predict.py'),
        ('crack-report', 'report.py'),
        ('crack-check', 'check_dataset.py'),
        ('crack-app', 'app.py'),
    ],
)
def test_command_is_the_tool(
    command: str, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    function = getattr(importlib.import_module('crack_plugin.__main__'), console_scripts()[command])
    monkeypatch.setattr(sys, 'argv', [command, '--help'])
    with pytest.raises(SystemExit) as ended:
        function()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: {tool} ')


def test_any_tool_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['crack_plugin', 'demo', '--help'])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith('usage: demo.py ')


def test_what_is_no_tool_is_told_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['crack_plugin', 'dmeo'])
    with pytest.raises(SystemExit, match=r'dmeo is neither a file nor one of the tools: .*check_dataset, .*demo, '):
        commands.main()
