"""Checkpoint files are read as data: nothing in them runs, and an error says in plain words what is wrong with one.

MMEngine reads every checkpoint (``load_from``, ``resume``, ``init_model``, the tools) through the loaders registered
in its ``CheckpointLoader``; :func:`register_loaders` registers ours in their place.
"""

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    load_from_ceph,
    load_from_http,
    load_from_mmcls,
    load_from_openmmlab,
    load_from_pavi,
    load_from_torchvision,
)

from crack_plugin.errors import CrackPluginError

# As torch words it where a file asks for more than tensors and plain data, and where a file is not whole.
_CODE = re.compile(r'(?:Unsupported global: |unsupported )GLOBAL (?P<name>[\w.]+)|TorchScript archives', re.IGNORECASE)
_DAMAGE = re.compile(r'zip archive|PytorchStreamReader|unexpected EOF|corrupt', re.IGNORECASE)
_OTHER_CHECKPOINTS = (
    'Use a checkpoint that this package wrote. If you trust who made the file, take its weights out: '
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)"
)
# torch's own switches for how ``torch.load`` reads; both at once are an error.
FORCE_SAFE, FORCE_UNSAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
REMOTE: dict[Callable[..., Any], tuple[str, ...]] = {
    load_from_http: ('http://', 'https://'),
    load_from_torchvision: ('modelzoo://', 'torchvision://'),
    load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
    load_from_mmcls: ('mmcls://',),
    load_from_pavi: ('pavi://',),
    load_from_ceph: (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
}
"""MMEngine's loaders of other places, and the prefixes that they are registered for."""
TUNED = '_threshold'
"""What follows a checkpoint's name in that of its copy with a tuned threshold."""
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


class CheckpointError(CrackPluginError, RuntimeError):
    """A checkpoint cannot be used; the message names the file and says what to do."""


def register_loaders() -> None:
    """Make MMEngine read checkpoints through this module."""
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    for loader, prefixes in REMOTE.items():
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=_as_data(loader), force=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint file, tensors and plain data only.

    Named as MMEngine's loader is, which writes the rest of the name into the log.

    Args:
        filename: The file; empty if ``last_checkpoint`` in the work dir is.
        map_location: As in ``torch.load``.

    Raises:
        CheckpointError: The file is not there, is damaged, or would run code.
    """
    if not filename:
        raise CheckpointError(
            'there is no checkpoint to resume from: last_checkpoint in the work dir is empty. Name one yourself: '
            '--resume --cfg-options load_from=WORK_DIR/epoch_N.pth'
        )
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f'checkpoint {path} does not exist. {_advice(path)} (A relative path, in last_checkpoint as well, counts '
            'from the folder that the training was started in.)'
        )
    return read_as_data(
        partial(torch.load, path, map_location=map_location, weights_only=True), str(path), partial(_advice, path)
    )


def _as_data(loader: Callable[..., Any]) -> Callable[..., Any]:
    """One of MMEngine's loaders, which download with torch.hub; the default there is to run what the file says."""

    @wraps(loader)
    def load(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
        with _weights_only():
            return read_as_data(
                partial(loader, filename, map_location=map_location, **kwargs),
                filename,
                lambda: 'Delete it from the cache of torch.hub, and try again.',
            )

    return load


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make ``torch.load`` read tensors and plain data only, whatever its caller asks for."""
    names = (FORCE_SAFE, FORCE_UNSAFE)
    former = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ[FORCE_SAFE] = '1'
    try:
        yield
    finally:
        del os.environ[FORCE_SAFE]
        os.environ.update(former)


def read_as_data(
    load: Callable[[], Any], source: str, advice: Callable[[], str], instead: str = _OTHER_CHECKPOINTS
) -> Any:
    """Call what loads a checkpoint as data, and say what is wrong with the file.

    Args:
        load: ``torch.load`` with ``weights_only=True``, ready to be called.
        source: What the file is called in an error.
        advice: What to do about a damaged file.
        instead: What to do about a file that would run code.

    Raises:
        CheckpointError: The file is damaged, or would run code.
    """
    try:
        checkpoint = load()
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
        # So the reader of archives fails on a short one without an end; other faults are not of the file's content.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        code = _CODE.search(str(error))
        if code:
            raise CheckpointError(
                f'checkpoint {source} is refused: loading it would run code that it names '
                f'({code["name"] or "a TorchScript program"}). Nothing of it was run. {instead}'
            ) from error
        if isinstance(error, RuntimeError) and not _DAMAGE.search(str(error)):
            raise
        raise CheckpointError(f'checkpoint {source} is damaged, cut short, or no checkpoint. {advice()}') from error
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    # Runner.resume would run this as a config file. Files of MMCV 1.x have it, and nothing of ours reads it.
    if isinstance(meta, dict) and 'config' in meta:
        del meta['config']
        print_log(f"{source}: meta['config'] is Python code, and is left out", logger='current', level=30)
    return checkpoint


def _advice(path: Path) -> str:
    """What to resume from in the place of ``path``."""
    others = [other for other in newest_first(path.parent) if other != path and zipfile.is_zipfile(other)]
    if not others:
        return 'There is no other checkpoint beside it: start again without --resume, or copy the file anew.'
    return (
        f'The newest whole one beside it is {others[0].name}; a training goes on from that with '
        f'--resume --cfg-options load_from={others[0]}'
    )


def newest_first(folder: Path) -> list[Path]:
    """Resumable checkpoints in a folder, the furthest trained first."""
    found = [(int(match[1]), path) for path in folder.glob('*.pth') if (match := _NUMBERED.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def find_last(folder: Path) -> Path | None:
    """The last checkpoint of a training: the one that MMEngine's ``last_checkpoint`` names, or the furthest trained.

    Args:
        folder: Work directory. It may have been moved since: only the file's name in ``last_checkpoint`` counts.

    Returns:
        None if there is none.
    """
    record = folder / 'last_checkpoint'
    if record.is_file():
        path = folder / Path(record.read_text(encoding='utf-8').strip()).name
        if path.is_file():
            return path
    return next(iter(newest_first(folder)), None)


def find_best(folder: Path) -> Path | None:
    """The checkpoint that was selected on the validation images, the last written of several; None if there is none.

    Copies that ``tools/tune_threshold.py`` has made are passed over.
    """
    found = (path for path in folder.glob('best_*.pth') if not path.stem.endswith(TUNED))
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
