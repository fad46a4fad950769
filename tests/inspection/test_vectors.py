"""Cracks as vectors: in pixels without any further package, on the map by what GDAL reads of them."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_cracks import length, line

from crack_plugin.files import SaveError
from crack_plugin.inspection import vectors
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.branches import branches
from crack_plugin.inspection.features import Feature, Photograph, make_features
from crack_plugin.inspection.georeference import Georeference, GeoreferenceError, read_georeference
from crack_plugin.inspection.measuring import measure
from crack_plugin.inspection.scale import ScaleError, Scales
from crack_plugin.inspection.severity import PROFILES
from crack_plugin.inspection.vectors import PROPERTIES, common_place, write_geojson, write_geopackage

SHAPE = (300, 400)
DRAWN = [
    ([(20.3, 30.7), (275.2, 180.4)], 2.2),
    ([(40.1, 200.6), (260.9, 240.2)], 15.4),
    ([(240.2, 270.8), (60.7, 380.3)], 5.3),
]
MASK = np.any([line(SHAPE, *crack) for crack in DRAWN], axis=0)
IMAGE = Path('deck.tif')


def features(**options: Any) -> list[Feature]:
    photograph = Photograph(IMAGE, 'masks/deck.png', SHAPE, ['crack'], **options)
    profile = PROFILES['bre251'] if 'mm_per_pixel' in options else None
    return make_features(photograph, find_cracks([Band(MASK.astype(np.uint8))]), profile)


def turned(size: float, metres: float | None = 1.0) -> Georeference:
    """Square pixels of a size, turned by 27 degrees, north up but for that."""
    angle = math.radians(27)
    a, b = size * math.cos(angle), size * math.sin(angle)
    return Georeference((a, b, 500000.0, b, -a, 5400000.0), 'WKT', 'EPSG:32632', metres)


def test_sizes_in_pixels_and_millimetres() -> None:
    for pixels, scaled, (points, width) in zip(features(), features(mm_per_pixel=0.5), DRAWN, strict=True):
        assert pixels.unit == 'px'
        assert pixels.length == pytest.approx(length(points, width), rel=0.02)
        assert pixels.width_uncertainty == 1
        assert pixels.rating is None
        assert scaled.unit == 'mm'
        for name in ('length', 'mean_width', 'max_width', 'width_uncertainty'):
            assert getattr(scaled, name) == pytest.approx(0.5 * getattr(pixels, name))
        assert scaled.area == pytest.approx(0.25 * pixels.area)
        assert scaled.rating is not None
        assert scaled.rating.level == {2.2: '2 slight', 15.4: '3 moderate', 5.3: '2 slight'}[width]


def test_geojson_in_pixels(tmp_path: Path) -> None:
    found = features()
    write_geojson(tmp_path, found, common_place({IMAGE: None}))
    polygons, lines = (json.loads((tmp_path / f'{layer}.geojson').read_text()) for layer in ('polygons', 'centerlines'))
    assert 'crs' not in polygons
    for feature, polygon, centreline in zip(found, polygons['features'], lines['features'], strict=True):
        assert [*polygon['properties']] == PROPERTIES
        assert polygon['properties'] == centreline['properties']
        rings = [np.array(ring) for part in polygon['geometry']['coordinates'] for ring in part]
        doubled = sum(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) for x, y in (ring.T for ring in rings))
        assert doubled / 2 == feature.area == polygon['properties']['area']
        walked = sum(np.hypot(*np.diff(way, axis=0).T).sum() for way in centreline['geometry']['coordinates'])
        assert walked == pytest.approx(feature.length, rel=0.002)


@pytest.mark.parametrize('layer', ['polygons', 'centerlines'])
def test_photographs_without_cracks(tmp_path: Path, layer: str) -> None:
    write_geojson(tmp_path, [], common_place({IMAGE: None}))
    assert json.loads((tmp_path / f'{layer}.geojson').read_text())['features'] == []
    pyogrio = pytest.importorskip('pyogrio')
    write_geopackage(tmp_path, [], common_place({IMAGE: None}))
    info = pyogrio.read_info(tmp_path / 'cracks.gpkg', layer=layer)
    assert info['features'] == 0
    assert info['fields'].tolist() == PROPERTIES


def test_branches_and_rings() -> None:
    arms = [[(150.3, 200.2), end] for end in ((30.1, 80.4), (60.7, 350.3), (270.2, 190.8))]
    fork = np.any([line(SHAPE, arm, 3) for arm in arms], axis=0)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ring = np.abs(np.hypot(rows - 150, columns - 200) - 60) <= 2
    for mask, total in ((fork, sum(length(arm, 1.5) for arm in arms)), (ring, 120 * math.pi)):
        (crack,) = find_cracks([Band(mask.astype(np.uint8))])
        own = branches(measure(crack, SHAPE))
        assert sum(branch.distances[-1] for branch in own) == pytest.approx(total, rel=0.02)
        assert all(len(branch.points) == len(branch.widths) == len(branch.distances) for branch in own)
        if mask is fork:
            tips = [tip for branch in own for tip in (branch.points[0], branch.points[-1])]
            for _, (row, column) in arms:
                assert min(np.hypot(*(tip - (column + 0.5, row + 0.5))) for tip in tips) < 3


@pytest.mark.parametrize(('metres', 'scale'), [(1.0, 1000), (0.3048006096, 304.8006096)])
def test_scale_and_direction_on_a_turned_map(metres: float, scale: float) -> None:
    place = turned(0.002, metres)
    assert place.mm_per_pixel() == pytest.approx(0.002 * scale)
    on_map = features(mm_per_pixel=place.mm_per_pixel(), georeference=place)
    for pixels, feature in zip(features(), on_map, strict=True):
        assert feature.length == pytest.approx(pixels.length * 0.002 * scale)
        # What is at an angle on the picture is at another on the map, by the turn of the picture.
        start, end = place.places(np.array([[0, 0], [math.cos(a := math.radians(pixels.orientation)), -math.sin(a)]]))
        expected = math.degrees(math.atan2(*(end - start)[::-1])) % 180
        assert feature.orientation == pytest.approx(expected)
        assert abs(feature.orientation - pixels.orientation) % 180 == pytest.approx(27, abs=1e-6)


@pytest.mark.parametrize('transform', [(0.002, 0, 0, 0, -0.003, 0), (0.002, 0.001, 0, 0, -0.002, 0)])
def test_pixels_that_are_not_square(transform: tuple[float, ...]) -> None:
    with pytest.raises(GeoreferenceError, match='not square'):
        Georeference(transform, 'WKT', 'EPSG:32632', 1.0).mm_per_pixel()


def test_a_scale_that_is_given_does_not_make_pixels_square(tmp_path: Path) -> None:
    write_geotiff(tmp_path / 'map.tif', 'EPSG:32632', (0.001, 0, 500000, 0, -0.002, 5400000))
    with pytest.raises(ScaleError, match=r'map\.tif: its pixels are not square'):
        Scales(for_all=1.0).of(tmp_path / 'map.tif')
    # At 60 degrees north, a degree to the east is half as long as one to the north.
    write_geotiff(tmp_path / 'degrees.tif', 'EPSG:4326', (1e-8, 0, 10, 0, -1e-8, 60))
    with pytest.raises(ScaleError, match=r'degrees\.tif: EPSG:4326 is in degrees.*Reproject'):
        Scales(for_all=1.1).of(tmp_path / 'degrees.tif')


def test_photographs_of_several_crs() -> None:
    other = Georeference((1, 0, 0, 0, -1, 0), 'OTHER', 'EPSG:25832', 1.0)
    for second, kind in ((other, 'EPSG:25832: b.tif'), (None, 'no CRS: b.tif')):
        with pytest.raises(GeoreferenceError, match=kind):
            common_place({Path('a.tif'): turned(1), Path('b.tif'): second})


def write_geotiff(path: Path, crs: str | None, transform: tuple[float, ...] = turned(0.002).transform) -> None:
    rasterio = pytest.importorskip('rasterio')
    affine = rasterio.Affine(*transform)
    settings = dict(driver='GTiff', height=4, width=6, count=3, dtype='uint8', transform=affine, crs=crs)
    with rasterio.open(path, 'w', **settings) as file:
        file.write(np.zeros((3, 4, 6), np.uint8))


@pytest.mark.parametrize(('crs', 'mm'), [('EPSG:32632', 2.0), ('EPSG:2263', 2 * 0.30480060960121924)])
def test_georeference_of_a_geotiff(tmp_path: Path, crs: str, mm: float) -> None:
    write_geotiff(tmp_path / 'a.tif', crs)
    found = read_georeference(tmp_path / 'a.tif')
    assert found is not None
    assert found.name == crs
    assert found.transform == pytest.approx(turned(0.002).transform)
    assert Scales().of(tmp_path / 'a.tif') == pytest.approx(mm)
    assert Scales(for_all=1.005 * mm).of(tmp_path / 'a.tif') == pytest.approx(mm)
    with pytest.raises(ScaleError, match='its georeference says'):
        Scales(for_all=1.1 * mm).of(tmp_path / 'a.tif')


@pytest.mark.parametrize(
    ('crs', 'reason'),
    [
        ('EPSG:4326', 'EPSG:4326 is in degrees'),
        ('EPSG:3857', 'EPSG:3857 is a Mercator projection'),
        ('LOCAL_CS["site",UNIT["unknown",1]]', 'no unit that is known for certain'),
    ],
)
def test_crs_that_lengths_are_not_measured_in(tmp_path: Path, crs: str, reason: str) -> None:
    write_geotiff(tmp_path / 'a.tif', crs)
    with pytest.raises(ScaleError, match=reason):
        Scales().of(tmp_path / 'a.tif')
    if 'degrees' not in reason:
        assert Scales(for_all=0.5).of(tmp_path / 'a.tif') == 0.5


def test_pictures_without_a_place(tmp_path: Path) -> None:
    (tmp_path / 'broken.tif').write_bytes(b'II*\0')
    (tmp_path / 'jpeg.tif').write_bytes(b'\xff\xd8\xff')
    for name in ('broken.tif', 'jpeg.tif', 'photo.jpg'):
        assert read_georeference(tmp_path / name) is None
    with pytest.raises(GeoreferenceError, match=r'No such file.*put it back, or take another --out'):
        read_georeference(tmp_path / 'missing.tif')


@pytest.mark.parametrize('crs', ['EPSG:32632', None])
def test_geopackage_by_gdal(tmp_path: Path, crs: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last of three cracks comes after the others are written.
    monkeypatch.setattr(vectors, '_AT_ONCE', 2)
    pyogrio, shapely = pytest.importorskip('pyogrio'), pytest.importorskip('shapely')
    place = None
    if crs is not None:
        rasterio = pytest.importorskip('rasterio')
        known = turned(0.002)
        place = Georeference(known.transform, rasterio.CRS.from_string(crs).to_wkt(), crs, 1.0)
    found = features() if place is None else features(mm_per_pixel=2.0, georeference=place)
    side = 1 if place is None else 0.002
    write_geopackage(tmp_path, found, common_place({IMAGE: place}))
    write_geojson(tmp_path, found, common_place({IMAGE: place}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'centerlines.geojson',
        'cracks.gpkg',
        'polygons.geojson',
    ]
    assert pyogrio.list_layers(tmp_path / 'cracks.gpkg').tolist() == [
        ['polygons', 'MultiPolygon'],
        ['centerlines', 'MultiLineString'],
    ]
    for layer in ('polygons', 'centerlines'):
        meta, _, wkb, columns = pyogrio.raw.read(str(tmp_path / 'cracks.gpkg'), layer=layer)
        as_json = pyogrio.raw.read(str(tmp_path / f'{layer}.geojson'))
        assert meta['fields'].tolist() == PROPERTIES
        assert meta['crs'] == crs if crs else 'pixels of the photograph' in meta['crs']
        # Without a CRS, GDAL takes GeoJSON for longitudes and latitudes.
        assert crs is None or as_json[0]['crs'] == crs
        values = dict(zip(PROPERTIES, columns, strict=True))
        assert values['length'] == pytest.approx([feature.length for feature in found], abs=1e-4)
        assert values['severity'].tolist() == [feature.rating and feature.rating.severity for feature in found]
        for feature, shape, twin in zip(found, shapely.from_wkb(wkb), shapely.from_wkb(as_json[2]), strict=True):
            assert shape.is_valid
            assert shape.equals_exact(twin, 1e-9)
            if layer == 'polygons':
                assert shape.area / side**2 == pytest.approx(feature.area / feature.scale**2, rel=1e-4)
                assert all(part.exterior.is_ccw for part in shape.geoms)
                widest = shapely.Point(feature.place)
                assert shape.buffer(side).contains(widest)
            else:
                assert shape.length / side == pytest.approx(feature.length / feature.scale, rel=0.002)


@pytest.mark.parametrize('kind', ['DataSourceError', 'FeatureError'])
def test_geopackage_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    raw = pytest.importorskip('pyogrio.raw')
    pytest.importorskip('shapely')
    (tmp_path / 'cracks.gpkg').write_bytes(b'former')

    def full(*_: object, **__: object) -> None:
        raise getattr(importlib.import_module('pyogrio.errors'), kind)('disk is full')

    monkeypatch.setattr(raw, 'write', full)
    with pytest.raises(SaveError, match=r'cracks\.gpkg could not be written: disk is full'):
        write_geopackage(tmp_path, features(), common_place({IMAGE: None}))
    assert [path.name for path in tmp_path.iterdir()] == ['cracks.gpkg']
    assert (tmp_path / 'cracks.gpkg').read_bytes() == b'former'
