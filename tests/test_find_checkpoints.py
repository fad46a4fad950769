"""Which of the checkpoints in a work directory is the last, and which the best."""

import os
from pathlib import Path

from crack_plugin.checkpoints import find_best, find_last


def test_last_is_the_one_that_the_training_recorded(tmp_path: Path) -> None:
    """An epoch_9.pth may be left from a former, longer training in the same folder."""
    for name in ('epoch_2.pth', 'epoch_9.pth'):
        (tmp_path / name).touch()
    (tmp_path / 'last_checkpoint').write_text('/where/it/was/trained/epoch_2.pth\n')
    assert find_last(tmp_path) == tmp_path / 'epoch_2.pth'


def test_last_without_a_record_is_the_furthest_trained(tmp_path: Path) -> None:
    """Copied in the order of their names, the file that was written last is epoch_9.pth."""
    assert find_last(tmp_path) is None
    for place, name in enumerate(('epoch_10.pth', 'epoch_9.pth', 'best_crack_IoU_epoch_11.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (place, place))
    assert find_last(tmp_path) == tmp_path / 'epoch_10.pth'
    (tmp_path / 'last_checkpoint').write_text('epoch_12.pth')
    assert find_last(tmp_path) == tmp_path / 'epoch_10.pth'


def test_best_is_the_last_selected(tmp_path: Path) -> None:
    assert find_best(tmp_path) is None
    for place, name in enumerate(('best_crack_IoU_epoch_7.pth', 'best_crack_IoU_epoch_3.pth', 'epoch_8.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (place, place))
    assert find_best(tmp_path) == tmp_path / 'best_crack_IoU_epoch_3.pth'
