"""The Hugging Face hub: what an id is, downloads, and its refusals in words that say what to do."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # type: ignore[attr-defined]  # of httpx, whose name differs by version
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from crack_plugin.errors import CrackPluginError

_FOLDERS = {'base': 'model folder', 'adapter': 'adapter folder'}
"""What an argument may be instead of a hub id."""


_UNGATED = ' Without access: docs/bases.md names a base that is described as open to all (SAM3-LiteText).'


class HubError(CrackPluginError, OSError):
    """The hub refused, or could not be reached; the message says what to do."""


def is_hub_id(name: str) -> bool:
    """Whether ``name`` may be that of a repository: ``owner/name``, or ``name`` as some old ones have it."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def split_revision(text: str) -> tuple[str, str | None] | None:
    """Split ``name`` or ``name@revision`` into hub id and revision (a branch, tag or commit; None for the default).

    Returns:
        None if it is no hub id, or has an ``@`` without a revision.
    """
    name, separator, revision = text.partition('@')
    if not is_hub_id(name) or (separator and not revision):
        return None
    return name, revision or None


def download(given: str, name: str, revision: str | None, patterns: Iterable[str], argument: str) -> Path:
    """Download files of a repository into the hub's cache, or find them there.

    Args:
        given: What the user wrote, for messages.
        name: Hub id.
        revision: Branch, tag or commit; None for the default.
        patterns: Which files, as in ``fnmatch``.
        argument: Where the user wrote it, for messages: 'base', 'adapter' or 'repo'.

    Returns:
        Their folder, named by the commit; if no file matches, it may not exist.

    Raises:
        HubError: They are neither in the cache nor can they be downloaded.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, HTTPError, EntryNotFoundError, ValueError) as error:
        raise HubError(_download_failed(given, name, revision, argument, error)) from error


def reason_of(error: BaseException) -> tuple[HfHubHTTPError | None, str]:
    """The hub's refusal among the causes of ``error``, if it is one, and the reason in its own words."""
    causes = list(_causes(error))
    refusals = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    said = next((refusal.server_message for refusal in refusals if refusal.server_message), None)
    reason = said or str(causes[-1]) or type(causes[-1]).__name__
    return next(iter(refusals), None), ' '.join(reason.split()).rstrip('.')


def status_of(refusal: HfHubHTTPError | None) -> int | None:
    """The HTTP status of a refusal; None if there was no answer."""
    return getattr(getattr(refusal, 'response', None), 'status_code', None)


def advice_for_token(reason: str) -> str | None:
    """What to do if the hub does not know the access token; None if ``reason`` is another."""
    if 'invalid credentials' in reason.lower() or 'invalid user token' in reason.lower():
        return (
            'The access token on this machine is wrong or has expired: make one at '
            'https://huggingface.co/settings/tokens and run `hf auth login` (the environment variable HF_TOKEN, if '
            'set, takes precedence).'
        )
    return None


def _download_failed(given: str, name: str, revision: str | None, argument: str, error: Exception) -> str:
    """Why the hub refused, in its own words, and what to do."""
    refusal, reason = reason_of(error)
    start = f'{argument}={given!r} could not be downloaded from the Hugging Face hub: {reason}.'
    folder = _FOLDERS.get(argument, 'folder')
    token = advice_for_token(reason)
    if token:
        return f'{start} {token}'
    if isinstance(refusal, GatedRepoError):
        if 'awaiting' in reason.lower():
            return (
                f'{start} The licence of {name} has been accepted, and its owner has not answered yet: see '
                'https://huggingface.co/settings/gated-repos, and try again later.'
            )
        return (
            f'{start} It is a gated model: accept its licence at https://huggingface.co/{name}, then run `hf auth '
            f'login` with your token. On a machine without network, copy the {folder} there and set {argument} to it.'
            f'{_UNGATED if argument == "base" else ""}'
        )
    if isinstance(refusal, RevisionNotFoundError):
        return f'{start} {name} has no branch, tag or commit {revision!r}: see https://huggingface.co/{name}/commits.'
    if isinstance(refusal, RepositoryNotFoundError):
        return (
            f'{start} There is no folder {name!r} here either (relative paths start at {Path.cwd()}). Mind the '
            'spelling; for a private repository run `hf auth login` with a token that may read it.'
        )
    status = status_of(refusal)
    if status is not None and status != 401:
        return f'{start} Try again later, or copy the {folder} here and set {argument} to its path.'
    gated = (
        'SAM 3 is a gated model: accept its licence at https://huggingface.co/facebook/sam3, then run'
        if argument == 'base'
        else 'If the repository is private, run'
    )
    return (
        f'{start} There is no folder {name!r} here either. {gated} `hf auth login` with your token. On a machine '
        f'without network, copy the {folder} there and set {argument} to its path.'
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
