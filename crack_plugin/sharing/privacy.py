"""What must not leave this machine with a shared training: its folders and its user."""

import getpass
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crack_plugin.sharing.training import SharingError, Training


def refuse_private(folder: Path, training: Training, repo: str) -> None:
    """Look through all files that would be uploaded for paths of this machine and the name of its user.

    Searched for are the home folder, the current one, the work directory, every absolute path in the training's config,
    and the user's name as a part of a path (that of the repository's address, which has its owner, is none).

    Args:
        folder: The files.
        training: Whose they are.
        repo: Hub id, whose owner may have the user's name.

    Raises:
        SharingError: There is such a text in a file.
    """
    folders = {Path.home(), Path.cwd(), training.work_dir.absolute(), training.work_dir.resolve()}
    folders |= {Path(text).expanduser() for text in _texts(training.cfg.to_dict()) if text.startswith(('/', '~'))}
    # The root, and a folder of the system such as /data, say nothing of their user.
    texts = {str(path) for path in folders if len(path.parts) > 2 or path == Path.home() != Path('/')}
    user = _user()
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            content = path.read_bytes()
            found = [text for text in sorted(texts, key=len, reverse=True) if text.encode() in content]
            address = rb'(://[^/\s]+)/' + re.escape(repo.encode())
            if user and f'/{user}/'.encode() in re.sub(address, rb'\1', content):
                found.append(f'/{user}/')
            if found:
                raise SharingError(
                    f'{path} would tell others {found[0]!r}, which is private to this machine. Nothing was '
                    'uploaded. Change what it is from: a path or name in the config, --dataset-name, or the name of '
                    'the work directory.'
                )


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container whose user has no name.
        return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
