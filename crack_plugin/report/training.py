"""What a training left behind in its work directory, read and ordered for a report: pure functions on its files."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SCORES = {'mIoU': 'crack/IoU', 'Dice': 'crack/Dice', 'Precision': 'crack/Precision', 'Recall': 'crack/Recall'}
"""Column of the epoch table to metric."""
_NO_METRIC = ('step', 'time', 'data_time')


@dataclass(frozen=True)
class Band:
    """A range of IoU that examples are taken from.

    Attributes:
        name: First word of the examples' file names.
        title: Heading in the report.
        low: Least IoU.
        high: Largest IoU.
    """

    name: str
    title: str
    low: float
    high: float

    def distance(self, iou: float) -> float:
        """How far an IoU is from the band; 0 inside."""
        return max(self.low - iou, iou - self.high, 0.0)


# From the best down: `best` is above every IoU, so the nearest are the largest.
BANDS = (
    Band('best', 'Best', 1.0, 1.0),
    Band('good', 'Good (IoU 0.70 to 0.80)', 0.70, 0.80),
    Band('challenging', 'Challenging (IoU 0.55 to 0.60)', 0.55, 0.60),
)


def load_history(work_dir: Path) -> tuple[list[dict[str, Any]], str]:
    """Read a training's progress, one row an epoch, or one a validation if training counted iterations.

    ``history.json`` (of ``HistoryHook``) is taken if it is there, otherwise the ``scalars.json`` that every run writes;
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
        FileNotFoundError: ``work_dir`` holds neither file.
        ValueError: A file is not what these are.
    """
    whole = work_dir / 'history.json'
    if whole.is_file():
        rows = _read_rows(whole, whole.read_text(encoding='utf-8'))
        if not all({'epoch', 'iter'} <= row.keys() for row in rows):
            raise ValueError(f'{whole} has a row without epoch or iter. Move it away, and the log is read instead.')
        # A loop that counts iterations has no epochs to tell apart.
        epochs = {row['epoch'] for row in rows}
        return rows, 'epoch' if len(epochs) == len(rows) and 0 not in epochs else 'iter'
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda file: file.parts[-3])
    if not files:
        raise FileNotFoundError(
            f'{work_dir} holds no training: neither history.json nor */vis_data/scalars.json is there. Give the work '
            'directory of tools/train.py.'
        )
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    for file in files:
        # A killed run may leave half a line at the end.
        lines = [line for line in file.read_text(encoding='utf-8').splitlines(keepends=True) if line.endswith('\n')]
        iteration = 0
        for row in _read_rows(file, f'[{",".join(lines)}]'):
            if 'loss' in row and 'lr' in row:
                train[row['step']] = row
                iteration = 0 if 'epoch' in row else row['step']
            else:
                # Without epochs, LoggerHook gives each validation step 0 unless log_metric_by_epoch=False.
                val[max(row['step'], iteration)] = row
    by_epoch = any('epoch' in row for row in train.values())
    return _join(train, val, by_epoch), 'epoch' if by_epoch else 'iter'


def best_row(rows: Sequence[Mapping[str, Any]], key: str, rule: str = 'greater') -> int | None:
    """Index of the row with the best ``key``, the first of equals; None if no row has it.

    Args:
        rows: Of :func:`load_history`.
        key: Metric that checkpoints were selected by.
        rule: 'greater' or 'less'.
    """
    sign = 1 if rule == 'greater' else -1
    scored = [i for i, row in enumerate(rows) if _is_number(row.get(key))]
    return max(scored, key=lambda i: sign * rows[i][key]) if scored else None


def epoch_table(
    rows: Sequence[Mapping[str, Any]], axis: str, best: int | None, zero_shot: Mapping[str, float] | None
) -> tuple[list[str], list[list[str]], int | None]:
    """The progress as texts: percent, and the gain over zero-shot in percentage points.

    Args:
        rows: Of :func:`load_history`.
        axis: 'epoch' or 'iter'.
        best: Index of the best row.
        zero_shot: Metrics without training, the first row; None to leave it out, and the gain with it.

    Returns:
        Header, rows, and the index of the best row among them.
    """
    header = ['Epoch' if axis == 'epoch' else 'Iteration', *SCORES, 'mIoU Improvement']
    lines = [] if zero_shot is None else [['Baseline (Zero-shot)', *_percents(zero_shot), '-']]
    offset = len(lines)
    for index, row in enumerate(rows):
        name = f'{row[axis]} (Best)' if index == best else str(row[axis])
        gain = '-'
        if zero_shot is not None and _is_number(row.get(SCORES['mIoU'])):
            gain = f'{100 * (row[SCORES["mIoU"]] - zero_shot[SCORES["mIoU"]]):+.2f} pp'
        lines.append([name, *_percents(row), gain])
    return header, lines, None if best is None else best + offset


def load_test_result(path: Path) -> dict[str, float]:
    """Read the metrics that ``tools/test.py`` wrote.

    Raises:
        ValueError: The file holds no such result, or lacks a score of the epoch table.
    """
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no test result of tools/test.py: {error}') from error
    missing = [key for key in SCORES.values() if not isinstance(result, dict) or not _is_number(result.get(key))]
    if missing:
        raise ValueError(
            f'{path} has no {", ".join(missing)}. Give the TIMESTAMP/TIMESTAMP.json that tools/test.py writes into its '
            'work directory, of a config that is evaluated by CrackMetric.'
        )
    return result


def pick_examples(ious: Sequence[float], has_crack: Sequence[bool], count: int = 2) -> dict[Band, list[int]]:
    """Choose images that show what the model does well and what it does not.

    From each band the images at its top and bottom and evenly between are taken; where it holds fewer than ``count``,
    the nearest outside follow. No image is taken twice. Those without crack are passed over unless there are no
    others: an empty prediction on an empty mask has IoU 1 and shows nothing.

    Args:
        ious: IoU by image.
        has_crack: By image, whether its ground truth has foreground.
        count: Images for each band.

    Returns:
        Indices by band, IoU falling.
    """
    left = sorted(range(len(ious)), key=lambda i: (-ious[i], i))
    if any(has_crack):
        left = [i for i in left if has_crack[i]]
    picked: dict[Band, list[int]] = {}
    for band in BANDS:
        inside = [i for i in left if band.distance(ious[i]) == 0]
        if len(inside) > count:
            chosen = [inside[round(k * (len(inside) - 1) / max(count - 1, 1))] for k in range(count)]
        else:
            chosen = sorted(left, key=lambda i: band.distance(ious[i]))[:count]
        picked[band] = sorted(chosen, key=lambda i: (-ious[i], i))
        left = [i for i in left if i not in chosen]
    return picked


def example_file(band: Band, rank: int, iou: float) -> str:
    """Name of an example's PNG file, such as 'good_example_1_iou_0.722.png'."""
    return f'{band.name}_example_{rank}_iou_{iou:.3f}.png'


def _read_rows(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'{file} is damaged: {error}. Remove it, or restore it from the training.') from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{file} is no list of rows. Remove it, or restore it from the training.')
    return rows


def _join(train: dict[int, dict], val: dict[int, dict], by_epoch: bool) -> list[dict[str, Any]]:
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


def _percents(row: Mapping[str, Any]) -> list[str]:
    return [f'{100 * row[key]:.2f}%' if _is_number(row.get(key)) else '-' for key in SCORES.values()]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
