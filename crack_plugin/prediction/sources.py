"""What to predict: the images and videos that files, folders and patterns stand for, and where their masks go."""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np

from crack_plugin.datasets.photographs import IMAGE_SUFFIXES, UNREAD_SUFFIXES, unread_remedy
from crack_plugin.datasets.yolo_layout import listed
from crack_plugin.errors import CrackPluginError
from crack_plugin.inspection.preannotations import LABELS

MASKS, OVERLAYS, PROBABILITIES = 'masks', 'overlays', 'probabilities'
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')


class SourceError(CrackPluginError, FileNotFoundError):
    """A path or pattern that stands for no image and no video."""


class VideoError(CrackPluginError, ValueError):
    """A video that cannot be decoded."""


@dataclass(frozen=True)
class Source:
    """A file to predict.

    Attributes:
        path: The file.
        name: Its path without suffix below masks/ and overlays/; the folder of its frames, for a video.
        is_raster: Whether it is predicted in bands, see :mod:`crack_plugin.prediction.raster_output`.
    """

    path: Path
    name: str
    is_raster: bool = False

    @property
    def is_video(self) -> bool:
        """Whether every frame is predicted."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def mask(self) -> str:
        """Mask of an image, relative to OUT; for a video, its frames' masks are in the folder without the suffix."""
        return f'{MASKS}/{self.name}.{"tif" if self.is_raster else "png"}'

    def frame_mask(self, number: int) -> str:
        """Mask of a video's frame, relative to OUT; frames are numbered from 0."""
        return f'{MASKS}/{self.name}/{number:06d}.png'

    def images(self) -> Iterator[tuple[str | np.ndarray, str]]:
        """The image, as its path, or the frames of a video, BGR of shape (H, W, 3), each with its mask.

        Raises:
            VideoError: A video has no frames, or more than a second's less than it announces.
        """
        if not self.is_video:
            yield str(self.path), self.mask
            return
        video = mmcv.VideoReader(str(self.path))
        count = 0
        while (frame := video.read()) is not None:
            yield frame, self.frame_mask(count)
            count += 1
        # What a file announces is in some formats an estimate.
        if not count or count < video.frame_cnt - video.fps:
            raise VideoError(f'{self.path}: decoding ended after {count} of {max(0, video.frame_cnt)} frames')

    def count_images(self) -> int:
        """1, or the number of frames that a video announces."""
        return max(1, mmcv.VideoReader(str(self.path)).frame_cnt) if self.is_video else 1


def overlay_of(mask: str) -> str:
    """The overlay that belongs to a mask, both relative to OUT."""
    return (OVERLAYS / Path(mask).relative_to(MASKS).with_suffix('.jpg')).as_posix()


def probabilities_of(mask: str) -> str:
    """The probabilities that belong to the mask of a raster, both relative to OUT."""
    return (PROBABILITIES / Path(mask).relative_to(MASKS)).as_posix()


def find_sources(patterns: Sequence[str], out: Path | None = None) -> tuple[list[Source], dict[str, list[Path]]]:
    """The images and videos that files, folders and patterns stand for, in order; none twice.

    A file from a folder, or found by a pattern, is named by its path below the folder (the pattern's part before its
    first wildcard), any other by its file name. Hidden files are left out, and so are files that are no images
    (``.txt``, ``.json``), except where they are named themselves. Masks, overlays and the images linked to labels in
    ``out`` are no sources.

    Returns:
        The sources; and by suffix the images of formats that are not read, such as HEIC and raw files, and videos that
        lie in folders, which are predicted only where they are named.

    Raises:
        SourceError: A path or pattern stands for nothing.
    """
    found: dict[Path, Source] = {}
    made = () if out is None else (MASKS, OVERLAYS, PROBABILITIES, LABELS)
    results = {(out / folder).resolve() for folder in made if out is not None}
    unread: dict[str, dict[Path, Path]] = {}
    for pattern in patterns:
        path = Path(pattern)
        if _is_file(path):
            root, files, read = path.parent, [path], frozenset({path.suffix.lower()}) - UNREAD_SUFFIXES
        elif path.is_dir():
            root, files, read = path, _visible_files(path, '**/*'), IMAGE_SUFFIXES
        else:
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
            files, read = _visible_files(root, str(path.relative_to(root))), IMAGE_SUFFIXES.union(VIDEO_SUFFIXES)
        if not _is_file(path):
            files = [file for file in files if not _lies_in(file, results)]
        left_out = [file for file in files if file.suffix.lower() in UNREAD_SUFFIXES.union(VIDEO_SUFFIXES) - read]
        files = [file for file in files if file.suffix.lower() in read]
        if not files and not (left_out and _is_file(path)):
            reasons = [f'. {unread_line(suffix, own)}' for suffix, own in _by_suffix(left_out).items()]
            raise SourceError(f'{pattern}: no image is there ({", ".join(sorted(IMAGE_SUFFIXES))}){"".join(reasons)}')
        for file in files:
            name = file.relative_to(root).with_suffix('').as_posix()
            found.setdefault(file.resolve(), Source(file, name))
        for suffix, own in _by_suffix(left_out).items():
            unread.setdefault(suffix, {}).update({file.resolve(): file for file in own})
    return list(found.values()), {
        suffix: [file for resolved, file in files.items() if resolved not in found] for suffix, files in unread.items()
    }


def unread_line(suffix: str, files: Sequence[Path]) -> str:
    """A line on files of a suffix that are not read: how many, which, and what to do."""
    remedy = (
        f"Videos are taken where they are named, or found by a pattern such as '*{suffix}'."
        if suffix in VIDEO_SUFFIXES
        else unread_remedy(suffix)
    )
    which = f'{len(files)} {suffix} files are' if len(files) > 1 else f'1 {suffix} file is'
    return f'{which} not read: {listed(files)}. {remedy}'


def _visible_files(root: Path, pattern: str) -> list[Path]:
    files = [file for file in sorted(root.glob(pattern)) if _is_file(file)]
    return [file for file in files if not any(part.startswith('.') for part in file.relative_to(root).parts)]


def _lies_in(file: Path, folders: set[Path]) -> bool:
    """Whether a file, or what a link leads to, is in one of some folders."""
    return not folders.isdisjoint([*file.resolve().parents, *(file.parent.resolve() / file.name).parents])


def _is_file(path: Path) -> bool:
    """Whether it is a file, or a broken link, which is an error for whoever reads it instead of being left out."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _by_suffix(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(file.suffix.lower(), []).append(file)
    return groups
