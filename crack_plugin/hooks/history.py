"""The course of a training as a file: one row an epoch."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, all_reduce_dict, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS
from torch import nn

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.peak_memory import CUDA_ALLOCATOR, PROCESS, peak_memory, reset_peak_memory

FILE = 'history.json'
ELAPSED = 'history_elapsed_seconds'
NOT_LOSSES = ('lr', 'base_lr', 'momentum', 'time', 'data_time', 'memory')


class HistoryError(CrackPluginError, ValueError):
    """A file is no history of a training; the message names it."""


@HOOKS.register_module()
class HistoryHook(Hook):
    """Write ``history.json`` into the work dir: a list with a row (dict) for each epoch.

    - 'epoch' and 'iter': how many were done.
    - 'train_loss', 'train_iou' and the model's other losses ('train_loss_dice', ...): means over the epoch's iterations
      and all ranks.
    - 'lr': of the epoch's last iteration (of the first parameter group).
    - every validation metric under its own key ('crack/IoU', 'mIoU', 'val_loss', ...), if the epoch was validated.
    - 'train_seconds', 'val_seconds' and their sum 'seconds'. An epoch resumed in the middle counts what the checkpoint
      had spent on it.
    - 'peak_memory_mb' (MiB, the largest over ranks), and in 'peak_memory_of' what it is of: 'CUDA allocator' in the
      epoch, on the model's GPU, or without one 'process' (resident set) since it started.
    - 'device': the GPU's product name, or the number of CPU cores; 'parameters' of the model, and how many are trained,
      'trained_parameters'.

    A value that is not finite is null. A resumed run keeps the rows up to its checkpoint and writes the later ones
    anew; a run that starts from scratch begins a new file. Under ``IterBasedTrainLoop`` there is a row for each
    validation, with the means over the iterations since the one before.
    """

    # Before LoggerHook, which resets CUDA's peak.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._training = False
        self._device = torch.device('cpu')
        self._facts: dict[str, Any] = {}
        self._peak = 0.0
        self._rows: list[dict[str, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Keep the rows up to the checkpoint."""
        self._training = True
        self._device = next(runner.model.parameters()).device
        self._facts = model_facts(runner.model)
        self._path = Path(runner.work_dir) / FILE
        self._axis = 'epoch' if isinstance(runner.train_loop, EpochBasedTrainLoop) else 'iter'
        self._rows = []
        if runner.iter and self._path.is_file() and is_main_process():
            self._rows = [row for row in read_history(self._path) if row[self._axis] <= self._position(runner)]
        self._closed_iter = runner.iter
        self._start_clock(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the epoch's clock."""
        self._start_clock(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Note time and memory."""
        self._peak = max(self._peak, peak_memory(self._device))
        # In the checkpoint, for a resume in the middle of the epoch.
        runner.message_hub.update_info(ELAPSED, time.monotonic() - self._start)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the training half of the row."""
        if self._axis == 'epoch':
            self._close_training(runner, runner.epoch + 1, runner.iter, len(runner.train_dataloader))

    def before_val_epoch(self, runner: Runner) -> None:
        """Start the validation's clock, and without epochs write the training half of the row."""
        if not self._training:
            return
        if self._axis == 'iter' and runner.iter > self._closed_iter:
            self._close_training(runner, runner.epoch, runner.iter, runner.iter - self._closed_iter)
        self._val_start = time.monotonic()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note memory."""
        if self._training:
            self._peak = max(self._peak, peak_memory(self._device))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Complete the row with the validation's half."""
        if not self._training:
            return
        seconds = time.monotonic() - self._val_start
        memory = self._memory()
        if is_main_process():
            row = self._row(runner)
            row |= {key: _json_value(value) for key, value in (metrics or {}).items()}
            row['val_seconds'] = round(seconds, 3)
            row['seconds'] = round(row['train_seconds'] + seconds, 3)
            self._write_row(row | memory)
        if self._axis == 'iter':
            self._start_clock(runner)

    def _start_clock(self, runner: Runner) -> None:
        self._start = time.monotonic() - runner.message_hub.runtime_info.get(ELAPSED, 0.0)
        self._peak = 0.0
        # The peak of the process is that since its start.
        if self._device.type == 'cuda':
            reset_peak_memory(self._device)

    def _close_training(self, runner: Runner, epoch: int, iteration: int, window: int) -> None:
        means = train_means_of_ranks(runner, window)
        row: dict[str, Any] = {'epoch': epoch, 'iter': iteration}
        row |= {name if name == 'lr' else f'train_{name}': _json_value(value) for name, value in means.items()}
        row['train_seconds'] = row['seconds'] = round(time.monotonic() - self._start, 3)
        row |= self._memory() | self._facts
        self._closed_iter = iteration
        runner.message_hub.update_info(ELAPSED, 0.0)
        if is_main_process():
            self._write_row(row)

    def _row(self, runner: Runner) -> dict[str, Any]:
        """The row that the present validation belongs to."""
        last = self._rows[-1] if self._rows else None
        if last and last[self._axis] == self._position(runner):
            return last
        # A validation run after a resume, of an epoch that is not in this file.
        return {'epoch': runner.epoch, 'iter': runner.iter, 'train_seconds': 0.0}

    def _position(self, runner: Runner) -> int:
        return runner.epoch if self._axis == 'epoch' else runner.iter

    def _write_row(self, row: dict[str, Any]) -> None:
        self._rows = [other for other in self._rows if other[self._axis] < row[self._axis]] + [row]
        text = json.dumps(self._rows, indent=1, allow_nan=False)
        write_atomically(self._path, text.encode())

    def _memory(self) -> dict[str, Any]:
        peak = torch.tensor([max(self._peak, peak_memory(self._device))], dtype=torch.float64)
        all_reduce(peak, op='max')
        return {
            'peak_memory_mb': round(peak.item(), 1),
            'peak_memory_of': CUDA_ALLOCATOR if self._device.type == 'cuda' else PROCESS,
        }


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``history.json``.

    Raises:
        HistoryError: The file is not one that :class:`HistoryHook` wrote.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding='utf-8'))
        if all({'epoch', 'iter'} <= row.keys() for row in rows):
            return rows
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise HistoryError(f'{path} is no history (a JSON list of rows): {error}. Move it away.') from error
    raise HistoryError(f"{path} is no history: a row without 'epoch' or 'iter'. Move it away.")


def model_facts(model: nn.Module) -> dict[str, Any]:
    """'device', 'parameters' and 'trained_parameters' of a model, see :class:`HistoryHook`."""
    parameters = list(model.parameters())
    device = parameters[0].device
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU, {os.cpu_count()} cores'
    return {
        'device': name,
        'parameters': sum(parameter.numel() for parameter in parameters),
        'trained_parameters': sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def train_means(runner: Runner, window: int) -> dict[str, float]:
    """What training logged, averaged over the last iterations of this rank.

    Args:
        runner: In training.
        window: How many iterations.

    Returns:
        'loss', 'iou', other losses of the model and 'grad_norm' if gradients are clipped, as means; 'lr' as it is now.
        'grad_norm' is that of the steps taken: where it is infinite, as in the first iterations under fp16, when the
        gradient scaler looks for its scale, there was no step. NaN if there was none at all.
    """
    scalars = runner.message_hub.log_scalars
    names = [key.removeprefix('train/') for key in sorted(scalars) if key.startswith('train/')]
    means = {
        name: _finite_mean(scalars[f'train/{name}'], window)
        if name == 'grad_norm'
        else float(scalars[f'train/{name}'].mean(window))
        for name in names
        if name not in NOT_LOSSES
    }
    means = {name.removeprefix('train_'): value for name, value in means.items()}
    return means | {'lr': float(scalars['train/lr'].current())}


def _finite_mean(buffer: HistoryBuffer, window: int) -> float:
    values, counts = (part[-window:] for part in buffer.data)
    finite = np.isfinite(values)
    return float(values[finite].sum() / counts[finite].sum()) if finite.any() else math.nan


def train_means_of_ranks(runner: Runner, window: int) -> dict[str, float]:
    """:func:`train_means`, averaged over ranks; all ranks must call it."""
    means = {name: torch.tensor([value], dtype=torch.float64) for name, value in train_means(runner, window).items()}
    all_reduce_dict(means, op='mean')
    return {name: value.item() for name, value in means.items()}


def _json_value(value: Any) -> Any:
    """A number as JSON has it: not NumPy's, and null for what is not finite. Anything else as text."""
    if isinstance(value, (int, float, np.number)):
        return float(value) if math.isfinite(value) else None
    return str(value)
