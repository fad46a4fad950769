"""Photographs read, predicted and written at the same time: in order, and as one by one."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from crack_plugin.prediction import PredictionError, Predictor, pipeline
from crack_plugin.prediction.pipeline import Failure, Task, predict_in_order

SIZES = [(48, 64), (30, 90), (48, 64), (77, 41), (64, 48), (20, 20), (48, 64)]


@pytest.fixture(scope='module')
def predictor(trained: dict[str, Path]) -> Predictor:
    return Predictor(trained['config'], adapter=trained['adapter'], device='cpu')


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for index, size in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / f'{index}.png'), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return [str(tmp_path / f'{index}.png') for index in range(len(SIZES))]


def keep(key: int, image: np.ndarray, labels: np.ndarray, scores: list[float]) -> tuple[np.ndarray, ...]:
    time.sleep(0.02 * (key % 3))  # so that they do not end in the order they begin
    return image, labels, np.array(scores)


@pytest.mark.parametrize(('workers', 'batch_size'), [(0, 1), (1, 1), (3, 1), (0, 3), (3, 3), (2, 20)])
def test_order_and_results_are_those_of_one_by_one(
    predictor: Predictor, photographs: list[str], workers: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = []
    whole = Predictor.prediction
    monkeypatch.setattr(
        Predictor, 'prediction', lambda *args: (prediction := whole(*args), logits.append(prediction.logits))[0]
    )
    tasks = [Task(path, index) for index, path in enumerate(photographs)]
    found = list(predict_in_order(tasks, predictor, keep, workers, batch_size))
    assert [key for key, _ in found] == list(range(len(SIZES)))
    monkeypatch.undo()
    for path, own, (_, (image, labels, scores)) in zip(photographs, logits, found, strict=True):
        alone = predictor(path)
        np.testing.assert_array_equal(image, alone.image)
        assert labels.shape == image.shape[:2]
        if batch_size == 1:
            assert torch.equal(own, alone.logits)
            np.testing.assert_array_equal(labels, alone.labels)
        torch.testing.assert_close(own, alone.logits, rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, alone.scores, atol=1e-5)


def test_files_that_cannot_be_read_keep_their_place(predictor: Predictor, photographs: list[str]) -> None:
    Path(photographs[2]).write_text('no image')
    tasks = [Task(path, index) for index, path in enumerate(photographs)]
    tasks[4] = Task(Failure('the video ended'), 4)
    found = dict(predict_in_order(tasks, predictor, keep, workers=2, batch_size=2))
    assert list(found) == list(range(len(SIZES)))
    assert [key for key, outcome in found.items() if isinstance(outcome, Failure)] == [2, 4]
    assert photographs[2] in found[2].reason
    np.testing.assert_array_equal(found[3][0], cv2.imread(photographs[3]))


@pytest.mark.parametrize('workers', [0, 2])
def test_no_more_is_read_ahead_than_there_is_room_for(
    predictor: Predictor, photographs: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def tasks() -> Iterator[Task[int]]:
        for index, path in enumerate(photographs * 3):
            taken.append(index)
            yield Task(path, index)

    monkeypatch.setattr(pipeline, '_PIXELS_AHEAD', 48 * 64 + 100)  # one of most of them
    for key, _ in predict_in_order(tasks(), predictor, keep, workers):
        # This one, one that waits, one to be predicted, one that is read; a few more where they are smaller.
        assert len(taken) - key <= (1 if workers == 0 else 6)


def test_reading_and_writing_go_on_while_the_model_works(
    predictor: Predictor, photographs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model waits until a thread has read the next photograph: alone, it would wait for ever."""
    read = [threading.Event() for _ in SIZES]
    whole_read, whole_step = Predictor.read, Predictor.step

    def reading(self: Predictor, image: str) -> Any:
        photograph = whole_read(self, image)
        read[photographs.index(image)].set()
        return photograph

    def step(self: Predictor, batch: list) -> Any:
        following = min(photographs.index(batch[-1].path) + 1, len(SIZES) - 1)
        assert read[following].wait(20)
        return whole_step(self, batch)

    monkeypatch.setattr(Predictor, 'read', reading)
    monkeypatch.setattr(Predictor, 'step', step)
    tasks = [Task(path, index) for index, path in enumerate(photographs)]
    assert len(list(predict_in_order(tasks, predictor, keep, workers=1))) == len(SIZES)


def test_what_fails_ends_the_run_after_what_came_before(predictor: Predictor, photographs: list[str]) -> None:
    def write(key: int, *_: Any) -> int:
        if key == 3:
            raise OSError('disk full')
        return key

    found = []
    outcomes = predict_in_order(
        [Task(path, index) for index, path in enumerate(photographs)], predictor, write, workers=3
    )
    with pytest.raises(OSError, match='disk full'):
        while True:
            found.append(next(outcomes)[0])
    assert found == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('predict')]


def test_nan_names_its_photograph(trained: dict[str, Path], photographs: list[str]) -> None:
    broken = Predictor(Config.fromfile(trained['config']), adapter=trained['adapter'], device='cpu')
    with torch.no_grad():
        next(broken.model.sam3.mask_decoder.parameters()).fill_(float('nan'))
    with pytest.raises(PredictionError, match=r'0\.png: the model gives NaN'):
        list(predict_in_order([Task(path, 0) for path in photographs], broken, keep, workers=2, batch_size=4))
