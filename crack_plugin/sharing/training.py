"""What a training left in its work directory: its config, its course, and the adapter of its best checkpoint."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import init_model
from safetensors import SafetensorError, safe_open

from crack_plugin.checkpoints import find_best, find_last, load_from_local
from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.hooks.adapter_checkpoint import RECORD
from crack_plugin.models.adapters import BASE_HASH, HEAD_FILE, WEIGHTS_FILE
from crack_plugin.models.base import base_hash, load_base
from crack_plugin.models.base_files import EMBEDDED, embedded_folder
from crack_plugin.models.lora_config import CONFIG_FILE
from crack_plugin.models.portable import is_public_base
from crack_plugin.prediction.predictor import has_prompts
from crack_plugin.prediction.threshold import default_output
from crack_plugin.report.build import load_config, selection
from crack_plugin.report.epoch_table import best_row
from crack_plugin.report.history import load_history

_ON_HUB = {
    'facebook/sam3',
    'yonigozlan/sam3-litetext-s0',
    *(f'vil-uob/sam3-litetext-{size}' for size in ('s0', 's1', 'l')),
}
"""Bases that are known to be on the hub; any other ``owner/name`` could be a relative path of the training."""


class SharingError(CrackPluginError, ValueError):
    """A training cannot be shared; the message says what is missing, and what to do."""


@dataclass(frozen=True)
class Training:
    """A training, read from its work directory.

    Attributes:
        work_dir: The directory.
        cfg: Its config.
        rows: Of :func:`~crack_plugin.report.history.load_history`.
        axis: 'epoch' or 'iter'.
        best: Index of the row that belongs to ``adapter``, or else to ``checkpoint``; None if there is no such row.
        adapter: Folder of the best checkpoint's adapter, if ``AdapterCheckpointHook`` saved one.
        checkpoint: The best checkpoint, or else the last; None if there is none.
    """

    work_dir: Path
    cfg: Config
    rows: list[dict[str, Any]]
    axis: str
    best: int | None
    adapter: Path | None
    checkpoint: Path | None

    @property
    def row(self) -> Mapping[str, Any]:
        """The history's row of what is shared; empty if it has none."""
        return {} if self.best is None else self.rows[self.best]

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter into ``folder``.

        Raises:
            SharingError: The model has no adapters, or there is neither adapter nor checkpoint.
        """
        if not has_prompts(self.cfg) or self.cfg.model.get('trainable') == 'all':
            kind = 'every weight trained' if has_prompts(self.cfg) else f'a {self.cfg.model.type}'
            raise SharingError(
                f'{self.work_dir}: what is shared are adapters of SAM3TextLoRA, and this is {kind}. A whole model is '
                'written by tools/merge_adapter.py; `hf upload` takes it to the hub.'
            )
        if self.adapter is not None:
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                shutil.copyfile(self.adapter / name, folder / name)
            if (self.adapter / HEAD_FILE).is_file():
                shutil.copyfile(self.adapter / HEAD_FILE, folder / HEAD_FILE)
        elif self.checkpoint is not None:
            init_model(self.cfg.copy(), str(self.checkpoint), device='cpu').save_adapter(folder)
        else:
            raise SharingError(
                f'{self.work_dir} holds no adapter (adapters/best) and no checkpoint (best_*.pth, epoch_*.pth): train '
                'with tools/train.py, or name the work directory that holds them.'
            )

    def unused_threshold(self) -> tuple[Path, float] | None:
        """A copy of the checkpoint with a tuned threshold, and that, if the config has none: adapters carry none."""
        if self.checkpoint is None or self.cfg.model.get('threshold') is not None:
            return None
        tuned = default_output(self.checkpoint)
        value = (_read_meta(tuned).get('threshold') or {}).get('value') if tuned.is_file() else None
        return None if value is None else (tuned, value)

    @staticmethod
    def name_base(folder: Path, base: str) -> None:
        """Let the configuration of the adapter in ``folder`` name ``base``, and no folder of this machine."""
        path = folder / CONFIG_FILE
        settings = json.loads(path.read_text(encoding='utf-8'))
        name, _, revision = (base, '', '') if base == EMBEDDED else base.partition('@')
        settings |= {'base_model_name_or_path': name, 'revision': revision or None}
        write_atomically(path, json.dumps(settings, indent=2, sort_keys=True).encode())


def read_training(work_dir: Path, config: str | Path | None = None) -> Training:
    """Read what a training left.

    Args:
        work_dir: Its work directory.
        config: Its config file; None for the one in ``work_dir``.

    Raises:
        WorkDirError: There is no single config file.
        HistoryNotFoundError: There is no training.
        SharingError: There are several best adapters, and none by the metric that the config selects by; or what says
            which epoch they are of is damaged.
        ValueError: Another file is damaged.
    """
    cfg = load_config(work_dir, config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    rows, axis = load_history(work_dir)
    key, rule = selection(cfg)
    by_key = f'best_{key.replace("/", "_")}'
    adapter = _best_adapter(work_dir, by_key)
    named = re.compile(rf'{re.escape(by_key)}_(?:epoch|iter)_\d+\.pth')
    found = [path for path in work_dir.glob('*.pth') if named.fullmatch(path.name)]
    checkpoint = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    checkpoint = checkpoint or find_best(work_dir) or find_last(work_dir)
    position: Mapping[str, Any] = {}
    if adapter is not None and (adapter / RECORD).is_file():
        position = _read_record(adapter / RECORD)
    elif adapter is None and checkpoint is not None:
        position = _read_meta(checkpoint)
    best = best_row(rows, key, rule)
    if axis in position:
        best = next((index for index, row in enumerate(rows) if row[axis] == position[axis]), None)
    return Training(work_dir, cfg, rows, axis, best, adapter, checkpoint)


def public_base(training: Training, given: str | None, adapter: Path) -> str:
    """The name of the base on every machine.

    Args:
        training: What is shared.
        given: What the user says it is; None to find out.
        adapter: Folder of the adapter, which carries the hash of its base.

    Raises:
        SharingError: It has no such name, or ``given`` is none.
    """
    base = training.cfg.model.get('base', 'facebook/sam3')
    if given is not None:
        if not is_public_base(given):
            raise SharingError(f'--base-model {given}: give a hub id, such as facebook/sam3 or owner/name@revision.')
        return given
    if not isinstance(base, str):
        raise SharingError(
            'the base of this training has random weights (model.base is a dict): nobody can use its adapter. Train '
            'on a base from the hub, or on the embedded one.'
        )
    folder = Path(base).expanduser()
    looks_public = is_public_base(base) and not folder.is_dir()
    if looks_public and (base in _ON_HUB or base == EMBEDDED or '@' in base):
        return base
    if folder.resolve() == embedded_folder().resolve() or _made_for_embedded(adapter):
        return EMBEDDED
    if looks_public:
        raise SharingError(
            f'the base of this training, {base}, is a hub id or a relative path, and nothing here tells which: if it '
            f'is from the hub, add --base-model {base} (or better {base}@REVISION); if it was a folder, name the same '
            'model on the hub.'
        )
    raise SharingError(
        f'the base of this training is the folder {base}, which others do not have: name the same model on the hub '
        'with --base-model, such as --base-model facebook/sam3. The adapter carries the hash of its base, and is '
        'refused on another one.'
    )


def data_name(cfg: Config) -> str | None:
    """Name of the folder of the training data; None if the config does not say it."""
    root = cfg.get('train_dataloader', {}).get('dataset', {}).get('data_root')
    if not root:
        return None
    path = Path(str(root))
    # A folder may have dots in its name: Cracks.v3i.yolov8.
    return (path.parent if path.suffix.lower() in ('.yaml', '.yml') else path).name or None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except (TypeError, ValueError) as error:
        raise SharingError(
            f'{path}, which says what epoch the adapter is of, is damaged or cut short ({error}). Copy the work '
            'directory again.'
        ) from error


def _read_meta(checkpoint: Path) -> dict[str, Any]:
    content = load_from_local(str(checkpoint), 'cpu')
    meta = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        raise SharingError(
            f"{checkpoint} does not say what epoch it is of (it has no 'meta'), so it is no checkpoint of a training. "
            'Move it out of the work directory.'
        )
    return meta


def _best_adapter(work_dir: Path, by_key: str) -> Path | None:
    found = sorted(path.parent for path in work_dir.glob(f'adapters/best*/{CONFIG_FILE}'))
    if len(found) < 2:
        return next(iter(found), None)
    wanted = [path for path in found if path.name == by_key]
    if not wanted:
        raise SharingError(
            f'{work_dir / "adapters"} holds several best adapters ({", ".join(path.name for path in found)}), and none '
            f'is called {by_key}, after the metric that the config selects by. Leave only the one to share there.'
        )
    return wanted[0]


def _made_for_embedded(adapter: Path) -> bool:
    """Whether an adapter was trained on the embedded base, wherever that was."""
    try:
        with safe_open(str(adapter / WEIGHTS_FILE), framework='pt') as file:
            made_for = (file.metadata() or {}).get(BASE_HASH)
    except SafetensorError as error:
        raise SharingError(
            f'{adapter / WEIGHTS_FILE} is damaged or cut short ({error}). Copy the work directory again.'
        ) from error
    return made_for == base_hash(load_base(EMBEDDED)[0])
