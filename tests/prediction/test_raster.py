"""Large rasters: the logits of `mode='slide'`, the road from bands to files, and runs that are interrupted."""

import json
import resource
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from drawn_cracks import length, line
from mmengine.config import Config
from PIL import ExifTags, Image
from rasters import PLACE, WINDOWS, Drawn, mask_of, write_tiff

from crack_plugin.errors import MissingPackageError
from crack_plugin.files import SaveError
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.prediction import PredictionError, Predictor, bands, raster, raster_output
from crack_plugin.prediction.cracks import Wanted, make_all
from crack_plugin.prediction.mosaic import Windows
from crack_plugin.prediction.output import check_names, predict_all, rows_done
from crack_plugin.prediction.raster import RasterError, open_raster, pixels_of
from crack_plugin.prediction.raster_output import mark_rasters, predict_raster
from crack_plugin.prediction.records import read_record
from crack_plugin.prediction.settings import OptionError, OutputError
from crack_plugin.prediction.sources import Source, find_sources
from crack_plugin.prediction.tables import TABLE, write_table

rasterio = pytest.importorskip('rasterio')
SHAPE = (600, 440)
CRACKS = [
    ([(20.3, 30.7), (570.2, 400.4)], 4.4),
    ([(540.0, 40.0), (540.0, 300.0)], 9.0),
    ([(40.1, 300.6), (300.9, 420.2), (400.0, 380.0)], 2.6),
]


@cache
def drawn_image() -> np.ndarray:
    cracks = np.any([line(SHAPE, *crack) for crack in CRACKS], axis=0)
    changes = np.random.default_rng(0).integers(0, 12, SHAPE) // 4 * 4
    return np.broadcast_to(np.where(cracks, 20, 180) + changes, (3, *SHAPE)).astype(np.uint8)


@pytest.fixture
def ortho(tmp_path: Path) -> Source:
    return Source(write_tiff(tmp_path / 'site' / 'ortho.tif', drawn_image(), **PLACE), 'ortho', is_raster=True)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


def test_the_logits_are_those_of_slide_mode(trained: dict[str, Path], tmp_path: Path) -> None:
    cfg = Config.fromfile(trained['config'])
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (56, 48), 'stride': (32, 40), 'batch': 3}
    predictor = Predictor(cfg, trained['checkpoint'], device='cpu')
    image = np.random.default_rng(1).integers(0, 255, (3, 150, 133), np.uint8)
    expected = predictor(np.ascontiguousarray(image[::-1].transpose(1, 2, 0)))
    source = Source(write_tiff(tmp_path / 'a.tif', image), 'a', is_raster=True)
    (row,) = predict_raster(source, predictor, tmp_path / 'out', with_probabilities=True)
    # of the bands, which keep floating-point numbers
    store = bands.BandStore(tmp_path / 'out/bands/a', json.loads((tmp_path / 'out/bands/a/state.json').read_text()))
    labels, probability = (np.concatenate(part) for part in zip(*store.labelled(), strict=True))
    own = expected.probabilities[0]
    undecided = np.abs(own - predictor.model.threshold) < 1e-5
    np.testing.assert_array_equal(labels[~undecided], expected.labels[~undecided])
    assert 0 < labels.mean() < 1
    np.testing.assert_allclose(probability[labels > 0], own[labels > 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(mask_of(tmp_path / 'out', 'masks/a.tif')[0], labels)
    stored = mask_of(tmp_path / 'out', 'probabilities/a.tif')[0]
    np.testing.assert_allclose(stored / 254, own, rtol=0, atol=0.5 / 254 + 1e-5)
    assert (row.width, row.height, row.pixels) == (133, 150, labels.sum())
    assert row.score == pytest.approx(expected.scores[0], abs=1e-5)


@pytest.mark.parametrize(('shape', 'crop', 'stride'), [((50, 40), 96, 64), ((97, 200), 96, 96), ((300, 33), 40, 7)])
def test_every_size_is_blended_to_the_same(shape, crop, stride, tmp_path: Path) -> None:
    """A window that knows its pixels alone blends to that image, from whichever band on."""
    image = np.random.default_rng(0).integers(0, 255, (3, *shape), np.uint8)
    windows = Windows((crop, crop), (stride, stride), 4)
    for first in {0, len(windows.bands(shape[0])) // 2}:
        rows = [
            (band.top, band.logits.numpy().copy())
            for band in raster_output.blend_bands(
                lambda top, bottom: (image[:, top:bottom], np.ones((bottom - top, shape[1]), bool)),
                shape,
                lambda cut: cut[:, :2].float(),
                2,
                windows,
                torch.device('cpu'),
                first,
            )
        ]
        begin = rows[0][0]
        assert begin == windows.bands(shape[0])[first][0]
        np.testing.assert_allclose(np.concatenate([part for _, part in rows], axis=1), image[:2, begin:], atol=1e-3)


def test_mask_is_tiled_compressed_and_in_its_place(ortho: Source, tmp_path: Path) -> None:
    (row,) = predict_raster(ortho, Drawn(), tmp_path / 'out', with_probabilities=True)
    with rasterio.open(ortho.path) as before, rasterio.open(tmp_path / 'out' / row.mask) as file:
        assert (file.crs, file.transform, file.shape, file.nodata) == (before.crs, before.transform, SHAPE, 255)
        assert (file.compression.name, file.block_shapes) == ('deflate', [(512, 512)])
        labels = file.read(1)
    cracks = np.any([line(SHAPE, *crack) for crack in CRACKS], axis=0)
    np.testing.assert_array_equal(labels, cracks)
    with rasterio.open(tmp_path / 'out/probabilities/ortho.tif') as file:
        expected = torch.sigmoid((100 - torch.from_numpy(drawn_image()[0]).float()) / 20).numpy()
        np.testing.assert_allclose(file.scales[0] * file.read(1), expected, atol=0.5 / 254 + 1e-5)
    assert (row.pixels, row.share) == (cracks.sum(), round(cracks.mean(), 8))
    assert row.score == pytest.approx(expected[cracks].mean(), abs=1e-5)
    shown = cv2.imread(str(tmp_path / 'out/overlays/ortho.jpg'))
    assert shown.shape == (*SHAPE, 3)


def test_cracks_across_bands_are_one_each(ortho: Source, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    predict_all([ortho], Drawn(), out, {})
    assert not (out / 'bands/ortho').exists()
    lines = make_all(out, ['crack'], Wanted(cracks=True, vector=('geojson',)))
    assert lines == [f'{out / "cracks.csv"}: 3 cracks in 1 images', 'vectors in EPSG:32632']
    features = json.loads((out / 'polygons.geojson').read_text())['features']
    # a pixel is 2 mm
    found = sorted(feature['properties']['length'] / 2 for feature in features)
    assert found == pytest.approx(sorted(length(*crack) for crack in CRACKS), rel=0.02)
    cracks = find_cracks([Band((drawn_image()[0] < 100).astype(np.uint8))])
    probability = torch.sigmoid((100 - torch.from_numpy(drawn_image()[0]).float()) / 20).numpy()
    scores = [probability[tuple(crack.pixels().T)].mean() for crack in cracks]
    assert [feature['properties']['score'] for feature in features] == pytest.approx(scores, abs=2e-6)


@pytest.mark.parametrize('kind', ['alpha', 'nodata', 'mask'])
def test_windows_without_data_are_left_out(kind: str, tmp_path: Path) -> None:
    image = drawn_image()
    valid = np.zeros(SHAPE, bool)
    valid[100:300, :250] = True
    options: dict[str, Any] = {}
    if kind == 'alpha':
        image = np.concatenate([image, 255 * valid[None].astype(np.uint8)])
        options = {'alpha': 'yes'}
    elif kind == 'nodata':
        image = image * valid
        options = {'nodata': 0}
    source = Source(write_tiff(tmp_path / 'ortho.tif', image, **options), 'ortho', is_raster=True)
    if kind == 'mask':
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source.path, 'r+') as file:
            file.write_mask(valid)
    every, some = Drawn(), Drawn()
    whole = Source(write_tiff(tmp_path / 'whole.tif', drawn_image()), 'whole', is_raster=True)
    predict_raster(whole, every, tmp_path / 'out')
    (row,) = predict_raster(source, some, tmp_path / 'out', with_probabilities=True)
    assert some.calls < every.calls / 2
    expected = np.where(valid, mask_of(tmp_path / 'out', 'masks/whole.tif')[0], 255)
    np.testing.assert_array_equal(mask_of(tmp_path / 'out')[0], expected)
    np.testing.assert_array_equal(mask_of(tmp_path / 'out', 'probabilities/ortho.tif')[0] == 255, ~valid)
    assert row.pixels == np.count_nonzero(expected == 1)
    assert row.share == round(row.pixels / valid.sum(), 8)


@pytest.mark.parametrize('stop', [0, 7, 23])
def test_interrupted_run_ends_the_same(stop: int, ortho: Source, tmp_path: Path) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    complete = Drawn()
    predict_all([ortho], complete, whole, {}, probabilities=True)
    with pytest.raises(KeyboardInterrupt):
        predict_all([ortho], Drawn(fail_at=stop), parts, {}, probabilities=True)
    rest = Drawn()
    predict_all([ortho], rest, parts, {}, probabilities=True)
    assert rest.calls < complete.calls or stop < 12
    assert content_of(parts) == content_of(whole)


def test_kill_between_mask_and_row_and_after_it(ortho: Source, tmp_path: Path, monkeypatch) -> None:
    out, source = tmp_path / 'out', ortho
    predict_all([source], Drawn(), tmp_path / 'whole', {})
    write_table(out / TABLE, [])
    predict_raster(source, Drawn(), out)
    again = Drawn()
    predict_all([source], again, out, rows_done(out, 1, False))
    assert again.calls == 0
    predict_raster(source, Drawn(), out)
    predict_all([source], again, out, rows_done(out, 1, False))
    assert again.calls == 0
    assert content_of(out) == content_of(tmp_path / 'whole')
    # without probabilities it is not complete, where they are asked for
    predict_all([source], again, out, rows_done(out, 1, False), probabilities=True)
    assert again.calls > 0


def test_bands_are_lost_to_nothing_else(ortho: Source, tmp_path: Path) -> None:
    """Neither to other options, nor to a raster whose folder theirs lies in."""
    out = tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        predict_raster(ortho, Drawn(fail_at=8), out)
    kept = sorted((out / 'bands').rglob('*.npz'))
    with pytest.raises(OutputError, match=r'bands.*other options.*--overwrite'):
        predict_raster(ortho, Drawn(), out, with_probabilities=True)
    (folder := out / 'bands' / ortho.name / 'span').mkdir()
    for path in kept:
        (folder / path.name).write_bytes(path.read_bytes())
    predict_all([ortho], Drawn(), out, {})
    assert kept and sorted((out / 'bands').rglob('*.npz')) == [folder / path.name for path in kept]


def test_a_photograph_beside_a_raster_of_its_name_is_refused() -> None:
    sources = [Source(Path('site/deck.jpg'), 'deck'), Source(Path('site/deck.tif'), 'deck', True)]
    with pytest.raises(OutputError, match=r'site/deck\.jpg and site/deck\.tif would share'):
        check_names(sources, {})


def test_pictures_of_one_file_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / 'two.tif', np.zeros((2, 64, 64, 3), np.uint8), photometric='rgb')
    with pytest.raises(RasterError, match=r'two\.tif holds 2 pictures'), open_raster(tmp_path / 'two.tif'):
        pass


@pytest.mark.parametrize('suffix', ['.jpg', '.tif'])
def test_jpeg_data_that_were_overwritten_are_told(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'a{suffix}'
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 128, 3), np.uint8), (0, 0), 2)
    if suffix == '.jpg':
        cv2.imwrite(str(path), image)
        place = path.stat().st_size * 3 // 4
    else:
        options = {'compress': 'jpeg', 'photometric': 'ycbcr', 'blockxsize': 128, 'blockysize': 128}
        write_tiff(path, image.transpose(2, 0, 1), **options)
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            place = page.dataoffsets[1] + page.databytecounts[1] // 2
    content = path.read_bytes()
    with open_raster(path) as whole:
        expected, _ = whole.read(0, 256)
    path.write_bytes(content[:place] + b'\xff\xd9' * 50 + content[place + 100 :])
    with open_raster(path) as damaged:
        np.testing.assert_array_equal(damaged.read(0, 64)[0], expected[:, :64])
        with pytest.raises(RasterError, match=rf'a\{suffix}: rows 128 to 256 of 256 cannot be read.*Corrupt JPEG'):
            damaged.read(128, 256)
    # What stands behind a complete picture damages nothing.
    path.write_bytes(content[:-2] + b'behind it' + content[-2:] if suffix == '.jpg' else content)
    with open_raster(path) as complete:
        np.testing.assert_array_equal(complete.read(0, 256)[0], expected)


def test_file_that_was_cut_short_goes_on_once_it_is_restored(ortho: Source, tmp_path: Path) -> None:
    complete = ortho.path.read_bytes()
    ortho.path.write_bytes(complete[: len(complete) // 2])
    out = tmp_path / 'out'
    lines = predict_all([ortho], Drawn(), out, {})
    assert len(lines) == 1
    assert f'{ortho.path}: rows' in lines[0]
    assert 'goes on there' in lines[0]
    done = len(list((out / 'bands/ortho').glob('*.npz')))
    assert done > 1
    ortho.path.write_bytes(complete)
    rest = Drawn()
    assert predict_all([ortho], rest, out, {}) == []
    predict_all([ortho], whole := Drawn(), tmp_path / 'whole', {})
    assert rest.calls < whole.calls
    assert content_of(out) == content_of(tmp_path / 'whole')


def test_changed_pixels_are_predicted_again(ortho: Source, tmp_path: Path, capsys) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict_raster(ortho, Drawn(fail_at=20), tmp_path / 'out')
    write_tiff(ortho.path, drawn_image() // 2 + 60, **PLACE)
    predict_raster(ortho, again := Drawn(), tmp_path / 'out')
    assert 'has changed' in capsys.readouterr().out
    predict_raster(ortho, fresh := Drawn(), tmp_path / 'fresh')
    assert again.calls == fresh.calls
    np.testing.assert_array_equal(mask_of(tmp_path / 'out'), mask_of(tmp_path / 'fresh'))


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond a size."""
    former, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize('limit', [300, 23_000])
def test_full_disk_keeps_the_bands(limit: int, ortho: Source, tmp_path: Path, small_disk) -> None:
    out = tmp_path / 'out'
    image = np.broadcast_to(np.random.default_rng(0).choice([50, 180], SHAPE, p=[0.1, 0.9]), (3, *SHAPE)).astype(
        np.uint8
    )
    write_tiff(ortho.path, image, **PLACE)
    # Into the larger limit bands fit, and what is made of them does not.
    small_disk(limit)
    with pytest.raises(SaveError, match=r'bands of .*ortho\.tif are kept') as error:
        predict_raster(ortho, Drawn(), out, with_probabilities=True)
    small_disk(2**40)
    assert 'could not be written' in str(error.value)
    assert not (out / 'masks').exists()
    assert not (out / 'probabilities/ortho.tif').exists()
    bands_left = len(list((out / 'bands/ortho').glob('*.npz')))
    assert bands_left == (0 if limit == 300 else len(WINDOWS.bands(SHAPE[0])))
    predict_raster(ortho, rest := Drawn(), out, with_probabilities=True)
    assert (rest.calls == 0) == (limit != 300)
    np.testing.assert_array_equal(mask_of(out)[0], image[2] < 100)


def test_nan_is_refused(ortho: Source, tmp_path: Path) -> None:
    predictor = Drawn()
    predictor.segment_windows = lambda windows: windows[:, :1].float() * float('nan')
    with pytest.raises(PredictionError, match=r'ortho\.tif: the model gives NaN'):
        predict_raster(ortho, predictor, tmp_path / 'out')


@pytest.mark.parametrize(
    ('image', 'options', 'message'),
    [
        (np.zeros((1, 8, 8), np.uint16), {'photometric': 'minisblack'}, 'uint16 values'),
        (np.zeros((5, 8, 8), np.uint8), {'photometric': 'minisblack'}, 'Save red, green and blue'),
        (np.zeros((1, 8, 8), np.uint8), {'photometric': 'miniswhite'}, '0 for white'),
        (np.zeros((1, 8, 8), np.uint8), {'photometric': 'minisblack', 'nbits': 4}, '4 bits a channel.*NBITS=8'),
    ],
)
def test_other_rasters_are_refused(image, options, message: str, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / 'a.tif', image, tiled=False, blockysize=1, blockxsize=8, **{'crs': None, **options})
    with pytest.raises(RasterError, match=message), open_raster(path):
        pass


def test_palette_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 6), np.uint8)).convert('P').save(tmp_path / 'a.tif')
    with pytest.raises(RasterError, match=r'channels palette.*-expand rgb'), open_raster(tmp_path / 'a.tif'):
        pass


def test_turned_tiff_is_refused(tmp_path: Path) -> None:
    pixels, tag = np.zeros((64, 32, 3), np.uint8), (274, 'H', 1, 6, True)
    tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='rgb', extratags=[tag])
    with (
        pytest.raises(RasterError, match=r'Orientation is 6.*`gdal_translate .*a\.tif NEW'),
        open_raster(tmp_path / 'a.tif'),
    ):
        pass


def test_grey_is_three_channels(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    path = write_tiff(tmp_path / 'a.tif', grey, photometric='minisblack', tiled=False)
    with open_raster(path) as opened:
        np.testing.assert_array_equal(opened.read(2, 5)[0], np.repeat(grey[:, 2:5], 3, axis=0))


def test_which_files_take_this_road(ortho: Source, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(raster_output, 'RASTER_PIXELS', SHAPE[0] * SHAPE[1])
    cv2.imwrite(str(ortho.path.with_name('b.jpg')), np.zeros((8, 8, 3), np.uint8))
    (sources, _) = find_sources([str(ortho.path.parent)])
    assert [source.is_raster for source in mark_rasters(sources, WINDOWS, False)] == [False, False]
    with pytest.raises(OptionError, match='--probabilities'):
        mark_rasters(sources, WINDOWS, True)
    monkeypatch.setattr(raster_output, 'RASTER_PIXELS', SHAPE[0] * SHAPE[1] - 1)
    marked = mark_rasters(sources, WINDOWS, True)
    assert [source.mask for source in marked] == ['masks/b.png', 'masks/ortho.tif']
    assert [source.is_raster for source in mark_rasters(sources, None, False)] == [False, False]
    monkeypatch.setattr(raster_output, 'MOST_PIXELS_AT_ONCE', 1000)
    with pytest.raises(OptionError, match=r'ortho\.tif has .* --slide'):
        mark_rasters(sources, None, False)
    for wanted in (Wanted(measure=True), Wanted(labels=('yolo',))):
        with pytest.raises(ValueError, match=r'ortho\.tif is'):
            wanted.check(marked, {})
    monkeypatch.setitem(__import__('sys').modules, 'rasterio', None)
    with pytest.raises(MissingPackageError, match=r'ortho\.tif: .*too large for memory.*crack_plugin\[geo\]'):
        mark_rasters(sources, WINDOWS, False)


# Two decoders of JPEG round apart at a sharp edge
@pytest.mark.parametrize(('suffix', 'tolerance'), [('.jpg', 6), ('.png', 0)])
def test_large_photographs_take_this_road(suffix: str, tolerance: int, tmp_path: Path) -> None:
    path = tmp_path / f'a{suffix}'
    image = np.full((90, 70, 3), 200, np.uint8)
    image[40:44] = 0, 30, 60
    cv2.imwrite(str(path), image)
    assert pixels_of(path) == 90 * 70
    whole = cv2.imread(str(path))
    with open_raster(path) as opened:
        rows, valid = opened.read(35, 50)
    assert valid.all() and np.abs(rows.transpose(1, 2, 0).astype(int) - whole[35:50]).max() <= tolerance


def test_photographs_that_have_to_be_read_at_once(tmp_path: Path) -> None:
    grey = Image.fromarray(np.zeros((8, 6), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    grey.save(tmp_path / 'turned.jpg', exif=exif)
    grey.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    grey.save(tmp_path / 'progressive.jpg', progressive=True)
    grey.convert('P').save(tmp_path / 'palette.png')
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((8, 6, 3), np.uint16))
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    (tmp_path / 'empty.jpg').touch()
    grey.save(tmp_path / 'picture.bmp')
    assert {path.name: pixels_of(path) for path in tmp_path.iterdir() if pixels_of(path)} == {}


def test_damaged_mask_is_told(ortho: Source, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    predict_all([ortho], Drawn(), out, {})
    (out / 'masks/ortho.tif').write_bytes(b'II*\0')
    with pytest.raises(RasterError, match='Delete it'):
        list(raster.read_bands(out / 'masks/ortho.tif'))
    assert len(read_record(out / 'records/ortho.json').scores) == 3
