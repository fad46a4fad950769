"""Checkpoint files are read as data: nothing in them runs, and what is wrong with one is said in plain words.

MMEngine reads every checkpoint (``load_from``, ``resume``, ``init_model``, the tools) through the loaders registered
in its ``CheckpointLoader``; :func:`register_loaders` puts ours in their place.
"""

import pickle
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint

# As torch words it where a file asks for more than tensors and plain data, and where a file is not whole.
_CODE = re.compile(r'(?:Unsupported global: |unsupported )GLOBAL (?P<name>[\w.]+)|TorchScript archives', re.IGNORECASE)
_DAMAGE = re.compile(r'zip archive|PytorchStreamReader|unexpected EOF|corrupt', re.IGNORECASE)
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file and says what to do."""


def register_loaders() -> None:
    """Make MMEngine read checkpoints through this module."""
    mmengine_checkpoint.CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    # What the loaders of the model zoos download with; torch's default there is to run what the file says.
    mmengine_checkpoint.load_url = _load_url


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
    return _read(
        partial(torch.load, path, map_location=map_location, weights_only=True), str(path), partial(_advice, path)
    )


def _load_url(url: str, *args: Any, **kwargs: Any) -> Any:
    load = partial(torch.hub.load_state_dict_from_url, url, *args, **{**kwargs, 'weights_only': True})
    return _read(load, url, lambda: 'Delete it from the cache of torch.hub, and try again.')


def _read(load: Callable[[], Any], source: str, advice: Callable[[], str]) -> Any:
    try:
        checkpoint = load()
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        code = _CODE.search(str(error))
        if code:
            raise CheckpointError(
                f'checkpoint {source} is refused: loading it would run code that it names '
                f'({code["name"] or "a TorchScript program"}). Nothing of it was run. Use a checkpoint that this '
                'package wrote. If you trust who made the file, take its weights out: '
                "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)"
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
    """The checkpoint that was selected on the validation images, the last written of several; None if there is none."""
    return max(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime_ns, default=None)
