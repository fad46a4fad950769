"""The table of ``docs/situations.md`` names tests that exist."""

import ast
import re
from pathlib import Path

from conftest import ROOT

TESTS = ROOT / 'tests'


def rows_of(page: str) -> list[list[str]]:
    """Cells of the page's only table, without its head."""
    lines = [line for line in page.splitlines() if line.startswith('|')]
    # A | inside a cell is written \\|
    return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines[2:]]


def names_in(path: Path) -> set[str]:
    """The test functions of a file, those in classes as ``Class::name``."""
    if not path.is_file():
        return set()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f'{node.name}::{inner.name}' for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return {name for name in found if name.rpartition('::')[2].startswith('test_')}


def faults(row: list[str]) -> list[str]:
    """What is wrong with a row."""
    if len(row) != 4 or not all(row):
        return [f'four cells are wanted, each with text: {row}']
    references = re.findall(r'`([^`]+)`', row[3])
    if not references:
        return [f'no test is named: {row}']
    found = []
    for reference in references:
        path, _, name = reference.partition('[')[0].partition('::')
        if name not in names_in(TESTS / path):
            found.append(f'{reference} does not exist')
    return found


def test_every_situation_is_a_test() -> None:
    rows = rows_of((ROOT / 'docs' / 'situations.md').read_text())
    assert len(rows) >= 5
    assert [fault for row in rows for fault in faults(row)] == []


def test_a_row_without_its_test_is_found() -> None:
    own = f'{Path(__file__).name}::test_every_situation_is_a_test'
    page = f"""| source | situation | right | test |
|---|---|---|---|
| a \\| b | c | d | `{own}`, `{own}[any-id]` |
| a | b | c | `{own}`, `{own}_no_more` |
| a | b | c | `test_of_nothing.py::test_it` |
| a | b | c | `{Path(__file__).name}::names_in` |
| a | b | c | a test |
| a | b | | `{own}` |
| a | b | `{own}` |
"""
    assert [len(faults(row)) for row in rows_of(page)] == [0, 1, 1, 1, 1, 1, 1]
