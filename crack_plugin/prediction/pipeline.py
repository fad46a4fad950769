"""Some photographs are read and some are written while the model predicts others; results keep their order.

Threads, not processes: decoding, encoding and files release Python's lock, and a photograph of 12 megapixels would be
copied to another process and back.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from crack_plugin.datasets.photographs import ImageError
from crack_plugin.prediction.found import Prediction
from crack_plugin.prediction.predictor import Photograph, Predictor

WORKERS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1)
"""Threads that read and write unless told otherwise."""

_PIXELS_AHEAD = 2**26
"""How many pixels of photographs are read ahead, at 6 bytes each, or wait to be written; one photograph in any case."""

Key = TypeVar('Key')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Failure:
    """Of a file: why it could not be read."""

    reason: str


@dataclass(frozen=True)
class Task(Generic[Key]):
    """Attributes:
    image: A photograph's file, or a frame; a ``Failure`` takes part in the order, and no further.
    key: Whatever the caller wants it to be known by.
    """

    image: str | np.ndarray | Failure
    key: Key


def predict_in_order(
    tasks: Iterable[Task[Key]],
    predictor: Predictor,
    write: Callable[..., Result],
    workers: int = WORKERS,
    batch_size: int = 1,
    observe: Callable[[Prediction], Any] | None = None,
) -> Iterator[tuple[Key, Result | Failure]]:
    """Read, predict and write.

    Args:
        tasks: Taken from as far ahead as there is room for.
        predictor: Its model is called in this thread alone.
        write: Called in another thread with a task's key and the image, labels and scores of a ``Prediction``.
        workers: How many threads read and write; 0 for none, one thing after the other.
        batch_size: How many photographs are predicted together, of whatever size.
        observe: What it returns of a ``Prediction``, which is not kept, is one more argument of ``write``.

    Yields:
        In the order of the tasks, the key and what ``write`` returned, or why the image could not be read.

    Raises:
        PredictionError: The model gives NaN. What was yielded before is complete, whatever is raised.
    """
    tasks = iter(tasks)
    pool: Executor = ThreadPoolExecutor(workers, 'predict') if workers else _Immediately()
    reading: deque[tuple[Key, Future]] = deque()
    writing: deque[tuple[Key, Future]] = deque()
    room = min(workers, 1)
    try:
        while True:
            for task in itertools.islice(tasks, max(0, batch_size + room - len(reading))):
                reading.append((task.key, pool.submit(_read, predictor, task.image)))
            if not reading:
                break
            batch = [reading.popleft() for _ in range(min(batch_size, len(reading)))]
            sizes = _predict(batch, predictor, write, pool, writing, observe)
            room = min(workers, max(1, _PIXELS_AHEAD // max(sizes, default=1)))
            while len(writing) > room:
                yield _outcome(*writing.popleft())
        while writing:
            yield _outcome(*writing.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(predictor: Predictor, image: str | np.ndarray | Failure) -> Photograph | Failure:
    if isinstance(image, Failure):
        return image
    try:
        return predictor.read(image)
    except ImageError as error:
        return Failure(str(error))


def _predict(
    batch: list[tuple[Key, Future]],
    predictor: Predictor,
    write: Callable[..., Any],
    pool: Executor,
    writing: deque[tuple[Key, Future]],
    observe: Callable[[Prediction], Any] | None,
) -> list[int]:
    """Predict the photographs of a batch, and have them written; how many pixels each has."""
    found = [future.result() for _, future in batch]
    photographs = [one for one in found if isinstance(one, Photograph)]
    sizes = [one.image[..., 0].size for one in photographs]
    samples = deque(predictor.step(photographs) if photographs else ())
    del photographs
    for key, future in batch:
        one = found.pop(0)
        if isinstance(one, Photograph):
            finish = partial(_finish, predictor, one, samples.popleft(), observe)
            if predictor.device.type == 'cpu':
                future = pool.submit(write, key, *finish())
            else:
                # The device is waited for elsewhere, so that it has the next batch before it is done with this one.
                future = pool.submit(_finish_and_write, write, key, finish)
            del one, finish
        writing.append((key, future))
    return sizes


def _finish(
    predictor: Predictor, photograph: Photograph, sample: Any, observe: Callable[[Prediction], Any] | None
) -> tuple[Any, ...]:
    """What is to be written. The logits, which are the most that a large photograph needs, are not kept."""
    prediction = predictor.prediction(photograph, sample)
    observed = () if observe is None else (observe(prediction),)
    return prediction.image, prediction.labels, prediction.scores, *observed


def _finish_and_write(write: Callable[..., Any], key: Any, finish: Callable[[], tuple]) -> Any:
    return write(key, *finish())


def _outcome(key: Key, future: Future) -> tuple[Key, Any]:
    return key, future.result()


class _Immediately(Executor):
    """Calls what is submitted to it."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future
