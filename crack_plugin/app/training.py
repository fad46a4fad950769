"""A LoRA training on what was corrected: ``tools/train.py`` in a process of its own, and its course so far."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from crack_plugin.app.corrections import yolo_folder
from crack_plugin.app.limits import AppError, BusyError, Limits
from crack_plugin.app.models import Weights
from crack_plugin.files import write_atomically
from crack_plugin.report.history import HistoryNotFoundError, load_history

_BASE, _CONFIG = 'app_base.py', 'app_config.py'
_LOG = 'train.log'
_MOST_EPOCHS = 200
_SECONDS_TO_STOP = 10
_LINES_SHOWN = 3


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        name: Of its folder.
        folder: With log, history and adapters.
        epochs: How many there will be.
        process: That trains.
    """

    name: str
    folder: Path
    epochs: int
    process: 'subprocess.Popen[bytes]'

    @property
    def state(self) -> str:
        """One of running, done, cancelled and failed."""
        code = self.process.poll()
        if code is None:
            return 'running'
        return {0: 'done', -signal.SIGTERM: 'cancelled', -signal.SIGKILL: 'cancelled'}.get(code, 'failed')

    def facts(self) -> dict[str, Any]:
        """What the browser is told: state, rows of the history, and the reason if it failed."""
        try:
            rows, _ = load_history(self.folder)
        except HistoryNotFoundError:
            rows = []
        state = self.state
        shown = [
            {'epoch': row.get('epoch'), 'loss': row.get('train_loss'), 'iou': row.get('crack/IoU')} for row in rows
        ]
        error = last_lines(self.folder / _LOG) if state == 'failed' else None
        return {'name': self.name, 'state': state, 'epochs': self.epochs, 'rows': shown, 'error': error}


class Trainer:
    """Trains one thing at a time.

    Args:
        tool: ``train.py``.
        config: What it trains; a file.
        folder: Where trainings go.
        limits: Of the disk.
    """

    def __init__(self, tool: Path, config: Config, folder: Path, limits: Limits) -> None:
        self._tool, self._config, self._folder, self._limits = tool, config, folder, limits
        self._lock = threading.Lock()
        self._run: Run | None = None

    @property
    def run(self) -> Run | None:
        """The last training."""
        return self._run

    def start(self, dataset: Path, weights: Weights, prompt: str, class_name: str, epochs: int) -> Run:
        """Start a training.

        Args:
            dataset: Of :func:`~crack_plugin.app.corrections.save`; its photographs are validated on as well.
            weights: To start from.
            prompt: What the model is asked for.
            class_name: What the dataset calls it.
            epochs: How many.

        Raises:
            BusyError: Another one goes on.
            AppError: The model has no adapters, the number of epochs makes no sense, or there is no room.
        """
        if self._config.model.get('lora', {}) is None:
            raise AppError(
                f'{self._config.filename} has no adapters to train (lora=None): start the page with another config.'
            )
        if not 1 <= epochs <= _MOST_EPOCHS:
            raise AppError(f'{epochs} epochs: wanted are 1 to {_MOST_EPOCHS}.')
        with self._lock:
            if self._run is not None and self._run.state == 'running':
                raise BusyError('a training goes on: wait, or stop it.')
            self._folder.mkdir(parents=True, exist_ok=True)
            self._limits.check_disk(self._folder)
            name = f'{dataset.name}-{time.strftime("%Y%m%d-%H%M%S")}'
            folder = self._folder / name
            # With what --cfg-options changed, and wherever the file of the config goes.
            write_atomically(folder / _BASE, self._config.pretty_text.encode())
            text = config_text(yolo_folder(dataset), weights, prompt, class_name)
            write_atomically(folder / _CONFIG, text.encode())
            options = training_options(self._config, epochs, torch.cuda.is_available())
            command = [sys.executable, str(self._tool), str(folder / _CONFIG), '--work-dir', str(folder)]
            with (folder / _LOG).open('wb') as log:
                # A group of its own: data workers are stopped with it, and Ctrl-C in the terminal is the page's.
                process = subprocess.Popen(
                    [*command, '--cfg-options', *(f'{key}={value}' for key, value in options.items())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._run = Run(name, folder, epochs, process)
            return self._run

    def stop(self) -> None:
        """Stop the training; what it has saved stays."""
        run = self._run
        if run is None or run.state != 'running':
            return
        try:
            _signal(run, signal.SIGTERM)
            run.process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            _signal(run, signal.SIGKILL)
            run.process.wait()


def _signal(run: Run, number: int) -> None:
    # It may have ended just now.
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


def config_text(data_root: Path, weights: Weights, prompt: str, class_name: str) -> str:
    """A config that builds on the one beside it, and trains on corrections.

    There is no validation split: the score is of the photographs that it trains on, which the page says.
    """
    dataset = {'data_root': str(data_root.resolve()), 'split': 'train', 'classes': (class_name,)}
    loader = {'dataset': dataset}
    adapter = None if weights.adapter is None else str(Path(weights.adapter).resolve())
    checkpoint = None if weights.checkpoint is None else str(Path(weights.checkpoint).resolve())
    # Of each training the last adapter is kept: the disk is everybody's.
    hooks = {
        'checkpoint': {'max_keep_ckpts': 1},
        'adapter_checkpoint': {'type': 'AdapterCheckpointHook', 'max_keep_ckpts': 1},
        'prediction': {'type': 'PredictionHook', 'max_keep_epochs': 1},
    }
    lines = {
        '_base_': [f'./{_BASE}'],
        'model': {'prompts': [prompt], 'adapter': adapter},
        'train_dataloader': loader,
        'val_dataloader': loader,
        'test_dataloader': loader,
        'default_hooks': hooks,
        'load_from': checkpoint,
    }
    return ''.join(f'{key} = {value!r}\n' for key, value in lines.items())


def training_options(config: Config, epochs: int, has_gpu: bool) -> Mapping[str, object]:
    """What differs from the config by machine and by the number of epochs."""
    options: dict[str, object] = {'train_cfg.max_epochs': epochs}
    schedulers = config.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    options |= {f'param_scheduler.{number}.T_max': epochs for number, each in enumerate(schedulers) if 'T_max' in each}
    if not has_gpu:
        options['optim_wrapper.type'] = 'OptimWrapper'
    return options


def last_lines(path: Path) -> str:
    """How a log ends."""
    lines = [line for line in path.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    return ' '.join(lines[-_LINES_SHOWN:])
