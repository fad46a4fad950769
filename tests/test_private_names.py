"""What the package uses of other libraries that is not their public interface: when one changes, it is read again.

``SOURCES`` are functions that the package overrides, replaces, or whose inner workings it relies on, with a digest of
the source as it was read. A failure says which one has changed: read it, mend the package if needed, and put the new
version and digest here.
"""

import ast
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import DictAction
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from mmseg.models import EncoderDecoder
from mmseg.visualization import SegLocalVisualizer
from torch._utils import ExceptionWrapper
from torch.utils.data._utils.fetch import _MapDatasetFetcher

import crack_plugin

PACKAGE = Path(crack_plugin.__file__).parent

# With two digests it was read in the onedl forks (onedl-mmengine 0.10.12, onedl-mmsegmentation 1.4.2) as well.
SOURCES: dict[Callable[..., Any], tuple[str, ...]] = {
    # config_options.py parses what these cannot, and hands them the rest.
    DictAction._parse_iterable: ('mmengine 0.10.7', 'a18e372da530'),
    DictAction._parse_int_float_bool: ('mmengine 0.10.7', '2c46d0541f14'),
    # hooks/atomic_checkpoint.py overrides both, to delete only after it has written.
    CheckpointHook._save_checkpoint_with_step: ('mmengine 0.10.7', 'cdbc1b54c7c8'),
    CheckpointHook._save_best_checkpoint: ('mmengine 0.10.7', '8e1e477297ea'),
    # hooks/non_finite_loss.py: the norm is logged between the backward pass and the optimizer's step.
    OptimWrapper._clip_grad: ('mmengine 0.10.7', 'a3d132f6d5e8'),
    OptimWrapper.step: ('mmengine 0.10.7', 'f22b64727b66', '5f90ae622c1c'),
    OptimWrapper.update_params: ('mmengine 0.10.7', 'f5b1a1b859f7'),
    # dataloaders.py puts itself before it.
    Runner.build_dataloader: ('mmengine 0.10.7', '5ba55eedc45e', '9c246ce3df0b'),
    # cpu_processes.py: a process group that exists is used.
    Runner.setup_env: ('mmengine 0.10.7', '9e3f15ea06d4'),
    # checkpoints.py registers its loaders in the place of MMEngine's.
    CheckpointLoader._get_checkpoint_loader: ('mmengine 0.10.7', '54915b42c39d'),
    # visualization and models override these.
    SegLocalVisualizer._draw_sem_seg: ('mmsegmentation 1.2.2', '11ffaf4a29ee', 'ec43567e0dbc'),
    EncoderDecoder._forward: ('mmsegmentation 1.2.2', '7160264b4afd'),
}

OVERRIDDEN = {
    '_parse_iterable',
    '_save_checkpoint_with_step',
    '_save_best_checkpoint',
    '_draw_sem_seg',
    '_forward',
}
READ = {
    '_parse_int_float_bool',
    '_fully_initialized',  # mmengine's BaseDataset: its classes are checked again when it has loaded
    '_channel_conversion',  # mmengine's ImgDataPreprocessor, for onedl-mmsegmentation
    '_dynamo',  # torch's documented module of that name
    '_replace',  # of named tuples, documented
    '_data_fields',  # mmengine's BaseDataElement: a field that is there before it is computed
}


def digest(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()[:12]


@pytest.mark.parametrize('function', SOURCES, ids=lambda function: function.__qualname__)
def test_source_is_the_one_that_was_read(function: Callable[..., Any]) -> None:
    version, *read = SOURCES[function]
    name = f'{function.__module__}.{function.__qualname__}'
    assert digest(function) in read, f'{name} is not as in {version}: read it again, see the top of this file'


def test_errors_of_workers_still_end_in_class_and_message() -> None:
    """errors.py takes the message from there."""
    try:
        raise ValueError('text')
    except ValueError:
        wrapper = ExceptionWrapper(where='in a worker')
    with pytest.raises(ValueError, match=r'(?s)^Caught ValueError in a worker\.\nOriginal .*\nValueError: text\n$'):
        wrapper.reraise()


def test_datasets_are_asked_for_batches() -> None:
    """hooks/reproducibility.py seeds the samples there."""

    class Batches:
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * index for index in indices]

    assert _MapDatasetFetcher(Batches(), True, list, False).fetch([1, 2]) == [10, 20]


def test_attributes_are_there() -> None:
    assert BaseDataset._fully_initialized is False
    assert torch._dynamo.config.recompile_limit > 0


def test_settings_of_wandb_are_there() -> None:
    """hooks/wandb_seg.py flushes the log every second, and looks when the file was last written."""
    wandb = pytest.importorskip('wandb')
    assert wandb.Settings(x_transaction_log_flush_interval=1.0).x_transaction_log_flush_interval == 1.0
    assert hasattr(wandb.Settings, 'sync_file')


def overridden() -> Iterator[str]:
    """Private names that a class of the package has in common with a class of another library."""
    for module in pkgutil.walk_packages([str(PACKAGE)], 'crack_plugin.'):
        if module.name.endswith(('mask2former', '__main__')):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(kind) or kind.__module__ != module.name:
                continue
            bases = [base for base in kind.__mro__[1:] if not base.__module__.startswith('crack_plugin')]
            for name, value in vars(kind).items():
                is_private = name.startswith('_') and not name.startswith('__')
                if is_private and inspect.isroutine(inspect.unwrap(getattr(value, '__func__', value))):
                    yield from (name for base in bases if name in vars(base))


def test_overridden_names_are_listed() -> None:
    assert set(overridden()) == OVERRIDDEN


def test_private_names_that_are_read_are_listed() -> None:
    """Every private attribute that no file of the package defines."""
    read, defined = set(), set()
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.Attribute):
                (read if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
    private = {name for name in read - defined if name.startswith('_') and not name.startswith('__')}
    assert private == READ
