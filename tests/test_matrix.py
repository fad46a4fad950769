"""benchmarks/matrix.py: what it installs, and its table."""

from pathlib import Path

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
        '#!/bin/sh\necho "==== 1 failed, 20 passed, 3 deselected, 2 warnings in 1.5s ===="\nexit 1\n'
    )
    interpreter.chmod(0o755)
    assert MATRIX.count_tests(interpreter, []) == ('1 failed, 20 passed', False)
    assert MATRIX.count_tests(interpreter, ['a.py']) == ('1 failed, 20 passed (of a.py alone)', False)
