"""Masks in a folder of results."""

from pathlib import Path

import numpy as np
import pytest

from crack_plugin.inspection.scale import Scales
from crack_plugin.prediction.measurements import measure_all
from crack_plugin.prediction.pictures import read_mask, write_mask
from crack_plugin.prediction.settings import OutputError
from crack_plugin.prediction.tables import TABLE, Row, write_table


@pytest.mark.parametrize('classes', [1, 3])
def test_a_mask_is_read_as_it_was_written(classes: int, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, classes + 1, (5, 7), np.uint8)
    write_mask(tmp_path / 'masks' / 'a.png', labels, classes)
    np.testing.assert_array_equal(read_mask(tmp_path / 'masks' / 'a.png', classes), labels)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    for name in ('masks/a.png', 'overlays/a.jpg'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b'no picture')
    write_table(tmp_path / TABLE, [Row('a.jpg', 'masks/a.png', 7, 5, 'crack', 1, 0.1, 0.9)])
    with pytest.raises(OutputError, match=r'a\.png cannot be read\. Delete it'):
        measure_all(tmp_path, ['crack'], Scales())
