"""Files are whole or not there, and others may read them if the umask says so."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOOLS, load_script
from mmseg.registry import MODELS
from safetensors.torch import load_file, save_file

from crack_plugin import files
from crack_plugin.datasets.mask_conversion import convert_masks
from crack_plugin.datasets.synthetic import write_dataset
from crack_plugin.files import honour_umask, write_atomically
from crack_plugin.hooks.atomic_checkpoint import AtomicFileBackend
from crack_plugin.models.prefix_cache import PrefixCache
from crack_plugin.prediction.pictures import write_image


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def assert_modes(folder: Path, umask: int, count: int) -> None:
    """All in a folder is as open and mkdir make it, and nothing unfinished lies there."""
    found = list(folder.rglob('*'))
    wrong = {
        path.name: oct(path.stat().st_mode & 0o777)
        for path in found
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
    assert not list(folder.rglob(f'.*{files.LEFTOVER}'))
    assert sum(path.is_file() for path in found) == count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / 'out'
    path.mkdir()
    return path


def tiny_model(tiny_sam3: dict) -> torch.nn.Module:
    return MODELS.build({'type': 'SAM3TextLoRA', 'base': tiny_sam3})


def test_hooks_and_checkpoints(folder: Path, umask: int) -> None:
    files.write_atomically(folder / 'new' / 'history.json', b'[]')
    files.write_atomically(folder / 'last_checkpoint', b'epoch_1.pth', durable=True)
    AtomicFileBackend().put(b'weights', folder / 'epoch_1.pth')
    assert_modes(folder, umask, 3)


def test_a_library_that_writes_for_itself(folder: Path, umask: int) -> None:
    write_atomically(folder / 'x.safetensors', lambda path: save_file({'x': torch.ones(2)}, path))
    assert load_file(folder / 'x.safetensors')['x'].sum() == 2
    assert_modes(folder, umask, 1)


def test_adapters(folder: Path, umask: int, tiny_sam3: dict) -> None:
    tiny_model(tiny_sam3).save_adapter(folder / 'adapter')
    assert_modes(folder, umask, 2)


def test_whole_models(folder: Path, umask: int, tiny_sam3: dict) -> None:
    tiny_model(tiny_sam3).save_pretrained(folder / 'merged')
    assert_modes(folder, umask, len(list((folder / 'merged').iterdir())))


def test_prefix_cache(folder: Path, umask: int) -> None:
    PrefixCache(folder, 'hash', 1)(torch.ones(1, 3, 4, 4), lambda images: images.movedim(1, -1).contiguous())
    assert_modes(folder, umask, 1)


def test_synthetic_dataset(folder: Path, umask: int) -> None:
    write_dataset(folder / 'data', n_train=1, n_valid=1, size=(32, 32), workers=1)
    assert_modes(folder, umask, 6)


def test_tools(folder: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    write_image(folder / 'masks' / 'a.png', np.ones((2, 2), np.uint8))
    load_script(TOOLS / 'prepare_masks.py')._write_mask(np.ones((2, 2), np.uint8), folder / 'a.png')
    convert_masks([(folder / 'a.png', folder / 'a.txt')])
    assert (folder / 'a.txt').read_text().startswith('0 ')
    assert_modes(folder, umask, 3)


def test_what_tempfile_made_is_opened_to_the_umask(folder: Path, umask: int) -> None:
    tree = folder / 'tree'
    (tree / 'below').mkdir(mode=0o700, parents=True)
    (tree / 'below' / 'file').touch(mode=0o600)
    tree.chmod(0o700)
    honour_umask(tree)
    assert_modes(folder, umask, 1)


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(files.SaveError, match=r'file/below/a\.json could not be written: Not a directory\. .*--resume'):
        write_atomically(tmp_path / 'file' / 'below' / 'a.json', b'[]')


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / 'adapters' / f'.trial-x{files.LEFTOVER}').mkdir(parents=True)
    (tmp_path / f'.history.json-x{files.LEFTOVER}').touch()
    (tmp_path / 'history.json').touch()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['adapters', 'history.json']


@pytest.mark.parametrize('fault', [OSError('full'), KeyboardInterrupt()], ids=['disk', 'kill'])
def test_fault_leaves_the_former_file(tmp_path: Path, fault: BaseException) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b'half')
        raise fault

    write_atomically(tmp_path / 'file', b'former')
    with pytest.raises(type(fault)):
        write_atomically(tmp_path / 'file', fail)
    assert [path.name for path in tmp_path.iterdir()] == ['file'] and (tmp_path / 'file').read_bytes() == b'former'
