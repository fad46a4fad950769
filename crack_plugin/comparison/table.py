"""The table of a benchmark, as Markdown, CSV and JSON, with its plots."""

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crack_plugin.comparison.measure import Measurement
from crack_plugin.datasets.photographs import read_photograph
from crack_plugin.evaluation.image_statistics import bootstrap_intervals
from crack_plugin.files import write_atomically
from crack_plugin.visualization.document import Block, Heading, Picture, Table, Text, to_markdown
from crack_plugin.visualization.figures import save_size_accuracy
from crack_plugin.visualization.panels import save_contact_sheet

SCORES = {
    'mIoU': 'mIoU',
    'IoU': 'crack IoU',
    'Dice': 'F1',
    'Precision': 'precision',
    'Recall': 'recall',
    'ODS': 'ODS',
    'OIS': 'OIS',
    'clIoU': 'clIoU(4)',
    'clDice': 'clDice',
}
"""Columns of the Markdown table: score as ``ImageStatistics.summary`` names it, and heading."""
PLOT, SHEET = 'size_accuracy.png', 'contact_sheet.png'


@dataclass(frozen=True)
class Score:
    """Attributes:
    mean: Over seeds.
    spread: Standard deviation over seeds (n - 1), None for one seed.
    low: End of the confidence interval over images.
    high: Its other end.
    """

    mean: float
    spread: float | None
    low: float
    high: float

    def __str__(self) -> str:
        spread = '' if self.spread is None else f' ± {self.spread:.3f}'
        return f'{self.mean:.3f}{spread} [{self.low:.2f}, {self.high:.2f}]'


@dataclass
class Row:
    """One model.

    Attributes:
        name: In the table.
        config: Its config file.
        measured: Its measurements by seed; seed None is the config's own, or unknown.
        failures: Why a seed has none.
        scores: Filled in by :func:`complete`, by name.
    """

    name: str
    config: str
    measured: dict[int | None, Measurement] = field(default_factory=dict)
    failures: dict[int | None, str] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)

    def complete(self, resamples: int) -> None:
        """Compute the scores from what was measured."""
        runs = [measurement.statistics for measurement in self.measured.values()]
        summaries = [run.summary() for run in runs]
        intervals = bootstrap_intervals(runs, resamples)
        for name, (low, high) in intervals.items():
            values = [summary[name] for summary in summaries]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            self.scores[name] = Score(float(np.mean(values)), spread, low, high)

    @property
    def first(self) -> Measurement:
        """The measurement of the first seed."""
        return next(iter(self.measured.values()))

    def cost(self, key: str) -> float:
        """Median over seeds of a figure of :class:`~crack_plugin.comparison.measure.Cost`."""
        return float(np.median([getattr(measurement.cost, key) for measurement in self.measured.values()]))


def write(folder: Path, rows: Sequence[Row], facts: Mapping[str, str], with_pictures: bool = True) -> None:
    """Write ``benchmark.md``, ``benchmark.csv`` and ``benchmark.json``.

    Args:
        folder: Where to.
        rows: In the table's order; failed ones stand in their place.
        facts: What holds for all, name and value: command, data, ...
        with_pictures: Draw the size-accuracy plot and the contact sheet as well.
    """
    facts = {**facts, 'Software': f'Python {platform.python_version()}, torch {torch.__version__}'}
    measured = [row for row in rows if row.measured]
    pictures = []
    if measured and with_pictures:
        save_size_accuracy(folder / PLOT, [_point(row) for row in measured])
        pictures.append(Picture(PLOT, 'Crack IoU over size and arithmetic, with the interval over images'))
        if measured[0].first.shown:
            _draw_sheet(folder / SHEET, measured)
            pictures.append(Picture(SHEET, 'The same images under all models'))
    _write_csv(folder / 'benchmark.csv', rows)
    content = {'facts': facts, 'rows': [_as_json(row) for row in rows]}
    write_atomically(folder / 'benchmark.json', json.dumps(content, indent=1, ensure_ascii=False).encode())
    blocks: list[Block] = [Heading('Benchmark', level=1), Table(['', ''], list(facts.items())), *_tables(rows)]
    write_atomically(folder / 'benchmark.md', to_markdown([*blocks, *pictures]).encode())


def _tables(rows: Sequence[Row]) -> list[Block]:
    scores, costs = [], []
    for row in rows:
        if not row.measured:
            reason = f'failed: {next(iter(row.failures.values()))}'
            scores.append([row.name, reason, *['-'] * (len(SCORES) - 1)])
            costs.append([row.name, 'failed', *['-'] * 8])
            continue
        scores.append([row.name, *(str(row.scores[name]) if name in row.scores else '-' for name in SCORES)])
        height, width = row.first.cost.input_size
        seen = row.first.images_seen
        costs.append(
            [
                row.name,
                '-' if seen is None else f'{seen:,}',
                f'{height} x {width}',
                f'{row.cost("parameters") / 1e6:.2f}',
                f'{row.cost("trainable") / 1e6:.2f}',
                f'{row.cost("weights_mb"):.1f}',
                f'{row.cost("tflop"):.4f}',
                f'{row.cost("images_per_second"):.2f}',
                f'{row.cost("peak_memory_mb"):,.0f}',
                ', '.join(str(seed) for seed in row.measured if seed is not None) or '-',
            ]
        )
    header = [
        'model',
        'training images seen',
        'input (px)',
        'parameters (M)',
        'trainable (M)',
        'checkpoint (MB)',
        'TFLOP an image',
        'images/s',
        'peak memory (MiB)',
        'seeds',
    ]
    blocks: list[Block] = [
        Heading('Scores'),
        Table(['model', *SCORES.values()], scores),
        Text(
            'Fractions. Crack IoU, F1, precision, recall, OIS and clDice are means over images, ODS and clIoU are of '
            'the whole dataset, mIoU is that of MMSegmentation (whole dataset, background included). Brackets: 95 % '
            'percentile bootstrap over the images. ±: standard deviation over seeds, where there are several.'
        ),
        Heading('Cost'),
        Table(header, costs),
    ]
    remarks = sorted({m.cost.peak_memory_of for row in rows for m in row.measured.values()})
    devices = sorted({m.cost.device for row in rows for m in row.measured.values()})
    if remarks:
        blocks.append(
            Text(
                f'Predicting one image at a time on: {", ".join(devices)}. Images a second without loading and '
                f'scoring. Peak memory is that of: {", ".join(remarks)}. Checkpoint: the weights that one stores, '
                'without an optimizer (of a model with adapters, the adapters alone).'
            )
        )
    failures = [
        [row.name, '-' if seed is None else str(seed), reason] for row in rows for seed, reason in row.failures.items()
    ]
    if failures:
        blocks += [Heading('Failures'), Table(['model', 'seed', 'reason'], failures)]
    return blocks


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a model: each score with its ends and spread, and each cost, in full precision."""
    lines = [_flat(row) for row in rows]
    header = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, header)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())


def _flat(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {'model': row.name, 'config': row.config, 'failure': '; '.join(row.failures.values())}
    if not row.measured:
        return line
    line['seeds'] = ' '.join(str(seed) for seed in row.measured if seed is not None)
    for name, score in row.scores.items():
        line |= {name: score.mean, f'{name}_low': score.low, f'{name}_high': score.high}
        line[f'{name}_spread'] = '' if score.spread is None else score.spread
    line |= {key: row.cost(key) for key, value in asdict(row.first.cost).items() if isinstance(value, (int, float))}
    return line


def _as_json(row: Row) -> dict[str, Any]:
    runs = [
        {
            'seed': seed,
            'scores': measurement.statistics.summary(),
            'cost': asdict(measurement.cost),
            'images_seen': measurement.images_seen,
        }
        for seed, measurement in row.measured.items()
    ]
    failures = [{'seed': seed, 'reason': reason} for seed, reason in row.failures.items()]
    scores = {name: asdict(score) for name, score in row.scores.items()}
    return {'model': row.name, 'config': row.config, 'scores': scores, 'runs': runs, 'failures': failures}


def _point(row: Row) -> dict[str, Any]:
    score = row.scores['IoU']
    cost = {key: row.cost(key) for key in ('parameters', 'tflop')}
    return {'name': row.name, 'iou': score.mean, 'low': score.low, 'high': score.high, **cost}


def _draw_sheet(path: Path, rows: Sequence[Row]) -> None:
    first = rows[0].first
    images = [read_photograph(first.images[index])[..., ::-1] for index in first.shown]
    truths = [first.truth(index) for index in first.shown]
    predictions = {row.name: [row.first.prediction(index) for index in first.shown] for row in rows}
    save_contact_sheet(path, images, truths, predictions)
