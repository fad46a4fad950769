"""A dataset's ``data.yaml``: the class names, and the folders or lists that hold the images of each split.

The rules are Ultralytics' (``check_det_dataset`` in ``ultralytics/data/utils.py``), with these differences: a relative
``path`` is relative to the yaml file instead of the working directory, and a path of another machine is followed from
where the dataset's own folders begin.

Annotation tools such as Label Studio export ``images``, ``labels`` and ``classes.txt`` without a split, or all files in
one folder. All of that is the split ``'all'``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import yaml

from crack_plugin.datasets.errors import DatasetError, DatasetNotFoundError
from crack_plugin.datasets.names import listed, suffix_of, warn
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES

ALL = 'all'
"""Name of the split that is all of a dataset without splits."""

# Roboflow writes valid, Ultralytics val.
_VALIDATION = ('val', 'valid', 'validation')
_SPLITS = ('train', *_VALIDATION, 'test')

CLASS_LIST = 'classes.txt'
"""Class names in the order of their ids, one a line: of Label Studio, makesense and LabelImg."""


class DataYaml(NamedTuple):
    """What a dataset's ``data.yaml`` says, or without one its ``classes.txt``.

    Attributes:
        file: The file that was read; if there is none, where the yaml file would be.
        root: The folder its entries are relative to.
        content: Content of the yaml file, empty if there is none.
        names: The class names by YOLO id, None if none are given.
    """

    file: Path
    root: Path
    content: dict[str, Any]
    names: list[str] | None


def read_data_yaml(data_root: Path) -> DataYaml:
    """Read ``data.yaml``; without one, the class names are those in ``classes.txt``, here or in ``labels``.

    Args:
        data_root: The dataset's folder, with or without a ``data.yaml`` (or ``data.yml``), or a yaml file.

    Raises:
        DatasetNotFoundError: ``data_root`` does not exist.
        DatasetError: The file cannot be read, is not YAML, or its ``names`` or ``nc`` are wrong.
    """
    if not data_root.exists():
        raise DatasetNotFoundError(f'data_root {data_root} does not exist. Correct the path.')
    file = _find_yaml(data_root)
    if file is None:
        for class_list in (data_root / CLASS_LIST, data_root / 'labels' / CLASS_LIST):
            if class_list.is_file():
                return DataYaml(class_list, data_root, {}, _listed_classes(class_list))
        return DataYaml(data_root / 'data.yaml', data_root, {}, None)
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise DatasetError(f'{file} cannot be read: {error.strerror}. Restore it, or delete it.') from error
    except yaml.YAMLError as error:
        raise DatasetError(f'{file} is not valid YAML: {error}. Correct it, or export the dataset again.') from error
    if not isinstance(content, dict):
        raise DatasetError(
            f'{file} holds no `key: value` lines such as `train: train/images`. Export the dataset again.'
        )
    root = file.parent / str(content.get('path') or '')
    if not root.is_dir():
        warn(f'{file}: its `path` {content["path"]} does not exist here, entries are looked up beside the file')
        root = file.parent
    return DataYaml(file, root, content, _class_names(file, content))


def find_sources(data_yaml: DataYaml, split: str) -> list[Path]:
    """The folders and list files that hold a split's images; all of them exist.

    Args:
        data_yaml: As returned by ``read_data_yaml``.
        split: Name of the split; 'val', 'valid' and 'validation' mean the same, and 'all' is all of a dataset without
            splits.

    Raises:
        DatasetNotFoundError: There is no such split, or an entry of ``data.yaml`` leads nowhere.
        DatasetError: An entry may mean two folders.
    """
    aliases = [split, *(name for name in _VALIDATION if name != split)] if split in _VALIDATION else [split]
    for key in aliases:
        entries = data_yaml.content.get(key)
        if entries:
            entries = entries if isinstance(entries, list) else [entries]
            return [_find_entry(data_yaml, key, str(entry)) for entry in entries]
    root = data_yaml.root
    folders = [folder for name in aliases for folder in (root / name / 'images', root / 'images' / name)]
    for folder in folders:
        if folder.is_dir():
            return [folder]
    for name in aliases:
        if _has_images(root / name):
            return [root / name]
    if is_unsplit(data_yaml):
        unsplit = _unsplit_folder(root)
        assert unsplit is not None
        if split == ALL:
            return [unsplit]
        raise DatasetNotFoundError(
            f'no split {split!r} in {root}: its images lie in {unsplit} without any split. Make one with `python '
            f'tools/split_dataset.py {root} NEW_FOLDER`, which copies nothing, and use NEW_FOLDER as data_root; or use '
            f'all images as one split, {ALL!r}.'
        )
    keys = f'`{"`, `".join(aliases)}` in {data_yaml.file} and ' if data_yaml.content else ''
    raise DatasetNotFoundError(
        f'no split {split!r} in {root}: looked for {keys}the folders {listed(folders, len(folders))}. '
        f'There is {_existing(data_yaml)}.'
    )


def split_sources(data_yaml: DataYaml, split: str) -> list[Path]:
    """The folders and lists that hold a split's images, empty if there are none."""
    try:
        return find_sources(data_yaml, split)
    except DatasetNotFoundError:
        return []


def is_unsplit(data_yaml: DataYaml) -> bool:
    """Whether a dataset has images in ``images`` or beside its ``data.yaml``, and no splits."""
    root = data_yaml.root
    if any(data_yaml.content.get(key) for key in _SPLITS) or any(root.glob('*/images')):
        return False
    if any((root / 'images' / name).is_dir() or _has_images(root / name) for name in _SPLITS):
        return False
    return _unsplit_folder(root) is not None


def paths_here(path: str, root: Path, key: str | None = None) -> list[Path]:
    """The paths in this dataset that a path of another machine may stand for, the longest first.

    They are its last parts, whether written with / or \\. What tells the splits apart is kept: of
    ``/content/crack-3/train/images`` it is ``train/images`` at least, because ``images`` could be those of all splits
    or of another.

    Args:
        path: The path, as it is written in ``data.yaml`` or in a list of images.
        root: The folder of this dataset.
        key: The key of ``data.yaml`` that it stands under.
    """
    windows_path = PureWindowsPath(path)
    parts = [part for part in windows_path.parts if part not in ('..', windows_path.anchor)]
    if not parts:
        return []
    names = {*_SPLITS, key}
    first = max((i for i, part in enumerate(parts) if part in names), default=len(parts) - 1)
    if parts[first] in names:
        first -= first > 0 and parts[first - 1] == 'images'
    elif (parts[first] == 'images' or suffix_of(parts[first]) in IMAGE_SUFFIXES) and (
        first == 0 or parts[first - 1] != root.resolve().name
    ):
        first -= 1
    return [Path(*parts[start:]) for start in range(max(first, 0) + 1)]


def _find_yaml(data_root: Path) -> Path | None:
    """The yaml file of a dataset, None if it has none; a warning names yaml files of other names."""
    if data_root.is_file():
        return data_root
    for name in ('data.yaml', 'data.yml'):
        # A broken link counts as a file, so that reading it raises an error.
        if os.path.lexists(data_root / name):
            return data_root / name
    others = sorted(path for pattern in ('*.yaml', '*.yml') for path in data_root.glob(pattern))
    if others:
        warn(
            f'{data_root} has no data.yaml, and {listed(others)} is not read. If it describes the dataset, rename it, '
            'or set it as data_root.'
        )
    return None


def _class_names(file: Path, content: Mapping[str, Any]) -> list[str] | None:
    names = content.get('names')
    if names is None:
        return None
    if isinstance(names, dict):
        by_id = {str(key): name for key, name in names.items()}
        ids = [str(i) for i in range(len(by_id))]
        if set(ids) != set(by_id):
            raise DatasetError(f'{file}: `names` has the ids {", ".join(by_id)}; ids count from 0 without a gap.')
        names = [by_id[i] for i in ids]
    if not (isinstance(names, list) and names):
        raise DatasetError(f"{file}: `names` is {names!r}, not a list of class names such as ['crack']. Correct it.")
    count = content.get('nc', len(names))
    if str(count) != str(len(names)):
        raise DatasetError(f'{file}: `nc` is {count}, but `names` has {len(names)} entries: {names}. Correct one.')
    return [str(name) for name in names]


def _listed_classes(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text('utf-8-sig').rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{file} cannot be read: {error}. Save it again as UTF-8 text.') from error
    if '' in names or not names:
        raise DatasetError(
            f'{file}, line {names.index("") + 1 if names else 1}: no class name. The file has the names in the order '
            'of their ids, one a line: write the name, or delete a file without any.'
        )
    return names


def _unsplit_folder(root: Path) -> Path | None:
    """The folder of images of a dataset without splits, None if there is none."""
    if (root / 'images').is_dir():
        return root / 'images'
    return root if _has_images(root) else None


def _has_images(folder: Path) -> bool:
    """Whether a folder holds an image, subfolders left out."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(suffix_of(entry.name) in IMAGE_SUFFIXES and not entry.name.startswith('.') for entry in entries)


def _find_entry(data_yaml: DataYaml, key: str, entry: str) -> Path:
    """The folder or list that an entry of ``data.yaml`` names."""
    root = data_yaml.root
    if '\\' in entry and not os.path.lexists(root / entry):
        entry = entry.replace('\\', '/')
    candidates = [root / entry]
    if entry.startswith('../'):
        # Roboflow writes ../train/images for the folder train/images beside the yaml file.
        candidates.append(root / entry.removeprefix('../'))
    parts = PureWindowsPath(entry).parts
    if len(parts) > 1 and parts[0] == root.resolve().name:
        # Its Python package writes crack-3/train/images for it, in crack-3.
        candidates.append(root.joinpath(*parts[1:]))
    found = _existing_sources(candidates)
    if not found:
        candidates = [root / tail for tail in paths_here(entry, root, key)]
        found = _existing_sources(candidates)
        if len(found) == 1:
            warn(f'{data_yaml.file}: `{key}: {entry}` does not exist here, {found[0]} is taken for it')
    if len(found) > 1:
        raise DatasetError(
            f'{data_yaml.file}: `{key}: {entry}` may mean {found[0]} or {found[1]}, and both exist: entries of another '
            'place are also looked up beside the yaml file, as Roboflow writes them. Write the absolute path of the '
            'right one.'
        )
    if found:
        # Where an entry names the folder above `images`, the masks or previews in it are not images of the dataset.
        inner = found[0] / 'images'
        return inner if inner.is_dir() else found[0]
    looked_for = list(dict.fromkeys([root / entry, *candidates]))
    raise DatasetNotFoundError(
        f'{data_yaml.file}: `{key}: {entry}` leads to no folder and no .txt list: looked for {listed(looked_for)}. '
        f'There is {_existing(data_yaml)}. Correct the entry, or delete it to have the folders found by their names.'
    )


def _existing_sources(candidates: Sequence[Path]) -> list[Path]:
    """The candidates that are a folder or a list, each once."""
    found: list[Path] = []
    for path in candidates:
        is_source = path.is_dir() or (path.is_file() and path.suffix.lower() == '.txt')
        if is_source and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def _existing(data_yaml: DataYaml) -> str:
    """The splits that exist, for a message."""
    root = data_yaml.root
    folders = [folder for folder in [*root.glob('*/images'), *root.glob('images/*')] if folder.is_dir()]
    folders = sorted([*folders, *(root / name for name in _SPLITS if _has_images(root / name))])
    keys = [key for key in _SPLITS if data_yaml.content.get(key)]
    parts = [f'the folder {folder}' for folder in folders] + [f'`{key}` in {data_yaml.file}' for key in keys]
    unsplit = _unsplit_folder(root)
    if unsplit is not None and not folders:
        parts.append(f'the folder {unsplit}, which is no split')
    return ', '.join(parts) or 'no folder of images'
