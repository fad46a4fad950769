"""Where on the earth the pixels of a GeoTIFF are, and how many millimetres they measure. Needs rasterio."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile

from crack_plugin.errors import CrackPluginError, MissingPackageError
from crack_plugin.tiff import TIFF_FAULTS, tiff_orientation

TIFF_SUFFIXES = frozenset({'.tif', '.tiff'})
_SQUARE = 0.01
"""How far the sides of a pixel may differ, as a share."""


class GeoreferenceError(CrackPluginError, ValueError):
    """A georeference that lengths cannot be measured with, or that does not go with that of other images."""


class UnreadableError(GeoreferenceError):
    """A file whose georeference cannot be read."""


@dataclass(frozen=True)
class Georeference:
    """The place of an image.

    Attributes:
        transform: (a, b, c, d, e, f): the corner (x, y) of pixels is at (a x + b y + c, d x + e y + f).
        wkt: The coordinate reference system (CRS).
        name: Its name in messages, such as EPSG:32632.
        metres: Length of the CRS's unit; None where it has none that lengths can be measured in.
        remedy: Why it has none, and what to do; empty if it has.
        is_in_degrees: Whether the unit is an angle.
    """

    transform: tuple[float, float, float, float, float, float]
    wkt: str
    name: str
    metres: float | None
    remedy: str = ''
    is_in_degrees: bool = False

    def check_pixels(self) -> None:
        """Refuse pixels that have no one size, whatever the unit.

        Raises:
            GeoreferenceError: They are not square, sheared, or in degrees.
        """
        if self.is_in_degrees:
            raise GeoreferenceError(f'{self.name} {self.remedy}')
        a, b, _, d, e, _ = self.transform
        across, down = math.hypot(a, d), math.hypot(b, e)
        if abs(across - down) > _SQUARE * across or abs(a * b + d * e) > _SQUARE * across * down:
            raise GeoreferenceError(
                f'its pixels are not square ({across:g} by {down:g}, or sheared). Resample it, for example with '
                '`gdalwarp -tr SIZE SIZE`.'
            )

    def mm_per_pixel(self) -> float:
        """Side of a pixel.

        Raises:
            GeoreferenceError: The CRS is in degrees, stretched, or without a unit, or pixels are not square.
        """
        self.check_pixels()
        if self.metres is None:
            raise GeoreferenceError(f'{self.name} {self.remedy}')
        a, b, _, d, e, _ = self.transform
        return 1000 * self.metres * math.sqrt(math.hypot(a, d) * math.hypot(b, e))

    def places(self, points: np.ndarray) -> np.ndarray:
        """Places in the CRS of (x, y) in pixels, shape (n, 2)."""
        a, b, c, d, e, f = self.transform
        return points @ np.array([[a, d], [b, e]]) + (c, f)

    def direction(self, orientation: float) -> float:
        """Direction on the map of a direction on the picture, both in degrees from 0 (right, east) to 180, upwards."""
        a, b, _, d, e, _ = self.transform
        angle = math.radians(orientation)
        x, y = math.cos(angle), -math.sin(angle)
        return math.degrees(math.atan2(d * x + e * y, a * x + b * y)) % 180

    @property
    def is_mirrored(self) -> bool:
        """Whether clockwise on the picture, whose rows grow downwards, is counterclockwise by its coordinates."""
        a, b, _, d, e, _ = self.transform
        return a * e - b * d < 0


@lru_cache(maxsize=4096)
def read_georeference(path: Path) -> Georeference | None:
    """The georeference of an image; None if it has none, or a transform without a CRS.

    Raises:
        UnreadableError: The file is not there, cannot be opened, or GDAL refuses it.
        GeoreferenceError: Its picture is turned by its orientation.
        MissingPackageError: It is a GeoTIFF, and rasterio is not installed.
    """
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    try:
        with TiffFile(path) as tiff:
            page = tiff.pages.first
            if not page.is_geotiff:
                return None
            orientation = tiff_orientation(page)
    except OSError as error:
        raise UnreadableError(
            f'{path} cannot be read: {error.strerror or error}. Its place and scale are needed: put it back, or take '
            'another --out.'
        ) from error
    except TIFF_FAULTS:
        # A picture of another format, or damaged, which whoever reads the picture tells.
        return None
    rasterio = import_rasterio(path)
    try:
        with rasterio.open(path) as source:
            crs, transform = source.crs, source.transform
    except OSError as error:
        raise UnreadableError(
            f'{path} is a GeoTIFF that GDAL cannot read: {error}. Restore it, or take another --out without it.'
        ) from error
    if crs is None or transform.is_identity:
        return None
    if orientation != 1:
        raise GeoreferenceError(
            f'{path} has a georeference, which is of the picture as it is stored, and is turned when it is read: its '
            f'tag Orientation is {orientation}. `gdal_translate {path} NEW.tif` leaves the tag out.'
        )
    return Georeference(tuple(transform)[:6], crs.to_wkt(), crs.to_string(), *_unit(crs))


def import_rasterio(path: Path) -> Any:
    """The module rasterio.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise MissingPackageError(
            f'{path}: the place of a GeoTIFF, and one too large for memory, are read with rasterio: '
            'pip install "crack_plugin[geo]".'
        ) from error
    return rasterio


def _unit(crs: Any) -> tuple[float | None, str, bool]:
    """Metres of the unit of a CRS; None and the remedy if lengths cannot be measured in it; whether it is degrees."""
    reproject = 'Reproject the image, for example with `gdalwarp -t_srs EPSG:CODE` to its UTM zone'
    if crs.is_geographic:
        return None, f'is in degrees, which are not as long in all directions. {reproject}.', True
    remedy = f'{reproject}, or give --mm-per-pixel.'
    if not crs.is_projected:
        return None, f'has no unit that is known for certain. {remedy}', False
    if re.search(r'(PROJECTION|METHOD)\["(Popular Visualisation Pseudo )?Mercator', crs.to_wkt()):
        return None, f'is a Mercator projection, whose metres grow with the latitude. {remedy}', False
    return float(crs.linear_units_factor[1]), '', False
