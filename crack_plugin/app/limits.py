"""What the page allows, so that neither disk nor memory is filled, and the errors that it tells in words."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from crack_plugin.errors import CrackPluginError


class AppError(CrackPluginError, ValueError):
    """What a user of the page can act on.

    Attributes:
        status: Of HTTP.
    """

    status = 400


class UnknownError(AppError):
    """There is no such session, photograph or file."""

    status = 404


class BusyError(AppError):
    """It cannot be done while something else is."""

    status = 409


class LimitError(AppError):
    """A limit of the page is reached."""

    status = 413


@dataclass(frozen=True)
class Limits:
    """Attributes:
    upload_bytes: Of one photograph.
    session_bytes: Of all that a session keeps on the disk.
    sessions: How many there may be at once.
    idle_seconds: How long a session lasts without a sign of life.
    leave_seconds: How long after its page was closed, or is being loaded again.
    pixels: Of one photograph; each takes some 20 bytes of memory while it is predicted, and some 7 in the browser.
    free_bytes: What stays free on the disk, whatever is asked for.
    """

    upload_bytes: int = 50 * 2**20
    session_bytes: int = 2**30
    sessions: int = 8
    idle_seconds: float = 3600
    leave_seconds: float = 60
    pixels: int = 50_000_000
    free_bytes: int = 2**30

    def check_disk(self, folder: Path, wanted: int = 0) -> None:
        """Refuse to write to a disk that is nearly full.

        Args:
            folder: Where to; it is there.
            wanted: Bytes that are to be written.

        Raises:
            LimitError: Less than ``free_bytes`` would stay free.
        """
        free = shutil.disk_usage(folder).free
        if free - wanted < self.free_bytes:
            raise LimitError(
                f'the disk of this machine has {megabytes(free)} left, of which {megabytes(self.free_bytes)} stay '
                'free. Make room, and try again.'
            )


def megabytes(count: float) -> str:
    """A number of bytes for people."""
    return f'{count / 2**20:,.0f} MB'


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file() and not path.is_symlink())
