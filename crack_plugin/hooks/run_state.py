"""What the hooks ask of a running training: its model, the name of the step, best scores, and numbered folders."""

import re
import shutil
from pathlib import Path
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

AFTER_CHECKPOINT_HOOK = 95
"""Priority between ``CheckpointHook``, which decides what is best, and ``LOWEST``."""


def unwrap(model: Any) -> Any:
    """The model itself, out of what distributes it over processes (``MMDistributedDataParallel`` and its like)."""
    while is_model_wrapper(model):
        model = model.module
    return model


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
