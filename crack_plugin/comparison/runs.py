"""Trainings and measurements of a benchmark, each in a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from crack_plugin.checkpoints import find_best, find_last
from crack_plugin.comparison import settings
from crack_plugin.comparison.measure import Measurement
from crack_plugin.errors import CrackPluginError

# From the log: history.json gets its row when an epoch is over, which may take hours, and only with HistoryHook.
_PROGRESS = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*\bloss: ([\d.]+|nan|inf)')
_ERROR = re.compile(r'[\w.]+(?:Error|Exception|Interrupt)\b|\S+: error: ')
_LONGEST_REASON = 400


class RunError(CrackPluginError):
    """A training or a measurement has failed. The message says why and where its whole output is."""


@dataclass(frozen=True)
class Run:
    """One model, trained from one seed or given with its weights.

    Attributes:
        name: Of its row.
        seed: None for a model that is not trained here.
        cfg: Its config, settings applied.
        work_dir: Of its training; None for a model that comes as it is.
        checkpoint: Its weights, if they are given.
        folder: For its measurement, log and config.
        trains: Whether it gets trained here.
    """

    name: str
    seed: int | None
    cfg: Config
    folder: Path
    work_dir: Path | None = None
    checkpoint: Path | None = None
    trains: bool = False

    @property
    def title(self) -> str:
        """The row's name and the seed."""
        return self.name if self.seed is None else f'{self.name} seed {self.seed}'

    @property
    def is_trained(self) -> bool:
        """Whether the training is complete."""
        return self.work_dir is not None and (self.work_dir / settings.final_checkpoint(self.cfg)).is_file()

    @property
    def config(self) -> Path:
        """The config as it is used, on disk once :meth:`write_config` has been called."""
        return self.folder / f'{self.name}.py'

    def write_config(self) -> None:
        """Write the config where the processes find it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cfg.dump(self.config)

    def check_unchanged(self) -> None:
        """Refuse to go on with a training that was begun with other settings.

        Raises:
            SettingsError: The config in the work directory gives another result; the message says where they differ.
        """
        if self.work_dir is None or not (self.work_dir / 'last_checkpoint').is_file():
            return
        begun = Config.fromfile(self.work_dir / self.config.name, import_custom_modules=False)
        changed = settings.differences(begun, self.cfg)
        if changed:
            raise settings.SettingsError(
                f'{self.work_dir} was trained with other settings ({"; ".join(changed[:5])}). Write to another folder, '
                'or delete this one to train it again.'
            )

    def train(self, tool: Path, on_progress: Callable[[int, bool, str], None]) -> None:
        """Train, from the last checkpoint on if there is one.

        Args:
            tool: ``tools/train.py``.
            on_progress: Called for each line of the log with the epoch, whether it is over, and the loss.

        Raises:
            RunError: The training failed.
        """

        def show_progress(line: str) -> None:
            match = _PROGRESS.search(line)
            if match:
                on_progress(int(match[1]), match[2] == match[3], match[4])

        resume = ['--resume'] if (self.work_dir / 'last_checkpoint').is_file() else []  # type: ignore[operator]
        command = [str(tool), str(self.config), '--work-dir', str(self.work_dir), *resume]
        _run_process([sys.executable, *command], self.folder / 'train.log', show_progress)
        if not self.is_trained:
            raise RunError(f'the training ended without {settings.final_checkpoint(self.cfg)} in {self.work_dir}')

    def measure(self, device: str, shown: int, use: str) -> Measurement:
        """Measure the model.

        Args:
            device: Where to run it.
            shown: How many predictions to keep for pictures.
            use: 'last' or 'best' checkpoint of a training.

        Raises:
            RunError: The measurement failed.
        """
        checkpoint = self.checkpoint
        if checkpoint is None and self.work_dir is not None:
            checkpoint = find_best(self.work_dir) if use == 'best' else find_last(self.work_dir)
            if checkpoint is None:
                names = 'best_*.pth' if use == 'best' else 'epoch_*.pth, iter_*.pth'
                raise RunError(f'{self.work_dir} holds no {use} checkpoint ({names}).')
        command = [sys.executable, '-m', 'crack_plugin.comparison.measure', str(self.config), str(self.folder)]
        command += ['--device', device, '--shown', str(shown)]
        command += [] if checkpoint is None else ['--checkpoint', str(checkpoint)]
        _run_process(command, self.folder / 'measure.log')
        return Measurement.read(self.folder)


def _run_process(command: Sequence[str], log: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Run a command, its output into ``log`` and line by line to ``on_line``.

    Raises:
        RunError: It failed.
    """
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            on_line(line)
    if process.returncode:
        raise RunError(f'{failure_reason(log.read_text(encoding="utf-8"), process.returncode)} (see {log})')


def failure_reason(output: str, code: int) -> str:
    """What a failed process said last: its exception's message, or its last line.

    Args:
        output: Of the process.
        code: Its exit code, negative for a signal.
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f'ended by {name}' + (' (out of memory?)' if name == 'SIGKILL' else '')
    lines = [line for line in output.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if _ERROR.match(line)]
    text = ' '.join(' '.join(lines[starts[-1] if starts else -1 :]).split()) or f'exit code {code}'
    return text if len(text) <= _LONGEST_REASON else f'{text[:_LONGEST_REASON]} ...'
