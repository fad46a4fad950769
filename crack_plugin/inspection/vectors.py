"""Cracks as vectors: GeoJSON, and GeoPackage with pyogrio and shapely, in the photographs' CRS or in pixels."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crack_plugin.datasets.names import listed
from crack_plugin.errors import MissingPackageError
from crack_plugin.files import SaveError, write_atomically
from crack_plugin.inspection.features import Feature
from crack_plugin.inspection.georeference import Georeference, GeoreferenceError

GEOPACKAGE = 'cracks.gpkg'
LAYERS = {'polygons': 'MultiPolygon', 'centerlines': 'MultiLineString'}
_AT_ONCE = 256
"""Cracks that are handed to GDAL together: their shapes take several times the memory that a ``Feature`` does."""
# What has no place on the earth has a CRS that says so: x to the right and y down from the upper left corner.
_PIXELS = (
    'ENGCRS["pixels of the photograph",EDATUM["upper left corner"],CS[Cartesian,2],AXIS["column",east],'
    'AXIS["row",south],LENGTHUNIT["pixel",1]]'
)


@dataclass(frozen=True, eq=False)
class Place:
    """Where photographs are.

    Attributes:
        wkt: Their CRS; None for pixels.
        name: Its name, such as EPSG:32632.
        by_image: The georeference of each photograph.
    """

    wkt: str | None
    name: str
    by_image: dict[Path, Georeference | None]


def common_place(georeferences: dict[Path, Georeference | None]) -> Place:
    """The one CRS of photographs.

    Args:
        georeferences: Of each photograph.

    Raises:
        GeoreferenceError: They have several, or some have none.
    """
    groups: dict[str | None, list[Path]] = {}
    for image, georeference in georeferences.items():
        groups.setdefault(None if georeference is None else georeference.wkt, []).append(image)
    names = {georeference.wkt: georeference.name for georeference in georeferences.values() if georeference}
    if len(groups) > 1:
        kinds = '; '.join(f'{names[wkt] if wkt else "no CRS"}: {listed(images)}' for wkt, images in groups.items())
        raise GeoreferenceError(
            f'a layer of vectors has one CRS, and the photographs are in several ({kinds}). Give each an --out of its '
            'own, or reproject them.'
        )
    wkt = next(iter(groups), None)
    return Place(wkt, names[wkt] if wkt else 'pixels', georeferences)


def properties(feature: Feature) -> dict[str, Any]:
    """The attributes of a crack, by their names in tables and files; the same for all cracks of a run."""
    rating = feature.rating
    return {
        'image': str(feature.image),
        'mask': feature.mask,
        'id': feature.id,
        'class_name': feature.class_name,
        'unit': feature.unit,
        'length': round(feature.length, 4),
        'mean_width': round(feature.mean_width, 4),
        'max_width': round(feature.max_width, 4),
        'width_uncertainty': round(feature.width_uncertainty, 4),
        'area': round(feature.area, 4),
        'orientation': None if feature.orientation is None else round(feature.orientation, 2) % 180,
        'score': None if feature.score is None else round(feature.score, 6),
        'x': round(feature.place[0], 6),
        'y': round(feature.place[1], 6),
        'severity': rating and rating.severity,
        'severity_lowest': rating and rating.lowest,
        'severity_highest': rating and rating.highest,
    }


PROPERTIES = [
    'image',
    'mask',
    'id',
    'class_name',
    'unit',
    'length',
    'mean_width',
    'max_width',
    'width_uncertainty',
    'area',
    'orientation',
    'score',
    'x',
    'y',
    'severity',
    'severity_lowest',
    'severity_highest',
]
"""Keys of :func:`properties`."""


def geometry(feature: Feature, layer: str, georeference: Georeference | None) -> dict[str, Any]:
    """The polygons or centrelines of a crack as GeoJSON has them.

    Args:
        feature: The crack.
        layer: One of :data:`LAYERS`.
        georeference: Of its photograph; None for pixels.
    """
    if layer == 'centerlines':
        lines = [_placed(branch.points, georeference).tolist() for branch in feature.branches]
        return {'type': 'MultiLineString', 'coordinates': lines}
    # RFC 7946, 3.1.6: shells are counterclockwise by their coordinates. On a picture, where y grows downwards, that is
    # clockwise.
    step = -1 if georeference is not None and georeference.is_mirrored else 1
    polygons = [
        [_placed(ring[::step], georeference).tolist() for ring in (outline.shell, *outline.holes)]
        for outline in feature.outlines
    ]
    return {'type': 'MultiPolygon', 'coordinates': polygons}


def write_geojson(folder: Path, features: Iterable[Feature], place: Place) -> None:
    """Write ``polygons.geojson`` and ``centerlines.geojson``, crack by crack.

    The CRS is named as in GeoJSON of 2008, which GDAL and QGIS read; RFC 7946 knows longitudes and latitudes only.

    Args:
        folder: Where to.
        features: Gone over once for each layer.
        place: Of their photographs.
    """
    for layer in LAYERS:
        write_atomically(folder / f'{layer}.geojson', partial(_write_layer, layer, features, place))


def _write_layer(layer: str, features: Iterable[Feature], place: Place, path: Path) -> None:
    head: dict[str, Any] = {'type': 'FeatureCollection', 'name': layer}
    if place.wkt is not None:
        head['crs'] = {'type': 'name', 'properties': {'name': _crs_name(place)}}
    encode = json.JSONEncoder(separators=(',', ':')).encode
    with path.open('w', encoding='utf-8') as file:
        # The text of all features together would need several times the memory that they do.
        file.write(f'{encode(head)[:-1]},"features":[')
        for number, feature in enumerate(features):
            shape = geometry(feature, layer, place.by_image[feature.image])
            content = {'type': 'Feature', 'properties': properties(feature), 'geometry': shape}
            file.write(f'{"," if number else ""}{encode(content)}')
        file.write(']}')


def check_packages() -> None:
    """Refuse to begin what ends in a GeoPackage without the packages that write it.

    Raises:
        MissingPackageError: They are not installed.
    """
    try:
        import pyogrio  # noqa: F401
        import shapely  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            '--vector gpkg is written with pyogrio and shapely: pip install "crack_plugin[geo]".'
        ) from error


def write_geopackage(folder: Path, features: Iterable[Feature], place: Place) -> None:
    """Write ``cracks.gpkg`` with a layer of polygons and one of centrelines, some cracks at a time.

    Args:
        folder: Where to.
        features: Gone over once for each layer.
        place: Of their photographs.

    Raises:
        MissingPackageError: pyogrio or shapely is not installed.
        SaveError: It could not be written; a former file is as it was.
    """
    check_packages()
    write_atomically(folder / GEOPACKAGE, _geopackage_writer(features, place))


def _geopackage_writer(features: Iterable[Feature], place: Place) -> Callable[[Path], object]:
    import shapely
    from pyogrio.errors import DataSourceError, FeatureError
    from pyogrio.raw import write

    def write_layers(scratch: Path) -> None:
        # GDAL would take the empty file for a damaged database, and goes by the suffix.
        scratch.unlink()
        file = scratch.with_suffix('.gpkg')
        try:
            for layer, kind in LAYERS.items():
                for some in _batches(features):
                    rows = [properties(feature) for feature in some]
                    shapes = [geometry(feature, layer, place.by_image[feature.image]) for feature in some]
                    write(
                        str(file),
                        shapely.to_wkb(np.array([shapely.geometry.shape(shape) for shape in shapes], object)),
                        [_column([row[name] for row in rows], name) for name in PROPERTIES],
                        PROPERTIES,
                        geometry_type=kind,
                        crs=place.wkt or _PIXELS,
                        layer=layer,
                        driver='GPKG',
                        append=file.exists(),
                    )
            file.replace(scratch)
        except (DataSourceError, FeatureError) as error:
            # GDAL's words for a full disk, among others.
            raise SaveError(str(error)) from error
        finally:
            file.unlink(missing_ok=True)

    return write_layers


def _batches(features: Iterable[Feature]) -> Iterator[list[Feature]]:
    """Features, some at a time; one batch at least, which makes the layer."""
    rest = iter(features)
    yield list(itertools.islice(rest, _AT_ONCE))
    while some := list(itertools.islice(rest, _AT_ONCE)):
        yield some


def _column(values: list[Any], name: str) -> np.ndarray:
    if name == 'id':
        return np.array(values, np.int64)
    if name in ('length', 'mean_width', 'max_width', 'width_uncertainty', 'area', 'orientation', 'score', 'x', 'y'):
        return np.array([np.nan if value is None else value for value in values], float)
    # Names of files may have bytes that are no text.
    return np.array([value and value.encode(errors='replace').decode() for value in values], object)


def _placed(points: np.ndarray, georeference: Georeference | None) -> np.ndarray:
    # To a thousandth of a pixel.
    if georeference is None:
        return np.round(points.astype(float), 3)
    a, _, _, d, _, _ = georeference.transform
    return np.round(georeference.places(points), 3 - math.floor(math.log10(math.hypot(a, d))))


def _crs_name(place: Place) -> str:
    authority, _, code = place.name.partition(':')
    return f'urn:ogc:def:crs:{authority}::{code}' if code.isdigit() else str(place.wkt)
