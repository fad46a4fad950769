"""Where the files of a base model are, and whether they are those of a SAM 3: read before anything large is built."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'model.safetensors'
_INDEX_FILE = f'{WEIGHTS_FILE}.index.json'
_TOKENIZER_FILES = ('tokenizer.json', 'vocab.json', 'merges.txt')
_PICKLED = 'pytorch_model*.bin'
_SMALL_FILES = (CONFIG_FILE, _INDEX_FILE, 'pytorch_model.bin.index.json', *_TOKENIZER_FILES)
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?')
_LFS_POINTER = b'version https://git-lfs.github.com/spec/'
_WHAT_TO_GIVE = (
    f'Give a folder that Sam3Model.save_pretrained wrote ({CONFIG_FILE} and {WEIGHTS_FILE}), or the hub id '
    'facebook/sam3.'
)


class BaseModelError(OSError):
    """The base model could not be read; the message says what to do."""


def split_revision(base: str) -> tuple[str, str | None]:
    """Take ``base`` apart.

    Args:
        base: A folder, or a hub id, with ``@`` and a branch, tag or commit behind it if not the default one is meant.

    Returns:
        The folder with ``~`` expanded, or the hub id; and the revision, None where none is said.

    Raises:
        BaseModelError: It is neither.
    """
    path = Path(base).expanduser()
    if path.is_dir():
        # A folder may have an @ in its name.
        return str(path), None
    if path.is_file():
        raise BaseModelError(f'base={base!r} is a file. {_about_file(path)}')
    name, separator, revision = base.partition('@')
    if not _HUB_ID.fullmatch(name) or (separator and not revision):
        raise BaseModelError(f'base={base!r} is no folder. {_WHAT_TO_GIVE}')
    return name, revision or None


def fetch(base: str) -> Path:
    """Find a base's configuration and tokenizer, if need be on the Hugging Face hub or in its cache.

    Args:
        base: See :func:`split_revision`.

    Returns:
        Their folder.

    Raises:
        BaseModelError: They cannot be had.
    """
    name, revision = split_revision(base)
    if Path(name).is_dir():
        return Path(name)
    return _download(base, name, revision, _SMALL_FILES)


def fetch_weights(base: str, folder: Path) -> None:
    """Bring the weights of ``base`` into ``folder``, which :func:`fetch` returned.

    Raises:
        BaseModelError: They cannot be had.
    """
    name, _ = split_revision(base)
    if Path(name).is_dir():
        return
    # The commit that the configuration is from, whatever has been pushed since.
    _download(base, name, folder.name, [WEIGHTS_FILE, 'model-*.safetensors'])
    if not any(folder.glob('*.safetensors')):
        _download(base, name, folder.name, [_PICKLED])


def read_config(base: str, folder: Path) -> Sam3Config:
    """Read the configuration of the image model: of a video model, as facebook/sam3 is, that of its detector.

    Raises:
        BaseModelError: There is none, it is damaged, or of another architecture.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise BaseModelError(f'base={base!r} could not be read as a SAM 3: {_about_folder(folder)} {_WHAT_TO_GIVE}')
    content = read_json(path)
    kind = content.get('model_type')
    # The hub's facebook/sam3 is a video model: the image model is its detector.
    detector = content.get('detector_config') if kind == 'sam3_video' else content
    if kind not in ('sam3', 'sam3_video') or not isinstance(detector, dict):
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {path} is of a model of type {kind!r}, not sam3 or '
            f'sam3_video. {_WHAT_TO_GIVE}'
        )
    try:
        # TypeError and the like: values that only a damaged or foreign file has.
        return Sam3Config.from_dict(detector)
    except (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {path} does not describe one ({_first_line(error)}). '
            f'{_WHAT_TO_GIVE}'
        ) from error


def check_weights(base: str, folder: Path, config: Sam3Config) -> None:
    """Compare names and shapes in the headers of the weights' files with those of the model, which is not built for it.

    Raises:
        BaseModelError: There are no weights, they are damaged, or of a model of another shape.
    """
    files = list(_weight_files(base, folder))
    if not files:
        return
    with torch.device('meta'):
        expected = {name: tuple(weight.shape) for name, weight in Sam3Model(config).state_dict().items()}
    prefix = f'{Sam3Model.base_model_prefix}.'
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        _refuse_pointer(path)
        try:
            with safe_open(str(path), framework='pt') as file:
                names = list(file.keys())
                found |= {name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise BaseModelError(
                f'base={base!r} could not be read as a SAM 3: {path} is damaged or cut short ({error}). Copy or '
                'download it again.'
            ) from error
    common = found.keys() & expected.keys()
    if not common:
        first = ', '.join(sorted(found)[:2]) or 'none at all'
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: the weights in {files[0].parent} have other names ({first}), '
            f'so they are of another model, or in another format. {_WHAT_TO_GIVE}'
        )
    differing = sorted(name for name in common if found[name] != expected[name])
    if differing:
        name = differing[0]
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {len(differing)} weights have other shapes than '
            f'{CONFIG_FILE} says. The first, {name}, has shape {found[name]}, and {expected[name]} is wanted. '
            f'Configuration and weights are not of the same model: copy both from one place. {_WHAT_TO_GIVE}'
        )


def read_vocabulary(base: str, folder: Path) -> dict[str, int] | None:
    """Read the tokens and their ids.

    Returns:
        Ids by token, or None if the folder has no tokenizer.

    Raises:
        BaseModelError: The tokenizer's files are damaged or incomplete.
    """
    present = [name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        return None
    if 'tokenizer.json' in present:
        content = read_json(folder / 'tokenizer.json')
        model = content.get('model')
        model = model if isinstance(model, dict) else {}
        vocabulary, merges = model.get('vocab'), model.get('merges')
        added = content.get('added_tokens') or []
    else:
        for name in ('vocab.json', 'merges.txt'):
            if name not in present:
                raise BaseModelError(_incomplete(base, folder, f'there is {present[0]} without {name}'))
        _refuse_pointer(folder / 'merges.txt')
        vocabulary, added = read_json(folder / 'vocab.json'), []
        lines = (folder / 'merges.txt').read_text('utf-8').splitlines()
        merges = [line for line in lines if len(line.split()) == 2 and not line.startswith('#version')]
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise BaseModelError(_incomplete(base, folder, f'{present[0]} has no vocabulary'))
    if not merges:
        raise BaseModelError(_incomplete(base, folder, f'{present[0]} has a vocabulary without merges'))
    return {**vocabulary, **{token['content']: token['id'] for token in added}}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        BaseModelError: It is damaged, or a pointer of Git LFS.
    """
    _refuse_pointer(path)
    try:
        content = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise BaseModelError(
            f'{path} is damaged or cut short: it is no JSON ({error}). Copy or download it again.'
        ) from error
    if not isinstance(content, dict):
        raise BaseModelError(f'{path} is damaged: it holds no JSON object. Copy or download it again.')
    return content


def unavailable(base: str, error: Exception) -> str:
    """What to say if transformers cannot load the weights of a folder."""
    return f'base={base!r} could not be read as a SAM 3: {_first_line(error)} {_WHAT_TO_GIVE}'


def _download(base: str, name: str, revision: str | None, patterns: Any) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, EntryNotFoundError, ValueError) as error:
        raise BaseModelError(_about_hub(base, name, revision, error)) from error


def _about_hub(base: str, name: str, revision: str | None, error: Exception) -> str:
    """Why the hub gives nothing, in its own words, and what to do about it."""
    causes = list(_causes(error))
    refusal = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    reason = getattr(refusal, 'server_message', None) or str(causes[-1])
    start = f'base={base!r} could not be had from the Hugging Face hub: {" ".join(reason.split()).rstrip(".")}.'
    status = getattr(getattr(refusal, 'response', None), 'status_code', None)
    if 'invalid credentials' in reason.lower() or 'invalid user token' in reason.lower():
        return (
            f'{start} The access token on this machine is wrong or has expired: make one at '
            'https://huggingface.co/settings/tokens and run `hf auth login` (the environment variable HF_TOKEN, if '
            'set, goes before).'
        )
    if isinstance(refusal, GatedRepoError):
        if 'awaiting' in reason.lower():
            return (
                f'{start} The licence of {name} has been accepted, and its owner has not answered yet: see '
                'https://huggingface.co/settings/gated-repos, and try again later.'
            )
        return (
            f'{start} It is a gated model: accept its licence at https://huggingface.co/{name}, then run `hf auth '
            'login` with your token. On a machine without network, copy the model folder there and set base to it.'
        )
    if isinstance(refusal, RevisionNotFoundError):
        return f'{start} {name} has no branch, tag or commit {revision!r}: see https://huggingface.co/{name}/commits.'
    if isinstance(refusal, RepositoryNotFoundError):
        return (
            f'{start} There is no folder {name!r} here either (relative paths start at {Path.cwd()}). Mind the '
            'spelling; for a private repository run `hf auth login` with a token that may read it.'
        )
    if status is not None and status != 401:
        return f'{start} Try again later, or copy the model folder here and set base to its path.'
    return (
        f'{start} There is no folder {name!r} here either. SAM 3 is a gated model: accept its licence at '
        'https://huggingface.co/facebook/sam3, then run `hf auth login` with your token. On a machine without network, '
        'copy the model folder there and set base to its path.'
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _weight_files(base: str, folder: Path) -> Iterator[Path]:
    """The safetensors files of the weights; none if they are pickled."""
    if (folder / WEIGHTS_FILE).is_file():
        yield folder / WEIGHTS_FILE
        return
    if (folder / _INDEX_FILE).is_file():
        parts: Mapping[str, str] = read_json(folder / _INDEX_FILE).get('weight_map') or {}
        names = sorted(set(parts.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise BaseModelError(
                f'base={base!r} could not be read as a SAM 3: {folder / _INDEX_FILE} names {len(names)} files of '
                f'weights, and {", ".join(missing[:3]) or "none"} is missing. Copy or download the folder again.'
            )
        yield from (folder / name for name in names)
        return
    pickled = sorted(folder.glob(_PICKLED))
    for path in pickled:
        _refuse_pointer(path)
    if not pickled:
        raise BaseModelError(f'base={base!r} could not be read as a SAM 3: {_about_folder(folder)} {_WHAT_TO_GIVE}')


def _refuse_pointer(path: Path) -> None:
    with path.open('rb') as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise BaseModelError(
            f'{path} is not the file itself but a pointer of Git LFS to it. Run `git lfs install` and `git lfs pull` '
            'in the repository, or download the model with `hf download`.'
        )
    if not start:
        raise BaseModelError(f'{path} is empty. Copy or download it again.')


def _about_file(path: Path) -> str:
    if path.name in (CONFIG_FILE, WEIGHTS_FILE, _INDEX_FILE):
        return f'Give its folder, {path.parent}.'
    if path.suffix in ('.pt', '.pth'):
        return f'{_conversion(path)} A checkpoint of a training of this package goes to --checkpoint or load_from.'
    return _WHAT_TO_GIVE


def _conversion(path: Path) -> str:
    """How to make a folder of Meta's own file."""
    command = shlex.join(['python', 'tools/convert_checkpoint.py', str(path), str(path.with_name(f'{path.stem}_hf'))])
    return f"If it is Meta's own format, write it as a folder with `{command}`, once, and set base to that folder."


def _about_folder(folder: Path) -> str:
    """Why there is no model in a folder, by what it holds instead."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    text = f'{folder} has no {" and no ".join(missing)}'
    if 'adapter_config.json' in names:
        return f'{text}; it is an adapter, and goes to model.adapter or --adapter.'
    foreign = [name for name in names if name.endswith(('.pt', '.pth'))]
    if foreign:
        return f'{text}, but {", ".join(foreign)}. {_conversion(folder / foreign[0])}'
    return f'{text}, but {", ".join(names[:5])}.' if names else f'{text}; it is empty.'


def _incomplete(base: str, folder: Path, what: str) -> str:
    return (
        f'base={base!r}: the tokenizer in {folder} is damaged: {what}. Copy or download its files again, or remove '
        f"{', '.join(_TOKENIZER_FILES)}: without them CLIP's tokenizer, which is SAM 3's, is used."
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
