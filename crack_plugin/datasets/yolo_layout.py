"""Where the files of a YOLO dataset are: ``data.yaml``, folders of images, and the label of each image.

The rules are Ultralytics' (``check_det_dataset``, ``BaseDataset.get_img_files`` and ``img2label_paths`` in
``ultralytics/data``), with these differences: a relative ``path`` is taken from the yaml file and not from the working
directory, paths of another machine are followed from where the dataset's own folders begin, hidden files are no images,
and nothing is skipped without a word.

Annotation tools such as Label Studio export ``images``, ``labels`` and ``classes.txt`` without a split, or everything
in one folder. All of that is the split ``'all'``.
"""

import codecs
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, NamedTuple, NoReturn

import yaml
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from tqdm import tqdm

from crack_plugin.datasets.masks import MASK_SUFFIXES
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES

Annotations = Literal['polygons', 'masks']
# What replaces the folder `images`, and the suffixes of the files in it; the first is what a missing one would have.
_LABELS: dict[str, tuple[str, tuple[str, ...]]] = {'polygons': ('labels', ('.txt',)), 'masks': ('masks', MASK_SUFFIXES)}

# Seconds without a word before a progress line appears: a local disk lists 100,000 files faster.
_SILENT = 2

ALL = 'all'
"""Name of the split that is all of a dataset without splits."""

# Roboflow writes valid, Ultralytics val.
_VALIDATION = ('val', 'valid', 'validation')
_SPLITS = ('train', *_VALIDATION, 'test')

# Class names in the order of their ids, one a line: of Label Studio, makesense and LabelImg.
_CLASS_LIST = 'classes.txt'

# How masks beside their photographs are called: a_mask.png, mask_a.png, a.jpg_label_2.png.
_MASK_WORD = r'(?:masks?|labels?|gt|ground_?truth|seg|segmentations?|annotations?)'
_MASK_NAME = re.compile(rf'(?P<image>.+)[-_. ]{_MASK_WORD}[-_. ]?\d*|{_MASK_WORD}[-_. ](?P<other>.+)', re.IGNORECASE)
# Of images of one name, these are the photograph, and another may be its mask.
_PHOTO_SUFFIXES = ('.jpeg', '.jpg')
_LABEL_SUFFIXES = frozenset({'.csv', '.json', '.jsonl', '.mat', '.ndjson', '.npy', '.txt', '.xml'})


class DataYaml(NamedTuple):
    """What a dataset's ``data.yaml`` says, or without one its ``classes.txt``.

    Attributes:
        file: The file it is said in; where there is none, the yaml file that could be.
        root: The folder its entries are relative to.
        content: Its content, empty if there is no such file.
        names: The class names by YOLO id, None if it has none.
    """

    file: Path
    root: Path
    content: dict[str, Any]
    names: list[str] | None


class SplitFiles(NamedTuple):
    """The files of one split.

    Attributes:
        pairs: Path of each image and of its label, whether that exists or not, in the order of the image paths.
        unlabelled: The images whose label does not exist.
        orphans: The label files that have no image.
        others: The files beside the images that are neither images nor labels.
    """

    pairs: list[tuple[str, str]]
    unlabelled: list[str]
    orphans: list[str]
    others: list[str]


def read_data_yaml(data_root: Path) -> DataYaml:
    """Read ``data.yaml``; without one, the class names are those in ``classes.txt``, here or in ``labels``.

    Args:
        data_root: The dataset's folder, with or without a ``data.yaml`` (or ``data.yml``), or a yaml file.

    Raises:
        FileNotFoundError: ``data_root`` does not exist.
        ValueError: The file cannot be read, is no YAML, or its ``names`` or ``nc`` are wrong.
    """
    if not data_root.exists():
        raise FileNotFoundError(f'data_root {data_root} does not exist. Correct the path.')
    file = _find_yaml(data_root)
    if file is None:
        for class_list in (data_root / _CLASS_LIST, data_root / 'labels' / _CLASS_LIST):
            if class_list.is_file():
                return DataYaml(class_list, data_root, {}, _listed_classes(class_list))
        return DataYaml(data_root / 'data.yaml', data_root, {}, None)
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise ValueError(f'{file} cannot be read: {error.strerror}. Restore it, or delete it.') from error
    except yaml.YAMLError as error:
        raise ValueError(f'{file} is not valid YAML: {error}. Correct it, or export the dataset again.') from error
    if not isinstance(content, dict):
        raise ValueError(f'{file} holds no `key: value` lines such as `train: train/images`. Export the dataset again.')
    root = file.parent / str(content.get('path') or '')
    if not root.is_dir():
        _warn(f'{file}: its `path` {content["path"]} does not exist here, entries are looked up beside the file')
        root = file.parent
    return DataYaml(file, root, content, _class_names(file, content))


def find_split(
    data_yaml: DataYaml, split: str, annotations: Annotations = 'polygons', mask_suffix: str = ''
) -> SplitFiles:
    """Find the images and labels of a split.

    A folder is listed once and no single file is looked at, so that 100,000 images on a network disk start fast. What
    takes longer than two seconds shows its progress on stderr, in the main process.

    Args:
        data_yaml: As returned by ``read_data_yaml``.
        split: Name of the split; 'val', 'valid' and 'validation' mean the same, and 'all' is all of a dataset without
            splits.
        annotations: 'polygons' looks for ``labels/NAME.txt``, 'masks' for ``masks/NAME.png`` (or another of the
            ``MASK_SUFFIXES``). Without a folder ``masks``, masks may lie beside the images: with a ``mask_suffix``, or
            as PNG files beside images of other formats.
        mask_suffix: What follows the image's name in the mask's: '_mask' for ``NAME_mask.png``.

    Raises:
        ValueError: There is a ``mask_suffix`` and no masks are asked for; images are in no folder named ``images`` and
            have no masks beside them; an image has two masks.
        FileNotFoundError: There is no such split, or it has no image, or no folder of labels, or a list names an image
            that does not exist, or there are labels of another kind. The message says what was looked for and what
            there is.
    """
    if mask_suffix and annotations != 'masks':
        raise ValueError(f"mask_suffix={mask_suffix!r} is for annotations='masks', and these are {annotations!r}.")
    sources = _sources(data_yaml, split)
    name, suffixes = _LABELS[annotations]
    # Of a dataset that lies in one folder, the folders in it are something else.
    is_one_folder = split == ALL and sources == [data_yaml.root]
    with tqdm(
        desc=f'Listing the files of {split!r}', unit=' files', delay=_SILENT, disable=not is_main_process()
    ) as progress:
        folders = _list_images(sources, progress, nested=not is_one_folder)
        label_folders = {path: _label_folder(path, name) for path in folders}
        if annotations == 'polygons':
            _prefer_labels_beside(folders, label_folders)
        masks_beside = _take_masks_beside(folders, label_folders, mask_suffix) if annotations == 'masks' else {}
        label_files = {path: _file_names(path, progress) for path in set(label_folders.values()) if path.is_dir()}
        label_files |= masks_beside
    if not folders:
        raise FileNotFoundError(
            f'split {split!r} is empty: no image ({", ".join(sorted(IMAGE_SUFFIXES))}) in {listed(sources)}.'
        )
    beside = [image for image, label in label_folders.items() if image == label and image not in masks_beside]
    if annotations == 'masks' and beside:
        raise ValueError(
            f'masks are looked for in a folder `masks` in the place of the folder `images`, but {beside[0]} is in none '
            f'of that name, and holds no masks beside the images (NAME{mask_suffix}.png). Move the images there, or '
            'say by mask_suffix how the masks are named.'
        )
    if not label_files:
        raise FileNotFoundError(
            f'split {split!r} has no folder of {name}: looked for {listed(sorted(label_folders.values()))}. If its '
            'images really are all background, create that folder and leave it empty.'
        )
    labels = {path: _label_names(path, names, suffixes, mask_suffix) for path, names in label_files.items()}
    files = _match(folders, label_folders, labels, f'{mask_suffix}{suffixes[0]}')
    _check_other_labels(folders, label_folders, files)
    strays = [] if len(files.unlabelled) < len(files.pairs) else _strays(folders, label_folders, label_files, labels)
    if strays:
        by_suffix = ', or say by mask_suffix how the masks are named' if annotations == 'masks' else ''
        raise FileNotFoundError(
            f'split {split!r}: none of the {len(files.pairs)} images has a label, but there are {len(strays)} files in '
            f'the folders of {name}: {listed(strays)}. The label of {files.pairs[0][0]} would be {files.pairs[0][1]}. '
            f'Rename or convert them{by_suffix}, or delete them if the images really are all background.'
        )
    return files


def split_sources(data_yaml: DataYaml, split: str) -> list[Path]:
    """The folders and lists that hold a split's images, empty if there are none."""
    try:
        return _sources(data_yaml, split)
    except FileNotFoundError:
        return []


def is_unsplit(data_yaml: DataYaml) -> bool:
    """Whether a dataset has images in ``images`` or beside its ``data.yaml``, and names no split."""
    root = data_yaml.root
    if any(data_yaml.content.get(key) for key in _SPLITS) or any(root.glob('*/images')):
        return False
    if any((root / 'images' / name).is_dir() or _has_images(root / name) for name in _SPLITS):
        return False
    return _unsplit_folder(root) is not None


def listed(paths: Sequence[object], limit: int = 3) -> str:
    """The first few paths and the number of the others, for messages."""
    more = f' and {len(paths) - limit} more' if len(paths) > limit else ''
    return ', '.join(map(str, paths[:limit])) + more


def count_suffixes(files: Sequence[str]) -> str:
    """The number of files by suffix, for messages: '2 .heic, 1 without extension'."""
    counts = Counter(_suffix(Path(file).name) for file in files)
    return ', '.join(f'{count} {suffix or "without extension"}' for suffix, count in sorted(counts.items()))


def source_name(image: str) -> str:
    """Name of the picture that an image was made from.

    Roboflow calls the augmentations of ``wall.jpg`` ``wall_jpg.rf.HASH.jpg``; any other image is its own source.
    """
    name = Path(image).name
    return name.partition('.rf.')[0] if '.rf.' in name else _stem(name)


def _find_yaml(data_root: Path) -> Path | None:
    """The yaml file of a dataset, None if it has none; a warning names yaml files of other names."""
    if data_root.is_file():
        return data_root
    for name in ('data.yaml', 'data.yml'):
        # A link that leads nowhere is there, and reading it fails.
        if os.path.lexists(data_root / name):
            return data_root / name
    others = sorted(path for pattern in ('*.yaml', '*.yml') for path in data_root.glob(pattern))
    if others:
        _warn(
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
            raise ValueError(f'{file}: `names` has the ids {", ".join(by_id)}; ids count from 0 without a gap.')
        names = [by_id[i] for i in ids]
    if not (isinstance(names, list) and names):
        raise ValueError(f"{file}: `names` is {names!r}, not a list of class names such as ['crack']. Correct it.")
    count = content.get('nc', len(names))
    if str(count) != str(len(names)):
        raise ValueError(f'{file}: `nc` is {count}, but `names` has {len(names)} entries: {names}. Correct one.')
    return [str(name) for name in names]


def _listed_classes(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text('utf-8-sig').rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{file} cannot be read: {error}. Save it again as UTF-8 text.') from error
    if '' in names or not names:
        raise ValueError(
            f'{file}, line {names.index("") + 1 if names else 1}: no class name. The file has the names in the order '
            'of their ids, one a line: write the name, or delete a file without any.'
        )
    return names


def _sources(data_yaml: DataYaml, split: str) -> list[Path]:
    """The folders and list files that hold the split's images; all of them exist."""
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
        raise FileNotFoundError(
            f'no split {split!r} in {root}: its images lie in {unsplit} without any split. Make one with `python '
            f'tools/split_dataset.py {root} NEW_FOLDER`, which copies nothing, and use NEW_FOLDER as data_root; or use '
            f'all images as one split, {ALL!r}.'
        )
    keys = f'`{"`, `".join(aliases)}` in {data_yaml.file} and ' if data_yaml.content else ''
    raise FileNotFoundError(
        f'no split {split!r} in {root}: looked for {keys}the folders {listed(folders, len(folders))}. '
        f'There is {_existing(data_yaml)}.'
    )


def _unsplit_folder(root: Path) -> Path | None:
    """The folder of images of a dataset without splits, None if there is none."""
    if (root / 'images').is_dir():
        return root / 'images'
    return root if _has_images(root) else None


def _has_images(folder: Path) -> bool:
    """Whether there is an image in a folder itself."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(_suffix(entry.name) in IMAGE_SUFFIXES and not entry.name.startswith('.') for entry in entries)


def _find_entry(data_yaml: DataYaml, key: str, entry: str) -> Path:
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
        candidates = [root / tail for tail in _own_tails(entry, root, key)]
        found = _existing_sources(candidates)
        if len(found) == 1:
            _warn(f'{data_yaml.file}: `{key}: {entry}` does not exist here, {found[0]} is taken for it')
    if len(found) > 1:
        raise ValueError(
            f'{data_yaml.file}: `{key}: {entry}` may mean {found[0]} or {found[1]}, and both exist: entries of another '
            'place are also looked up beside the yaml file, as Roboflow writes them. Write the absolute path of the '
            'right one.'
        )
    if found:
        # Where an entry names the folder above, the masks or previews in it are no images of the dataset.
        inner = found[0] / 'images'
        return inner if inner.is_dir() else found[0]
    looked_for = list(dict.fromkeys([root / entry, *candidates]))
    raise FileNotFoundError(
        f'{data_yaml.file}: `{key}: {entry}` leads to no folder and no .txt list: looked for {listed(looked_for)}. '
        f'There is {_existing(data_yaml)}. Correct the entry, or delete it to have the folders found by their names.'
    )


def _existing_sources(candidates: Sequence[Path]) -> list[Path]:
    """Those that are a folder or a list, each once."""
    found: list[Path] = []
    for path in candidates:
        is_source = path.is_dir() or (path.is_file() and path.suffix.lower() == '.txt')
        if is_source and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def _own_tails(entry: str, root: Path, key: str | None = None) -> list[Path]:
    """What a path of another machine may be in this dataset: its ends, the longest first, written with / or \\.

    An end has what tells the splits apart: of ``/content/crack-3/train/images`` it is ``train/images`` at least,
    because ``images`` could be those of all splits or of another.
    """
    path = PureWindowsPath(entry)
    parts = [part for part in path.parts if part not in ('..', path.anchor)]
    if not parts:
        return []
    names = {*_SPLITS, key}
    first = max((i for i, part in enumerate(parts) if part in names), default=len(parts) - 1)
    if parts[first] in names:
        first -= first > 0 and parts[first - 1] == 'images'
    elif (parts[first] == 'images' or _suffix(parts[first]) in IMAGE_SUFFIXES) and (
        first == 0 or parts[first - 1] != root.resolve().name
    ):
        first -= 1
    return [Path(*parts[start:]) for start in range(max(first, 0) + 1)]


def _existing(data_yaml: DataYaml) -> str:
    """What splits there are, in words."""
    root = data_yaml.root
    folders = [folder for folder in [*root.glob('*/images'), *root.glob('images/*')] if folder.is_dir()]
    folders = sorted([*folders, *(root / name for name in _SPLITS if _has_images(root / name))])
    keys = [key for key in _SPLITS if data_yaml.content.get(key)]
    parts = [f'the folder {folder}' for folder in folders] + [f'`{key}` in {data_yaml.file}' for key in keys]
    unsplit = _unsplit_folder(root)
    if unsplit is not None and not folders:
        parts.append(f'the folder {unsplit}, which is no split')
    return ', '.join(parts) or 'no folder of images'


class _Folder:
    """A folder of images.

    Attributes:
        files: Names of its files, hidden ones left out.
        images: Those of an image format.
        selected: Those that are images of the split.
    """

    def __init__(self, path: Path, progress: tqdm) -> None:
        self.files = _file_names(path, progress)
        self.images = {name for name in self.files if _suffix(name) in IMAGE_SUFFIXES}
        self.selected: set[str] = set()


def _list_images(sources: Sequence[Path], progress: tqdm, nested: bool) -> dict[Path, _Folder]:
    """The folders that hold images of the split; ``nested`` ones, too, or the sources alone."""
    folders: dict[Path, _Folder] = {}
    for source in sources:
        if source.is_dir():
            for path in _subfolders(source) if nested else [source]:
                folder = folders.setdefault(path, _Folder(path, progress))
                folder.selected |= folder.images
        else:
            _select_from_list(source, folders, progress)
    return {path: folder for path, folder in folders.items() if folder.selected}


def _select_from_list(list_file: Path, folders: dict[Path, _Folder], progress: tqdm) -> None:
    """Select the images that a file lists, one a line, relative to its own folder."""
    lines = [line.strip() for line in list_file.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()]
    images = [list_file.parent / os.fsdecode(line) for line in lines if line]
    if len(set(images)) < len(images):
        _warn(f'{list_file} lists {len(images) - len(set(images))} images more than once, which are taken once')
    missing = _select(images, folders, progress)
    if missing:
        moved = _moved_images([os.fsdecode(line) for line in lines], missing, list_file)
        missing = _select(moved, folders, progress) if moved else missing
    if missing:
        raise FileNotFoundError(
            f'{list_file} lists {len(missing)} images that do not exist: {listed(missing)}. Its lines are paths '
            'relative to its own folder; correct them, or copy the images there.'
        )


def _select(images: Sequence[Path], folders: dict[Path, _Folder], progress: tqdm) -> list[Path]:
    """Select images in their folders; returns those that do not exist."""
    missing = []
    for image in images:
        if image.parent not in folders and image.parent.is_dir():
            folders[image.parent] = _Folder(image.parent, progress)
        if image.parent in folders and image.name in folders[image.parent].files:
            folders[image.parent].selected.add(image.name)
        else:
            missing.append(image)
    return missing


def _moved_images(lines: Sequence[str], missing: Sequence[Path], list_file: Path) -> list[Path]:
    """Where the missing images of a list of another machine are here; empty if that is not clear."""
    root = list_file.parent
    lost = set(missing)
    paths = [PureWindowsPath(line).parts for line in lines if line and root / line in lost]
    tails = [tail for tail in _own_tails('/'.join(paths[0]), root) if (root / tail).is_file()]
    if len(tails) != 1:
        return []
    # The same folders are left out of all lines, so that no two images become one.
    dropped = len(paths[0]) - len(tails[0].parts)
    if any(path[:dropped] != paths[0][:dropped] for path in paths):
        return []
    place = PureWindowsPath(*paths[0][:dropped]).as_posix()
    _warn(f'{list_file} lists images in {place}, which is not here, and their folders beside the list are taken')
    return [root.joinpath(*path[dropped:]) for path in paths]


def _subfolders(root: Path) -> Iterator[Path]:
    """``root`` and all folders in it, links included, hidden ones left out."""
    for path, names, _ in os.walk(root, followlinks=True, onerror=_raise):
        names[:] = [name for name in names if not name.startswith('.')]
        yield Path(path)


def _raise(error: OSError) -> NoReturn:
    raise error


def _label_folder(image_folder: Path, name: str) -> Path:
    """The last folder named ``images`` becomes ``name``; without one, labels lie beside the images."""
    parts = list(image_folder.parts)
    if 'images' not in parts:
        return image_folder
    last = len(parts) - 1 - parts[::-1].index('images')
    return Path(*parts[:last], name, *parts[last + 1 :])


def _prefer_labels_beside(folders: Mapping[Path, _Folder], label_folders: dict[Path, Path]) -> None:
    """Where there is no folder of labels, and labels lie beside the images, take those."""
    for path, folder in folders.items():
        if label_folders[path] == path or label_folders[path].is_dir():
            continue
        if _stems_with_label(folder):
            _warn(f'{label_folders[path]} does not exist, the labels beside the images in {path} are taken')
            label_folders[path] = path


def _check_other_labels(folders: Mapping[Path, _Folder], label_folders: Mapping[Path, Path], files: SplitFiles) -> None:
    """Raise ``FileNotFoundError`` for files beside the images that look like their labels but are not read as such.

    Masks would become photographs, and the images whose labels have another format would be background.
    """
    unlabelled: dict[Path, set[str]] = defaultdict(set)
    for image in files.unlabelled:
        folder_path, _, name = image.rpartition('/')
        unlabelled[Path(folder_path)].add(name)
    masks: list[Path] = []
    others: list[Path] = []
    for path, folder in folders.items():
        by_stem: dict[str, list[str]] = defaultdict(list)
        for name in sorted(folder.images, key=lambda name: (_suffix(name) not in _PHOTO_SUFFIXES, name)):
            by_stem[_stem(name)].append(name)
        suspects = {name for name in unlabelled[path] if _is_mask_of_another(name, by_stem, folder.images)}
        if label_folders[path] == path:
            suspects.update(name for names in by_stem.values() for name in names[1:])
            with_label = _stems_with_label(folder)
            for name in folder.files - folder.images:
                is_missed = not with_label or _stem(name) in by_stem.keys() - with_label
                if _suffix(name) in _LABEL_SUFFIXES and is_missed:
                    others.append(path / name)
        masks += [path / name for name in suspects & folder.selected]
    if masks:
        raise FileNotFoundError(
            f'{len(masks)} of the {len(files.pairs)} images look like masks of others: {listed(sorted(masks))}. '
            'Read as photographs, they would be background. Move masks to a folder `masks` in the place of the folder '
            "`images` and set annotations='masks', or write labels with tools/convert_masks_to_yolo.py; rename what is "
            'no mask.'
        )
    if others and files.unlabelled:
        raise FileNotFoundError(
            f'{len(files.unlabelled)} of the {len(files.pairs)} images have no label NAME.txt, but there are '
            f'{len(others)} other files beside them that look like labels: {listed(sorted(others))}. Read as they are, '
            'the images would be background. Convert those files to YOLO (COCO: tools/convert_coco_to_yolo.py). If the '
            'images really are background, move the files away, or add empty files NAME.txt.'
        )


def _stems_with_label(folder: _Folder) -> set[str]:
    """The images, without suffix, that have a label beside them."""
    return {_stem(name) for name in folder.files if _suffix(name) == '.txt'} & {_stem(name) for name in folder.images}


def _is_mask_of_another(name: str, stems: Container[str], images: set[str]) -> bool:
    match = _MASK_NAME.fullmatch(_stem(name))
    other = match and (match['image'] or match['other'])
    return bool(other) and (other in stems or other in images)


def _take_masks_beside(
    folders: Mapping[Path, _Folder], label_folders: dict[Path, Path], mask_suffix: str
) -> dict[Path, set[str]]:
    """Where there is no folder of masks, take the masks that lie among the images out of these.

    Returns:
        The names of the masks, by folder; ``label_folders`` leads there.
    """
    taken = {}
    for path, folder in folders.items():
        if label_folders[path] != path and label_folders[path].is_dir():
            continue
        stems = Counter(_stem(name) for name in folder.images)
        masks = {
            name
            for name in folder.images
            if (
                _stem(name).endswith(mask_suffix) and _stem(name).removesuffix(mask_suffix) in stems
                if mask_suffix
                else _suffix(name) == '.png' and stems[_stem(name)] > 1
            )
        }
        if masks:
            taken[path] = masks
            label_folders[path] = path
            folder.files -= masks
            folder.images -= masks
            folder.selected -= masks
    return taken


def _label_names(folder: Path, names: set[str], suffixes: Sequence[str], mask_suffix: str) -> dict[str, str]:
    """The label files of a folder by the stem of their image.

    Raises:
        ValueError: Two masks of different formats have one name.
    """
    labels: dict[str, str] = {}
    # Of a.TXT and a.txt, the latter.
    for name in sorted(names):
        stem = _stem(name)
        if _suffix(name) not in suffixes or not stem.endswith(mask_suffix):
            continue
        stem = stem.removesuffix(mask_suffix)
        if stem in labels and _suffix(labels[stem]) != _suffix(name):
            raise ValueError(
                f'{folder / labels[stem]} and {folder / name} would both be the mask of {stem}. Remove one, or say by '
                'mask_suffix how the masks are named.'
            )
        labels[stem] = name
    return labels


def _match(
    folders: Mapping[Path, _Folder],
    label_folders: Mapping[Path, Path],
    labels: Mapping[Path, dict[str, str]],
    suffix: str,
) -> SplitFiles:
    pairs, unlabelled, orphans, others = [], [], [], []
    for path, folder in folders.items():
        label_folder = label_folders[path]
        names = labels.get(label_folder, {})
        without_image = names.keys() - {_stem(name) for name in folder.images} - {_stem(_CLASS_LIST)}
        orphans += [f'{label_folder}/{names[stem]}' for stem in without_image]
        # A text file beside the images is a label, and a list of classes is read.
        others += [f'{path}/{name}' for name in folder.files - folder.images if _suffix(name) != '.txt']
        for name in folder.selected:
            image, stem = f'{path}/{name}', _stem(name)
            pairs.append((image, f'{label_folder}/{names.get(stem, f"{stem}{suffix}")}'))
            if stem not in names:
                unlabelled.append(image)
    return SplitFiles(sorted(pairs), sorted(unlabelled), sorted(orphans), sorted(others))


def _strays(
    folders: Mapping[Path, _Folder],
    label_folders: Mapping[Path, Path],
    label_files: Mapping[Path, set[str]],
    labels: Mapping[Path, dict[str, str]],
) -> list[Path]:
    """The files in the folders of labels, if not one of them is the label of an image, of this split or another."""
    named: dict[Path, set[str]] = defaultdict(set)
    for path, folder in folders.items():
        named[label_folders[path]] |= {_stem(name) for name in folder.images}
    if any(not named[path].isdisjoint(labels.get(path, {})) for path in list(named)):
        return []
    return sorted(path / name for path, files in label_files.items() if path not in folders for name in files)


def _file_names(folder: Path, progress: tqdm) -> set[str]:
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            # A link that leads nowhere counts as a file, so that reading it fails: left out, nobody would miss it.
            if not entry.name.startswith('.') and not entry.is_dir():
                names.add(entry.name)
            progress.update()
    return names


def _stem(name: str) -> str:
    return name.rpartition('.')[0] or name


def _suffix(name: str) -> str:
    _, dot, extension = name.rpartition('.')
    return f'{dot}{extension}'.lower() if dot else ''


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
