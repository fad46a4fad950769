"""GeoTIFFs and photographs that do not fit into memory: which they are, and how their rows are read. Needs rasterio."""

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from tifffile import TiffFile
from tqdm import tqdm

from crack_plugin.errors import CrackPluginError
from crack_plugin.inspection.bands import Band
from crack_plugin.inspection.georeference import TIFF_SUFFIXES, import_rasterio
from crack_plugin.tiff import TIFF_FAULTS, tiff_orientation

RASTER_PIXELS = 2**26
"""Pixels (67 megapixels) above which an image is predicted in bands: up to there it takes some 2 GB at once."""

NO_DATA = 255
"""Label and probability of pixels without data."""

TILE = 512
"""Side of the tiles that are written."""

_PIXELS_AT_ONCE = 2**22

_CORRUPT_JPEG = 'Corrupt JPEG data'
"""What libjpeg says of a file, and of a tile of a TIFF, whose bytes are not as they were written."""

_BEFORE_THE_END = 'extraneous bytes before marker 0xd9'
"""The same of bytes that some cameras leave behind a complete picture."""


class RasterError(CrackPluginError, ValueError):
    """A large TIFF that cannot be read, or not as it stands."""


def pixels_of(path: Path) -> int:
    """Pixels of an image whose rows can be read one after the other, from its header.

    Returns:
        0 for what has to be read at once (other formats, a progressive JPEG, a JPEG or PNG that its EXIF orientation
        turns, or of other than 8 bits a channel in grey or RGB), and for what cannot be opened, which whoever reads it
        tells.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        return _tiff_pixels(path)
    # Not by Image.open, which refuses large images as decompression bombs; nothing is decompressed here.
    kinds: dict[str, Any] = {'.png': PngImageFile, '.jpg': JpegImageFile, '.jpeg': JpegImageFile}
    kind = kinds.get(suffix)
    if kind is None:
        return 0
    try:
        with kind(path) as image:
            # PNG's exif may stand behind the pixels: then it is not known without them, and OpenCV ignores it too
            turned = 'exif' in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            layout = image.tile[0][3]
            layout = layout[0] if isinstance(layout, tuple) else layout
            is_plain = layout in ('L', 'RGB', 'RGBA') and 'progressive' not in image.info
            return image.width * image.height if is_plain and not turned else 0
    except (OSError, IndexError, SyntaxError, ValueError, struct.error):  # what Pillow raises
        return 0


def _tiff_pixels(path: Path) -> int:
    try:
        with TiffFile(path) as tiff:
            page = tiff.pages.first
            return int(page.imagelength * page.imagewidth)
    except (OSError, *TIFF_FAULTS):
        return 0


class Raster:
    """An open raster of 8 bits a channel; see :func:`open_raster`.

    Attributes:
        path: The file.
        shape: (H, W).
        crs: As rasterio has it; None if it has none.
        transform: As rasterio has it.
    """

    def __init__(self, path: Path, source: Any) -> None:
        self.path = path
        self.shape: tuple[int, int] = source.shape
        self.crs, self.transform = source.crs, source.transform
        self._source = source
        self._channels = _channels(path, source)
        flags = [source.mask_flag_enums[index - 1] for index in self._channels]
        self._is_complete = all(flag[0].name == 'all_valid' for flag in flags)

    def read(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read some rows.

        Args:
            top, bottom: The first row, and the one after the last.
            left, right: Likewise the columns; all unless told otherwise.

        Returns:
            BGR, shape (3, h, w), uint8; and where there are data, shape (h, w), bool.

        Raises:
            RasterError: They cannot be decoded.
        """
        from rasterio.errors import RasterioError

        window = ((top, bottom), (left, self.shape[1] if right is None else right))
        try:
            with _logged_by_rasterio() as logged:
                image = self._source.read(self._channels, window=window)
                valid = None if self._is_complete else self._source.dataset_mask(window=window) > 0
        except (RasterioError, OSError) as error:
            raise RasterError(self._damage(top, bottom, error.__cause__ or error)) from error
        # From there on the pixels of a tile or of all rows that follow are noise, which GDAL takes for a picture.
        warned = map(logging.LogRecord.getMessage, logged)
        damages = [text for text in warned if _CORRUPT_JPEG in text and _BEFORE_THE_END not in text]
        if damages:
            raise RasterError(self._damage(top, bottom, damages[0]))
        if len(image) == 1:
            image = np.repeat(image, 3, axis=0)
        return image, np.ones(image.shape[1:], bool) if valid is None else valid

    def _damage(self, top: int, bottom: int, why: object) -> str:
        return (
            f'{self.path}: rows {top:,} to {bottom:,} of {self.shape[0]:,} cannot be read; the file is cut short, '
            'damaged or was changed meanwhile. What was predicted is kept: restore the file, and the same command '
            f'goes on there. ({why})'
        )


@contextmanager
def _logged_by_rasterio() -> Iterator[list[logging.LogRecord]]:
    """What GDAL warns of meanwhile."""
    logger, handler = logging.getLogger('rasterio'), BufferingHandler(2**16)
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)


@contextmanager
def open_raster(path: Path) -> Iterator[Raster]:
    """Open a raster, with as much of GDAL's cache as two rows of its blocks take.

    Raises:
        MissingPackageError: rasterio is not installed.
        RasterError: It cannot be opened, is no picture of 8 bits a channel, or is turned by its orientation.
    """
    rasterio = import_rasterio(path)
    try:
        with warnings.catch_warnings():
            # Without a place pixels are what everything is in.
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise RasterError(f'{path} cannot be opened: {error}. Restore it, or remove it.') from error
    with source:
        if source.driver == 'GTiff':
            _refuse_turned(path)
        if len(source.subdatasets) > 1:
            raise RasterError(f'{path} holds {len(source.subdatasets)} pictures. Save each as a file of its own.')
        rows = max(height for height, _ in source.block_shapes)
        # Rows of a JPEG or PNG come one after the other: a band of them has to stay for its mask.
        rows = max(rows, TILE)
        # Smaller, blocks would be decoded for each band that they reach into; GDAL's own choice grows with the machine.
        cache = 2 * rows * (source.width + 1024) * source.count + 2**25
        with rasterio.Env(GDAL_CACHEMAX=cache):
            yield Raster(path, source)


def _refuse_turned(path: Path) -> None:
    try:
        with TiffFile(path) as tiff:
            orientation = tiff_orientation(tiff.pages.first)
    except (OSError, *TIFF_FAULTS) as error:
        raise RasterError(f'{path} cannot be opened: {error}. Restore it, or remove it.') from error
    if orientation != 1:
        raise RasterError(
            f'{path} is displayed turned (its tag Orientation is {orientation}), and a large TIFF is read as it is '
            f'stored. Leave the tag out: `gdal_translate {path} NEW.tif`.'
        )


def is_raster(mask: str) -> bool:
    """Whether a mask is that of a raster, and not a PNG."""
    return Path(mask).suffix == '.tif'


def read_bands(path: Path) -> Iterator[Band]:
    """The labels of a raster's mask, a few rows at a time; beside them its tiles are decoded once.

    Raises:
        RasterError: It is not as it was written.
    """
    rasterio = import_rasterio(path)
    try:
        with rasterio.open(path) as source, rasterio.Env(GDAL_CACHEMAX=2 * TILE * (source.width + TILE)):
            # What is found in them takes some 20 bytes a pixel.
            rows = max(1, min(TILE, _PIXELS_AT_ONCE // source.width))
            for top in tqdm(range(0, source.height, rows), desc=f'rows of {path.name}', leave=False):
                window = ((top, min(top + rows, source.height)), (0, source.width))
                yield Band(without_no_data(source.read(1, window=window)))
    except rasterio.errors.RasterioError as error:
        raise RasterError(
            f'{path} is not as it was written. Delete it: the same command then predicts its image again.'
        ) from error


def without_no_data(labels: np.ndarray) -> np.ndarray:
    """Labels with background where there are no data."""
    return np.where(labels == NO_DATA, 0, labels).astype(np.uint8)


def _channels(path: Path, source: Any) -> list[int]:
    """Numbers of the blue, green and red channel, or of the one of grey."""
    names = [interpretation.name for interpretation in source.colorinterp]
    kinds = {source.dtypes[index] for index, name in enumerate(names) if name != 'alpha'}
    if kinds != {'uint8'}:
        raise RasterError(
            f'{path} has {", ".join(sorted(kinds))} values. Convert it to 8 bits, with the range of grey values '
            'stretched as you want the model to see it: `gdal_translate -ot Byte -scale MIN MAX 0 255`.'
        )
    bits = {source.tags(number, ns='IMAGE_STRUCTURE').get('NBITS', '8') for number in source.indexes}
    if bits != {'8'}:
        raise RasterError(
            f'{path} has {", ".join(sorted(bits))} bits a channel. Convert it to 8 bits: '
            '`gdal_translate -ot Byte -co NBITS=8 -scale 0 MAX 0 255`.'
        )
    if {'red', 'green', 'blue'} <= set(names):
        return [names.index(name) + 1 for name in ('blue', 'green', 'red')]
    colors = [index for index, name in enumerate(names, start=1) if name != 'alpha']
    is_inverted = source.tags(ns='IMAGE_STRUCTURE').get('MINISWHITE') == 'YES'
    if len(colors) == 1 and names[colors[0] - 1] != 'palette' and not is_inverted:
        return colors
    raise RasterError(
        f'{path} has the channels {", ".join(names)}{", 0 for white" if is_inverted else ""}. Save red, green and blue '
        'as an RGB image: `gdal_translate -b R -b G -b B -colorinterp red,green,blue`, or `-expand rgb` for a palette.'
    )
