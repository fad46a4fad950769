"""The table of predictions: what is written is read back, and what is not complete is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crack_plugin.evaluation.geometry import CrackGeometry
from crack_plugin.inspection.scale import Scales
from crack_plugin.prediction.measurements import Measurement, measure_all, summaries
from crack_plugin.prediction.pictures import write_image
from crack_plugin.prediction.sources import overlay_of
from crack_plugin.prediction.tables import COLUMNS, TABLE, Row, TableError, read_table, write_table

ROWS = [
    Row('site/a, b.jpg', 'masks/a, b.png', 64, 48, 'crack', 120, 0.0390625, 0.75),
    Row('site/"c".jpg', 'masks/"c".png', 64, 48, 'crack', 0, 0.0, 0.0),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a crack of 40 x 3 pixels and an empty mask, overlays, and their table."""
    for row, mask in zip(ROWS, (np.zeros((48, 64), np.uint8) for _ in ROWS), strict=True):
        mask[20:23, 10:50] = 255 if row.pixels else 0
        write_image(tmp_path / row.mask, mask)
        write_image(tmp_path / 'overlays' / f'{Path(row.mask).stem}.jpg', mask)
    write_table(tmp_path / TABLE, ROWS)
    return tmp_path


def test_rows_are_read_as_they_were_written(out: Path) -> None:
    assert (out / TABLE).read_text().splitlines()[0] == ','.join(COLUMNS)
    assert read_table(out / TABLE, 1) == {row.mask: [row] for row in ROWS}


def test_without_a_table_nothing_is_done(tmp_path: Path) -> None:
    assert read_table(tmp_path / TABLE, 1) == {}


def test_half_a_line_is_not_read(out: Path) -> None:
    text = (out / TABLE).read_text()
    for length in range(len(text) - len(text.splitlines()[-1]), len(text)):
        (out / TABLE).write_text(text[:length])
        assert list(read_table(out / TABLE, 1)) == [ROWS[0].mask]


@pytest.mark.parametrize('missing', ['masks/a, b.png', 'overlays/a, b.jpg'])
def test_image_without_its_files_is_not_done(out: Path, missing: str) -> None:
    (out / missing).unlink()
    assert list(read_table(out / TABLE, 1)) == [ROWS[1].mask]


def test_image_without_a_row_for_each_class_is_not_done(out: Path) -> None:
    write_table(out / TABLE, [*ROWS, replace(ROWS[0], class_name='spalling')])
    assert list(read_table(out / TABLE, 2)) == [ROWS[0].mask]


def test_measurements_of_written_masks(out: Path) -> None:
    crack, none = measure_all(out, ['crack'], scales=Scales(for_all=0.5))
    assert (crack.cracks.length, crack.cracks.mean_width) == (pytest.approx(20, abs=0.5), pytest.approx(1.5, abs=0.1))
    assert (out / 'measurements.csv').read_text().splitlines()[2].endswith(',crack,mm,0.0,0.0,0.0,,0.0,0.0')
    assert summaries([crack, none]) == [
        f'crack: in 1 of 2 images, {crack.cracks.length:.1f} mm long in all, {crack.cracks.mean_width:.2f} mm wide on '
        f'average, at most {crack.cracks.max_width:.2f} mm (masks/a, b.png)'
    ]
    assert summaries([none]) == ['crack: in none of 1 images']


def test_direction_that_rounds_to_180_degrees_is_0() -> None:
    cracks = CrackGeometry(1.0, 1.0, 1.0, 179.999, 1.0, 0.1)
    assert Measurement(ROWS[0], 'px', cracks).cells()[7] == 0


def test_names_with_line_separators_and_bytes_that_are_no_text(out: Path) -> None:
    rows = [
        Row(f'{name}.jpg', f'masks/{name}.png', 4, 3, 'crack', 1, 0.5, 0.5)
        for name in ('a\nb', 'c\u2028d', 'e\x85f', 'g\udcff', 'h"i,j')
    ]
    for row in rows:
        for name in (row.mask, overlay_of(row.mask)):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).touch()
    write_table(out / TABLE, rows)
    assert [row for group in read_table(out / TABLE, 1).values() for row in group] == rows


@pytest.mark.parametrize(
    ('old', 'new'), [(b',', b';'), (b'image,', b'\xef\xbb\xbfimage,'), (b'width', b'breadth'), (b',40,', b',40 px,')]
)
def test_table_that_something_else_has_saved_is_named(out: Path, old: bytes, new: bytes) -> None:
    write_table(out / TABLE, [Row('a.jpg', 'masks/a.png', 40, 30, 'crack', 1, 0.5, 0.5)])
    (out / TABLE).write_bytes((out / TABLE).read_bytes().replace(old, new))
    with pytest.raises(TableError, match=r'predictions\.csv, line [12], is not as it was written.*--overwrite'):
        read_table(out / TABLE, 1)
