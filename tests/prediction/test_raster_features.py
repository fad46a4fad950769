"""From a large raster to its cracks: those that are drawn, where they are drawn; and every kind of file."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_cracks import length, line
from rasters import PLACE, Drawn, mask_of, write_tiff

from crack_plugin.prediction.cracks import Wanted, make_all
from crack_plugin.prediction.output import predict_all
from crack_plugin.prediction.raster import open_raster
from crack_plugin.prediction.sources import Source

rasterio = pytest.importorskip('rasterio')
rasterize = pytest.importorskip('rasterio.features').rasterize
tifffile = pytest.importorskip('tifffile')

SHAPE = (1100, 1300)
LINES = [
    ([(30.3, 40.7), (1060.2, 1010.4)], 2.6),  # thin, through all bands, and where four tiles meet
    ([(60.1, 400.6), (560.9, 1180.2)], 18.4),  # wide
    ([(508.6, 60.2), (515.3, 400.7)], 5.3),  # flat, over the border of two rows of tiles
    ([(660.4, 510.2), (1060.7, 513.9)], 3.4),  # steep, over the border of two columns
    ([(1050.2, 1120.8), (640.7, 1260.3)], 3.1),  # rising
    ([(40.5, 600.3), (140.1, 900.8), (90.6, 1250.1)], 9.5),  # bent
]
ARMS = [[(800.3, 250.2), end] for end in ((580.1, 120.4), (640.7, 430.3), (1050.2, 240.8))]
ARM = 6.2


def test_cracks_are_those_drawn_and_where_they_are_drawn(tmp_path: Path) -> None:
    """On a turned map: number, length and mean width within 2 %, and polygons that cover what is drawn."""
    masks = [line(SHAPE, *each) for each in LINES]
    masks.append(np.any([line(SHAPE, arm, ARM) for arm in ARMS], axis=0))
    lengths = [*(length(*each) for each in LINES), sum(length(arm, ARM / 2) for arm in ARMS)]
    widths = [*(width for _, width in LINES), ARM]
    image = np.where(np.any(masks, axis=0), 20, 180).astype(np.uint8)
    path = write_tiff(tmp_path / 'ortho.tif', np.broadcast_to(image, (3, *SHAPE)), **PLACE)
    out = tmp_path / 'out'
    assert predict_all([Source(path, 'ortho', is_raster=True)], Drawn(), out, {}) == []
    make_all(out, ['crack'], Wanted(vector=('geojson',)))
    with (out / 'cracks.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    polygons, ways = (
        [feature['geometry'] for feature in json.loads((out / f'{layer}.geojson').read_text())['features']]
        for layer in ('polygons', 'centerlines')
    )
    assert len(rows) == len(polygons) == len(masks)
    firsts = [tuple(np.argwhere(mask)[0]) for mask in masks]
    for row, polygon, way, number in zip(rows, polygons, ways, np.lexsort(np.array(firsts).T[::-1]), strict=True):
        # a pixel is 2 mm
        assert row['unit'] == 'mm'
        assert float(row['length']) == pytest.approx(2 * lengths[number], rel=0.02)
        assert float(row['mean_width']) == pytest.approx(2 * widths[number], rel=0.02)
        assert float(row['area']) == 4 * masks[number].sum()
        covered = rasterize([polygon], SHAPE, transform=PLACE['transform'])
        np.testing.assert_array_equal(covered, masks[number])
        walked = sum(np.hypot(*np.diff(part, axis=0).T).sum() for part in way['coordinates'])
        assert 1000 * walked == pytest.approx(2 * lengths[number], rel=0.02)


@pytest.mark.parametrize('shape', [(700, 1), (10, 900), (1, 1)])
def test_strips_of_any_size(shape: tuple[int, int], tmp_path: Path) -> None:
    image = np.full((3, *shape), 180, np.uint8)
    image[:, : shape[0] // 2 + 1, shape[1] // 3 : shape[1] // 3 + 4] = 20
    path = write_tiff(tmp_path / 'ortho.tif', image, **PLACE)
    out = tmp_path / 'out'
    assert predict_all([Source(path, 'ortho', is_raster=True)], Drawn(), out, {}, probabilities=True) == []
    np.testing.assert_array_equal(mask_of(out)[0], image[0] == 20)
    make_all(out, ['crack'], Wanted(width_profile=True, vector=('geojson',)))
    (feature,) = json.loads((out / 'polygons.geojson').read_text())['features']
    assert feature['properties']['area'] == 4 * np.count_nonzero(image[0] == 20)


STRIPS: dict[str, Any] = {'tiled': False, 'blockxsize': None}


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('rows', {**STRIPS, 'blockysize': 1, 'compress': 'lzw', 'predictor': 2}),
        ('one strip', {**STRIPS, 'blockysize': 200}),
        ('planes', {'interleave': 'band'}),
        ('BigTIFF', {'BIGTIFF': 'YES'}),
        ('overviews and mask', {}),
        ('infrared', {}),
        ('associated alpha', {}),
    ],
)
def test_kinds_of_tiff(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 200, 150), np.uint8)
    valid = np.ones(image.shape[1:], bool)
    path = tmp_path / 'a.tif'
    if kind == 'associated alpha':
        valid[:60] = False
        alpha = 255 * valid.astype(np.uint8)
        tifffile.imwrite(path, np.dstack([*image, alpha]), photometric='rgb', extrasamples=['assocalpha'])
    else:
        channels = np.concatenate([image, image[:1]]) if kind == 'infrared' else image
        options = {name: value for name, value in options.items() if value is not None}
        write_tiff(path, channels, **options, **({'alpha': 'unspecified'} if kind == 'infrared' else {}))
    if kind == 'overviews and mask':
        valid[:60] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'r+') as file:
            file.write_mask(valid)
            file.build_overviews([2, 4])
    with open_raster(path) as opened:
        parts = [opened.read(top, min(top + 70, 200)) for top in range(0, 200, 70)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts], axis=1), image[::-1])
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), valid)


def test_jpeg_in_a_tiff(tmp_path: Path) -> None:
    """As most orthophotos are: luminance and colour apart."""
    image = np.full((3, 128, 128), 200, np.uint8)
    image[:, 60:80] = np.array([180, 60, 20], np.uint8)[:, None, None]
    path = write_tiff(tmp_path / 'a.tif', image, compress='jpeg', photometric='ycbcr')
    with open_raster(path) as opened:
        rows, valid = opened.read(66, 74)
    assert valid.all()
    assert np.abs(rows.astype(int) - image[::-1, 66:74]).max() < 8
