"""The picture of the rooms in CONTRIBUTING.md is true: imports go downwards in it, and no file grows without end."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'crack_plugin'
LONGEST_FILE = 450
LONGEST_TOOL = 150


def read_levels(page: str) -> list[list[str]]:
    """The rooms of each level of the picture, top level first.

    A level is a line of names below the heading, in the first fenced block: ``  models   datasets   # a remark``.
    Lines of arrows have no names: a name has two letters or more.
    """
    block = re.search(r'^## Where things live$.*?^```text\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    assert block, "CONTRIBUTING.md has no text block below '## Where things live'"
    levels = [re.findall(r'[a-z_]{2,}', line.partition('#')[0]) for line in block[1].splitlines()]
    return [names for names in levels if names]


def find_modules(root: Path) -> dict[str, Path]:
    """Each module of the package and each tool, by its dotted name; a package stands for its ``__init__.py``."""
    modules = {}
    for path in sorted([*(root / PACKAGE).rglob('*.py'), *(root / 'tools').glob('*.py')]):
        parts = path.relative_to(root).with_suffix('').parts
        if '.mim' not in parts:
            modules['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return modules


def room_of(module: str) -> str:
    """The room a module is in: a folder or a file of the package, or ``tools``."""
    top, _, below = module.partition('.')
    if top != PACKAGE:
        return top
    return below.partition('.')[0] or '__init__'


def find_imports(tree: ast.AST, module: str, is_package: bool, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """What a module imports of ours, anywhere in it: names of modules with the lines."""

    def resolve(name: str) -> Iterator[str]:
        # A tool has its own folder on the path: it would import another one by its bare name.
        name = f'tools.{name}' if f'tools.{name}' in modules else name
        if name in modules:
            yield name

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from ((name, node.lineno) for name in resolve(alias.name))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ''
            if node.level:
                above = module.split('.')[: None if is_package and node.level == 1 else is_package - node.level]
                source = '.'.join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # Either a module of a package, or a name of a module
                inner = list(resolve(f'{source}.{alias.name}'))
                yield from ((name, node.lineno) for name in inner or resolve(source))
        elif isinstance(node, ast.Call) and node.args:
            # importlib.import_module('...')
            function, argument = node.func, node.args[0]
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')
            if called in ('import_module', '__import__') and isinstance(argument, ast.Constant):
                yield from ((name, node.lineno) for name in resolve(str(argument.value)))


def find_edges(modules: dict[str, Path]) -> list[tuple[str, str, int]]:
    """All imports: importing module, imported module, line."""
    return [
        (module, imported, line)
        for module, path in modules.items()
        for imported, line in find_imports(ast.parse(path.read_text()), module, path.name == '__init__.py', modules)
    ]


def find_violations(root: Path, page: str) -> list[str]:
    """Everything in which code and picture differ, a line each."""
    levels = read_levels(page)
    level_of = {room: level for level, rooms in enumerate(levels) for room in rooms}
    modules = find_modules(root)
    rooms = {room_of(module) for module in modules}
    violations = [
        f'{room} is twice in the picture' for room in level_of if sum(level.count(room) for level in levels) > 1
    ]
    violations += [f'{room} is not in the picture' for room in sorted(rooms - level_of.keys())]
    violations += [f'{room} is in the picture, and nowhere else' for room in sorted(level_of.keys() - rooms)]
    edges = find_edges(modules)
    for module, imported, line in edges:
        user, used = room_of(module), room_of(imported)
        if user != used and {user, used} <= level_of.keys() and level_of[user] >= level_of[used]:
            where = 'beside it' if level_of[user] == level_of[used] else 'above it'
            violations.append(f'{modules[module].relative_to(root)}:{line} ({user}) imports {imported}, {where}')
    # Tools are one room, but each a program of its own.
    violations += [
        f'{modules[module].relative_to(root)}:{line} imports another tool, {imported}'
        for module, imported, line in edges
        if room_of(module) == room_of(imported) == 'tools'
    ]
    return violations + find_cycles(edges) + find_long_files(root, modules)


def find_cycles(edges: list[tuple[str, str, int]]) -> list[str]:
    """Modules that import each other: one cycle after another, each broken at its last import."""
    graph: dict[str, set[str]] = {}
    for module, imported, _ in edges:
        graph.setdefault(module, set()).add(imported)
    found = []
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]  # graphlib goes from the imported to the importing
            found.append('a cycle: ' + ' imports '.join(cycle))
            graph[cycle[0]].remove(cycle[1])
        else:
            return found


def find_long_files(root: Path, modules: dict[str, Path]) -> list[str]:
    """Files that are longer than one idea."""
    lengths = {module: len(path.read_text().splitlines()) for module, path in modules.items()}
    allowed = {module: LONGEST_TOOL if room_of(module) == 'tools' else LONGEST_FILE for module in modules}
    return [
        f'{modules[module].relative_to(root)} has {length} lines, {allowed[module]} are allowed'
        for module, length in lengths.items()
        if length > allowed[module]
    ]


def test_picture_is_true() -> None:
    violations = find_violations(ROOT, (ROOT / 'CONTRIBUTING.md').read_text())
    assert not violations, f'{len(violations)} differences:\n' + '\n'.join(violations)


PICTURE = """
## Where things live

```text
tools                # command lines
  |
  v
models   datasets
  |
  v
errors   __init__
```
"""
SOUND = {
    'tools/train.py': 'from crack_plugin import models\nfrom crack_plugin.datasets.yolo import Dataset\n',
    'crack_plugin/__init__.py': 'import os\n',
    'crack_plugin/errors.py': '',
    'crack_plugin/models/__init__.py': 'from crack_plugin.models.lora import LoRA\n',
    'crack_plugin/models/lora.py': 'from crack_plugin.errors import Error\n',
    'crack_plugin/datasets/__init__.py': '',
    'crack_plugin/datasets/yolo.py': 'from .. import errors\n',
}


@pytest.mark.parametrize(
    ('files', 'violations'),
    [
        ({}, []),
        (
            {'crack_plugin/errors.py': 'import os\nimport crack_plugin.models.lora\n'},
            [
                'crack_plugin/errors.py:2 (errors) imports crack_plugin.models.lora, above it',
                'a cycle: crack_plugin.errors imports crack_plugin.models.lora imports crack_plugin.errors',
            ],
        ),
        (
            {'crack_plugin/datasets/yolo.py': 'def read():\n    from crack_plugin.models import LoRA\n'},
            ['crack_plugin/datasets/yolo.py:2 (datasets) imports crack_plugin.models, beside it'],
        ),
        (
            {'crack_plugin/datasets/yolo.py': 'from ..models.lora import LoRA\n'},
            ['crack_plugin/datasets/yolo.py:1 (datasets) imports crack_plugin.models.lora, beside it'],
        ),
        (
            {'crack_plugin/datasets/yolo.py': "import importlib\nimportlib.import_module('crack_plugin.models')\n"},
            ['crack_plugin/datasets/yolo.py:2 (datasets) imports crack_plugin.models, beside it'],
        ),
        (
            {'crack_plugin/models/lora.py': 'from train import main\n'},
            [
                'crack_plugin/models/lora.py:1 (models) imports tools.train, above it',
                'a cycle: crack_plugin.models imports crack_plugin.models.lora imports tools.train imports '
                'crack_plugin.models',
            ],
        ),
        (
            {'crack_plugin/models/lora.py': 'from . import LoRA\n'},
            ['a cycle: crack_plugin.models imports crack_plugin.models.lora imports crack_plugin.models'],
        ),
        (
            {'tools/test.py': 'import train\n'},
            ['tools/test.py:1 imports another tool, tools.train'],
        ),
        ({'crack_plugin/hooks/__init__.py': ''}, ['hooks is not in the picture']),
        ({'crack_plugin/errors.py': None}, ['errors is in the picture, and nowhere else']),
        (
            {'tools/train.py': '\n' * 151, 'crack_plugin/errors.py': '\n' * 451},
            [
                'crack_plugin/errors.py has 451 lines, 450 are allowed',
                'tools/train.py has 151 lines, 150 are allowed',
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, files: dict[str, str | None], violations: list[str]) -> None:
    for name, text in (SOUND | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)
    found = find_violations(tmp_path, PICTURE)
    # A cycle may be told from any of its modules.
    assert sorted(map(_rotated, found)) == sorted(map(_rotated, violations))


def _rotated(violation: str) -> str:
    if not violation.startswith('a cycle: '):
        return violation
    names = violation.removeprefix('a cycle: ').split(' imports ')[:-1]
    start = names.index(min(names))
    return 'a cycle: ' + ' imports '.join([*names[start:], *names[:start], names[start]])


def test_room_that_is_twice_in_the_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / 'errors.py').touch()
    page = '## Where things live\n```text\nerrors\n\nerrors\n```\n'
    assert find_violations(tmp_path, page) == ['errors is twice in the picture']
