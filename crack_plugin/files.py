"""The one way to write a file: complete or not there, with the permissions that the umask gives."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from crack_plugin.errors import CrackPluginError

LEFTOVER = '.unfinished'
"""How the names of unfinished files and folders end; they start with a dot."""


_WINDOWS_WITHOUT_PRIVILEGE = 1314
"""``winerror`` of a symbolic link that neither an administrator makes nor a machine in developer mode."""


class SaveError(CrackPluginError, OSError):
    """A file could not be written; the message names it and says what to do."""


def write_atomically(path: str | Path, content: bytes | Callable[[Path], object], durable: bool = False) -> None:
    """Write a file under a temporary name in its folder and move it, so that nobody ever reads half of it.

    Missing parent folders are made. What a killed process leaves behind starts with a dot and ends in ``.unfinished``.

    Args:
        path: The file.
        content: All of it, or what writes it, given the temporary path, where an empty file is.
        durable: Wait until it is on the disk, where it also survives a power cut.

    Raises:
        SaveError: It could not be written; a former file of the name is as it was. The same holds for anything
            else that ``content`` raises.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_move(path, content, durable)
    except OSError as error:
        raise SaveError(
            f'{path} could not be written: {error.strerror or error}. What was saved before is complete. Make room, or '
            'make sure that the folder can be written; a training goes on with --resume.'
        ) from error


def _write_and_move(path: Path, content: bytes | Callable[[Path], object], durable: bool) -> None:
    scratch = path.with_name(f'.{path.name[:50]}-{uuid.uuid4().hex}{LEFTOVER}')
    try:
        # The system applies the umask, and the folder's default ACL, to a file that is opened; tempfile's are 0600.
        with scratch.open('xb') as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if isinstance(content, bytes):
                file.write(content)
        if not isinstance(content, bytes):
            content(scratch)
            # A writer may have put a file of its own in the place, as safetensors does.
            scratch.chmod(mode)
        if durable:
            # Windows flushes only what is open for writing.
            with scratch.open('r+b') as file:
                os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, link: Path) -> None:
    """Make a symbolic link; on a Windows that allows them to administrators alone, a copy.

    Args:
        source: An existing file.
        link: Where to put it; nothing may be there.

    Raises:
        OSError: It cannot be made.
    """
    try:
        link.symlink_to(source.resolve())
    except OSError as error:
        if getattr(error, 'winerror', None) != _WINDOWS_WITHOUT_PRIVILEGE:
            raise
        shutil.copy2(source, link)


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files of killed processes, anywhere below ``folder``; nobody else may be writing there."""
    for path in list(folder.rglob(f'.*{LEFTOVER}')):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def honour_umask(path: str | Path) -> None:
    """Give a file, or a folder and all in it, the mode that opening or making it plainly would have given.

    For what has come from ``tempfile`` or safetensors, which keep others out whatever the umask.
    """
    path = Path(path)
    probe = path.with_name(f'.{uuid.uuid4().hex}{LEFTOVER}')
    probe.mkdir()
    try:
        folder_mode = probe.stat().st_mode & 0o7777
        with Path(probe, 'file').open('xb') as file:
            file_mode = os.fstat(file.fileno()).st_mode & 0o777
        Path(probe, 'file').unlink()
    finally:
        probe.rmdir()
    for each in (path, *path.rglob('*')):
        if not each.is_symlink():
            each.chmod(folder_mode if each.is_dir() else file_mode)
