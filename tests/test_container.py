"""The Dockerfile, as benchmarks/container.py reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, load_script

from crack_plugin.shipped import shipped

CONTAINER = load_script(ROOT / 'benchmarks' / 'container.py')
DOCKERFILE = (ROOT / 'Dockerfile').read_text()


def test_lines_are_joined_and_comments_left_out() -> None:
    text = '# a\nFROM debian:x\nRUN one \\\n    && two\n\n# b\nENV A=1 B="two words"\n'
    assert list(CONTAINER.instructions(text)) == [
        ('FROM', 'debian:x'),
        ('RUN', 'one && two'),
        ('ENV', 'A=1 B="two words"'),
    ]
    assert CONTAINER.pairs('A=1 B="two words"') == {'A': '1', 'B': 'two words'}


def test_image_is_built_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[tuple[Any, ...]] = []
    root = tmp_path / 'root'
    (root / 'etc').mkdir(parents=True)
    monkeypatch.setattr(CONTAINER.subprocess, 'run', lambda command, check: done.append(tuple(command[:3])))
    monkeypatch.setattr(CONTAINER, 'copy_tracked', lambda target: done.append(('copy', target)))
    monkeypatch.setattr(
        CONTAINER,
        'chroot',
        lambda root, image, command, binds: done.append((image.user, image.arguments['DEVICE'], command.split()[0])),
    )
    image = CONTAINER.build(root, DOCKERFILE, {'DEVICE': 'cu130'}, [])
    assert done == [
        ('debootstrap', '--variant=minbase', 'bookworm'),
        ('root', 'cu130', 'apt-get'),
        ('root', 'cu130', 'python3'),
        ('copy', root / 'opt/source'),
        ('root', 'cu130', '/opt/crack/bin/pip'),
        ('root', 'cu130', 'useradd'),
    ]
    assert (image.user, image.folder) == ('crack', '/work')
    assert image.entrypoint == ['python', '-m', 'crack_plugin']


def test_what_it_does_not_know_is_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='HEALTHCHECK'):
        CONTAINER.build(tmp_path, 'HEALTHCHECK NONE\n', {}, [])


def test_default_command_is_a_tool() -> None:
    (command,) = json.loads(dict(CONTAINER.instructions(DOCKERFILE))['CMD'])
    assert (shipped('tools') / f'{command}.py').is_file()
