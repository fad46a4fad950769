"""What the hooks share about a work dir: whole files, numbered folders, and which epoch is the best."""

import re
import shutil
from pathlib import Path

from mmengine.runner import EpochBasedTrainLoop, Runner

from crack_plugin.files import LEFTOVER, write_atomically

AFTER_CHECKPOINT_HOOK = 95
"""Priority between ``CheckpointHook``, which decides what is best, and ``LOWEST``."""


class SaveError(OSError):
    """A file could not be written; the message names it and says what to do."""


def write_whole(path: Path, data: bytes, durable: bool = False) -> None:
    """:func:`~crack_plugin.files.write_atomically`, with parent folders and an error that says what to do.

    Args:
        path: The file.
        data: All of it.
        durable: Wait until it is on the disk, where a power cut finds it whole, too.

    Raises:
        SaveError: It could not be written; a former file of the name is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, durable)
    except OSError as error:
        raise SaveError(
            f'{path} could not be written: {error.strerror}. What was saved before is whole. Make room, or see to it '
            'that the folder can be written; a training goes on with --resume.'
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written, anywhere below ``folder``; nobody else may be writing there."""
    for path in list(folder.rglob(f'.*{LEFTOVER}')):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def step_name(runner: Runner) -> str:
    """What ``CheckpointHook`` calls the present moment, in validation: 'epoch_3', or 'iter_4000' without epochs."""
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return f'epoch_{runner.epoch}'
    return f'iter_{runner.iter}'


def remove_older(folder: Path, newest: str, keep: int, spared: int | None = None) -> None:
    """Delete all but the last ``keep`` of the numbered folders up to ``newest``.

    Later ones, left by an earlier run in the same place, are not touched.

    Args:
        folder: Where they lie.
        newest: Name of the last one, such as 'epoch_3'.
        keep: How many to keep, ``newest`` included; all of them if not positive.
        spared: A number that is kept, whatever its age.
    """
    if keep <= 0:
        return
    kind, last = newest.rsplit('_', 1)
    found = (re.fullmatch(rf'{kind}_(\d+)', path.name) for path in folder.iterdir())
    numbers = sorted(number for match in found if match and (number := int(match[1])) <= int(last))
    for number in numbers[:-keep]:
        if number != spared:
            shutil.rmtree(folder / f'{kind}_{number}')


def best_scores(runner: Runner) -> dict[str, float]:
    """``CheckpointHook``'s best scores so far: {'best_score': ...}, or 'best_score_<key>' for each of several keys."""
    info = runner.message_hub.runtime_info
    return {key: float(value) for key, value in info.items() if key.startswith('best_score')}


def best_number(runner: Runner) -> int | None:
    """The epoch (or iteration) in the name of ``CheckpointHook``'s best checkpoint; None without one."""
    path = runner.message_hub.runtime_info.get('best_ckpt')
    match = re.search(r'_(\d+)$', Path(path).stem) if path else None
    return int(match[1]) if match else None
