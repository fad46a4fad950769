"""The sessions of users: each has a folder of its own, which is deleted when it ends or after a time."""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crack_plugin.app.limits import LimitError, Limits, UnknownError, folder_bytes, megabytes
from crack_plugin.app.photographs import Photograph, file_name

_PREFIX = 'crack_plugin-app'


class Session:
    """What one user has uploaded.

    Args:
        folder: Its own; it is there.
        limits: Of sizes and times.

    Attributes:
        lock: Held by what changes the photographs, or needs them to stay.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.lock = threading.RLock()
        self._photographs: dict[int, Photograph] = {}
        self._count = 0

    @property
    def photographs(self) -> list[Photograph]:
        """In the order of their upload."""
        return list(self._photographs.values())

    @property
    def bytes(self) -> int:
        """Size of all that is kept."""
        return folder_bytes(self.folder)

    def check_room(self, wanted: int) -> None:
        """Refuse to keep so many bytes more.

        Raises:
            LimitError: They are too many for the session, or for the disk.
        """
        if self.bytes + wanted > self.limits.session_bytes:
            raise LimitError(
                f'a session keeps at most {megabytes(self.limits.session_bytes)}, and {megabytes(self.bytes)} are '
                'used. Remove photographs that are done.'
            )
        self.limits.check_disk(self.folder, wanted)

    def add(self, name: str, upload: Path) -> Photograph:
        """Take a photograph that was uploaded; the file is moved, or deleted if it is refused.

        Raises:
            CrackPluginError: It cannot be read, or there is no room; those that are there stay.
        """
        with self.lock:
            taken = {photograph.file.stem.lower() for photograph in self.photographs}
            self._count += 1
            number = self._count
            folder = self.folder / 'photographs' / str(number)
            try:
                file = folder / file_name(name, taken)
                folder.mkdir(parents=True)
                upload.replace(file)
                photograph = Photograph(number, file, self.limits.pixels)
                # A picture for the browser is there by now; maps of a byte a pixel come.
                self.check_room(2 * photograph.pixels)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                upload.unlink(missing_ok=True)
                raise
            self._photographs[number] = photograph
            return photograph

    def photograph(self, number: int) -> Photograph:
        """One of the photographs.

        Raises:
            UnknownError: There is none of that number.
        """
        if number not in self._photographs:
            raise UnknownError('this photograph is not there any more.')
        return self._photographs[number]

    def remove(self, number: int) -> None:
        """Delete a photograph and all that was made of it.

        Raises:
            UnknownError: There is none of that number.
        """
        with self.lock:
            self.photograph(number).delete()
            del self._photographs[number]

    def delete(self) -> None:
        """Delete all of it."""
        with self.lock:
            self._photographs.clear()
            shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All sessions, by keys that cannot be guessed.

    Args:
        limits: Of sizes, numbers and times.
        on_end: Called with a session that has ended, before it is deleted.
        clock: Seconds.

    Attributes:
        root: The folder that theirs are in.
    """

    def __init__(
        self,
        limits: Limits,
        on_end: Callable[[Session], object] = lambda session: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix=f'{_PREFIX}-{os.getpid()}-'))
        self._on_end, self._clock = on_end, clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._ends: dict[str, float] = {}

    def open(self) -> str:
        """Begin a session; its key.

        Raises:
            LimitError: There are too many, or the disk is full.
        """
        self.sweep()
        self.limits.check_disk(self.root)
        with self._lock:
            if len(self._sessions) >= self.limits.sessions:
                raise LimitError(
                    f'{len(self._sessions)} people are working here, and no more can. Come back when one has left.'
                )
            key = secrets.token_urlsafe(24)
            folder = self.root / key
            folder.mkdir(mode=0o700)
            self._sessions[key] = Session(folder, self.limits)
            self._ends[key] = self._clock() + self.limits.idle_seconds
            return key

    def get(self, key: str) -> Session:
        """A session, which is given its time anew.

        Raises:
            UnknownError: It has ended.
        """
        with self._lock:
            if key not in self._sessions:
                raise UnknownError('this session has ended, and its photographs are deleted. Load the page again.')
            self._ends[key] = self._clock() + self.limits.idle_seconds
            return self._sessions[key]

    def leave(self, key: str) -> None:
        """Let a session end soon, unless its page comes back."""
        with self._lock:
            if key in self._sessions:
                self._ends[key] = self._clock() + self.limits.leave_seconds

    def sweep(self) -> None:
        """Delete the sessions whose time is over."""
        with self._lock:
            over = [key for key, end in self._ends.items() if end <= self._clock()]
            ended = [self._sessions.pop(key) for key in over]
            for key in over:
                del self._ends[key]
        for session in ended:
            self._on_end(session)
            session.delete()

    def close(self) -> None:
        """Delete all sessions."""
        with self._lock:
            ended = list(self._sessions.values())
            self._sessions.clear()
            self._ends.clear()
        for session in ended:
            self._on_end(session)
            session.delete()
        shutil.rmtree(self.root, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Delete what servers left in the folder for temporary files that were killed."""
    for path in folder.glob(f'{_PREFIX}-*'):
        found = re.match(rf'{_PREFIX}-(\d+)-', path.name)
        # Another user may have made one of that name.
        if found and not path.is_symlink() and path.stat().st_uid == os.getuid() and not _is_running(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
