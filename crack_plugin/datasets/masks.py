"""Binary masks in image files."""

import io
import struct
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.photographs import JPEG_SUFFIXES, NON_JPEG_SUFFIXES
from crack_plugin.datasets.polygons import LabelError

MASK_SUFFIXES = (*NON_JPEG_SUFFIXES, *JPEG_SUFFIXES)
"""Suffixes of mask files, in lower case; those of photographs come last."""

# By what a file begins with. Image.open would warn of masks from 90 megapixels on, and refuse those above 179.
_FORMATS: dict[bytes, type[ImageFile]] = {
    b'\x89PNG': PngImageFile,
    b'\xff\xd8\xff': JpegImageFile,
    b'BM': BmpImageFile,
    b'II*\0': TiffImageFile,
    b'MM\0*': TiffImageFile,
    b'II+\0': TiffImageFile,
    b'RIFF': WebPImageFile,
}
# What Pillow raises for damaged files.
_DAMAGES = (EOFError, KeyError, OSError, OverflowError, struct.error, SyntaxError, TypeError, ValueError)
# Raw modes of PNG files that Pillow reduces to 8 bits.
_REDUCED_MODES = ('RGB;16B', 'LA;16B', 'RGBA;16B')
# More colours than these are shades, and not classes each drawn in its colour.
_MAX_COLORS = 64


class Mask(NamedTuple):
    """A mask, and what it was read from.

    Attributes:
        foreground: Shape (H, W), bool.
        rule: 'grey': what is above the threshold is foreground, or what is not black. 'colour': the same of the
            brightest of red, green and blue.
        colors: Of a colour mask without shades: the colours other than black, RGB.
    """

    foreground: np.ndarray
    rule: Literal['grey', 'colour']
    colors: list[tuple[int, int, int]]


def read_mask(path: Path, threshold: int | None = None) -> Mask:
    """Read an image file as a mask.

    What counts is what a viewer displays: the colours of a palette and not its indices, the two levels of a two-level
    image as black and white, transparency over black, a picture turned as its EXIF orientation says, 16 bits as the
    upper 8 (unless all values fit into 8). In a colour image, every colour other than black is foreground; its level,
    for the threshold, is the brightest of its red, green and blue.

    Args:
        path: A PNG, JPEG, BMP, TIFF or WebP file.
        threshold: Levels above, of 0 to 255, are foreground. None: only 0 and 1, or 0 and 255, may occur, or colours
            without shades.

    Returns:
        The mask.

    Raises:
        LabelError: The file is no such image, has other values, or has no level above the threshold, but others than
            black.
    """
    levels, colors = _displayed(path)
    if threshold is not None:
        foreground = levels > threshold
        if not foreground.any() and levels.any():
            raise LabelError(
                f'{path} would lose its foreground: its levels are {_shown(np.unique(levels))} and none is above the '
                f'threshold of {threshold}. {_remedy(levels)}'
            )
        return Mask(foreground, 'grey' if colors is None else 'colour', [])
    if colors is not None:
        return Mask(levels > 0, 'colour', _flat_colors(path, levels, colors))
    values = np.unique(levels)
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
        raise LabelError(
            f'{path} has the values {_shown(values)}; a mask has 0 and 255, or 0 and 1. If it has soft edges, as '
            'JPEG and resizing make them, say what is foreground: above a threshold, for instance --threshold 127 of '
            'tools/convert_masks_to_yolo.py, or mask_threshold=127 of the dataset (0 for all that is not black).'
        )
    return Mask(levels > 0, 'grey', [])


def check_threshold(threshold: int | None) -> None:
    """Raise ``DatasetError`` unless levels of 0 to 255 lie on both sides of a threshold."""
    if threshold is not None and not 0 <= threshold < 255:
        raise DatasetError(
            f'a threshold of {threshold} for masks: levels are 0 to 255, so use one of the thresholds from 0 to 254'
        )


def _remedy(levels: np.ndarray) -> str:
    if levels.max() == 1:
        return 'Masks of 0 and 1 are read without a threshold: leave it out.'
    return f'Take one below {levels.max()}, or 0 for all that is not black.'


def _shown(values: np.ndarray) -> str:
    return ', '.join(map(str, values[:8].tolist())) + (', ...' if len(values) > 8 else '')


def _displayed(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels of shape (H, W), uint8, and for a colour image its RGB colours of shape (H, W, 3), uint8."""
    pixels, opacity = _split(path, _decode(path))
    pixels = _to_8_bits(path, pixels)
    if opacity is not None:
        pixels = _over_black(path, pixels, _to_8_bits(path, opacity))
    if pixels.ndim == 2:
        return pixels, None
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0], None
    return pixels.max(axis=-1), pixels


def _over_black(path: Path, pixels: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """What is displayed of a transparent picture."""
    if (opacity == 255).all():
        return pixels
    scale = opacity / np.float32(255)
    displayed = np.rint(pixels * (scale[..., None] if pixels.ndim == 3 else scale)).astype(np.uint8)
    is_uniform = all((values == values[0, 0]).all() for values in (pixels, opacity))
    if not displayed.any() and not is_uniform:
        raise LabelError(
            f'{path} is black where it is not transparent, so that its foreground cannot be told. Save it as '
            'greyscale without transparency, 255 where the foreground is.'
        )
    return displayed


def _decode(path: Path) -> np.ndarray:
    """Values as they are displayed, palettes resolved: shape (H, W) or (H, W, C), RGB, with transparency last."""
    content = path.read_bytes()
    image_class = next((kind for head, kind in _FORMATS.items() if content.startswith(head)), None)
    if image_class is None:
        raise LabelError(f'{path} cannot be read as an image: it is no PNG, JPEG, BMP, TIFF or WebP. Export it again.')
    try:
        with image_class(io.BytesIO(content)) as opened:
            if isinstance(opened, PngImageFile) and opened.tile[0][3] in _REDUCED_MODES:
                return _decode_by_opencv(path, content)
            if isinstance(opened, BmpImageFile) and opened.mode in ('1', 'L'):
                return _decode_by_opencv(path, content)
            pages = getattr(opened, 'n_frames', 1)
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise LabelError(f'{path} is larger than Pillow reads of a TIFF file: {error}. Save it as PNG.') from error
    except _DAMAGES as error:
        raise LabelError(f'{path} cannot be read as an image: {error}. Export it again.') from error
    if pages > 1:
        raise LabelError(f'{path} holds {pages} pictures. Save the mask as a file of its own.')
    if image.mode in ('P', 'PA'):
        image = image.convert('RGBA' if 'transparency' in image.info or image.mode == 'PA' else 'RGB')
    elif image.mode == '1':
        image = image.convert('L')
    elif image.mode not in ('L', 'LA', 'RGB', 'RGBA', 'F') and not image.mode.startswith('I'):
        image = image.convert('RGB')
    return np.asarray(image)


def _decode_by_opencv(path: Path, content: bytes) -> np.ndarray:
    """What Pillow reads wrongly: of 16 bits of colour the upper 8, of BMP with a short grey palette other pixels."""
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        values = None
    if values is None:
        raise LabelError(f'{path} cannot be read as an image: it is damaged. Export it again.')
    if values.ndim == 2:
        return values
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _split(path: Path, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey or RGB, and transparency if there is any."""
    if values.ndim == 3 and values.shape[2] in (2, 4):
        pixels, opacity = values[..., :-1], values[..., -1]
        return (pixels[..., 0] if pixels.shape[2] == 1 else pixels), opacity
    return values, None


def _to_8_bits(path: Path, values: np.ndarray) -> np.ndarray:
    """Levels of 0 to 255. Of integers, what is not 0 stays above 0."""
    if values.dtype == np.uint8 or not values.size:
        return values.astype(np.uint8, copy=False)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):
        raise LabelError(f'{path} has values from {low} to {high}. Save it as an 8-bit image of 0 and 255.')
    if np.issubdtype(values.dtype, np.floating):
        # Between 0 and 1 where no value is above, as it is displayed.
        return np.rint(values * 255 if high <= 1 else values / max(1, high / 255)).astype(np.uint8)
    # What fits into 8 bits was saved in 16 for no reason. Nothing that is not black becomes black.
    return values.astype(np.uint8) if high <= 255 else np.ceil(values / 257).astype(np.uint8)


def _flat_colors(path: Path, levels: np.ndarray, pixels: np.ndarray) -> list[tuple[int, int, int]]:
    """The colours of a mask other than black.

    Raises:
        LabelError: They are shades, as soft edges have them, or nothing is black.
    """
    if levels.all():
        raise LabelError(f'{path} is a colour image without any black, which is the background of a mask.')
    # As one number a colour: rows of three take long to sort.
    codes = np.unique(pixels[levels > 0].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32))
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    # Shades of one colour are proportional to each other.
    hues = {tuple(color) for color in np.rint(colors / colors.max(axis=1, keepdims=True) * 32).astype(int).tolist()}
    if len(colors) > _MAX_COLORS or len(hues) < len(colors):
        raise LabelError(
            f'{path} is a colour image with {len(colors)} colours besides black, shades among them, and no mask of one '
            'colour a class. Save it without soft edges, or say from what brightness on it is foreground: '
            '--threshold 127 of tools/convert_masks_to_yolo.py, or mask_threshold=127 of the dataset (0 for all that '
            'is not black).'
        )
    return [(red, green, blue) for red, green, blue in colors.tolist()]
