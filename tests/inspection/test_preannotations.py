"""Predictions as annotations: whatever tool they go through, the mask that is read back is the same."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from crack_plugin.datasets.data_yaml import read_data_yaml
from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.photographs import LoadPhotograph
from crack_plugin.datasets.polygons import parse_labels, rasterize
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.inspection.bands import Band, Crack, find_cracks
from crack_plugin.inspection.preannotations import Annotated, PreannotationError, write_preannotations

NAMES = ['crack', 'spalling & rust']


def label_map(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Blobs with holes, lines of a pixel and specks, of two classes."""
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 2)
    labels = np.where(soft > 0.15, 1 + (cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 6) > 0), 0)
    labels[5, 3:40] = 1
    labels[range(20, 40), range(10, 30)] = 2
    labels[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
    return labels.astype(np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> dict[str, np.ndarray]:
    """Label maps by the names of photographs, of which one is in a subfolder and has the file name of another."""
    maps = {
        'a': label_map(0),
        'pier 2/a': label_map(1),
        'pier 2/ü': label_map(2),
        'empty': np.zeros((48, 64), np.uint8),
    }
    for name, labels in maps.items():
        path = tmp_path / 'site' / f'{name}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*labels.shape, 3), 128, np.uint8))
    return maps


def annotated(folder: Path, maps: dict[str, np.ndarray]) -> Iterator[Annotated]:
    for number, (name, labels) in enumerate(maps.items()):
        cracks = [Crack(crack.label, crack.runs, 0.75) for crack in find_cracks([Band(labels)])]
        yield Annotated(folder / f'{name}.jpg', name, labels, cracks, 0.1 * number)


def read(dataset: Path, split: str = 'train') -> dict[str, np.ndarray]:
    """Label maps as a training reads them, by the name of the image below the folder of images."""
    pipeline = [LoadPhotograph(), LoadYOLOPolygons()]
    found = YOLOCrackDataset(str(dataset), split, classes=NAMES, pipeline=pipeline, serialize_data=False)
    return {re.sub(r'.*/images/(train/)?|\.jpg$', '', sample['img_path']): sample['gt_seg_map'] for sample in found}


def assert_same(found: dict[str, np.ndarray], maps: dict[str, np.ndarray]) -> None:
    assert found.keys() == maps.keys()
    for name, labels in maps.items():
        np.testing.assert_array_equal(found[name], labels, err_msg=name)


def test_yolo_trains_at_once(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['yolo'], NAMES, overwrite=False)
    assert read_data_yaml(tmp_path / 'labels' / 'yolo').names == NAMES
    assert_same(read(tmp_path / 'labels' / 'yolo'), photographs)


def test_labels_that_were_corrected_are_not_overwritten(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    def write(overwrite: bool) -> None:
        write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['yolo'], NAMES, overwrite)

    write(False)
    write(False)
    label = tmp_path / 'labels' / 'yolo' / 'labels' / 'train' / 'pier 2' / 'a.txt'
    label.write_text('0 0.1 0.1 0.5 0.1 0.5 0.5\n')
    with pytest.raises(PreannotationError, match=r'pier 2/a\.txt was changed since it was written'):
        write(False)
    assert label.read_text() == '0 0.1 0.1 0.5 0.1 0.5 0.5\n'
    write(True)
    assert_same(read(tmp_path / 'labels' / 'yolo'), photographs)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('coco', 'coco/annotations/instances_default.json'),
        ('labelstudio', 'labelstudio/tasks.json'),
        ('labelstudio', 'labelstudio/config.xml'),
    ],
)
def test_files_of_all_photographs_that_were_corrected(
    tmp_path: Path, photographs: dict[str, np.ndarray], kind: str, name: str
) -> None:
    def write(count: int, overwrite: bool = False) -> bytes:
        some = dict([*photographs.items()][:count])
        write_preannotations(annotated(tmp_path / 'site', some), tmp_path, [kind], NAMES, overwrite)
        return (tmp_path / 'labels' / name).read_bytes()

    first = write(2)
    # Further photographs change the file, and are no correction.
    whole = write(4)
    assert (first == whole) == name.endswith('xml')
    (tmp_path / 'labels' / name).write_bytes(b'corrected')
    with pytest.raises(PreannotationError, match=rf'{name} was changed since it was written. Move it away'):
        write(4)
    assert (tmp_path / 'labels' / name).read_bytes() == b'corrected'
    assert write(4, overwrite=True) == whole


def test_a_label_that_was_deleted_does_not_come_back(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    def write(overwrite: bool = False) -> None:
        write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['yolo'], NAMES, overwrite)

    write()
    labels = tmp_path / 'labels' / 'yolo' / 'labels' / 'train'
    (labels / 'empty.txt').unlink()
    write()
    (labels / 'a.txt').unlink()
    with pytest.raises(PreannotationError, match=r'a\.txt was deleted since it was written'):
        write()
    assert not (labels / 'a.txt').exists()
    write(overwrite=True)
    assert_same(read(tmp_path / 'labels' / 'yolo'), photographs)


def test_files_in_the_place_of_links(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    def write(overwrite: bool = False) -> None:
        write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['yolo'], NAMES, overwrite)

    write()
    link = tmp_path / 'labels' / 'yolo' / 'images' / 'train' / 'a.jpg'
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)
    write()
    assert not link.is_symlink()
    link.write_bytes(b'another')
    with pytest.raises(PreannotationError, match=r'images/train/a\.jpg is another picture'):
        write(overwrite=True)
    assert link.read_bytes() == b'another'


def test_overwritten_by_other_photographs(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    for names in (['a', 'empty'], ['pier 2/a']):
        some = {name: photographs[name] for name in names}
        write_preannotations(annotated(tmp_path / 'site', some), tmp_path, ['yolo'], NAMES, overwrite=True)
    assert (tmp_path / 'labels' / 'yolo' / 'train.txt').read_text().split('\n') == ['images/train/pier 2/a.jpg', '']
    assert (tmp_path / 'site' / 'a.jpg').is_file()


def test_coco_by_pycocotools_and_back(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    tools = pytest.importorskip('pycocotools.coco')
    from crack_plugin.datasets.coco import convert_coco

    del photographs['pier 2/a']  # a YOLO dataset that is converted has one folder
    write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['coco'], NAMES, overwrite=False)
    folder = tmp_path / 'labels' / 'coco'
    coco = tools.COCO(str(folder / 'annotations' / 'instances_default.json'))
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.zeros((image['height'], image['width']), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(annotation) > 0
            assert not labels[mask].any()
            labels[mask] = annotation['category_id']
            assert annotation['area'] == mask.sum()
            x, y, width, height = annotation['bbox']
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert annotation['score'] == 0.75
        np.testing.assert_array_equal(labels, photographs[image['file_name'].removesuffix('.jpg')])
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == NAMES
    convert_coco(folder / 'annotations' / 'instances_default.json', folder / 'images', tmp_path / 'converted')
    found = read(tmp_path / 'converted')
    assert_same(found, {Path(name).name: labels for name, labels in photographs.items()})


def test_labelstudio_by_its_yolo_export(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    (line,) = write_preannotations(
        annotated(tmp_path / 'site', photographs), tmp_path, ['labelstudio'], NAMES, overwrite=False
    )
    root = Path(line.rpartition('DOCUMENT_ROOT=')[2])
    folder = tmp_path / 'labels' / 'labelstudio'
    tasks = json.loads((folder / 'tasks.json').read_text())
    config = ElementTree.parse(folder / 'config.xml').getroot()
    (image_tag,), (label_tag,) = config.findall('Image'), config.findall('PolygonLabels')
    assert label_tag.get('toName') == image_tag.get('name')
    assert [label.get('value') for label in label_tag] == NAMES
    # Those that the model is least sure of come first.
    assert [task['data']['uncertainty'] for task in tasks] == pytest.approx([0.3, 0.2, 0.1, 0])
    found = {}
    for task in tasks:
        prefix, _, name = task['data'][image_tag.get('value').removeprefix('$')].partition('?d=')
        assert prefix == '/data/local-files/'
        image = root / unquote(name)
        height, width = cv2.imread(str(image)).shape[:2]
        (prediction,) = task['predictions']
        assert prediction['score'] == pytest.approx(1 - task['data']['uncertainty'])
        assert len({region['id'] for region in prediction['result']}) == len(prediction['result'])
        text = ''
        for region in prediction['result']:
            assert (region['from_name'], region['to_name']) == (label_tag.get('name'), image_tag.get('name'))
            assert (region['type'], region['image_rotation']) == ('polygonlabels', 0)
            assert (region['original_width'], region['original_height']) == (width, height)
            (label,) = region['value']['polygonlabels']
            points = np.array(region['value']['points'])
            assert points.min() >= 0 and points.max() <= 100
            # As Label Studio's converter writes YOLO: percent by 100.
            text += ' '.join(map(str, [NAMES.index(label), *(points / 100).ravel().tolist()])) + '\n'
        name = image.relative_to(tmp_path / 'site').with_suffix('').as_posix()
        found[name] = rasterize(parse_labels(text, (height, width)), (height, width))
    assert_same(found, photographs)


def test_a_photograph_that_is_gone(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    (tmp_path / 'site' / 'a.jpg').unlink()
    with pytest.raises(PreannotationError, match=r'a\.jpg is not there any more'):
        write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['yolo'], NAMES, overwrite=False)


def test_a_link_that_cannot_be_made(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    (tmp_path / 'labels').write_text('a file where a folder is wanted')
    with pytest.raises(PreannotationError, match='cannot be made'):
        write_preannotations(annotated(tmp_path / 'site', photographs), tmp_path, ['coco'], NAMES, overwrite=False)
