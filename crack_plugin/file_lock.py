"""A lock on an open file that belongs to the process, and is gone with it: POSIX and Windows."""

import sys
from typing import IO

_BEHIND_THE_TEXT = 2**30
"""Windows keeps others from reading bytes that are locked; those behind the end can be locked as well."""

if sys.platform == 'win32':
    import msvcrt

    def lock(file: IO[str]) -> None:
        """Lock a file for this process without waiting.

        Args:
            file: Open for writing; its position changes.

        Raises:
            PermissionError: Another process has locked it.
            OSError: The file system knows no locks.
        """
        file.seek(_BEHIND_THE_TEXT)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(file: IO[str]) -> None:
        """Lock a file for this process without waiting.

        Args:
            file: Open for writing; its position changes.

        Raises:
            OSError: Another process has locked it (EACCES or EAGAIN), or the file system knows no locks.
        """
        # Not flock: data workers would inherit that, and outlive a killed training by seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
