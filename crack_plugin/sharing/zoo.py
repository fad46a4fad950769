"""A model zoo: a Markdown page with a row for each config, filled from the work directories of trainings."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from crack_plugin.files import write_atomically
from crack_plugin.models.adapters import WEIGHTS_FILE
from crack_plugin.report.epoch_table import SCORES
from crack_plugin.report.facts import duration, largest_memory
from crack_plugin.sharing.push import RECORD
from crack_plugin.sharing.training import SharingError, Training, data_name, read_training
from crack_plugin.visualization.document import Block, Heading, Table, Text, to_markdown

COLUMNS = (
    'Config',
    'Data',
    'GPU',
    'Memory',
    'Epoch',
    'IoU',
    'Dice',
    'Precision',
    'Recall',
    'Training time',
    'Parameters, trained',
    'Download',
)
_HEADER = f'| {" | ".join(COLUMNS)} |'


def zoo_row(training: Training) -> list[str]:
    """Cells of :data:`COLUMNS`; '-' is what was not recorded."""
    rows, row = training.rows, training.row
    seconds = [each['train_seconds'] for each in rows if each.get('train_seconds') is not None]
    scores = [row.get(key) for key in SCORES.values()]
    return [
        Path(training.cfg.filename).stem,
        data_name(training.cfg) or '-',
        next((str(each['device']) for each in reversed(rows) if each.get('device')), '-'),
        largest_memory(rows),
        str(row.get(training.axis, '-')),
        *('-' if score is None else f'{100 * score:.2f}%' for score in scores),
        duration(seconds),
        _parameters(training),
        _download(training.work_dir),
    ]


def write_zoo(work_dirs: Sequence[Path], page: Path) -> tuple[int, int]:
    """Write a row for each work directory into ``page``, in the place of an earlier row of the same config.

    Other rows, and what is above and below the table, stay as they are.

    Args:
        work_dirs: Of trainings.
        page: Markdown file; made if it is not there.

    Returns:
        How many rows are new, and how many took the place of another.

    Raises:
        SharingError: Two work directories are of one config; ``page`` has no table of this kind, or several rows of one
            config.
        HistoryNotFoundError: A work directory holds no training.
    """
    found: dict[str, list[str]] = {}
    owners: dict[str, Path] = {}
    for work_dir in work_dirs:
        row = zoo_row(read_training(work_dir))
        if row[0] in owners:
            raise SharingError(
                f'{owners[row[0]]} and {work_dir} are both of the config {row[0]}, which has one row. Give one of '
                'them, or rename the config file in the other.'
            )
        owners[row[0]] = work_dir
        found[row[0]] = row
    above, former, below = _split_page(page)
    lines = {_first_cell(line): line for line in former}
    if len(lines) < len(former):
        names = [_first_cell(line) for line in former]
        twice = ', '.join(name for name in lines if names.count(name) > 1)
        raise SharingError(f'{page} has several rows of {twice}: leave one of each, or rename the others.')
    new = {_first_cell(line): line for line in _lines(found.values())}
    replaced = len(lines.keys() & new.keys())
    table = '\n'.join([_HEADER, f'| {" | ".join(["---"] * len(COLUMNS))} |', *(lines | new).values()])
    write_atomically(page, f'{above}{table}\n{below}'.encode())
    return len(new) - replaced, replaced


def _split_page(page: Path) -> tuple[str, list[str], str]:
    """What is above the table, its rows, and what is below."""
    if not page.is_file():
        blocks: list[Block] = [
            Heading('Model zoo', level=1),
            Text(
                'A row for each config, of the epoch that was selected on the validation images. Scores are those of '
                'the foreground in each image, averaged over the images.'
            ),
        ]
        return f'{to_markdown(blocks)}\n', [], ''
    lines = page.read_text(encoding='utf-8').splitlines(keepends=True)
    start = next((index for index, line in enumerate(lines) if line.strip() == _HEADER), None)
    if start is None:
        raise SharingError(
            f'{page} has no table of this tool, which begins with {_HEADER}: name another file with --output.'
        )
    end = start
    while end < len(lines) and lines[end].startswith('|'):
        end += 1
    return ''.join(lines[:start]), [line.rstrip() for line in lines[start + 2 : end]], ''.join(lines[end:])


def _lines(rows: Iterable[Sequence[str]]) -> list[str]:
    # The last cell is Markdown, a link; all others are plain texts.
    plain = to_markdown([Table(COLUMNS[:-1], [row[:-1] for row in rows])]).splitlines()[2:]
    return [f'{line} {row[-1]} |' for line, row in zip(plain, rows, strict=True)]


def _first_cell(line: str) -> str:
    return re.split(r'(?<!\\)\|', line)[1].strip()


def _parameters(training: Training) -> str:
    """Of the model, and those trained: by the history, or else by the adapter's file."""
    row: Mapping[str, Any] = next((each for each in reversed(training.rows) if each.get('parameters')), {})
    if row:
        return f'{row["parameters"] / 1e6:,.1f} M, {row["trained_parameters"] / 1e6:,.2f} M'
    if training.adapter is None:
        return '-'
    path = training.adapter / WEIGHTS_FILE
    try:
        with safe_open(str(path), framework='pt') as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SharingError(f'{path} is damaged or missing ({error}). Copy the work directory again.') from error
    return f'-, {sum(math.prod(shape) for shape in shapes) / 1e6:,.2f} M'


def _download(work_dir: Path) -> str:
    path = work_dir / RECORD
    if not path.is_file():
        return '-'
    try:
        pushed = json.loads(path.read_text(encoding='utf-8'))
        return f'[{pushed["repo"]}]({pushed["url"]})'
    except (KeyError, TypeError, ValueError) as error:
        raise SharingError(
            f'{path} is not as tools/push_to_hub.py wrote it ({error}). Remove it, or push again.'
        ) from error
