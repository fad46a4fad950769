"""The history of a training, from ``history.json`` or from MMEngine's log."""

import json
from pathlib import Path
from typing import Any

import pytest

from crack_plugin.report.history import load_history


def write_log(work_dir: Path, start: str, *rows: dict[str, Any], end: str = '') -> None:
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows) + end)


def train_row(step: int, loss: float, epoch: int | None = None, **more: float) -> dict[str, Any]:
    position = {'iter': step, 'step': step} | ({} if epoch is None else {'epoch': epoch})
    return {'lr': 1e-4 * step, 'loss': loss, 'train_iou': loss / 10, 'time': 0.5, **more, **position}


def val_row(step: int, iou: float) -> dict[str, Any]:
    return {'crack/IoU': iou, 'mIoU': 50.0, 'time': 3.0, 'data_time': 1.0, 'step': step}


def test_history_from_the_log(tmp_path: Path) -> None:
    first = [train_row(10, 3.0, 1, memory=700), train_row(20, 5.0, 1, memory=900), val_row(1, 0.25)]
    write_log(tmp_path, '20260101_000000', *first, train_row(30, 9.0, 2), end='{"loss": 7')
    # resumed after epoch 1, on the next day
    write_log(tmp_path, '20260102_000000', train_row(30, 1.0, 2), train_row(40, 2.0, 2), val_row(2, 0.5))
    rows, axis = load_history(tmp_path)
    assert axis == 'epoch'
    assert rows == [
        {'epoch': 1, 'train_loss': 4.0, 'train_iou': 0.4, 'lr': 2e-3, 'train_seconds': 10.0, 'peak_memory_mb': 900}
        | {'crack/IoU': 0.25, 'mIoU': 50.0},
        {'epoch': 2, 'train_loss': 1.5, 'train_iou': pytest.approx(0.15), 'lr': 4e-3, 'train_seconds': 10.0}
        | {'crack/IoU': 0.5, 'mIoU': 50.0},
    ]


@pytest.mark.parametrize('steps', [(10, 20), (0, 0)], ids=['log_metric_by_epoch=False', 'default'])
def test_history_of_a_loop_that_counts_iterations(tmp_path: Path, steps: tuple[int, int]) -> None:
    first = [train_row(5, 3.0), train_row(10, 1.0), val_row(steps[0], 0.1)]
    write_log(tmp_path, '20260101_000000', *first, train_row(15, 2.0), train_row(20, 4.0), val_row(steps[1], 0.2))
    rows, axis = load_history(tmp_path)
    assert axis == 'iter'
    assert [(row['iter'], row['train_loss'], row['crack/IoU']) for row in rows] == [(10, 2.0, 0.1), (20, 3.0, 0.2)]


def test_history_file_comes_before_the_log(tmp_path: Path) -> None:
    write_log(tmp_path, '20260101_000000', train_row(10, 3.0, 1))
    rows = [{'epoch': 1, 'iter': 10, 'train_loss': 2.0, 'crack/IoU': None}]
    (tmp_path / 'history.json').write_text(json.dumps(rows))
    assert load_history(tmp_path) == (rows, 'epoch')
    (tmp_path / 'history.json').write_text(json.dumps([row | {'epoch': 0} for row in rows]))
    assert load_history(tmp_path)[1] == 'iter'


def test_history_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'history\.json'):
        load_history(tmp_path)
    (tmp_path / 'history.json').write_text('[{"epoch": 1,')
    with pytest.raises(ValueError, match=r'history\.json is no history'):
        load_history(tmp_path)
