"""What the converters of annotation files share: faults are collected first, and files are written when there are none.

An annotation tool's export holds thousands of entries of which a few have faults. All are checked before the
first file is written, so that one run names every fault, and a run that failed leaves nothing behind.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import yaml
from matplotlib.path import Path as Outline
from matplotlib.transforms import Bbox
from PIL import ExifTags, Image, UnidentifiedImageError

from crack_plugin.datasets.data_yaml import read_data_yaml
from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.names import listed
from crack_plugin.datasets.polygons import MAX_CLASSES, Outside
from crack_plugin.files import link_or_copy

# Beyond that many pixels a coordinate belongs to no picture, and drawing it would overflow.
_MAX_COORDINATE = 1e6


class ConversionError(DatasetError):
    """An export that cannot be converted as it stands. The message names each cause, where it occurs, and a remedy."""


class Tally:
    """Findings grouped by their cause, with a count and a few examples each."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], list[str]] = {}

    def add(self, cause: str, place: str, remedy: str = '') -> None:
        """Count one finding.

        Args:
            cause: What was found, in the plural: 'images that do not exist'.
            place: Where, such as a file or an entry.
            remedy: What to do about it, a sentence.
        """
        self._places.setdefault((cause, remedy), []).append(place)

    def __bool__(self) -> bool:
        return bool(self._places)

    def lines(self) -> list[str]:
        """One sentence or two for each cause: its count, three places, its remedy."""
        return [
            f'{cause[0].upper()}{cause[1:]} ({len(places)}): {listed(places)}.{f" {remedy}" if remedy else ""}'
            for (cause, remedy), places in self._places.items()
        ]


class LabelledImage(NamedTuple):
    """What is written for one image.

    Attributes:
        image: Its file.
        label: Content of its YOLO label file.
    """

    image: Path
    label: str


def raise_faults(faults: Tally, source: Path) -> None:
    """Raise ``ConversionError`` with all that was found, if anything was."""
    if not faults:
        return
    lines = faults.lines()
    if len(lines) == 1:
        raise ConversionError(f'{source}: {lines[0]} Nothing was written.')
    listing = '\n'.join(f'- {line}' for line in lines)
    raise ConversionError(f'{source}: faults of {len(lines)} kinds, nothing was written.\n{listing}')


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ConversionError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConversionError(f'{path} cannot be read: {error.strerror}. Correct the path.') from error
    except (ValueError, RecursionError) as error:
        raise ConversionError(f'{path} is no JSON: {error}. Export it again.') from error


def whole_number(value: Any) -> int | None:
    """The whole number that a JSON value stands for (160, 160.0, '160'), None for anything else."""
    if isinstance(value, str) and re.fullmatch(r'-?[0-9]{1,18}(\.0*)?', value):
        return int(value.partition('.')[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > 1e300


def find_image(name: str, folders: Sequence[Path]) -> Path | None:
    """Find the image that an annotation file names.

    Exports hold names as they were on another machine: with backslashes, as a URL, percent-encoded, with folders that
    do not exist here. The longest end of the name that leads to a file in one of the folders is taken.

    Args:
        name: As it stands in the annotation file.
        folders: Where to look, in this order.

    Returns:
        The file, or None.
    """
    for spelling in _spellings(name):
        parts = spelling.split('/')
        for start in range(len(parts)):
            tail = '/'.join(parts[start:])
            for folder in folders:
                # Unlike Path.is_file, false for what can be no file name at all.
                if tail and os.path.isfile(folder / tail):  # noqa: PTH113
                    return folder / tail
    return None


def _spellings(name: str) -> Iterator[str]:
    yield name
    slashed = name.replace('\\', '/')
    plain = [slashed]
    try:
        url = urlsplit(slashed)
    except ValueError:  # a bracket where a host would be
        pass
    else:
        # Label Studio serves local files as /data/local-files/?d=folder/name.jpg
        local = [value.replace('\\', '/') for value in parse_qs(url.query).get('d', [])]
        plain += [*local, url.path]
    for spelling in [*plain, *map(unquote, plain)]:
        # macOS writes letters with accents as two characters.
        yield from dict.fromkeys([spelling, *(unicodedata.normalize(form, spelling) for form in ('NFC', 'NFD'))])


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, its EXIF orientation applied; of its content only the header is read.

    Raises:
        ConversionError: It cannot be read as an image.
    """
    # Reading a header needs little memory, whatever the size of the image.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            # Pillow has applied that of a TIFF already.
            return image.size if is_on_its_side and image.format != 'TIFF' else image.size[::-1]
    except UnidentifiedImageError as error:
        raise ConversionError(f'{path} is no image.') from error
    except OSError as error:
        raise ConversionError(f'{path}: {error}.') from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def agree_on_size(told: tuple[int, int], found: tuple[int, int], place: str, faults: Tally, notes: Tally) -> bool:
    """Whether annotations made on an image of (H, W) ``told`` fit the image file of (H, W) ``found``.

    A difference of one pixel, which some tools make, is a note: the annotations are scaled. More is a fault.
    """
    where = f'{place} ({found[1]} x {found[0]}, annotated as {told[1]} x {told[0]})'
    if max(abs(told[0] - found[0]), abs(told[1] - found[1])) > 1:
        faults.add(
            'images that have another size than the annotations tell',
            where,
            'Were they turned or resized? Take the images that were annotated.',
        )
        return False
    if told != found:
        notes.add('images a pixel larger or smaller than annotated, whose annotations were scaled', where)
    return True


def scale_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale a mask of shape (H, W), bool, to another (H, W) that is about the same.

    A row or column too many is united with its neighbour, so that no thin crack is lost in it.
    """
    for axis, (new, old) in enumerate(zip(shape, mask.shape, strict=True)):
        mask = np.logical_or.reduceat(mask, np.arange(new) * old // new, axis=axis)
    return mask


def check_points(
    points: np.ndarray, shape: tuple[int, int], outside: Outside, place: str, faults: Tally, notes: Tally
) -> bool:
    """Whether the points of a shape can be drawn.

    Up to a pixel outside the image is within the precision of annotation tools. Up to 3 pixels, or 1 % of the longer
    side, is noted: what lies outside is cut off. Further out is a fault, unless ``outside`` is 'clip'.

    Args:
        points: Shape (n, 2), float64: (x, y) in pixels.
        shape: (H, W) of the image they were drawn on.
        outside: What to do with points far outside.
        place: Where the shape is, for the findings.
        faults: Gains what cannot be drawn.
        notes: Gains what is cut off.
    """
    height, width = shape
    if not (np.abs(points) <= _MAX_COORDINATE).all():
        faults.add(
            'shapes with a coordinate that is no pixel of any picture (not finite, or above a million)',
            place,
            'Draw them again, or delete them.',
        )
        return False
    distance = float(np.maximum(-points, points - (width, height)).max())
    if distance <= 1:
        return True
    if distance <= max(3, 0.01 * max(shape)) or outside == 'clip':
        notes.add('shapes with points outside their image, cut at its edge', f'{place} by {distance:.1f} pixels')
        return True
    faults.add(
        'shapes with points far outside their image',
        f'{place} by {distance:.1f} pixels',
        'Do they belong to this image? If so, `--outside clip` cuts them at its edge.',
    )
    return False


def clip_polygon(points: np.ndarray, lower: tuple[float, float], upper: tuple[float, float]) -> np.ndarray:
    """The part of a polygon inside a rectangle.

    Args:
        points: Shape (n, 2): (x, y).
        lower: The rectangle's least (x, y).
        upper: Its greatest (x, y).

    Returns:
        Shape (m, 2), float64; ``points`` itself if nothing lies outside, m = 0 if everything does.
    """
    if ((points >= lower) & (points <= upper)).all():
        return points
    return np.asarray(Outline(points).clip_to_bbox(Bbox([lower, upper])).vertices, np.float64)


def check_names(names: Sequence[str], out: Path, faults: Tally) -> None:
    """Add to ``faults`` what is wrong with the class names of a dataset of which another split may exist already.

    Raises:
        DatasetError: The ``data.yaml`` in ``out`` cannot be read.
    """
    if not 0 < len(names) <= MAX_CLASSES:
        faults.add(
            'classes',
            listed(names) or 'none',
            f'1 to {MAX_CLASSES} are possible: correct the export, or name the classes.',
        )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        faults.add('classes that are named twice', ', '.join(twice), 'Name each class once.')
    earlier = earlier_names(out)
    if earlier is not None and earlier != list(names):
        faults.add(
            'data.yaml with other names of classes',
            f'{out / "data.yaml"} has {earlier}, from an earlier split, this one has {list(names)}',
            'Use another folder, or convert all splits with the same classes.',
        )


def earlier_names(out: Path) -> list[str] | None:
    """The names of the classes that an earlier conversion left in a folder, None if there was none."""
    return read_data_yaml(out / 'data.yaml').names if (out / 'data.yaml').exists() else None


def check_targets(images: Sequence[Path], folder: Path, overwrite: bool, faults: Tally) -> None:
    """Add to ``faults`` the images that would share a label, and those whose label or link exists already."""
    stems: dict[str, Path] = {}
    for image in images:
        if image.stem in stems:
            faults.add(
                'pairs of images that would share one label', f'{stems[image.stem]} and {image}', 'Rename one of each.'
            )
        stems.setdefault(image.stem, image)
        label, link = _targets(image, folder)
        if not overwrite and (label.exists() or os.path.lexists(link)):
            faults.add(
                f'images that {folder} has already',
                image.name,
                'Delete that folder, use another one, or replace its labels with --overwrite.',
            )


def write_split(samples: Sequence[LabelledImage], names: Sequence[str], out: Path, split: str) -> None:
    """Write ``OUT/SPLIT/labels/NAME.txt``, link ``OUT/SPLIT/images/NAME``, and name the classes in ``OUT/data.yaml``.

    Raises:
        ConversionError: Something cannot be written. The rest can be written again with ``overwrite``.
    """
    try:
        for folder in ('images', 'labels'):
            (out / split / folder).mkdir(parents=True, exist_ok=True)
        content = yaml.safe_dump({'names': list(names)}, allow_unicode=True)
        (out / 'data.yaml').write_text(content, encoding='utf-8')
        for image, text in samples:
            label, link = _targets(image, out / split)
            label.write_text(text, encoding='utf-8')
            if link.resolve() != image.resolve():
                link.unlink(missing_ok=True)
                link_or_copy(image, link)
    except OSError as error:
        raise ConversionError(
            f'{error.filename} cannot be written: {error.strerror}. Make room or correct the path, and run this again '
            'with --overwrite.'
        ) from error


def _targets(image: Path, folder: Path) -> tuple[Path, Path]:
    return folder / 'labels' / f'{image.stem}.txt', folder / 'images' / image.name
