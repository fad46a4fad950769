"""Items on disk in the place of a list."""

from pathlib import Path

import numpy as np
import pytest

from crack_plugin.files import SaveError
from crack_plugin.prediction.spool import spooled


def test_items_come_again_in_order_and_leave_nothing(tmp_path: Path) -> None:
    with spooled((np.full(5, number) for number in range(4)), tmp_path) as kept:
        # Two that read in turn do not disturb each other.
        pairs = [(one.sum(), other.sum()) for one, other in zip(kept, kept, strict=True)]
        assert pairs == [(5 * number, 5 * number) for number in range(4)]
        assert len([*kept]) == 4
    assert [*tmp_path.iterdir()] == []
    with spooled([], tmp_path) as kept:
        assert [*kept] == []


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path('/dev/full').open('r+b', buffering=0)  # noqa: SIM115 the context of the spool closes it
    monkeypatch.setattr('tempfile.TemporaryFile', lambda dir: full)
    with pytest.raises(SaveError, match=f'{tmp_path} has no room .*No space left'), spooled([1], tmp_path):
        pass
