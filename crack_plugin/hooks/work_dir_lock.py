"""One training at a time in a work dir."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import IO

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.errors import CrackPluginError
from crack_plugin.file_lock import lock
from crack_plugin.files import remove_leftovers

FILE = '.training.lock'
HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)


class WorkDirInUseError(CrackPluginError, RuntimeError):
    """Another training writes into the work dir; the message names its process."""


@HOOKS.register_module()
class WorkDirLockHook(Hook):
    """Keep a second training out of the work dir. Tests and predictions may write there meanwhile.

    The lock (on ``.training.lock``) belongs to the process, so it is gone with it, however that ends. It works
    between machines where the file system passes locks on, as NFS does; on one that knows no locks a line in the log
    says so, and the training goes on.

    Unfinished files of a killed training are deleted, since nobody else can be writing them.

    Raises:
        WorkDirInUseError: Before training.
    """

    # Before any hook that writes.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def before_train(self, runner: Runner) -> None:
        """Take the lock; all ranks learn whether the main process could."""
        refusal = [self._lock(runner) if is_main_process() else None]
        broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise WorkDirInUseError(refusal[0])

    def after_run(self, runner: Runner) -> None:
        """Release it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lock(self, runner: Runner) -> str | None:
        """Lock; the reason if it is locked already."""
        work_dir = Path(runner.work_dir)
        # Open until the end: closing any handle of a file gives up all the process's locks on it.
        self._file = (work_dir / FILE).open('a+')
        try:
            lock(self._file)
        except OSError as error:
            if error.errno not in HELD_BY_ANOTHER:
                runner.logger.warning(f'{work_dir} cannot be locked ({error.strerror}): make sure that no other runs')
                return None
            self._file.seek(0)
            return (
                f'another training is writing into {work_dir}: {self._file.read().strip()}. Wait for it, stop it, or '
                'choose another folder with --work-dir.'
            )
        self._file.seek(0)
        self._file.truncate(0)
        self._file.write(f'process {os.getpid()} on {socket.gethostname()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}')
        self._file.flush()
        remove_leftovers(work_dir)
        return None
