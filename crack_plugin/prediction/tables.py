"""``predictions.csv``: a row for each class in each image, and which images of an earlier run are complete."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TextIO

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.prediction.sources import overlay_of

TABLE = 'predictions.csv'


class TableError(CrackPluginError, ValueError):
    """A predictions.csv that something else has changed."""


@dataclass(frozen=True)
class Row:
    """A row of predictions.csv: one class in one image.

    Attributes:
        image: The image file, or the video.
        mask: Its mask, relative to OUT; the name of a frame's mask is its number, from 0.
        width: In pixels.
        height: In pixels.
        class_name: The foreground class.
        pixels: How many are predicted as the class.
        share: The same as a fraction of the image.
        score: Mean probability of the class over those pixels; 0 if there are none.
    """

    image: str
    mask: str
    width: int
    height: int
    class_name: str
    pixels: int
    share: float
    score: float


COLUMNS = [field.name for field in fields(Row)]


def read_table(table: Path, classes: int) -> dict[str, list[Row]]:
    """Rows of the images that are complete, by mask: a row for each class, and mask and overlay on disk.

    Args:
        table: predictions.csv in the folder with the masks; without it, nothing is complete.
        classes: Number of foreground classes K.

    Raises:
        TableError: It is not as it was written.
    """
    if not table.is_file():
        return {}
    groups: dict[str, list[Row]] = {}
    text = table.read_bytes().decode(errors='surrogateescape')
    # A killed run may leave half a line at the end.
    lines = csv.DictReader(io.StringIO(text[: text.rfind('\n') + 1], newline=''))
    try:
        for cells in lines:
            if None not in cells.values():
                values = {field.name: field.type(cells[field.name]) for field in fields(Row)}  # type: ignore[operator]
                groups.setdefault(cells['mask'], []).append(Row(**values))
    except (KeyError, ValueError) as error:
        raise TableError(
            f'{table}, line {lines.line_num}, is not as it was written; a spreadsheet program may have saved it. '
            'Restore it, take another --out, or pass --overwrite to predict everything again.'
        ) from error
    out = table.parent
    return {
        mask: rows
        for mask, rows in groups.items()
        if len(rows) == classes and (out / mask).is_file() and (out / overlay_of(mask)).is_file()
    }


def part_of(table: Path, rank: int) -> Path:
    """What one of several processes writes its rows to, beside the table."""
    return table.with_name(f'.{table.stem}-{rank:05d}{table.suffix}')


def join_parts(table: Path, classes: int, drop: bool = False) -> dict[str, list[Row]]:
    """Read a table as :func:`read_table`, after the parts of several processes that were stopped are moved into it.

    Args:
        table, classes: As for :func:`read_table`.
        drop: Delete the parts, and read nothing.
    """
    parts = sorted(table.parent.glob(part_of(table, 0).name.replace('00000', '*')))
    groups: dict[str, list[Row]] = {}
    if not drop:
        for each in (table, *parts):
            groups |= read_table(each, classes)
        if parts:
            write_table(table, [row for mask in sorted(groups) for row in groups[mask]])
    for part in parts:
        part.unlink()
    return groups


def write_table(table: Path, rows: Sequence[Row]) -> None:
    """Write predictions.csv anew."""
    write_csv(table, COLUMNS, (astuple(row) for row in rows))


def open_table(path: Path, mode: str) -> TextIO:
    """Open a CSV file for :mod:`csv` to write to."""
    # The names of files may have bytes that are no text.
    return path.open(mode, newline='', encoding='utf-8', errors='surrogateescape')  # type: ignore[return-value]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, row by row as they come."""

    def write(scratch: Path) -> None:
        with open_table(scratch, 'w') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(columns)
            writer.writerows(rows)

    write_atomically(path, write)
