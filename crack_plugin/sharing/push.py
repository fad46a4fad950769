"""A training as a repository: its folder, and the upload to the Hugging Face hub."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # type: ignore[attr-defined]  # of httpx, whose name differs by version
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from crack_plugin import hub
from crack_plugin.files import LEFTOVER, honour_umask, write_atomically
from crack_plugin.models import portable
from crack_plugin.models.adapters import HEAD_FILE, WEIGHTS_FILE
from crack_plugin.models.lora_config import CONFIG_FILE
from crack_plugin.report.build import build_report
from crack_plugin.sharing.card import dataset_name, licence_of, model_card
from crack_plugin.sharing.privacy import refuse_private
from crack_plugin.sharing.public_config import public_config
from crack_plugin.sharing.training import SharingError, Training, public_base

RECORD = 'hub.json'
"""In the work directory: where its adapter was pushed to."""
_CARD = 'README.md'
_REPORT = 'report'
_CONFIG = 'config.py'
_OWN = {_CARD, _REPORT, _CONFIG, portable.FILE, CONFIG_FILE, WEIGHTS_FILE, HEAD_FILE}
"""All that is written here: what may be replaced in a folder, and removed from a repository."""
_CORRECT = (
    'Correct what it names: --license, --license-name, --license-link, --dataset-name, --base-model or OWNER/NAME.'
)
_UNCHANGED = 'No file was changed there (a new, empty repository may have been made).'
_MADE_BY_THE_HUB = {'.gitattributes', _CARD}


@dataclass(frozen=True)
class Pushed:
    """What ``hub.json`` records.

    Attributes:
        repo: Hub id.
        url: Of the repository's page.
        commit: Of the upload.
        public: Whether everybody may see it.
    """

    repo: str
    url: str
    commit: str
    public: bool


@dataclass(frozen=True)
class Choices:
    """What the user says about a shared training, see ``tools/push_to_hub.py``."""

    base_model: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    dataset_name: str | None = None
    examples: int = 0
    device: str | None = None


def write_folder(training: Training, repo: str, folder: Path, choices: Choices) -> None:
    """Write all files of the repository into ``folder``, complete or not at all.

    Args:
        training: What is shared.
        repo: Hub id.
        folder: New, empty, or written by this function before.
        choices: Of the user.

    Raises:
        SharingError: Something is missing, or would tell others what is private; or ``folder`` holds other files, is a
            link, or the current folder is in it.
        PortableError: The config has what a pushed model cannot carry.
    """
    check_repo(repo)
    _check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}-', suffix=LEFTOVER))
    try:
        _fill(training, repo, scratch, choices)
        refuse_private(scratch, training, repo)
        honour_umask(scratch)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that could not be deleted without loss.

    Raises:
        SharingError: There is something in it that :func:`write_folder` does not write, or it is in use.
    """
    advice = 'Name a new or empty folder with --output.'
    if folder.is_symlink():
        raise SharingError(f'{folder} is a link, and the folder would take its place. {advice}')
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SharingError(f'{folder} is a file. {advice}')
    names = {path.name for path in folder.iterdir()}
    others = sorted(names - _OWN if portable.FILE in names else names)
    if others:
        shown = ', '.join(others[:5]) + (f' and {len(others) - 5} more' if len(others) > 5 else '')
        raise SharingError(f'{folder} holds other files ({shown}), and is written anew each time. {advice}')
    if Path.cwd().is_relative_to(folder.resolve()):
        raise SharingError(f'{folder} is, or holds, the current folder, and is written anew each time. {advice}')


def _fill(training: Training, repo: str, folder: Path, choices: Choices) -> None:
    cfg = training.cfg
    # The adapter says which base it was made for; its configuration is written again with the base's public name.
    training.write_adapter(folder)
    base = public_base(training, choices.base_model, folder)
    training.name_base(folder, base)
    licence = licence_of(base, choices.licence, choices.licence_name, choices.licence_link)
    description = json.dumps(portable.describe(cfg, base), indent=2)
    write_atomically(folder / portable.FILE, description.encode())
    shown = public_config(cfg, base)
    write_atomically(folder / _CONFIG, shown.pretty_text.encode())
    build_report(
        training.work_dir,
        cfg,
        training.checkpoint,
        examples=choices.examples,
        device=choices.device,
        run_model=choices.examples > 0,
        folder=folder / _REPORT,
        shown=shown,
    )
    card = model_card(training, shown, repo, base, licence, dataset_name(cfg, choices.dataset_name))
    write_atomically(folder / _CARD, str(card).encode())
    # What nobody could predict with shall not be uploaded.
    portable.read_config(folder)


def check_repo(repo: str) -> None:
    """Refuse what is no hub id of an owner's repository.

    Raises:
        SharingError: It is none.
    """
    if not hub.is_hub_id(repo) or '/' not in repo:
        raise SharingError(
            f'{repo!r} cannot be the name of a repository: give OWNER/NAME, your user name or organisation on the hub '
            'and a name of letters, digits, "-", "_" and "." (at most 96, no "--" or "..").'
        )


def push(folder: Path, repo: str, public: bool) -> Pushed:
    """Upload ``folder`` in one commit, all of it or nothing; the repository is made if it is not there.

    Args:
        folder: Of :func:`write_folder`.
        repo: Hub id.
        public: Whether everybody may see it; this does not change that of a repository that is there.

    Raises:
        HubError: The hub refused, or could not be reached.
        SharingError: The repository is there, and holds other files, or is not as ``public`` says; or the hub refused
            the model card.
    """
    api = HfApi()
    with _words(repo):
        # Before anything else: the hub's own refusal without a token would be that there is no such repository.
        api.whoami()
        there = _present(api, repo, public)
        _check_card(folder / _CARD)
        if there is None:
            api.create_repo(repo, private=not public, exist_ok=True)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob('*')) if path.is_file()}
        # Pictures of an earlier push, which may show photographs that this one leaves out, and a detail head that this
        # model does not have.
        stale = [name for name in _names(there) if name.partition('/')[0] in _OWN and name not in files]
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message='Adapter, config, report and card by crack_plugin',
            # What was looked at, and nothing that was pushed since.
            parent_commit=there.sha if there else None,
        )
    return Pushed(repo, f'{api.endpoint}/{repo}', commit.oid, public)


def record(pushed: Pushed, work_dir: Path) -> None:
    """Write :data:`RECORD`."""
    write_atomically(work_dir / RECORD, json.dumps(asdict(pushed), indent=2).encode())


def _check_card(card: Path) -> None:
    """Let the hub look at the card's header before there is a repository."""
    try:
        ModelCard.load(card).validate()
    except ValueError as error:
        if isinstance(error, HfHubHTTPError):
            raise
        raise SharingError(f'the hub refuses the model card: {" ".join(str(error).split())}. {_CORRECT}') from error


def _names(info: ModelInfo | None) -> list[str]:
    return [file.rfilename for file in (info.siblings if info else None) or ()]


def _present(api: HfApi, repo: str, public: bool) -> ModelInfo | None:
    """The repository, if it is there; it may be pushed to."""
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return None
    names = _names(info)
    if portable.FILE not in names and set(names) - _MADE_BY_THE_HUB:
        others = ', '.join(sorted(set(names) - _MADE_BY_THE_HUB)[:5])
        raise SharingError(
            f'{repo} is there already and holds what this tool did not write: {others}. Choose another name, or delete '
            'the repository on its page first.'
        )
    if info.private is not None and info.private == public:
        raise SharingError(
            f'{repo} is there already and is {"private" if public else "public"}, which an upload does not change: '
            + ('leave --public out' if public else 'add --public if everybody may see this adapter')
            + f', or change it in {api.endpoint}/{repo}/settings.'
        )
    return info


@contextmanager
def _words(repo: str) -> Iterator[None]:
    """Say what to do about an upload that the hub refuses."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise hub.HubError(
            f'{repo} cannot be pushed to without an access token: make one that may write at '
            'https://huggingface.co/settings/tokens, and run `hf auth login` (or set HF_TOKEN).'
        ) from error
    except OfflineModeIsEnabled as error:
        raise hub.HubError(
            f'{repo} cannot be pushed to: the environment variable HF_HUB_OFFLINE is set. Unset it, or add --dry-run.'
        ) from error
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        if isinstance(error, SharingError):
            raise
        raise hub.HubError(_push_failed(repo, error)) from error


def _push_failed(repo: str, error: Exception) -> str:
    refusal, reason = hub.reason_of(error)
    start = f'{repo} could not be pushed to: {reason}.'
    status = hub.status_of(refusal)
    token = hub.advice_for_token(reason)
    if token or status == 401:
        return f'{start} {token or "Run `hf auth login` with a token of your account that may write."}'
    if status in (403, 404):
        return (
            f'{start} The token on this machine may not write there: {repo.partition("/")[0]} has to be your own user '
            'name (`hf auth whoami` tells it), or an organisation that lets you write, and the token one of the kind '
            '"write", see https://huggingface.co/settings/tokens.'
        )
    if status is None:
        return f'{start} Is there a network? {_UNCHANGED} The folder is written; run the same command again later.'
    if status == 400:
        return f'{start} {_CORRECT} {_UNCHANGED}'
    if status == 412:
        return f'{start} Something else was pushed there at the same time. Look at it, and push again.'
    return f'{start} {_UNCHANGED} Try again later.'
