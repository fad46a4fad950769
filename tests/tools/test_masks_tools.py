"""`tools/prepare_masks.py` and `tools/convert_masks_to_yolo.py`."""

import runpy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[2] / 'tools'
CRACKFOREST = Path(__file__).parents[3] / 'shared' / 'data' / 'crackforest'


@pytest.fixture
def prepare_masks(monkeypatch) -> Callable:
    monkeypatch.syspath_prepend(TOOLS)
    return runpy.run_path(str(TOOLS / 'prepare_masks.py'))['main']


@pytest.fixture
def convert_masks() -> Callable:
    return runpy.run_path(str(TOOLS / 'convert_masks_to_yolo.py'))['main']


@pytest.fixture
def masks(tmp_path) -> Path:
    """Two masks with holes, specks and an irregular edge, and an empty one."""
    folder = tmp_path / 'masks'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, density in (('a', 0.4), ('b', 0.9), ('empty', 0)):
        cv2.imwrite(str(folder / f'{name}.png'), (rng.random((30, 41)) < density).astype(np.uint8) * 255)
    return folder


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def run_to_error(tool: Callable, *arguments: object, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        tool([str(argument) for argument in arguments])
    assert stop.value.code
    return capsys.readouterr().err


def test_masks_survive_both_tools(masks, tmp_path, prepare_masks, convert_masks):
    data = tmp_path / 'data'
    convert_masks([str(masks), str(data / 'train' / 'labels')])
    assert (data / 'train' / 'labels' / 'empty.txt').read_text() == ''
    (data / 'train' / 'images').mkdir()
    for mask in masks.iterdir():
        Image.new('RGB', (41, 30)).save(data / 'train' / 'images' / f'{mask.stem}.jpg')
    prepare_masks([str(data), str(tmp_path / 'out'), '--splits', 'train'])
    written = sorted((tmp_path / 'out' / 'train').iterdir())
    assert [path.name for path in written] == ['a.png', 'b.png', 'empty.png']
    for path in written:
        np.testing.assert_array_equal(read(path), read(masks / path.name))


@pytest.mark.skipif(not CRACKFOREST.is_dir(), reason='needs the CrackForest photographs')
def test_crackforest_masks(tmp_path, prepare_masks):
    prepare_masks([str(CRACKFOREST), str(tmp_path), '--splits', 'train'])
    expected = sorted((CRACKFOREST / 'train' / 'masks').iterdir())
    assert [path.name for path in sorted((tmp_path / 'train').iterdir())] == [path.name for path in expected]
    for path in expected:
        np.testing.assert_array_equal(read(tmp_path / 'train' / path.name), read(path))


@pytest.fixture
def data(tmp_path) -> Path:
    """Two splits of one 8 x 8 image each, with a class for the left and one for the right half."""
    root = tmp_path / 'data'
    for split in ('train', 'valid'):
        for kind in ('images', 'labels'):
            (root / split / kind).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(root / split / 'images' / 'a.png')
        (root / split / 'labels' / 'a.txt').write_text('0 0 0 0.3 0 0.3 1 0 1\n1 0.5 0 1 0 1 1 0.5 1\n')
    (root / 'data.yaml').write_text('train: ../train/images\nval: ../valid/images\nnames: [Crack, joint]\n')
    return root


def test_both_splits_and_selected_classes(data, tmp_path, prepare_masks):
    prepare_masks([str(data), str(tmp_path / 'all'), '--classes', 'Crack', 'joint'])
    prepare_masks([str(data), str(tmp_path / 'crack'), '--class-map', 'joint=None'])
    for split in ('train', 'val'):
        assert read(tmp_path / 'all' / split / 'a.png')[0].tolist() == [255] * 3 + [0] + [255] * 4
        assert read(tmp_path / 'crack' / split / 'a.png')[0].tolist() == [255] * 3 + [0] * 5


def test_masks_are_only_replaced_when_asked(data, tmp_path, prepare_masks, capsys):
    arguments = [data, tmp_path / 'out', '--splits', 'train', '--class-map', 'joint=None']
    target = tmp_path / 'out' / 'train' / 'a.png'
    target.parent.mkdir(parents=True)
    target.write_bytes(b'mine')
    assert f'1 of the masks exist, {target} for one' in run_to_error(prepare_masks, *arguments, capsys=capsys)
    assert target.read_bytes() == b'mine'
    prepare_masks([*map(str, arguments), '--overwrite'])
    assert read(target).shape == (8, 8)
    assert list(target.parent.iterdir()) == [target]


def test_two_images_of_one_name(data, tmp_path, prepare_masks, capsys):
    Image.new('RGB', (8, 8)).save(data / 'train' / 'images' / 'a.jpg')
    message = run_to_error(
        prepare_masks, data, tmp_path / 'out', '--splits', 'train', '--class-map', 'joint=None', capsys=capsys
    )
    assert 'a.jpg and ' in message
    assert 'would both become' in message
    assert not (tmp_path / 'out').exists()


def test_faulty_label_is_one_paragraph(data, tmp_path, prepare_masks, capsys):
    (data / 'train' / 'labels' / 'a.txt').write_text('0 0.5 0.5 x')
    message = run_to_error(
        prepare_masks, data, tmp_path / 'out', '--splits', 'train', '--class-map', 'joint=None', capsys=capsys
    )
    assert 'Traceback' not in message
    assert f"{data}/train/labels/a.txt, line 1: value 4 is 'x'" in message


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB'])
def test_spellings_of_a_mask(tmp_path, convert_masks, mode):
    values = np.zeros((4, 6), np.uint8)
    values[1:3, 2:5] = 1
    images = {
        '1': Image.fromarray(values.astype(bool)),
        'L': Image.fromarray(values),
        'P': Image.fromarray(values).convert('P'),
        'RGB': Image.fromarray(np.repeat(values[..., None] * 255, 3, axis=2)),
    }
    assert images[mode].mode == mode
    (tmp_path / 'in').mkdir()
    images[mode].save(tmp_path / 'in' / 'a.png')
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out'), '--class-id', '2'])
    class_id, *coordinates = (tmp_path / 'out' / 'a.txt').read_text().split()
    assert class_id == '2'
    points = np.array(coordinates, float).reshape(-1, 2) * (6, 4)
    assert sorted(np.rint(points).tolist()) == [[2, 1], [2, 2], [4, 1], [4, 2]]


def test_grey_values_need_a_threshold(masks, tmp_path, convert_masks, capsys):
    grey = np.array([[0, 100, 128], [255, 127, 0]], np.uint8)
    cv2.imwrite(str(masks / 'a.png'), grey)
    message = run_to_error(convert_masks, masks, tmp_path / 'out', capsys=capsys)
    assert 'a.png has the values 0, 100, 127, 128, 255' in message
    assert '--threshold' in message
    convert_masks([str(masks), str(tmp_path / 'out'), '--threshold', '127', '--overwrite'])
    assert len((tmp_path / 'out' / 'a.txt').read_text().splitlines()) == 2


def test_files_that_are_no_masks(masks, tmp_path, convert_masks, capsys):
    (masks / 'a.png').write_bytes(b'no image')
    assert 'a.png cannot be read as an image' in run_to_error(convert_masks, masks, tmp_path / 'out', capsys=capsys)
    cv2.imwrite(str(masks / 'a.png'), np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    assert 'a.png is a colour image' in run_to_error(convert_masks, masks, tmp_path / 'out', capsys=capsys)
    assert 'no .png in ' in run_to_error(convert_masks, tmp_path / 'out', tmp_path / 'o', capsys=capsys)
    assert 'is no folder' in run_to_error(convert_masks, tmp_path / 'nowhere', tmp_path / 'o', capsys=capsys)


def test_labels_are_only_replaced_when_asked(masks, tmp_path, convert_masks, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'b.txt').write_text('mine')
    assert f'1 of the labels exist, {out}/b.txt' in run_to_error(convert_masks, masks, out, capsys=capsys)
    assert (out / 'b.txt').read_text() == 'mine'
    convert_masks([str(masks), str(out), '--overwrite'])
    assert (out / 'b.txt').read_text().startswith('0 ')
    assert sorted(path.name for path in out.iterdir()) == ['a.txt', 'b.txt', 'empty.txt']
