"""The history of a training, read from what it left in its work directory."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from crack_plugin.errors import CrackPluginError
from crack_plugin.hooks import history as history_file

_NO_METRIC = ('step', 'time', 'data_time')


class LogError(CrackPluginError, ValueError):
    """A log of a training cannot be read."""


class HistoryNotFoundError(CrackPluginError, FileNotFoundError):
    """A folder holds neither history nor log of a training."""


def load_history(work_dir: Path) -> tuple[list[dict[str, Any]], str]:
    """Read a training's progress, one row an epoch, or one a validation if training counted iterations.

    ``history.json`` (of ``HistoryHook``) is read if it is there, otherwise the ``scalars.json`` that every run writes;
    where a resumed run repeated an epoch, the repetition counts. In rows from ``scalars.json``, ``train_loss`` and
    ``train_iou`` are means over the lines that were logged in the epoch (MMEngine logs the loss of the last ten
    iterations, the IoU of the last one), and ``val_seconds`` are not known.

    Args:
        work_dir: Folder of the training.

    Returns:
        Rows in order, with those of the keys that are known: ``epoch`` or ``iter``, ``train_loss``, ``train_iou``,
        ``val_loss``, ``lr``, ``train_seconds``, ``val_seconds``, ``peak_memory_mb`` and the metrics (``crack/IoU``,
        ...), None where a value was not finite; and which of ``epoch`` and ``iter`` the rows are counted by.

    Raises:
        HistoryNotFoundError: ``work_dir`` holds neither file.
        LogError: A ``scalars.json`` is damaged.
        ValueError: ``history.json`` is damaged.
    """
    path = work_dir / history_file.FILE
    if path.is_file():
        rows = history_file.read_history(path)
        # A loop that counts iterations has no epochs to tell apart.
        epochs = {row['epoch'] for row in rows}
        return rows, 'epoch' if len(epochs) == len(rows) and 0 not in epochs else 'iter'
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda file: file.parts[-3])
    if not files:
        raise HistoryNotFoundError(
            f'{work_dir} holds no training: neither history.json nor */vis_data/scalars.json is there. Give the work '
            'directory of tools/train.py.'
        )
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    for file in files:
        # A killed run may leave half a line at the end.
        lines = [line for line in file.read_text(encoding='utf-8').splitlines(keepends=True) if line.endswith('\n')]
        iteration = 0
        for row in _parse_rows(file, f'[{",".join(lines)}]'):
            if 'loss' in row and 'lr' in row:
                train[row['step']] = row
                iteration = 0 if 'epoch' in row else row['step']
            else:
                # Without epochs, LoggerHook gives each validation step 0 unless log_metric_by_epoch=False.
                val[max(row['step'], iteration)] = row
    by_epoch = any('epoch' in row for row in train.values())
    return _join_rows(train, val, by_epoch), 'epoch' if by_epoch else 'iter'


def _parse_rows(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise LogError(f'{file} is damaged: {error}. Remove it, or restore it from the training.') from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LogError(f'{file} does not hold rows (JSON objects). Remove it, or restore it from the training.')
    return rows


def _join_rows(train: dict[int, dict], val: dict[int, dict], by_epoch: bool) -> list[dict[str, Any]]:
    """Put what was logged for training and for validation in one row for each epoch or validation."""
    steps = sorted(train)
    # `time` is the mean over the iterations since the last row.
    durations = {end: train[end].get('time', 0) * (end - start) for start, end in pairwise([0, *steps])}
    if by_epoch:
        place = {step: train[step]['epoch'] for step in steps}
    else:
        ends = sorted(val) or steps[-1:]
        place = {step: next((end for end in ends if end >= step), ends[-1]) for step in steps}
    rows = []
    for point in sorted({*place.values(), *val}):
        logged = [train[step] for step in steps if place[step] == point]
        row: dict[str, Any] = {'epoch' if by_epoch else 'iter': point}
        for key, logged_as in (('train_loss', 'loss'), ('train_iou', 'train_iou')):
            values = [entry[logged_as] for entry in logged if logged_as in entry]
            if values:
                row[key] = sum(values) / len(values)
        if logged:
            row['lr'] = logged[-1]['lr']
            row['train_seconds'] = sum(durations[step] for step in steps if place[step] == point)
        memory = [entry['memory'] for entry in logged if 'memory' in entry]
        if memory:
            row['peak_memory_mb'] = max(memory)
        rows.append(row | {key: value for key, value in val.get(point, {}).items() if key not in _NO_METRIC})
    return rows
