"""What the check of a dataset found, as text tables, as one HTML page with sample overlays, and as a CSV file."""

import csv
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from prettytable import PrettyTable, TableStyle

from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.polygons import LabelError
from crack_plugin.datasets.problems import CAUSES, SEEN_IN_PICTURES, Problem, describe_cause, group_by_cause
from crack_plugin.datasets.samples import SUMMARY, Sample, summarize
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.files import write_atomically
from crack_plugin.visualization.document import Block, Heading, Picture, Table, Text, to_html
from crack_plugin.visualization.panels import overlay

_PROBLEM_COLUMNS = ('severity', 'split', 'cause', 'file', 'line', 'problem')
_COLUMN_WIDTH = 120
_PREVIEW_SIDE = 800


@dataclass(frozen=True)
class DatasetReport:
    """What was found in a dataset.

    Attributes:
        data_root: The dataset.
        image_size: Side of the model's square input in pixels.
        datasets: The splits that could be opened, by name.
        samples: Of all splits.
        problems: Of all splits.
    """

    data_root: Path
    image_size: int
    datasets: Mapping[str, YOLOCrackDataset]
    samples: Sequence[Sample]
    problems: Sequence[Problem]

    @property
    def errors(self) -> int:
        """How many of the problems are errors."""
        return sum(problem.severity == 'error' for problem in self.problems)

    @property
    def verdict(self) -> str:
        """The numbers of errors and warnings."""
        return f'{self.errors} errors, {len(self.problems) - self.errors} warnings'

    @property
    def causes(self) -> list[list[Problem]]:
        """The problems by cause, see :func:`~crack_plugin.datasets.problems.group_by_cause`."""
        return group_by_cause(self.problems)

    @property
    def summary(self) -> list[tuple[str, ...]]:
        """A row for each split, see :func:`~crack_plugin.datasets.samples.summarize`."""
        return summarize(self.samples, self.image_size)


def as_text(report: DatasetReport) -> str:
    """The tables and the verdict, for a terminal."""
    parts = [_text_table(SUMMARY, report.summary)]
    if report.problems:
        parts.append(_text_table(*_cause_table(report.causes)))
    return '\n'.join([*parts, report.verdict])


def write_page(path: Path, report: DatasetReport, overlays: int) -> None:
    """Write all of a report as one HTML file.

    Args:
        path: The file.
        report: What to write.
        overlays: How many samples of each split to show with their labels painted over them, first those whose problem
            can be seen there.

    Raises:
        SaveError: The file could not be written.
    """
    causes = report.causes
    page: list[Block] = [
        Heading(f'Dataset {report.data_root}', 1),
        Text(report.verdict, note=bool(causes)),
        Heading('What is in it'),
        Table(SUMMARY, report.summary),
        Text(
            'Crack width: median along the centre lines of an image; shown are the median over the images, least and '
            f"largest, in the files, at the model's input of {report.image_size} px and at its output (2/7 of that)."
        ),
        Heading('Problems'),
        Table(*_cause_table(causes)) if causes else Text('None.'),
        Heading('Samples'),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for split, dataset in report.datasets.items():
            for i in _to_show(split, dataset, report, overlays):
                page += _overlay(split, dataset, i, Path(folder))
        if causes:
            page += [Heading('Every single problem'), Table(_PROBLEM_COLUMNS, _problem_rows(causes))]
        write_atomically(path, to_html(page, Path(folder)).encode(errors='backslashreplace'))


def write_csv(path: Path, report: DatasetReport) -> None:
    """Write every problem as a row of a CSV file.

    Raises:
        SaveError: The file could not be written.
    """
    text = io.StringIO()
    csv.writer(text).writerows([_PROBLEM_COLUMNS, *_problem_rows(report.causes)])
    write_atomically(path, text.getvalue().encode(errors='backslashreplace'))


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = PrettyTable(header, align='l', max_width=_COLUMN_WIDTH)
    table.set_style(TableStyle.SINGLE_BORDER)
    table.add_rows([list(row) for row in rows])
    # Names of files may have bytes that are not valid text.
    return table.get_string().encode(errors='backslashreplace').decode()


def _cause_table(causes: Sequence[Sequence[Problem]]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Header and rows; the rows are numbered for ``_problem_rows`` to refer to."""
    rows = [(str(number), *describe_cause(cause)) for number, cause in enumerate(causes, start=1)]
    return ('cause', *CAUSES), rows


def _problem_rows(causes: Sequence[Sequence[Problem]]) -> list[tuple[str, ...]]:
    """A row under ``_PROBLEM_COLUMNS`` for each problem, with the number of its cause."""
    return [
        (problem.severity, problem.split, str(number), problem.file or '', str(problem.line or ''), problem.text)
        for number, cause in enumerate(causes, start=1)
        for problem in cause
    ]


def _to_show(split: str, dataset: YOLOCrackDataset, report: DatasetReport, count: int) -> list[int]:
    """Indices of samples whose labels have to be looked at, and evenly spaced ones of the others."""
    readable = {sample.image for sample in report.samples if sample.split == split}
    doubtful = {problem.file for problem in report.problems if problem.cause in SEEN_IN_PICTURES}
    infos = [(i, dataset.get_data_info(i)) for i in range(len(dataset))]
    infos = [(i, info) for i, info in infos if info['img_path'] in readable]
    first = [i for i, info in infos if info['label_path'] in doubtful][:count]
    others = [i for i, _ in infos if i not in first]
    left = count - len(first)
    return first + (others[:: max(1, len(others) // left)][:left] if left else [])


def _overlay(split: str, dataset: YOLOCrackDataset, index: int, folder: Path) -> list[Block]:
    """A sample with its labels painted over it; nothing if they cannot be read."""
    sample = dataset[index]
    try:
        labels = LoadYOLOPolygons()(sample)['gt_seg_map']
    except LabelError:
        return []  # the table of problems tells why
    painted = overlay(*_preview(sample['img'], labels))
    name = f'{split}_{index}.png'
    (folder / name).write_bytes(cv2.imencode('.png', cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))[1].tobytes())
    return [Picture(name, f'{split}: {sample["img_path"]}')]


def _preview(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BGR image and label map as RGB image and label map of at most ``_PREVIEW_SIDE`` pixels."""
    picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    factor = max(labels.shape) / _PREVIEW_SIDE
    if factor <= 1:
        return picture, labels
    height, width = (max(1, round(side / factor)) for side in labels.shape)
    # Nearest-neighbour sampling would miss thin cracks.
    thickness = math.ceil(factor)
    thick = cv2.dilate(labels, np.ones((thickness, thickness), np.uint8))
    return (
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
        cv2.resize(thick, (width, height), interpolation=cv2.INTER_NEAREST),
    )
