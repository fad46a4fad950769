"""From masks to cracks.csv, vectors, profiles and annotations, with drawn masks in the place of predictions."""

import csv
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from drawn_cracks import length, line

from crack_plugin.errors import MissingPackageError
from crack_plugin.inspection import vectors
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.features import Feature, make_feature
from crack_plugin.inspection.georeference import GeoreferenceError, read_georeference
from crack_plugin.inspection.preannotations import PreannotationError
from crack_plugin.inspection.scale import ScaleError, Scales
from crack_plugin.inspection.severity import PROFILES
from crack_plugin.prediction.cracks import Wanted, make_all
from crack_plugin.prediction.found import Prediction
from crack_plugin.prediction.records import (
    Record,
    RecordError,
    make_record,
    read_record,
    record_of,
    recorded,
    write_record,
)
from crack_plugin.prediction.sources import Source, overlay_of
from crack_plugin.prediction.tables import TABLE, Row, read_table, write_table

SHAPE = (200, 260)
DRAWN = {'a': [([(20.3, 30.7), (175.2, 130.4)], 2.4), ([(40.1, 160.6), (160.9, 240.2)], 7.3)], 'pier/b': []}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What the tool leaves of two photographs, one without a crack."""
    folder = tmp_path / 'out'
    rows = []
    for name, cracks in DRAWN.items():
        image = tmp_path / 'site' / f'{name}.jpg'
        mask = np.any([np.zeros(SHAPE, bool), *(line(SHAPE, *crack) for crack in cracks)], axis=0)
        for path in (image, folder / f'masks/{name}.png', folder / f'overlays/{name}.jpg'):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), 255 * mask.astype(np.uint8))
        rows.append(Row(str(image), f'masks/{name}.png', *SHAPE[::-1], 'crack', int(mask.sum()), 0.1, 0.8))
        write_record(folder / record_of(f'masks/{name}.png'), Record(0.1 * len(cracks), [0.9, 0.8][: len(cracks)]))
    write_table(folder / TABLE, rows)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_each_crack_is_a_row(out: Path) -> None:
    lines = make_all(out, ['crack'], Wanted(cracks=True))
    assert lines == [f'{out / "cracks.csv"}: 2 cracks in 2 images']
    rows = rows_of(out / 'cracks.csv')
    for number, (row, (points, width)) in enumerate(zip(rows, DRAWN['a'], strict=True), start=1):
        assert (row['mask'], row['id'], row['class_name'], row['unit']) == ('masks/a.png', str(number), 'crack', 'px')
        assert float(row['length']) == pytest.approx(length(points, width), rel=0.02)
        assert float(row['mean_width']) == pytest.approx(width, rel=0.04)
        assert row['severity'] == row['severity_lowest'] == ''
    assert [row['score'] for row in rows] == ['0.9', '0.8']


def test_scale_severity_and_vectors_of_the_same_masks(out: Path) -> None:
    scales = Scales(Path('scales.csv'), {'a.jpg': 0.5, 'b.jpg': 0.1})
    lines = make_all(out, ['crack'], Wanted(vector=('geojson',), severity=PROFILES['bre251'], scales=scales))
    rows = rows_of(out / 'cracks.csv')
    assert [row['unit'] for row in rows] == ['mm', 'mm']
    assert float(rows[0]['width_uncertainty']) == 0.5
    # 1.2 mm and 3.7 mm, each half a millimetre more or less
    assert [row['severity'] for row in rows] == ['uncertain: 1 very slight to 2 slight', '2 slight']
    assert [(row['severity_lowest'], row['severity_highest']) for row in rows] == [
        ('1 very slight', '2 slight'),
        ('2 slight', '2 slight'),
    ]
    assert 'BRE Digest 251' in '\n'.join(lines)
    assert '  2 slight: 1' in lines
    assert '  uncertain: 1 very slight to 2 slight: 1' in lines
    content = json.loads((out / 'polygons.geojson').read_text())
    assert [feature['properties']['severity'] for feature in content['features']] == [row['severity'] for row in rows]


def test_profiles_follow_the_centreline(out: Path) -> None:
    make_all(out, ['crack'], Wanted(width_profile=True, scales=Scales(for_all=0.5)))
    rows = rows_of(out / 'profiles.csv')
    for number, (points, width) in enumerate(DRAWN['a'], start=1):
        own = [row for row in rows if row['id'] == str(number)]
        assert {row['unit'] for row in own} == {'mm'}
        assert max(float(row['distance']) for row in own) == pytest.approx(0.5 * length(points, width), rel=0.02)
        assert np.mean([float(row['width']) for row in own]) == pytest.approx(0.5 * width, rel=0.04)
        (top, left), (bottom, right) = points
        places = np.array([(float(row['y']) - 0.5, float(row['x']) - 0.5) for row in own])
        normal = np.array([left - right, bottom - top]) / np.hypot(bottom - top, right - left)
        assert np.abs((places - (top, left)) @ normal).max() < 1


def test_profiles_tell_the_frames_of_a_video_apart(out: Path) -> None:
    rows = read_table(out / TABLE, 1)
    cv2.imwrite(str(out / 'masks/pier/b.png'), cv2.imread(str(out / 'masks/a.png'), cv2.IMREAD_UNCHANGED))
    write_record(out / 'records/pier/b.json', Record(0.2, [0.9, 0.8]))
    write_table(out / TABLE, [replace(row, image='film.mp4') for group in rows.values() for row in group])
    make_all(out, ['crack'], Wanted(width_profile=True))
    profiles = rows_of(out / 'profiles.csv')
    places = {(row['mask'], row['id'], row['branch'], row['distance']) for row in profiles}
    assert len(places) == len(profiles)
    assert {row['mask'] for row in profiles} == set(rows)


def test_features_are_not_held_of_all_photographs(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_table(out / TABLE, 1)
    for number in range(4):
        name = f'masks/again/{number}.png'
        for source, target in (('masks/a.png', name), ('records/a.json', record_of(name))):
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            (out / target).write_bytes((out / source).read_bytes())
        (out / overlay_of(name)).parent.mkdir(parents=True, exist_ok=True)
        (out / overlay_of(name)).touch()
        rows[name] = [replace(rows['masks/a.png'][0], mask=name)]
    write_table(out / TABLE, [row for group in rows.values() for row in group])
    made: list[weakref.ref] = []
    alive: list[int] = []

    def spied(*args: Any) -> Feature:
        gc.collect()
        alive.append(sum(each() is not None for each in made))
        made.append(weakref.ref(found := make_feature(*args)))
        return found

    monkeypatch.setattr('crack_plugin.prediction.cracks.make_feature', spied)
    for wanted in (
        Wanted(cracks=True),
        Wanted(severity=PROFILES['ec2'], width_profile=True, scales=Scales(for_all=1)),
        Wanted(vector=('geojson',)),
    ):
        make_all(out, ['crack'], wanted)
    assert len(rows_of(out / 'cracks.csv')) == 10
    # Those of the photograph before may be there still.
    assert max(alive) <= 2


def test_annotations_and_the_order_to_correct_them_in(out: Path) -> None:
    make_all(out, ['crack'], Wanted(labels=('yolo', 'coco', 'labelstudio')))
    rows = rows_of(out / 'uncertainty.csv')
    assert [(row['mask'], row['uncertainty']) for row in rows] == [('masks/a.png', '0.2'), ('masks/pier/b.png', '0.0')]
    assert (out / 'labels/yolo/labels/train/pier/b.txt').read_text() == ''
    assert (out / 'labels/yolo/images/train/pier/b.jpg').exists()
    assert len(json.loads((out / 'labels/coco/annotations/instances_default.json').read_text())['annotations']) == 2
    assert not (out / 'cracks.csv').exists()


def test_records_are_those_of_the_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Wider than a strip of 2**16 pixels is high, so that cracks cross strips.
    soft = cv2.GaussianBlur(rng.standard_normal((3, 60, 4000)).transpose(1, 2, 0), (0, 0), 3).transpose(2, 0, 1)
    logits = torch.from_numpy(12 * soft).float()
    logits[0] = 1
    probabilities = logits.softmax(dim=0).numpy()
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    prediction = Prediction(labels, ['crack', 'spalling'], logits, np.zeros((60, 4000, 3), np.uint8), None)
    record = make_record(prediction)
    cracks = find_cracks([Band(labels)])
    assert len(cracks) > 20
    for crack, score in zip(cracks, record.scores, strict=True):
        assert score == pytest.approx(probabilities[crack.label][tuple(crack.pixels().T)].mean(), abs=1e-5)
    foreground, own = 1 - probabilities[0], probabilities.max(axis=0)
    right = own[labels > 0].sum()
    wrong = (1 - own[labels > 0]).sum() + foreground[(labels == 0) & (foreground >= 0.1)].sum()
    assert record.uncertainty == pytest.approx(wrong / (wrong + right + 4000), abs=1e-5)
    write_record(tmp_path / 'a.json', record)
    assert read_record(tmp_path / 'a.json') == record


def test_images_without_a_record_are_not_done(out: Path) -> None:
    done = read_table(out / TABLE, 1)
    assert recorded(done, out).keys() == done.keys()
    (out / 'records/a.json').unlink()
    assert [*recorded(done, out)] == ['masks/pier/b.png']


def test_a_record_of_other_cracks_is_refused(out: Path) -> None:
    record = read_record(out / 'records/a.json')
    write_record(out / 'records/a.json', replace(record, scores=[0.5]))
    with pytest.raises(RecordError, match='is of 1 cracks, and the mask has 2'):
        make_all(out, ['crack'], Wanted(cracks=True))
    (out / 'records/a.json').write_text('{')
    with pytest.raises(RecordError, match=r'a\.json is not as it was written'):
        make_all(out, ['crack'], Wanted(cracks=True))


def test_what_cannot_be_made_is_refused_before_anything_is_predicted(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = read_table(out / TABLE, 1)
    image, video, tiff = (tmp_path / name for name in ('c.jpg', 'film.mp4', 'map.tif'))
    for path in (image, video, tiff):
        path.touch()
    with pytest.raises(ScaleError, match=r'that of .*a\.jpg, .*b\.jpg is not known'):
        Wanted(severity=PROFILES['ec2']).check([], done)
    with pytest.raises(ScaleError, match=r'c\.jpg'):
        Wanted(severity=PROFILES['ec2']).check([Source(image, 'c')], {})
    table = Scales(Path('scales.csv'), {'a.jpg': 1})
    with pytest.raises(ScaleError, match=r'with a table needs .* that of .*b\.jpg is not known \(not in scales\.csv\)'):
        Wanted(measure=True, scales=table).check([], done)
    Wanted(severity=PROFILES['ec2'], scales=Scales(for_all=1)).check([Source(image, 'c')], done)
    with pytest.raises(PreannotationError, match=r'film\.mp4 is a video'):
        Wanted(labels=('yolo',)).check([Source(video, 'film')], {})
    # A file that is not there is told after the others are predicted.
    Wanted(cracks=True, vector=('geojson',)).check([Source(tmp_path / 'gone.tif', 'gone'), Source(tiff, 'map')], {})
    gone = {mask: [replace(rows[0], image='gone.tif')] for mask, rows in done.items()}
    with pytest.raises(GeoreferenceError, match=r'gone\.tif cannot be read'):
        Wanted(cracks=True).check([], gone)

    def missing() -> None:
        raise MissingPackageError('pip install "crack_plugin[geo]"')

    monkeypatch.setattr('crack_plugin.prediction.cracks.check_packages', missing)
    with pytest.raises(MissingPackageError):
        Wanted(vector=('gpkg',)).check([], done)


def test_a_geotiff_that_gdal_refuses_does_not_stop_the_others(tmp_path: Path) -> None:
    rasterio = pytest.importorskip('rasterio')
    path = tmp_path / 'damaged.tif'
    settings = dict(driver='GTiff', height=4, width=6, count=3, dtype='uint8', crs='EPSG:32632')
    with rasterio.open(path, 'w', transform=rasterio.Affine(0.001, 0, 5e5, 0, -0.001, 5e6), **settings) as file:
        file.write(np.zeros((3, 4, 6), np.uint8))
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags['StripOffsets'].offset
    content = bytearray(path.read_bytes())
    content[place : place + 2] = (65000).to_bytes(2, 'little')  # a tag that nobody knows, in the place of one needed
    path.write_bytes(content)
    with pytest.raises(GeoreferenceError, match=r'damaged\.tif is a GeoTIFF that GDAL cannot read'):
        read_georeference(path)
    wanted = Wanted(severity=PROFILES['ec2'], vector=('geojson',), measure=True, scales=Scales(for_all=1))
    wanted.check([Source(path, 'damaged')], {})
    # Unlike one that a result is to be made of.
    row = Row(str(path), 'masks/damaged.png', 6, 4, 'crack', 0, 0.0, 0.0)
    with pytest.raises(GeoreferenceError, match='GDAL cannot read'):
        wanted.check([Source(path, 'damaged')], {row.mask: [row]})


def test_a_geotiff_that_is_turned_is_refused_before_anything_is_predicted(tmp_path: Path) -> None:
    pytest.importorskip('rasterio')
    path = tmp_path / 'turned.tif'
    place = [(33550, 'd', 3, (0.001, 0.001, 0.0), True), (33922, 'd', 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True)]
    crs = (34735, 'H', 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632), True)
    for orientation in (1, 6):
        tags = [*place, crs, (274, 'H', 1, orientation, True)]
        tifffile.imwrite(path, np.zeros((4, 6, 3), np.uint8), photometric='rgb', extratags=tags)
        read_georeference.cache_clear()
        if orientation == 1:
            assert read_georeference(path).mm_per_pixel() == pytest.approx(1)
    with pytest.raises(
        GeoreferenceError, match=r'turned\.tif .* tag Orientation is 6\. `gdal_translate .*turned\.tif NEW'
    ):
        Wanted(cracks=True).check([Source(path, 'turned')], {})


def test_geopackage_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'pyogrio', None)
    with pytest.raises(MissingPackageError, match=r'crack_plugin\[geo\]'):
        vectors.check_packages()
