"""The files of a base model, in a folder or on the Hugging Face hub: found and checked before the model is built."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from crack_plugin import hub
from crack_plugin.errors import CrackPluginError
from crack_plugin.models import base_types
from crack_plugin.shipped import shipped

CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'model.safetensors'
_INDEX_FILE = f'{WEIGHTS_FILE}.index.json'
TOKENIZER_FILES = ('tokenizer.json', 'vocab.json', 'merges.txt')
_KINDS = ('F64', 'F32', 'F16', 'BF16')
"""Types of weights, as safetensors names them."""
_PICKLED = 'pytorch_model*.bin'
_SMALL_FILES = (CONFIG_FILE, _INDEX_FILE, 'pytorch_model.bin.index.json', *TOKENIZER_FILES)
_LFS_POINTER = b'version https://git-lfs.github.com/spec/'
_WHAT_TO_GIVE = (
    f'Give a folder that Sam3Model.save_pretrained wrote ({CONFIG_FILE} and {WEIGHTS_FILE}), or the hub id '
    'facebook/sam3.'
)


EMBEDDED = 'crack_plugin::sam3_tiny'
"""The base that comes with the package, by a name that is the same on every machine."""


class BaseModelError(CrackPluginError, OSError):
    """The base model could not be read; the message says what to do."""


def split_revision(base: str) -> tuple[str, str | None]:
    """Split ``base`` into its name and revision.

    Args:
        base: A folder, or a hub id, optionally followed by ``@`` and a branch, tag or commit; or :data:`EMBEDDED`.

    Returns:
        The folder with ``~`` expanded, or the hub id; and the revision, None for the default.

    Raises:
        BaseModelError: It is neither.
    """
    path = embedded_folder() if base == EMBEDDED else Path(base).expanduser()
    if path.is_dir():
        # A folder may have an @ in its name.
        return str(path), None
    if path.is_file():
        raise BaseModelError(f'base={base!r} is a file. {_advice_for_file(path)}')
    on_hub = hub.split_revision(base)
    if on_hub is None:
        raise BaseModelError(f'base={base!r} is not a folder. {_WHAT_TO_GIVE}')
    return on_hub


def embedded_folder() -> Path:
    """The folder that :data:`EMBEDDED` names: of an installation, or of a checkout."""
    return shipped('configs') / 'sam3_tiny'


def fetch(base: str) -> Path:
    """Find a base's configuration and tokenizer: in its folder, in the hub's cache, or on the Hugging Face hub.

    Args:
        base: See :func:`split_revision`.

    Returns:
        Their folder.

    Raises:
        BaseModelError: They are neither here nor can they be downloaded.
    """
    name, revision = split_revision(base)
    if Path(name).is_dir():
        return Path(name)
    return _download(base, name, revision, _SMALL_FILES)


def fetch_weights(base: str, folder: Path) -> None:
    """Download the weights of ``base``, if it is on the hub, into ``folder``, which :func:`fetch` returned.

    Raises:
        BaseModelError: They cannot be downloaded.
    """
    name, _ = split_revision(base)
    if Path(name).is_dir():
        return
    # The commit that the configuration is from, whatever has been pushed since.
    _download(base, name, folder.name, [WEIGHTS_FILE, 'model-*.safetensors'])
    if not any(folder.glob('*.safetensors')):
        _download(base, name, folder.name, [_PICKLED])


def read_config(base: str, folder: Path) -> Any:
    """Read the configuration of the image model; if the base is a video model, like facebook/sam3, of its detector.

    Returns:
        A ``Sam3Config`` or ``Sam3LiteTextConfig``, by its ``model_type``.

    Raises:
        BaseModelError: There is no configuration, or it is damaged or describes another architecture.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise BaseModelError(f'base={base!r} could not be read as a SAM 3: {_missing_files(folder)} {_WHAT_TO_GIVE}')
    content = read_json(path)
    _refuse_kernels(path, content)
    kind = content.get('model_type')
    detector = content.get('detector_config') if kind == base_types.VIDEO else content
    config_class = base_types.CONFIGS.get('sam3' if kind == base_types.VIDEO else str(kind))
    if config_class is None or not isinstance(detector, dict):
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {path} is of a model of type {kind!r}, not '
            f'{base_types.KNOWN} or {base_types.VIDEO}. {_WHAT_TO_GIVE}'
        )
    try:
        # TypeError and the like: values that only a damaged or foreign file has.
        config = config_class.from_dict(detector)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {path} does not describe one ({_first_line(error)}). '
            f'{_WHAT_TO_GIVE}'
        ) from error
    backbone = getattr(config.vision_config.backbone_config, 'model_type', None)
    if backbone != 'sam3_vit_model':
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {path} names an image encoder of type {backbone!r}, not '
            f'sam3_vit_model. {_WHAT_TO_GIVE}'
        )
    return config


def _refuse_kernels(path: Path, content: Any) -> None:
    """Refuse a configuration that makes transformers run code from the hub: an attention called ``owner/name``.

    Raises:
        BaseModelError: It is such.
    """
    for name, value in content.items() if isinstance(content, Mapping) else enumerate(content):
        if str(name).endswith('attn_implementation') and ('/' in str(value) or isinstance(value, Mapping)):
            raise BaseModelError(
                f'{path} is refused: {name}={value!r} is code on the Hugging Face hub, which transformers would run. '
                f'Nothing of it was run. Remove {name}.'
            )
        if isinstance(value, (Mapping, list)):
            _refuse_kernels(path, value)


def check_weights(base: str, folder: Path, config: Any) -> None:
    """Compare names and shapes in the headers of the weight files with those of the model, without building it.

    Raises:
        BaseModelError: There are no weights, or they are damaged or belong to a model of another shape.
    """
    files = list(_weight_files(base, folder))
    if not files:
        return
    try:
        # On the meta device nothing takes memory: these are errors of sizes and names that fit nothing.
        with torch.device('meta'):
            weights = base_types.model_class(config)(config).state_dict()
    except (ImportError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: no model can be built from {folder / CONFIG_FILE} '
            f'({type(error).__name__}: {_first_line(error)}). {_WHAT_TO_GIVE}'
        ) from error
    expected = {name: tuple(weight.shape) for name, weight in weights.items()}
    prefix = f'{base_types.model_class(config).base_model_prefix}.'
    found: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}
    for path in files:
        refuse_pointer(path)
        try:
            with safe_open(str(path), framework='pt') as file:
                names = list(file.keys())
                slices = {name.removeprefix(prefix): file.get_slice(name) for name in names}
                found |= {name: tuple(each.get_shape()) for name, each in slices.items()}
                kinds |= {name: each.get_dtype() for name, each in slices.items()}
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
    # Batch normalisations count batches in an integer.
    quantised = sorted(name for name in common if kinds[name] not in _KINDS and weights[name].is_floating_point())
    if quantised:
        # transformers would read the numbers without their scale.
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {len(quantised)} weights are quantised, the first, '
            f'{quantised[0]}, to {kinds[quantised[0]]}. Give the model with weights in fp32, bf16 or fp16; '
            "model.dtype='bfloat16' saves memory."
        )
    differing = sorted(name for name in common if found[name] != expected[name])
    if differing:
        name = differing[0]
        raise BaseModelError(
            f'base={base!r} could not be read as a SAM 3: {len(differing)} weights have other shapes than '
            f'{CONFIG_FILE} says. The first, {name}, has shape {found[name]}, and {expected[name]} is expected. '
            f'Configuration and weights are not of the same model: copy both from one place. {_WHAT_TO_GIVE}'
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        BaseModelError: It is damaged, or a pointer of Git LFS.
    """
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise BaseModelError(
            f'{path} is damaged or cut short: it is not valid JSON ({error}). Copy or download it again.'
        ) from error
    if not isinstance(content, dict):
        raise BaseModelError(f'{path} is damaged: it does not hold a JSON object. Copy or download it again.')
    return content


def loading_failed(base: str, error: Exception) -> str:
    """The message for weights that transformers cannot load."""
    return f'base={base!r} could not be read as a SAM 3: {_first_line(error)} {_WHAT_TO_GIVE}'


def _download(base: str, name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    try:
        return hub.download(base, name, revision, patterns, argument='base')
    except hub.HubError as error:
        raise BaseModelError(str(error)) from error


def _weight_files(base: str, folder: Path) -> Iterator[Path]:
    """The safetensors files of the weights; none if they are pickled."""
    if (folder / WEIGHTS_FILE).is_file():
        yield folder / WEIGHTS_FILE
        return
    if (folder / _INDEX_FILE).is_file():
        content = read_json(folder / _INDEX_FILE)
        parts: Any = content.get('weight_map') or {}
        sound = isinstance(parts, Mapping) and all(isinstance(part, str) for part in parts.values())
        if not sound or not isinstance(content.get('metadata'), Mapping):
            raise BaseModelError(
                f'{folder / _INDEX_FILE} is damaged: it needs the objects metadata and weight_map, the latter with a '
                'file for each weight. Copy or download it again.'
            )
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
        refuse_pointer(path)
    if not pickled:
        raise BaseModelError(f'base={base!r} could not be read as a SAM 3: {_missing_files(folder)} {_WHAT_TO_GIVE}')


def refuse_pointer(path: Path) -> None:
    """Refuse a file that is empty, or a pointer of Git LFS.

    Raises:
        BaseModelError: It is.
    """
    with path.open('rb') as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise BaseModelError(
            f'{path} is not the file itself but a pointer of Git LFS to it. Run `git lfs install` and `git lfs pull` '
            'in the repository, or download the model with `hf download`.'
        )
    if not start:
        raise BaseModelError(f'{path} is empty. Copy or download it again.')


def _advice_for_file(path: Path) -> str:
    if path.name in (CONFIG_FILE, WEIGHTS_FILE, _INDEX_FILE):
        return f'Give its folder, {path.parent}.'
    if path.suffix in ('.pt', '.pth'):
        return f'{_conversion(path)} A checkpoint of a training of this package goes to --checkpoint or load_from.'
    return _WHAT_TO_GIVE


def _conversion(path: Path) -> str:
    """How to make a folder of Meta's own file."""
    folder = path.with_name(f'{path.stem}-converted')
    command = shlex.join(['python', 'tools/convert_checkpoint.py', str(path), str(folder)])
    return f"If it is Meta's own format, write it as a folder with `{command}`, once, and set base to that folder."


def _missing_files(folder: Path) -> str:
    """Why a folder is not a model, by what it holds instead."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    if not missing:
        return f'{folder} has {CONFIG_FILE} and {WEIGHTS_FILE}, but one of them is no file.'
    text = f'{folder} has no {" and no ".join(missing)}'
    if 'adapter_config.json' in names:
        return f'{text}; it is an adapter, and goes to model.adapter or --adapter.'
    foreign = [name for name in names if name.endswith(('.pt', '.pth'))]
    if foreign:
        return f'{text}, but {", ".join(foreign)}. {_conversion(folder / foreign[0])}'
    return f'{text}, but {", ".join(names[:5])}.' if names else f'{text}; it is empty.'


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
