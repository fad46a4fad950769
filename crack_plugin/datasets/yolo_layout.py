"""The files of one split of a YOLO dataset: its images, and the label of each, which need not exist.

The rules are Ultralytics' (``BaseDataset.get_img_files`` and ``img2label_paths`` in ``ultralytics/data``), with these
differences: hidden files are not images, and nothing is skipped without a message.
"""

import codecs
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Literal, NamedTuple, NoReturn

from mmengine.dist import is_main_process
from tqdm import tqdm

from crack_plugin.datasets.data_yaml import ALL, CLASS_LIST, DataYaml, find_sources, paths_here
from crack_plugin.datasets.errors import DatasetError, DatasetNotFoundError
from crack_plugin.datasets.masks import MASK_SUFFIXES
from crack_plugin.datasets.names import listed, stem_of, suffix_of, warn
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES, JPEG_SUFFIXES

Annotations = Literal['polygons', 'masks']
# What replaces the folder `images`, and the suffixes of the files in it; the first is what a missing one would have.
_LABELS: dict[str, tuple[str, tuple[str, ...]]] = {'polygons': ('labels', ('.txt',)), 'masks': ('masks', MASK_SUFFIXES)}

# Seconds before a progress bar appears: a local disk lists 100,000 files faster.
_PROGRESS_DELAY = 2

# What the names of masks have beside the image's own: a_mask.png, mask_a.png, a_crack_mask_2.png, a.jpg_labelIds.png.
_MASK_WORD = re.compile(
    r'(?<![^\W\d_])(?:masks?|lab|label(?:s|l?ed|ids)?|gt(?:fine)?|ground_?truth|seg|segment(?:ed|ation)s?'
    r'|annotat(?:ed|ions?)|binary)(?![^\W\d_])',
    re.IGNORECASE,
)
# Formats of annotations that are not read, beside images.
_LABEL_SUFFIXES = frozenset({'.csv', '.json', '.jsonl', '.mat', '.ndjson', '.npy', '.txt', '.xml'})


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
        DatasetError: A ``mask_suffix`` is given for polygons; images are in no folder named ``images`` and have no
            masks beside them; an image has two masks.
        DatasetNotFoundError: There is no such split, it has no image or no folder of labels, a list names an image that
            does not exist, or there are labels of another kind. The message says what was looked for and what there is.
    """
    if mask_suffix and annotations != 'masks':
        raise DatasetError(f"mask_suffix={mask_suffix!r} is for annotations='masks', and these are {annotations!r}.")
    sources = find_sources(data_yaml, split)
    name, suffixes = _LABELS[annotations]
    # Of a dataset that lies in one folder, the folders in it are something else.
    is_one_folder = split == ALL and sources == [data_yaml.root]
    with tqdm(
        desc=f'Listing the files of {split!r}', unit=' files', delay=_PROGRESS_DELAY, disable=not is_main_process()
    ) as progress:
        folders = _list_images(sources, progress, nested=not is_one_folder)
        label_folders = {path: _label_folder(path, name) for path in folders}
        if annotations == 'polygons':
            _use_labels_beside(folders, label_folders)
        masks_beside = _separate_masks_beside(folders, label_folders, mask_suffix) if annotations == 'masks' else {}
        label_files = {path: _file_names(path, progress) for path in set(label_folders.values()) if path.is_dir()}
        label_files |= masks_beside
    if not folders:
        raise DatasetNotFoundError(
            f'split {split!r} is empty: no image ({", ".join(sorted(IMAGE_SUFFIXES))}) in {listed(sources)}.'
        )
    beside = [image for image, label in label_folders.items() if image == label and image not in masks_beside]
    if annotations == 'masks' and beside:
        raise DatasetError(
            f'masks are looked for in a folder `masks` in the place of the folder `images`, but {beside[0]} is in none '
            f'of that name, and holds no masks beside the images (NAME{mask_suffix}.png). Move the images there, or '
            'say by mask_suffix how the masks are named.'
        )
    if not label_files:
        raise DatasetNotFoundError(
            f'split {split!r} has no folder of {name}: looked for {listed(sorted(label_folders.values()))}. If its '
            'images really are all background, create that folder and leave it empty.'
        )
    labels = {path: _label_names(path, names, suffixes, mask_suffix) for path, names in label_files.items()}
    files = _match(folders, label_folders, labels, f'{mask_suffix}{suffixes[0]}')
    _check_other_labels(folders, label_folders, files)
    unmatched = (
        []
        if len(files.unlabelled) < len(files.pairs)
        else _unmatched_files(folders, label_folders, label_files, labels)
    )
    if unmatched:
        by_suffix = ', or say by mask_suffix how the masks are named' if annotations == 'masks' else ''
        raise DatasetNotFoundError(
            f'split {split!r}: none of the {len(files.pairs)} images has a label, but there are {len(unmatched)} files '
            f'in the folders of {name}: {listed(unmatched)}. The label of {files.pairs[0][0]} would be '
            f'{files.pairs[0][1]}. Rename or convert them{by_suffix}, or delete them if the images really are all '
            'background.'
        )
    return files


class _Folder:
    """A folder of images.

    Attributes:
        files: Names of its files, hidden ones left out.
        images: Those of an image format.
        selected: Those that are images of the split.
    """

    def __init__(self, path: Path, progress: tqdm) -> None:
        self.files = _file_names(path, progress)
        self.images = {name for name in self.files if suffix_of(name) in IMAGE_SUFFIXES}
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
        warn(f'{list_file} lists {len(images) - len(set(images))} images more than once, which are taken once')
    missing = _select(images, folders, progress)
    if missing:
        moved = _moved_images([os.fsdecode(line) for line in lines], missing, list_file)
        missing = _select(moved, folders, progress) if moved else missing
    if missing:
        raise DatasetNotFoundError(
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
    tails = [tail for tail in paths_here('/'.join(paths[0]), root) if (root / tail).is_file()]
    if len(tails) != 1:
        return []
    # The same folders are left out of all lines, so that no two images become one.
    dropped = len(paths[0]) - len(tails[0].parts)
    if any(path[:dropped] != paths[0][:dropped] for path in paths):
        return []
    place = PureWindowsPath(*paths[0][:dropped]).as_posix()
    warn(f'{list_file} lists images in {place}, which does not exist here; their folders beside the list are used')
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


def _use_labels_beside(folders: Mapping[Path, _Folder], label_folders: dict[Path, Path]) -> None:
    """Use the labels beside the images where there are some, and there is no folder of labels."""
    for path, folder in folders.items():
        if label_folders[path] == path or label_folders[path].is_dir():
            continue
        if _stems_with_label(folder):
            warn(f'{label_folders[path]} does not exist, the labels beside the images in {path} are used')
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
    photographs = {
        stem_of(name) for path, folder in folders.items() if not _MASK_WORD.search(path.name) for name in folder.images
    }
    for path, folder in folders.items():
        by_stem: dict[str, list[str]] = defaultdict(list)
        for name in sorted(folder.images, key=lambda name: (suffix_of(name) not in JPEG_SUFFIXES, name)):
            by_stem[stem_of(name)].append(name)
        like_masks = {name for name in unlabelled[path] if _is_mask_of_another(name, by_stem, folder.images)}
        if _MASK_WORD.search(path.name):
            like_masks |= {name for name in unlabelled[path] if stem_of(name) in photographs}
        if label_folders[path] == path:
            like_masks.update(name for names in by_stem.values() for name in names[1:])
            with_label = _stems_with_label(folder)
            for name in folder.files - folder.images:
                image = stem_of(name)  # or the image's name with its suffix: a.jpg.json
                image = stem_of(image) if image in folder.images else image
                is_missed = not with_label or image in by_stem.keys() - with_label
                if suffix_of(name) in _LABEL_SUFFIXES and is_missed:
                    others.append(path / name)
        masks += [path / name for name in like_masks & folder.selected]
    if masks:
        raise DatasetNotFoundError(
            f'{len(masks)} of the {len(files.pairs)} images look like masks of others: {listed(sorted(masks))}. '
            'Read as photographs, they would be background. Move masks to a folder `masks` in the place of the folder '
            "`images` and set annotations='masks', or write labels with tools/convert_masks_to_yolo.py; rename what is "
            'no mask.'
        )
    if others and files.unlabelled:
        raise DatasetNotFoundError(
            f'{len(files.unlabelled)} of the {len(files.pairs)} images have no label NAME.txt, but there are '
            f'{len(others)} other files beside them that look like labels: {listed(sorted(others))}. Read as they are, '
            'the images would be background. Convert those files to YOLO (COCO: tools/convert_coco_to_yolo.py). If the '
            'images really are background, move the files away, or add empty files NAME.txt.'
        )


def _stems_with_label(folder: _Folder) -> set[str]:
    """The images, without suffix, that have a label beside them."""
    labels = {stem_of(name) for name in folder.files if suffix_of(name) == '.txt'}
    return labels & {stem_of(name) for name in folder.images}


def _is_mask_of_another(name: str, stems: Container[str], images: set[str]) -> bool:
    """Whether an image is named as the mask of another one is."""
    stem = stem_of(name)
    for separator in re.finditer('[-_. ]', stem):
        ends = stem[: separator.start()], stem[separator.end() :]
        for other, rest in (ends, ends[::-1]):
            if _MASK_WORD.search(rest) and (other in stems or other in images):
                return True
    return False


def _separate_masks_beside(
    folders: Mapping[Path, _Folder], label_folders: dict[Path, Path], mask_suffix: str
) -> dict[Path, set[str]]:
    """Separate masks from the images they lie among, where there is no folder of masks.

    Returns:
        The names of the masks, by folder; ``label_folders`` is updated to name these folders.
    """
    separated = {}
    for path, folder in folders.items():
        if label_folders[path] != path and label_folders[path].is_dir():
            continue
        stems = Counter(stem_of(name) for name in folder.images)
        masks = {
            name
            for name in folder.images
            if (
                stem_of(name).endswith(mask_suffix) and stem_of(name).removesuffix(mask_suffix) in stems
                if mask_suffix
                else suffix_of(name) == '.png' and stems[stem_of(name)] > 1
            )
        }
        if masks:
            separated[path] = masks
            label_folders[path] = path
            folder.files -= masks
            folder.images -= masks
            folder.selected -= masks
    return separated


def _label_names(folder: Path, names: set[str], suffixes: Sequence[str], mask_suffix: str) -> dict[str, str]:
    """The label files of a folder by the stem of their image.

    Raises:
        DatasetError: Two masks of different formats have one name.
    """
    labels: dict[str, str] = {}
    # Of a.TXT and a.txt, the latter.
    for name in sorted(names):
        stem = stem_of(name)
        if suffix_of(name) not in suffixes or not stem.endswith(mask_suffix):
            continue
        stem = stem.removesuffix(mask_suffix)
        if stem in labels and suffix_of(labels[stem]) != suffix_of(name):
            raise DatasetError(
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
    """Assign each image its label."""
    pairs, unlabelled, orphans, others = [], [], [], []
    for path, folder in folders.items():
        label_folder = label_folders[path]
        names = labels.get(label_folder, {})
        without_image = names.keys() - {stem_of(name) for name in folder.images} - {stem_of(CLASS_LIST)}
        orphans += [f'{label_folder}/{names[stem]}' for stem in without_image]
        # A text file beside the images is a label, and a list of classes is read.
        others += [f'{path}/{name}' for name in folder.files - folder.images if suffix_of(name) != '.txt']
        for name in folder.selected:
            image, stem = f'{path}/{name}', stem_of(name)
            pairs.append((image, f'{label_folder}/{names.get(stem, f"{stem}{suffix}")}'))
            if stem not in names:
                unlabelled.append(image)
    return SplitFiles(sorted(pairs), sorted(unlabelled), sorted(orphans), sorted(others))


def _unmatched_files(
    folders: Mapping[Path, _Folder],
    label_folders: Mapping[Path, Path],
    label_files: Mapping[Path, set[str]],
    labels: Mapping[Path, dict[str, str]],
) -> list[Path]:
    """The files in the folders of labels, if not one of them is the label of an image, of this split or another."""
    named: dict[Path, set[str]] = defaultdict(set)
    for path, folder in folders.items():
        named[label_folders[path]] |= {stem_of(name) for name in folder.images}
    if any(not named[path].isdisjoint(labels.get(path, {})) for path in list(named)):
        return []
    return sorted(path / name for path, files in label_files.items() if path not in folders for name in files)


def _file_names(folder: Path, progress: tqdm) -> set[str]:
    """The files of a folder, hidden ones left out."""
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            # A broken link counts as a file, so that reading it raises an error instead of leaving it out unnoticed.
            if not entry.name.startswith('.') and not entry.is_dir():
                names.add(entry.name)
            progress.update()
    return names
