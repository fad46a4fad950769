"""Names of files: their parts, the picture they were made from, and how messages list them."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log


def stem_of(name: str) -> str:
    """A file's name without its suffix, by text alone: a ``Path`` for each of 100,000 files would be slow."""
    return name.rpartition('.')[0] or name


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot; '' if there is none."""
    _, dot, extension = name.rpartition('.')
    return f'{dot}{extension}'.lower() if dot else ''


def source_name(image: str) -> str:
    """Name of the picture that an image was made from.

    Roboflow calls the augmentations of ``wall.jpg`` ``wall_jpg.rf.HASH.jpg``; any other image is its own source.
    """
    name = Path(image).name
    return name.partition('.rf.')[0] if '.rf.' in name else stem_of(name)


def listed(paths: Sequence[object], limit: int = 3) -> str:
    """The first few paths and the number of the others, for messages."""
    more = f' and {len(paths) - limit} more' if len(paths) > limit else ''
    return ', '.join(map(str, paths[:limit])) + more


def count_suffixes(files: Sequence[str]) -> str:
    """The number of files by suffix, for messages: '2 .heic, 1 without extension'."""
    counts = Counter(suffix_of(Path(file).name) for file in files)
    return ', '.join(f'{count} {suffix or "without extension"}' for suffix, count in sorted(counts.items()))


def warn(message: str) -> None:
    """Write a warning to the current log."""
    print_log(message, logger='current', level=logging.WARNING)
