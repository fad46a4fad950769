"""Errors a user can act on are told in one paragraph; all others keep their traceback."""

import argparse
import ast
import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import call_in_worker
from mmengine.registry import Registry
from torch.utils.data import DataLoader

import crack_plugin
from crack_plugin.cli import readable_errors
from crack_plugin.errors import CrackPluginError, ToolError, message

PACKAGE = Path(crack_plugin.__file__).parent

# By file: errors that are not for users, and why. Whatever a user can cause is a CrackPluginError.
NOT_FOR_USERS: dict[str, Counter[str]] = {
    'compat.py': Counter(
        AttributeError=1,  # what __getattr__ has to raise
        UnpicklingError=1,  # torch.load asks for it; load_from_local turns it into a CheckpointError
    ),
    'models/enlarged.py': Counter(AttributeError=1),  # what __getattr__ has to raise
    # argparse's own way to a usage error
    'cli.py': Counter(ArgumentTypeError=7),
    'config_options.py': Counter(
        ArgumentError=2,
        ValueError=7,  # of the parser of values, which KeyValueAction turns into the ArgumentError
    ),
    'comparison/mask2former.py': Counter(MissingMmdetError=1),  # is one, but cannot be imported without mmdet
    'hooks/non_finite_loss.py': Counter(_StepSkippedError=1),  # caught in the same file
}


class BrokenLabelError(CrackPluginError, ValueError):
    pass


class Broken:
    """A dataset of one image."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise self.error


def complain() -> None:
    raise BrokenLabelError('labels/1.txt, line 2: odd number of coordinates')


def slip() -> None:
    int('x')


def said(function: Any, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as end, readable_errors(argparse.ArgumentParser('tool')):
        function()
    assert end.value.code == 1
    return capsys.readouterr().err


def test_error_of_the_package_is_one_paragraph(capsys: pytest.CaptureFixture) -> None:
    assert said(complain, capsys) == 'tool: error: labels/1.txt, line 2: odd number of coordinates\n'


def test_so_is_one_from_a_data_worker(capsys: pytest.CaptureFixture) -> None:
    expected = 'tool: error: labels/1.txt, line 2: odd number of coordinates\n'
    assert said(lambda: call_in_worker(complain), capsys) == expected
    # As if DataParallel had wrapped it once more.
    assert said(lambda: call_in_worker(lambda: call_in_worker(complain)), capsys) == expected


def test_so_is_one_from_a_real_data_worker(capsys: pytest.CaptureFixture) -> None:
    loader = DataLoader(Broken(BrokenLabelError('a.png: first part.\nSecond: part')), num_workers=1)
    assert said(lambda: list(loader), capsys) == 'tool: error: a.png: first part.\nSecond: part\n'


def test_a_registry_keeps_class_and_message() -> None:
    """mmengine up to 0.7 made a new error of another text."""
    registry = Registry('broken')

    @registry.register_module()
    class Refusing:
        def __init__(self) -> None:
            complain()

    with pytest.raises(BrokenLabelError) as caught:
        registry.build({'type': 'Refusing'})
    assert message(caught.value) == 'labels/1.txt, line 2: odd number of coordinates'


@pytest.mark.parametrize('worker', [False, True])
@pytest.mark.parametrize('error', [ValueError('elsewhere'), RuntimeError('x'), OSError(2, 'x'), AssertionError('x')])
def test_other_errors_keep_their_traceback(error: Exception, worker: bool) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)), readable_errors(argparse.ArgumentParser()):
        call_in_worker(fail) if worker else fail()


def test_programming_errors_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match='invalid literal'), readable_errors(argparse.ArgumentParser()):
        call_in_worker(slip)


def test_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end, readable_errors(argparse.ArgumentParser()):
        interrupted()
    assert end.value.code == 130 and '--resume' in capsys.readouterr().err


def classes_of_the_package() -> Iterator[type]:
    names = {module.name for module in pkgutil.walk_packages([str(PACKAGE)], 'crack_plugin.')}
    # Those need mmdet, or run. Another test of the same process may have imported one with a stand-in.
    names = {name for name in names if not name.endswith(('mask2former', '__main__'))}
    for name in names:
        importlib.import_module(name)
    return (kind for kind in subclasses(CrackPluginError) if kind.__module__ in names)


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_class_can_be_made_again_from_a_text() -> None:
    """As torch does with an error from a data worker."""
    found = set(classes_of_the_package())
    assert ToolError in found and len(found) > 8
    for kind in found:
        assert str(kind('text')) == 'text', kind
        # torch would call such a class with message=..., which these do not take
        assert not hasattr(kind, 'message'), kind


def raised_names(path: Path) -> Iterator[tuple[str, int]]:
    """Names of what a file raises, but for what it hands on (`raise`, `raise error`, `raise errors[0]`)."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    # A function that words an error says of which class.
    makers = {
        node.name: ast.unparse(node.returns) for node in tree.body if isinstance(node, ast.FunctionDef) and node.returns
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or node.exc is None or isinstance(node.exc, ast.Subscript):
            continue
        target = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, 'id', ast.dump(target))
        if isinstance(node.exc, ast.Call):
            yield makers.get(name, name), node.lineno
        elif name.lstrip('_')[:1].isupper():
            yield name, node.lineno


def test_what_the_package_raises_is_for_users() -> None:
    for_users = {kind.__name__ for kind in classes_of_the_package()}
    unexpected = []
    for path in sorted(PACKAGE.rglob('*.py')):
        name = path.relative_to(PACKAGE).as_posix()
        others = [(raised, line) for raised, line in raised_names(path) if raised not in for_users]
        if Counter(raised for raised, _ in others) != NOT_FOR_USERS.get(name, Counter()):
            unexpected += [f'{name}:{line}: {raised}' for raised, line in others] or [f'{name}: none']
    assert not unexpected, 'derive from CrackPluginError, or explain in NOT_FOR_USERS:\n' + '\n'.join(unexpected)
