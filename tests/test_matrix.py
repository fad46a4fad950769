"""benchmarks/matrix.py: what it installs, and its table."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, load_script

MATRIX = load_script(ROOT / 'benchmarks' / 'matrix.py')
PAGE = '# Stacks\n\n| stack | tests |\n|---|---|\n| tested | 2 passed |\n| onedl | 1 failed |\n\nMore.\n'


def test_a_row_takes_the_place_of_the_former_one() -> None:
    page = MATRIX.write_row(PAGE, ['tested', '3 passed'])
    assert page == '# Stacks\n\n| stack | tests |\n|---|---|\n| onedl | 1 failed |\n| tested | 3 passed |\n\nMore.\n'


def test_a_first_row_goes_below_the_heading() -> None:
    empty = '| stack | tests |\n|---|---|\n'
    assert MATRIX.write_row(empty, ['onedl', '1 passed']) == f'{empty}| onedl | 1 passed |\n'


def test_page_has_a_column_for_each_cell() -> None:
    (heading,) = (line for line in MATRIX.PAGE.read_text().splitlines() if line.startswith('| stack |'))
    # stack, six versions, tests, demo, day
    assert heading.count('|') - 1 == 10


def test_no_stack_mixes_openmmlab_with_the_forks() -> None:
    assert [stack for stack, extras in MATRIX.EXTRAS.items() if 'onedl' in extras.split(',')] == ['onedl']
    assert all('lite' in extras.split(',') for stack, extras in MATRIX.EXTRAS.items() if stack != 'onedl')


def test_pins_are_those_of_the_constraints_file() -> None:
    assert 'torch==' in '\n'.join(MATRIX.constraints('tested'))
    assert MATRIX.constraints('tested') == MATRIX.constraints('onedl')
    assert MATRIX.constraints('newest') == []


def test_counts_are_pytests_own(tmp_path: Path) -> None:
    interpreter = tmp_path / 'python'
    interpreter.write_text(
        '#!/bin/sh\necho "= 1 failed, 20 passed, 3 deselected in 1.5s ="; echo Could not import OneDL\nexit 1\n'
    )
    interpreter.chmod(0o755)
    assert MATRIX.count_tests(interpreter, tmp_path, []) == ('1 failed, 20 passed', False)
    assert MATRIX.count_tests(interpreter, tmp_path, ['a.py']) == ('1 failed, 20 passed (of a.py alone)', False)


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path) -> None:
    """What passed is taken from there, while code and versions are the same; what failed is tried again."""

    def measure(result: str, passed: bool) -> Callable[[], tuple[str, bool]]:
        return lambda: (result, passed)

    assert MATRIX.once(tmp_path, 'old', 'tests', measure('9 passed', True)) == ('9 passed', True)
    assert MATRIX.once(tmp_path, 'old', 'demo', measure('failed', False)) == ('failed', False)
    assert MATRIX.once(tmp_path, 'old', 'tests', measure('run again', True)) == ('9 passed', True)
    assert MATRIX.once(tmp_path, 'old', 'demo', measure('1 % → 2 %', True)) == ('1 % → 2 %', True)
    assert MATRIX.once(tmp_path, 'old', 'demo', None) == ('1 % → 2 %', True)
    assert MATRIX.once(tmp_path, 'new', 'demo', None) == ('not run', True)
    assert MATRIX.once(tmp_path, 'new', 'tests', measure('8 passed', True)) == ('8 passed', True)
    assert MATRIX.once(tmp_path, 'new', 'demo', measure('run again', True)) == ('run again', True)


def test_rows_do_not_change_what_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'stacks.md').write_text('rows')
    (tmp_path / 'code.py').write_text('1')
    for command in (['init', '-q'], ['add', '.']):
        subprocess.run(['git', *command], cwd=tmp_path, check=True)
    interpreter = tmp_path / 'python'
    interpreter.write_text('#!/bin/sh\necho torch==2.13.0\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(MATRIX, 'ROOT', tmp_path)
    before = MATRIX.state(interpreter)
    (tmp_path / 'docs' / 'stacks.md').write_text('more rows')
    assert MATRIX.state(interpreter) == before
    (tmp_path / 'code.py').write_text('2')
    changed = MATRIX.state(interpreter)
    interpreter.write_text('#!/bin/sh\necho torch==2.15.0\n')
    assert len({before, changed, MATRIX.state(interpreter)}) == 3


def test_a_demo_that_fails_has_its_row(tmp_path: Path) -> None:
    interpreter = tmp_path / 'python'
    interpreter.write_text('#!/bin/sh\nexit 1\n')
    interpreter.chmod(0o755)
    assert MATRIX.demo_scores(interpreter, tmp_path) == ('failed', False)
    interpreter.write_text('#!/bin/sh\necho "| zero-shot | 8.1 % | 9.0 % |"; echo "| with LoRA | 31.5 % | 4 % |"\n')
    assert MATRIX.demo_scores(interpreter, tmp_path) == ('8.1 % → 31.5 %', True)
