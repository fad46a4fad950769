"""The table of a training: one row an epoch, against the model without training."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crack_plugin.errors import CrackPluginError

SCORES = {'mIoU': 'crack/IoU', 'Dice': 'crack/Dice', 'Precision': 'crack/Precision', 'Recall': 'crack/Recall'}
"""Column of the epoch table to metric."""


class ZeroShotResultError(CrackPluginError, ValueError):
    """A file is not a test result with the scores of the epoch table."""


def load_test_result(path: Path) -> dict[str, float]:
    """Read the metrics that ``tools/test.py`` wrote.

    Raises:
        ZeroShotResultError: The file holds no such result, or lacks a score of the epoch table.
    """
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ZeroShotResultError(f'{path} is no test result of tools/test.py: {error}') from error
    missing = [key for key in SCORES.values() if not isinstance(result, dict) or not _is_number(result.get(key))]
    if missing:
        raise ZeroShotResultError(
            f'{path} has no {", ".join(missing)}. Give the TIMESTAMP/TIMESTAMP.json that tools/test.py writes into its '
            'work directory, of a config that is evaluated by CrackMetric.'
        )
    return result


def best_row(rows: Sequence[Mapping[str, Any]], key: str, rule: str = 'greater') -> int | None:
    """Index of the row with the best ``key``, the first of equals; None if no row has it.

    Args:
        rows: Of :func:`~crack_plugin.report.history.load_history`.
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
        rows: Of :func:`~crack_plugin.report.history.load_history`.
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


def _percents(row: Mapping[str, Any]) -> list[str]:
    return [f'{100 * row[key]:.2f}%' if _is_number(row.get(key)) else '-' for key in SCORES.values()]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
