"""A photograph of a session: its file, what was predicted in it, and what was corrected by hand, all on the disk."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from crack_plugin.app.limits import AppError, LimitError, UnknownError
from crack_plugin.app.maps import labels_of
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES, UNREAD_SUFFIXES, read_photograph, unread_remedy
from crack_plugin.errors import CrackPluginError, message
from crack_plugin.files import write_atomically
from crack_plugin.inspection.scale import Scales
from crack_plugin.prediction.pictures import read_image, write_image

NOW, BEFORE = 'now', 'before'
"""The two predictions of a photograph: the one that counts, and another to compare with."""

_LONGEST_NAME = 80
_QUALITY = 90
# Browsers, and JPEG, go no further.
_LONGEST_SIDE = 16384


@dataclass(frozen=True)
class Settings:
    """What a photograph was predicted with.

    Attributes:
        weights: Which of the model's weights, see :class:`~crack_plugin.app.models.Weights`.
        prompt: What was looked for.
        window: Side of the windows in pixels; None for the whole image at once.
        step: From window to window in pixels.
    """

    weights: str
    prompt: str
    window: int | None = None
    step: int | None = None


class Photograph:
    """A photograph, read once and turned as its EXIF orientation says.

    Args:
        number: Of the session.
        file: What was uploaded.
        pixels: How many it may have.

    Attributes:
        shape: (H, W).
        mm_per_pixel: Its scale, if it is known.
        is_georeferenced: Whether the scale is of the file itself.
        predicted: Settings by :data:`NOW` and :data:`BEFORE`.
        version: Counts what changes the labels.

    Raises:
        CrackPluginError: It cannot be read, or has too many pixels; the message has the name that it was uploaded with.
    """

    def __init__(self, number: int, file: Path, pixels: int) -> None:
        self.number, self.file, self.folder = number, file, file.parent
        self.predicted: dict[str, Settings] = {}
        self.version = 0
        self.is_corrected = False
        try:
            _check_size(file, pixels)
            image = read_photograph(str(file))
            self.mm_per_pixel = Scales().of(file)
        except AppError:
            raise
        except CrackPluginError as error:
            # Where it lies for an hour helps nobody.
            raise AppError(message(error).replace(str(file), file.name)) from error
        _check_pixels(file.name, image.shape[1], image.shape[0], pixels)
        self.is_georeferenced = self.mm_per_pixel is not None
        self.shape: tuple[int, int] = (image.shape[0], image.shape[1])
        encoded, content = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not encoded:
            raise AppError(f'{file.name} could not be made a JPEG for the browser. Convert it to JPEG or PNG.')
        write_atomically(self.picture, content.tobytes())

    @property
    def name(self) -> str:
        """The name that it was uploaded with, made safe for a file."""
        return self.file.name

    @property
    def picture(self) -> Path:
        """What the browser shows."""
        return self.folder / '.picture.jpg'

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]

    def keep(self, which: str, probability: np.ndarray, settings: Settings) -> None:
        """Keep a prediction in place of the former one; corrections by hand stay."""
        write_image(self._map(which), probability)
        self.predicted[which] = settings
        self.version += 1

    def forget(self, which: str) -> None:
        """Forget a prediction, if there is one."""
        self.predicted.pop(which, None)
        self._map(which).unlink(missing_ok=True)

    def probability(self, which: str = NOW) -> np.ndarray:
        """Probability of a crack as whole 255ths, shape (H, W), uint8.

        Raises:
            UnknownError: It was not predicted.
        """
        if which not in self.predicted:
            raise UnknownError(f'{self.name} was not predicted yet: press "Find cracks".')
        return read_image(self._map(which), cv2.IMREAD_UNCHANGED)

    def correct(self, corrections: np.ndarray) -> None:
        """Keep corrections by hand, in place of the former ones."""
        write_image(self._corrections, corrections)
        self.is_corrected = bool(corrections.any())
        self.version += 1

    def corrections(self) -> np.ndarray:
        """Corrections by hand, shape (H, W), uint8; zeros without."""
        if not self.is_corrected:
            return np.zeros(self.shape, np.uint8)
        return read_image(self._corrections, cv2.IMREAD_UNCHANGED)

    def labels(self, threshold: float) -> np.ndarray:
        """1 where there is a crack, by the model and by hand, shape (H, W), uint8.

        Raises:
            UnknownError: It was not predicted.
        """
        return labels_of(self.probability(), threshold, self.corrections() if self.is_corrected else None)

    def facts(self) -> dict[str, Any]:
        """What the browser is told."""
        return {
            'id': self.number,
            'name': self.name,
            'height': self.shape[0],
            'width': self.shape[1],
            'mm_per_pixel': self.mm_per_pixel,
            'is_georeferenced': self.is_georeferenced,
            'is_corrected': self.is_corrected,
            'version': self.version,
            'predicted': {which: asdict(settings) for which, settings in self.predicted.items()},
        }

    def delete(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder)

    def _map(self, which: str) -> Path:
        return self.folder / f'.{which}.png'

    @property
    def _corrections(self) -> Path:
        return self.folder / '.corrections.png'


def file_name(text: str, taken: set[str]) -> str:
    """A name for an uploaded file: its own without folders and odd characters, and with a stem that is not taken.

    Args:
        text: As the browser has it.
        taken: Stems of others, in lower case: their masks have these names.

    Raises:
        AppError: It is of a format that is not read.

    Example:
        >>> file_name('../pier 2/crack?.JPG', {'crack_'})
        'crack_-2.JPG'
    """
    base = re.sub(r'[^\w.\- ()]', '_', PurePosixPath(text.replace('\\', '/')).name).lstrip('. ')
    path = PurePosixPath(base or '_')
    suffix = path.suffix.lower()
    if suffix in UNREAD_SUFFIXES:
        raise AppError(f'{base} cannot be read: {unread_remedy(suffix)}')
    if suffix not in IMAGE_SUFFIXES:
        known = ', '.join(sorted(each.removeprefix('.') for each in IMAGE_SUFFIXES))
        raise AppError(f'{base or text} is no photograph that is read here ({known}).')
    stem = path.stem[:_LONGEST_NAME]
    names = [stem, *(f'{stem}-{number}' for number in range(2, len(taken) + 3))]
    return next(name for name in names if name.lower() not in taken) + path.suffix


def _check_size(file: Path, pixels: int) -> None:
    """Refuse what would need too much memory, before it is decoded."""
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError):
        # Not Pillow's to judge: whatever is wrong with it is told by what decodes it.
        return
    except Image.DecompressionBombError as error:
        raise LimitError(f'{file.name} has more than {pixels / 1e6:,.0f} megapixels. {_SMALLER}') from error
    _check_pixels(file.name, width, height, pixels)


def _check_pixels(name: str, width: int, height: int, pixels: int) -> None:
    if width * height > pixels or max(width, height) > _LONGEST_SIDE:
        raise LimitError(
            f'{name} has {width} x {height} pixels; {pixels / 1e6:,.0f} megapixels and {_LONGEST_SIDE:,} pixels a side '
            f'are allowed here. {_SMALLER}'
        )


_SMALLER = 'Cut it into parts, or predict it with tools/predict.py.'
