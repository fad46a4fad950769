"""The report of a training, composed from its history, its model and an evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crack_plugin.files import write_atomically
from crack_plugin.report.epoch_table import SCORES, epoch_table
from crack_plugin.report.examples import Band, Example, FalseAlarm
from crack_plugin.report.facts import Facts
from crack_plugin.report.validation import Evaluation
from crack_plugin.visualization.document import Block, Heading, Picture, Table, Text, to_html, to_markdown
from crack_plugin.visualization.figures import save_curves, save_histograms


@dataclass
class TrainingReport:
    """All that the report says.

    Attributes:
        title: Its first line.
        recipe: Model and recipe, name and value.
        dataset: Split, its number of images, and where they are.
        rows: Of :func:`~crack_plugin.report.history.load_history`.
        axis: 'epoch' or 'iter'.
        best: Index of the best row.
        zero_shot: Metrics without training.
        runtime: Runtime and footprint, name and value.
        notes: What is left out and why, by section: 'results', 'distribution' or 'examples'.
        evaluation: Of the best checkpoint.
        zero_shot_evaluation: The same without training, if it was run.
        examples: By band.
        false_alarms: The worst images without crack.
    """

    title: str
    recipe: Facts
    dataset: Sequence[tuple[str, str, str]]
    rows: Sequence[Mapping[str, Any]]
    axis: str
    best: int | None
    zero_shot: Mapping[str, float] | None
    runtime: Facts
    notes: dict[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    zero_shot_evaluation: Evaluation | None = None
    examples: Mapping[Band, Sequence[Example]] = field(default_factory=dict)
    false_alarms: Sequence[FalseAlarm] = ()

    def write(self, folder: Path) -> None:
        """Write ``report.md``, ``report.html`` and their plots; the examples' panels must be in ``folder`` already."""
        zero_shot_iou = None if self.zero_shot is None else self.zero_shot[SCORES['mIoU']]
        save_curves(folder / 'curves.png', self.rows, self.axis, zero_shot_iou)
        if self.evaluation is not None:
            outline = None if self.zero_shot_evaluation is None else self.zero_shot_evaluation.per_image
            save_histograms(folder / 'histograms.png', self.evaluation.per_image, outline)
        blocks = self.blocks()
        write_atomically(folder / 'report.md', to_markdown(blocks).encode())
        write_atomically(folder / 'report.html', to_html(blocks, folder).encode())

    def blocks(self) -> list[Block]:
        """The report's content, top to bottom."""
        return [
            Heading(self.title, level=1),
            *self._summary(),
            Heading('Model and recipe'),
            Table(['Setting', 'Value'], self.recipe),
            Heading('Dataset'),
            Table(['Split', 'Images', 'Where'], self.dataset),
            Heading('Results'),
            *self._results(),
            Heading('Curves'),
            Picture('curves.png', f'Loss, IoU and learning rate by {_AXIS[self.axis].lower()}'),
            Heading('Distribution over validation images'),
            *self._distribution(),
            Heading('Examples'),
            *self._examples(),
            Heading('Runtime and footprint'),
            Table(['Quantity', 'Value'], self.runtime),
        ]

    def _summary(self) -> list[Block]:
        if self.best is None:
            return [Text('No validation was recorded.', note=True)]
        row, key = self.rows[self.best], SCORES['mIoU']
        if key not in row:
            return []
        text = f'Best validation mIoU: {100 * row[key]:.2f}% at {_AXIS[self.axis].lower()} {row[self.axis]}'
        if self.zero_shot is not None:
            gain = row[key] - self.zero_shot[key]
            text += f', {100 * gain:+.2f} points against zero-shot'
            if self.zero_shot[key] > 0:
                text += f' ({gain / self.zero_shot[key]:+.0%} relative)'
        return [Text(f'{text}.')]

    def _results(self) -> list[Block]:
        header, lines, strong = epoch_table(self.rows, self.axis, self.best, self.zero_shot)
        blocks: list[Block] = [
            *self._note('results'),
            Table(header, lines, strong),
            Text(
                'mIoU, Dice, precision and recall are those of the foreground in each image, averaged over the '
                'validation images (crack/IoU and its siblings); pp: percentage points.'
            ),
        ]
        if self.evaluation is not None:
            shown = {key: value for key, value in self.evaluation.metrics.items() if key.startswith('crack/')}
            zero_shot = self.zero_shot or {}
            rows = [
                [key.removeprefix('crack/'), _score(key, zero_shot.get(key)), _score(key, value)]
                for key, value in shown.items()
            ]
            blocks += [
                Heading('All scores of the best checkpoint, evaluated anew', level=3),
                Table(['Score', 'Zero-shot', 'Fine-tuned'], rows),
            ]
        return blocks

    def _distribution(self) -> list[Block]:
        if self.evaluation is None:
            return self._note('distribution')
        count = len(self.evaluation.per_image)
        return [Picture('histograms.png', f'IoU and Dice of {count} validation images')]

    def _examples(self) -> list[Block]:
        blocks: list[Block] = [*self._note('examples')]
        for band, examples in self.examples.items():
            blocks.append(Heading(band.title, level=3))
            if not examples:
                blocks.append(Text('No image is left for this group.'))
            for example in examples:
                aside = '' if example.inside or band.low == band.high else ' (outside the range; the nearest there is)'
                blocks.append(Picture(example.file, f'IoU {example.iou:.3f}: {example.image}{aside}'))
        return blocks + self._false_alarms()

    def _false_alarms(self) -> list[Block]:
        """The worst images without crack; nothing if all images have cracks."""
        free = [] if self.evaluation is None else [x for x in self.evaluation.false_alarms if not math.isnan(x)]
        if not free:
            return []
        marked = sum(pixels > 0 for pixels in free)
        return [
            Heading('False alarms', level=3),
            Text(
                f'Of {len(free)} images without crack, {marked} have marked pixels'
                f'{"; those with most:" if self.false_alarms else "."}'
            ),
            *(
                Picture(alarm.file, f'{alarm.pixels:,.0f} marked pixels per megapixel: {alarm.image}')
                for alarm in self.false_alarms
            ),
        ]

    def _note(self, section: str) -> list[Block]:
        return [Text(self.notes[section], note=True)] if section in self.notes else []


_AXIS = {'epoch': 'Epoch', 'iter': 'Iteration'}


def _score(key: str, value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:,.0f} px/MP' if key.startswith('crack/FalseAlarmPixels') else f'{100 * value:.2f}%'
