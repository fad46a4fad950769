"""`tools/convert_labelme_to_yolo.py`."""

import base64
import io
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.draw
import yaml
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.polygons import parse_labels, rasterize

TOOLS = Path(__file__).parents[2] / 'tools'
SHAPE = (60, 80)
TRIANGLE = [[10.2, 5.0], [70.9, 30.5], [20.0, 55.7]]


@pytest.fixture
def convert(monkeypatch) -> Callable:
    monkeypatch.syspath_prepend(TOOLS)
    return runpy.run_path(str(TOOLS / 'convert_labelme_to_yolo.py'))['main']


def shape_of(kind: str | None, points: list[Any], label: str = 'crack', **more: Any) -> dict[str, Any]:
    return {'label': label, 'points': points, 'group_id': None, 'shape_type': kind, 'flags': {}} | more


def annotate(folder: Path, shapes: list[Any], name: str = 'a', size: tuple[int, int] = SHAPE, **more: Any) -> None:
    """An image and its file, as LabelMe 5 writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size[::-1]).save(folder / f'{name}.jpg')
    content = {'version': '5.5.0', 'flags': {}, 'shapes': shapes, 'imagePath': f'{name}.jpg', 'imageData': None}
    content |= {'imageHeight': size[0], 'imageWidth': size[1]} | more
    (folder / f'{name}.json').write_text(json.dumps(content))


def run(convert: Callable, tmp_path: Path, *options: str) -> None:
    convert([str(tmp_path / 'photos'), str(tmp_path / 'out'), *options])


def error_of(convert: Callable, tmp_path: Path, capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(convert, tmp_path, *options)
    assert stop.value.code == 1
    assert not (tmp_path / 'out').exists()
    return capsys.readouterr().err


def label_maps(tmp_path: Path, classes: tuple[str, ...] = ('crack',)) -> list[np.ndarray]:
    dataset = YOLOCrackDataset(tmp_path / 'out', classes=classes, pipeline=[LoadImageFromFile(), LoadYOLOPolygons()])
    return [sample['gt_seg_map'] for sample in dataset]


def encoded(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize('kind', ['polygon', None])
def test_polygons_are_those_of_a_yolo_label(convert, tmp_path, kind):
    other = [[60.0, 2.0], [79.0, 2.0], [79.0, 9.0]]
    annotate(tmp_path / 'photos', [shape_of(kind, TRIANGLE), shape_of(kind, other)])
    run(convert, tmp_path)
    lines = [f'0 {" ".join(str(x / 80) + " " + str(y / 60) for x, y in points)}' for points in (TRIANGLE, other)]
    expected = rasterize(parse_labels('\n'.join(lines), SHAPE), SHAPE)
    np.testing.assert_array_equal(label_maps(tmp_path)[0], expected)


def test_circle(convert, tmp_path):
    annotate(tmp_path / 'photos', [shape_of('circle', [[40, 30], [40, 48]])])
    run(convert, tmp_path)
    found = label_maps(tmp_path)[0] > 0
    expected = np.zeros(SHAPE, bool)
    expected[skimage.draw.disk((30, 40), 18.5)] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.98


@pytest.mark.parametrize('corner', [(20, 10), (20.4, 9.6), (-3, -2), (70, 50)])
def test_mask_lies_at_its_corner(convert, tmp_path, corner):
    mask = np.random.default_rng(0).random((12, 15)) > 0.4
    x, y = np.rint(corner).astype(int)
    points = [list(corner), [corner[0] + 14, corner[1] + 11]]
    annotate(tmp_path / 'photos', [shape_of('mask', points, mask=encoded(mask.astype(np.uint8) * 255))])
    run(convert, tmp_path, '--outside', 'clip')
    canvas = np.zeros((120, 160), np.uint8)
    canvas[y + 30 : y + 42, x + 30 : x + 45] = mask
    np.testing.assert_array_equal(label_maps(tmp_path)[0], canvas[30:90, 30:110])


def test_lines_need_a_width(convert, tmp_path, capsys):
    line, strip = [[10, 20], [69, 20]], [[10, 40], [30, 40], [30, 55]]
    annotate(tmp_path / 'photos', [shape_of('line', line), shape_of('linestrip', strip)])
    error = error_of(convert, tmp_path, capsys)
    assert '(2): shape 1 of a.json, shape 2 of a.json. `--line-width PIXELS`' in error
    run(convert, tmp_path, '--line-width', '3')
    mask = label_maps(tmp_path)[0]
    assert mask[19:22, 10:70].all()
    assert mask[39:42, 10:30].all()
    assert mask[40:56, 29:32].all()
    assert not mask[:18].any()
    assert not mask[23:38].any()
    run(convert, tmp_path, '--drop-shapes', 'line', 'linestrip', '--overwrite', '--classes', 'crack')
    assert not label_maps(tmp_path)[0].any()


@pytest.mark.parametrize(
    'box',
    [
        shape_of('rectangle', [[30, 20], [10, 5]]),
        shape_of('rectangle', [[10, 5], [30, 5], [30, 20], [10, 20]]),
        shape_of('rotation', [[10, 5], [30, 5], [30, 20], [10, 20]], direction=0.0),
        shape_of('oriented_rectangle', [[10, 5], [30, 5], [30, 20], [10, 20]]),
    ],
)
def test_boxes_as_for_yolo_labels(convert, tmp_path, capsys, box):
    annotate(tmp_path / 'photos', [box])
    assert '`--boxes drop` leaves them out, `--boxes fill`' in error_of(convert, tmp_path, capsys)
    run(convert, tmp_path, '--boxes', 'fill')
    expected = np.zeros(SHAPE, np.uint8)
    expected[5:21, 10:31] = 1
    np.testing.assert_array_equal(label_maps(tmp_path)[0], expected)
    run(convert, tmp_path, '--boxes', 'drop', '--overwrite')
    assert not label_maps(tmp_path)[0].any()
    assert 'left out (1): shape 1 of a.json' in capsys.readouterr().out


def test_points_are_left_out_on_request(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('point', [[3, 3]]), shape_of('polygon', TRIANGLE)])
    assert '`--drop-shapes point points`' in error_of(convert, tmp_path, capsys)
    run(convert, tmp_path, '--drop-shapes', 'point')
    assert not label_maps(tmp_path)[0][:5].any()


def test_later_shape_is_on_top_and_labels_are_mapped(convert, tmp_path, capsys):
    square = [[10, 10], [50, 10], [50, 50], [10, 50]]
    shapes = [shape_of('polygon', square, 'rust'), shape_of('polygon', TRIANGLE, 'Crack')]
    shapes.append(shape_of('polygon', [[0, 0], [79, 0], [79, 59], [0, 59]], 'scale bar'))
    annotate(tmp_path / 'photos', shapes)
    run(convert, tmp_path, '--class-map', 'Crack=crack', 'scale bar=None')
    assert yaml.safe_load((tmp_path / 'out/data.yaml').read_text()) == {'names': ['crack', 'rust']}
    label_map = label_maps(tmp_path, ('crack', 'rust'))[0]
    assert (label_map[30, 30], label_map[12, 45], label_map[0, 0]) == (1, 2, 0)
    assert "labelled 'scale bar', which were left out (1)" in capsys.readouterr().out


def test_splits_share_their_classes(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE, 'rust'), shape_of('polygon', TRIANGLE, 'crack')])
    run(convert, tmp_path)
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE, 'rust')], 'a')
    run(convert, tmp_path, '--split', 'valid')
    assert (tmp_path / 'out/valid/labels/a.txt').read_text().startswith('1 ')
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE, 'moss')], 'a')
    with pytest.raises(SystemExit):
        run(convert, tmp_path, '--split', 'test')
    assert "'moss' in" in (error := capsys.readouterr().err)
    assert '--classes' in error


@pytest.mark.parametrize('path', ['..\\img\\a.jpg', '../img/a.jpg', 'D:\\data\\img\\a.jpg', 'lost.jpg'])
def test_image_paths(convert, tmp_path, path):
    annotate(tmp_path / 'photos/json', [shape_of('polygon', TRIANGLE)], imagePath=path)
    image = tmp_path / ('photos/json' if path.startswith('lost') else 'photos/img') / 'a.jpg'
    image.parent.mkdir(exist_ok=True)
    (tmp_path / 'photos/json/a.jpg').rename(image)
    run(convert, tmp_path, '--images', str(tmp_path / 'photos/img'))
    assert (tmp_path / 'out/train/images/a.jpg').resolve() == image
    assert label_maps(tmp_path)[0].any()


def test_picture_in_the_file_is_ignored(convert, tmp_path):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)], imageData='no picture')
    run(convert, tmp_path)
    assert label_maps(tmp_path)[0].any()


@pytest.mark.parametrize('told', [{'imageHeight': None, 'imageWidth': None}, {'imageHeight': 60.0, 'imageWidth': '80'}])
def test_size_may_be_missing_or_text(convert, tmp_path, told):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)], **told)
    run(convert, tmp_path)
    assert label_maps(tmp_path)[0].any()


def test_picture_of_another_pixel_is_scaled(convert, tmp_path, capsys):
    full = [[0, 0], [81, 0], [81, 59], [0, 59]]
    annotate(tmp_path / 'photos', [shape_of('polygon', full)], imageHeight=59, imageWidth=81)
    run(convert, tmp_path)
    assert label_maps(tmp_path)[0].all()
    assert 'annotations were scaled (1): a.jpg (80 x 60, annotated as 81 x 59)' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('x', 'options', 'said'), [(-0.9, [], ''), (-2.6, [], '2.6'), (-500, ['--outside', 'clip'], '500')]
)
def test_points_outside_are_cut_at_the_edge(convert, tmp_path, capsys, x, options, said):
    # A slanted edge, which moving its end to the edge of the image would bend.
    annotate(tmp_path / 'photos', [shape_of('polygon', [[x, 30 + x / 4], [60, 45], [60, 55], [x, 55]])])
    run(convert, tmp_path, *options)
    mask = label_maps(tmp_path)[0]
    assert abs(int(mask[:, 40].sum()) - 16) <= 1
    assert abs(int(mask[:, 0].sum()) - 26) <= 1
    assert said in (out := capsys.readouterr().out)
    assert ('outside their image' in out) == bool(said)


def test_shape_wholly_outside_is_not_drawn_on_the_edge(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('polygon', [[90, 10], [120, 10], [120, 40]])])
    assert '`--outside clip`' in error_of(convert, tmp_path, capsys)
    run(convert, tmp_path, '--outside', 'clip')
    assert not label_maps(tmp_path)[0].any()
    assert 'cover no pixel (1): shape 1 of a.json' in capsys.readouterr().out


def test_images_without_a_file(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)])
    Image.new('RGB', SHAPE[::-1]).save(tmp_path / 'photos/clean.PNG')
    run(convert, tmp_path)
    assert 'left out (1): clean.PNG. `--unannotated background`' in capsys.readouterr().out
    run(convert, tmp_path, '--unannotated', 'background', '--overwrite')
    assert [bool(label_map.any()) for label_map in label_maps(tmp_path)] == [True, False]


@pytest.mark.parametrize(
    ('shapes', 'more', 'message'),
    [
        (None, {}, "without LabelMe's `shapes` and `imagePath` (1): b.json"),
        ([], {'imagePath': 7}, "without LabelMe's"),
        ([], {'imageHeight': 'tall'}, "imageHeight and imageWidth (1): b.json (['tall', 80])"),
        ([], {'imageHeight': 600}, 'b.jpg (80 x 60, annotated as 80 x 600)'),
        ([], {'imagePath': 'a.jpg'}, 'Pairs of files for one image'),
        ([3], {}, 'Shapes without a label (1): shape 1 of b.json'),
        ([shape_of('polygon', TRIANGLE, label=None)], {}, 'without a label'),
        ([shape_of('cuboid', TRIANGLE)], {}, "shape 1 of b.json ('cuboid')"),
        ([shape_of('polygon', [[1, 2], [3, 4], 5])], {}, 'no list of [x, y]'),
        ([shape_of('polygon', [[1, 2], [3, 4], [5, None]])], {}, 'no list of [x, y]'),
        ([shape_of('polygon', [[1, 2], [3, 4], [5, float('nan')]])], {}, 'no pixel of any picture'),
        ([shape_of('polygon', [[1, 2], [3, 4], [5, 10**400]])], {}, 'no list of [x, y]'),
        ([shape_of('circle', TRIANGLE)], {}, 'circle with a wrong number of points (1): shape 1 of b.json (3)'),
        ([shape_of('mask', [[1, 1], [9, 9]])], {}, 'no PNG image in base64'),
        ([shape_of('mask', [[1, 1], [9, 9]], mask='xyz')], {}, 'no PNG image in base64'),
        ([shape_of('mask', [[1, 1], [9, 9]], mask=encoded(np.zeros((9, 9), np.uint8))[:60])], {}, 'no PNG image'),
        ([shape_of('circle', [[40, 30], [400, 30]])], {}, 'far outside'),
    ],
)
def test_fault_is_named_and_nothing_written(convert, tmp_path, capsys, shapes, more, message):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)])
    annotate(tmp_path / 'photos', shapes, 'b', **more)
    error = error_of(convert, tmp_path, capsys)
    assert message in error
    assert 'Nothing was written' in error


def test_all_faults_are_told_at_once_and_corrected_files_convert(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)])
    for name in 'bcdef':
        annotate(tmp_path / 'photos/more', [shape_of('rectangle', [[1, 1], [9, 9]])], name)
    (tmp_path / 'photos/broken.json').write_text('{')
    annotate(tmp_path / 'photos', [], 'lost')
    (tmp_path / 'photos/lost.jpg').unlink()
    (tmp_path / 'photos/a.jpg').write_bytes(b'no image')
    error = error_of(convert, tmp_path, capsys)
    assert 'faults of 4 kinds, nothing was written' in error
    assert 'boxes (5): shape 1 of b.json, shape 1 of c.json, shape 1 of d.json and 2 more' in error
    assert 'broken.json is no JSON' in error
    assert 'lost.jpg of lost.json' in error
    assert 'a.jpg is no image' in error
    for name in ('broken', 'lost'):
        (tmp_path / f'photos/{name}.json').unlink()
    Image.new('RGB', SHAPE[::-1]).save(tmp_path / 'photos/a.jpg')
    run(convert, tmp_path, '--boxes', 'fill')
    assert all(label_map.any() for label_map in label_maps(tmp_path))


def test_a_class_named_twice_is_a_fault(convert, tmp_path, capsys):
    annotate(tmp_path / 'photos', [shape_of('polygon', TRIANGLE)])
    message = error_of(convert, tmp_path, capsys, '--classes', 'crack', 'spall', 'crack')
    assert 'named twice (1): crack. Name each class once.' in message


def test_nothing_to_convert(convert, tmp_path, capsys):
    (tmp_path / 'photos').mkdir()
    assert 'no .json file in' in error_of(convert, tmp_path, capsys)
    (tmp_path / 'photos/a.xml').touch()
    assert 'as CVAT exports them' in error_of(convert, tmp_path, capsys)
    annotate(tmp_path / 'photos', [])
    assert 'Classes (1): none' in error_of(convert, tmp_path, capsys)
    run(convert, tmp_path, '--classes', 'crack')
    assert not label_maps(tmp_path)[0].any()
