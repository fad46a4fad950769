"""Predictions in the background: one after the other, with progress over windows, and to be cancelled."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from crack_plugin import machine_faults
from crack_plugin.app.limits import AppError, BusyError
from crack_plugin.app.maps import to_bytes
from crack_plugin.app.models import Models
from crack_plugin.app.photographs import BEFORE, NOW, Photograph, Settings
from crack_plugin.app.sessions import Session
from crack_plugin.errors import CrackPluginError, message

_SMALLEST_WINDOW = 32


class CancelledError(CrackPluginError, RuntimeError):
    """The user wants no more of it."""


@dataclass(frozen=True)
class Request:
    """What is to be predicted.

    Attributes:
        photographs: Of one session.
        settings: With what.
        before: Key of the weights to compare with; None for none.
    """

    photographs: Sequence[Photograph]
    settings: Settings
    before: str | None = None

    def steps(self) -> Iterator[tuple[Photograph, str, Settings]]:
        """Photographs, each with what is predicted in it: all with the same weights, so that two models do not take
        turns in memory."""
        kinds = [(NOW, self.settings)]
        if self.before is not None:
            kinds.append((BEFORE, replace(self.settings, weights=self.before)))
        for which, settings in kinds:
            for photograph in self.photographs:
                yield photograph, which, settings


@dataclass
class Job:
    """A request on its way.

    Attributes:
        total: How many predictions there are to make.
        done: How many are made.
        name: Of the photograph that is being predicted.
        windows: How many windows of it are done.
        all_windows: How many it has; 0 for the whole image at once.
        stop: Set to cancel it.
        future: Its end.
    """

    total: int
    done: int = 0
    name: str = ''
    windows: int = 0
    all_windows: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    future: 'Future[None]' = field(default_factory=Future)

    @property
    def state(self) -> str:
        """One of waiting, running, done, cancelled and failed."""
        if not self.future.done():
            return 'running' if self.future.running() else 'waiting'
        if self.future.cancelled() or isinstance(self.future.exception(), CancelledError):
            return 'cancelled'
        return 'done' if self.future.exception() is None else 'failed'

    @property
    def fraction(self) -> float:
        """How much of it is done, from 0 to 1."""
        part = self.windows / self.all_windows if self.all_windows else 0
        return min(1.0, (self.done + part) / self.total)

    def facts(self) -> dict[str, Any]:
        """What the browser is told."""
        state = self.state
        return {
            'state': state,
            'done': self.done,
            'total': self.total,
            'name': self.name,
            'windows': self.windows,
            'all_windows': self.all_windows,
            'fraction': self.fraction,
            'error': in_words(self.future.exception()) if state == 'failed' else None,
        }


class Worker:
    """Predicts in one thread: a model is of one user at a time.

    Args:
        models: What predicts.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._pool = ThreadPoolExecutor(1, 'predict')
        self._jobs: dict[Session, Job] = {}

    def job(self, session: Session) -> Job | None:
        """The last job of a session."""
        return self._jobs.get(session)

    def start(self, session: Session, request: Request) -> Job:
        """Put a request at the end of the queue.

        Raises:
            BusyError: The session has one on its way.
            AppError: There is nothing to predict.
        """
        with session.lock:
            former = self._jobs.get(session)
            if former is not None and not former.future.done():
                raise BusyError('photographs are being predicted: wait, or cancel it.')
            job = Job(len(list(request.steps())))
            if not job.total:
                raise AppError('there is no photograph to look at: add one first.')
            job.future = self._pool.submit(self._run, session, request, job)
            job.future.add_done_callback(_log_fault)
            self._jobs[session] = job
            return job

    def cancel(self, session: Session) -> None:
        """Stop the job of a session, after the windows that are being predicted."""
        job = self._jobs.get(session)
        if job is not None:
            job.stop.set()
            job.future.cancel()

    def forget(self, session: Session) -> None:
        """Stop the job of a session that has ended."""
        self.cancel(session)
        self._jobs.pop(session, None)

    def close(self) -> None:
        """Stop all."""
        for session in list(self._jobs):
            self.cancel(session)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, session: Session, request: Request, job: Job) -> None:
        for photograph, which, settings in request.steps():
            job.name, job.windows, job.all_windows = photograph.name, 0, 0
            _go_on(job)
            probability = predict(self._models, photograph, settings, job)
            self._keep(session, photograph, which, probability, settings)
            job.done += 1
        if request.before is None:
            for photograph in request.photographs:
                photograph.forget(BEFORE)

    @staticmethod
    def _keep(
        session: Session, photograph: Photograph, which: str, probability: np.ndarray, settings: Settings
    ) -> None:
        with session.lock:
            # It may have been removed in the meantime.
            if photograph in session.photographs:
                session.check_room(probability.size)
                photograph.keep(which, probability, settings)


def predict(models: Models, photograph: Photograph, settings: Settings, job: Job) -> np.ndarray:
    """Predict a photograph.

    Returns:
        As of :func:`~crack_plugin.app.maps.to_bytes`, shape (H, W).

    Raises:
        CancelledError: The job was stopped.
        CrackPluginError: It cannot be predicted.
    """
    predictor = models.predictor(settings.weights, settings.prompt)
    _go_on(job)
    predictor.model.test_cfg = ConfigDict(test_cfg_of(settings, models.config))
    predictor.model.window_progress = partial(_watched, job)
    return to_bytes(predictor(photograph.file).probabilities[0])


def checked_settings(weights: str, prompt: str, window: int | None, step: int | None) -> Settings:
    """Settings with windows that leave no pixel out.

    Raises:
        AppError: They do.
    """
    if window is None:
        return Settings(weights, prompt)
    if window < _SMALLEST_WINDOW:
        raise AppError(f'windows of {window} pixels show too little: wanted are {_SMALLEST_WINDOW} or more.')
    step = window if step is None else step
    if not 0 < step <= window:
        raise AppError(f'with a window every {step} pixels and {window} pixels a window, pixels would be left out.')
    return Settings(weights, prompt, window, step)


def test_cfg_of(settings: Settings, config: Config) -> dict[str, Any]:
    """The model's ``test_cfg`` that settings stand for; the config's ``scales`` go with all windows."""
    if settings.window is None:
        return {'mode': 'whole'}
    assert settings.step is not None
    return {
        'mode': 'slide',
        'crop_size': (settings.window, settings.window),
        'stride': (settings.step, settings.step),
        # One at a time, so that a cancelled job stops soon.
        'batch': 1,
        'scales': (config.model.get('test_cfg') or {}).get('scales'),
    }


def in_words(error: BaseException | None) -> str:
    """What a user is told of an error."""
    if isinstance(error, CrackPluginError):
        return message(error)
    if isinstance(error, Exception) and machine_faults.advice(error) is not None:
        reason = str(error).strip().partition('\n')[0] or 'out of memory'
        return (
            'The machine has too little memory or disk for this. Choose windows in place of the whole image, remove '
            'photographs, or start the page with a smaller model.image_size. The photographs are still here. '
            f'({reason})'
        )
    return 'The program has a fault: what it is, is in the terminal that it was started from.'


def _watched(job: Job, batches: Sequence) -> Iterable:
    job.windows, job.all_windows = 0, sum(map(len, batches))
    for batch in batches:
        _go_on(job)
        yield batch
        job.windows += len(batch)


def _go_on(job: Job) -> None:
    if job.stop.is_set():
        raise CancelledError('cancelled')


def _log_fault(future: 'Future[None]') -> None:
    """Leave the traceback of what nobody can act on in the terminal."""
    if future.cancelled():
        return
    error = future.exception()
    if error is not None and not isinstance(error, CrackPluginError):
        logging.getLogger('crack_plugin').error('a prediction failed', exc_info=error)
