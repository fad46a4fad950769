"""Items that are gone over several times, on disk: memory does not grow with their number."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Generic, TypeVar

from crack_plugin.files import SaveError

Item = TypeVar('Item')


class Spool(Generic[Item]):
    """What :func:`spooled` has kept: iterated over as often as need be, with one item in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._end = file.tell()

    def __iter__(self) -> Iterator[Item]:
        place = 0
        while place < self._end:
            self._file.seek(place)
            # Nobody else has the file, which has no name.
            item = pickle.load(self._file)
            place = self._file.tell()
            yield item


@contextmanager
def spooled(items: Iterable[Item], folder: Path) -> Iterator[Spool[Item]]:
    """Keep items in a file that is gone when the context, or the process, ends.

    Args:
        items: Taken one after the other.
        folder: Whose disk has room for them.

    Raises:
        SaveError: There is no room.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for item in items:
            try:
                pickle.dump(item, file, pickle.HIGHEST_PROTOCOL)
                file.flush()
            except OSError as error:
                raise SaveError(
                    f'{folder} has no room for what the results are made of: {error.strerror or error}. What is there '
                    'is complete: make room, and the same command goes on.'
                ) from error
        yield Spool(file)
