"""`tools/prepare_masks.py` and `tools/convert_masks_to_yolo.py`."""

import runpy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from crack_plugin.datasets.masks import read_mask
from crack_plugin.datasets.polygons import parse_labels, rasterize

TOOLS = Path(__file__).parents[2] / 'tools'
DEEPCRACK = Path(__file__).parents[3] / 'shared' / 'data' / 'deepcrack'
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
    message = run_to_error(convert_masks, masks, tmp_path / 'out', '--overwrite', capsys=capsys)
    assert 'a.png is a colour image' in message
    (tmp_path / 'none').mkdir()
    assert 'no mask (.png, ' in run_to_error(convert_masks, tmp_path / 'none', tmp_path / 'o', capsys=capsys)
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


def spelled(mask: np.ndarray) -> dict[str, Image.Image]:
    """One mask as programs save it; each shows white on black, but for the two last, in colour and dark."""
    grey, zero_one, zero = Image.fromarray(mask * 255), Image.fromarray(mask), 0 * mask
    palettes = {
        'black and white palette': [0, 0, 0, 255, 255, 255],
        'class colour palette': [0, 0, 0, 250, 50, 83],
        'dark class colour palette': [0, 0, 0, 128, 0, 0],
    }
    images = {
        '0 and 255': grey,
        'two levels': grey.convert('1'),
        'RGB': grey.convert('RGB'),
        'RGBA': grey.convert('RGBA'),
        'LA': grey.convert('LA'),
        'transparent background': Image.fromarray(np.dstack([255 + zero, mask * 255])),
        '16 bits': Image.fromarray(mask.astype(np.uint16) * 65535),
        '16 bits, 0 and 255': Image.fromarray(mask.astype(np.uint16) * 255),
        'red': Image.fromarray(np.dstack([mask * 255, zero, zero])),
        'CMYK': grey.convert('CMYK'),
        'float': Image.fromarray(mask.astype(np.float32)),
    }
    for name, colors in palettes.items():
        images[name] = zero_one.copy()
        images[name].putpalette(colors)
    return images


SPELLED = list(spelled(np.zeros((2, 2), np.uint8)))


@pytest.mark.parametrize('threshold', [None, 127])
@pytest.mark.parametrize('name', SPELLED)
def test_what_is_displayed_counts_with_and_without_threshold(tmp_path, convert_masks, name, threshold):
    mask = (np.random.default_rng(1).random((20, 30)) < 0.3).astype(np.uint8)
    (tmp_path / 'in').mkdir()
    suffix = 'tif' if name in ('float', 'CMYK') else 'png'
    spelled(mask)[name].save(tmp_path / 'in' / f'a.{suffix}')
    options = [] if threshold is None else ['--threshold', str(threshold)]
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out'), *options])
    np.testing.assert_array_equal(label_map(tmp_path / 'out' / 'a.txt', mask.shape), mask)


@pytest.mark.parametrize('suffix', ['bmp', 'tif', 'tiff', 'webp', 'PNG', 'jpg', 'JPEG', 'jfif'])
def test_formats_of_masks(tmp_path, convert_masks, suffix):
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 8:40] = 1
    (tmp_path / 'in').mkdir()
    is_jpeg = suffix.lower() in ('jpg', 'jpeg', 'jfif')
    options = {'lossless': True} if suffix == 'webp' else {'quality': 100, 'format': 'JPEG'} if is_jpeg else {}
    Image.fromarray(mask * 255).save(tmp_path / 'in' / f'a.{suffix}', **options)
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out'), *(['--threshold', '127'] if is_jpeg else [])])
    np.testing.assert_array_equal(label_map(tmp_path / 'out' / 'a.txt', mask.shape), mask)


def label_map(label: Path, shape: tuple[int, int]) -> np.ndarray:
    return rasterize(parse_labels(label.read_bytes(), shape, source=str(label)), shape)


@pytest.mark.parametrize('colors', [2, 16, 256])
def test_indexed_bmp_with_a_short_palette(tmp_path, colors):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:8, 3:25] = colors - 1
    picture = Image.fromarray(mask).convert('P')
    picture.putpalette(np.repeat(np.linspace(0, 255, colors).astype(np.uint8), 3).tobytes())
    picture.save(tmp_path / 'a.bmp')
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.bmp').foreground, mask > 0)


def test_big_tiff(tmp_path):
    mask = np.eye(20, dtype=np.uint8)
    tifffile.imwrite(tmp_path / 'a.tif', 255 * mask, bigtiff=True)
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.tif').foreground, mask > 0)


def test_soft_edges_ask_for_a_threshold(tmp_path, convert_masks, capsys):
    (tmp_path / 'in').mkdir()
    mask = np.zeros((32, 48), np.uint8)
    cv2.line(mask, (3, 3), (40, 25), 255, 3)
    Image.fromarray(mask).save(tmp_path / 'in' / 'grey.jpg', quality=75)
    Image.fromarray(np.dstack([cv2.blur(mask, (3, 3)), 0 * mask, 0 * mask])).save(tmp_path / 'in' / 'red.png')
    message = run_to_error(convert_masks, tmp_path / 'in', tmp_path / 'out', capsys=capsys)
    assert '2 of 2 masks could not be read' in message
    assert 'grey.jpg has the values 0, 1' in message
    assert 'red.png is a colour image with' in message
    assert message.count('--threshold 127') == 2
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out'), '--threshold', '127'])
    expected = np.asarray(Image.open(tmp_path / 'in' / 'grey.jpg')) > 127
    np.testing.assert_array_equal(label_map(tmp_path / 'out' / 'grey.txt', mask.shape), expected)
    assert 'red.png: foreground is where the brightest of red, green and blue is above 127' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('pixels', 'remedy'),
    [
        (np.eye(9, dtype=np.uint8), 'Masks of 0 and 1 are read without a threshold'),
        (np.eye(9, dtype=np.uint8) * 76, 'Take one below 76'),
        (np.eye(9, dtype=np.uint8)[..., None] * np.array([100, 0, 3], np.uint8), 'Take one below 100'),
    ],
)
def test_foreground_that_a_threshold_would_empty_is_an_error(tmp_path, convert_masks, capsys, pixels, remedy):
    (tmp_path / 'in').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'in' / 'a.png')
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / 'in' / 'b.png')
    message = run_to_error(
        convert_masks, tmp_path / 'in', tmp_path / 'out', '--threshold', 127, '--class-id', 1, capsys=capsys
    )
    assert '1 of 2 masks could not be read, the others are written' in message
    assert 'a.png would lose its foreground' in message
    assert remedy in message
    assert {path.name: path.read_text() for path in (tmp_path / 'out').iterdir()} == {'b.txt': ''}


def test_foreground_that_only_transparency_shows_is_an_error(tmp_path, convert_masks, capsys):
    (tmp_path / 'in').mkdir()
    alpha = np.eye(9, dtype=np.uint8) * 255
    Image.fromarray(np.dstack([0 * alpha, alpha])).save(tmp_path / 'in' / 'a.png')
    Image.fromarray(np.dstack([alpha, alpha, alpha, 0 * alpha])).save(tmp_path / 'in' / 'b.png')
    for options in ((), ('--threshold', 127)):
        message = run_to_error(convert_masks, tmp_path / 'in', tmp_path / 'out', *options, capsys=capsys)
        assert 'a.png is black where it is not transparent' in message
        assert 'b.png is black where it is not transparent' in message


def test_class_colours_are_told(tmp_path, convert_masks, capsys):
    """As CVAT's "segmentation mask" export has them."""
    (tmp_path / 'in').mkdir()
    pixels = np.zeros((9, 9, 3), np.uint8)
    pixels[:2], pixels[5:] = (250, 50, 83), (51, 221, 255)
    Image.fromarray(pixels).save(tmp_path / 'in' / 'a.png')
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out')])
    np.testing.assert_array_equal(label_map(tmp_path / 'out' / 'a.txt', (9, 9)), pixels.any(axis=2))
    out = capsys.readouterr().out
    assert 'every colour other than black is foreground (RGB (51, 221, 255), (250, 50, 83))' in out
    assert '1 masks are more than half foreground: a.png' in out
    pixels[~pixels.any(axis=2)] = 9
    Image.fromarray(pixels).save(tmp_path / 'in' / 'a.png')
    message = run_to_error(convert_masks, tmp_path / 'in', tmp_path / 'out', '--overwrite', capsys=capsys)
    assert 'a.png is a colour image without any black' in message


def test_masks_beside_photographs(tmp_path, convert_masks, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    mask = np.eye(9, dtype=np.uint8)
    for name in 'ab':
        cv2.imwrite(str(folder / f'{name}.jpg'), np.full((9, 9, 3), 90, np.uint8))
    cv2.imwrite(str(folder / 'a.png'), mask)
    convert_masks([str(folder), str(tmp_path / 'plain')])
    assert '2 files are taken for photographs, not masks: a.jpg, b.jpg' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'plain').iterdir()] == ['a.txt']

    (folder / 'a.png').rename(folder / 'a_mask.bmp')
    Image.fromarray(mask).save(folder / 'a_mask.bmp')
    convert_masks([str(folder), str(tmp_path / 'suffix'), '--mask-suffix', '_mask'])
    assert [path.name for path in (tmp_path / 'suffix').iterdir()] == ['a.txt']
    np.testing.assert_array_equal(label_map(tmp_path / 'suffix' / 'a.txt', (9, 9)), mask)

    Image.fromarray(mask).save(folder / 'a_mask.png')
    options = ('--mask-suffix', '_mask', '--overwrite')
    message = run_to_error(convert_masks, folder, tmp_path / 'suffix', *options, capsys=capsys)
    assert 'several files of one name, and which are the masks? a_mask.bmp, a_mask.png' in message


@pytest.mark.parametrize('threshold', [-1, 255])
def test_threshold_without_sense(masks, tmp_path, convert_masks, capsys, threshold):
    message = run_to_error(convert_masks, masks, tmp_path / 'o', '--threshold', threshold, capsys=capsys)
    assert 'thresholds from 0 to 254' in message


@pytest.mark.skipif(not DEEPCRACK.is_dir(), reason='needs the DeepCrack photographs')
def test_deepcrack_masks(tmp_path, convert_masks):
    (tmp_path / 'in').mkdir()
    masks = sorted((DEEPCRACK / 'valid' / 'masks').iterdir())[:10]
    for path in masks:
        (tmp_path / 'in' / path.name).symlink_to(path)
    convert_masks([str(tmp_path / 'in'), str(tmp_path / 'out')])
    for path in masks:
        expected = read(path) > 0
        np.testing.assert_array_equal(label_map(tmp_path / 'out' / f'{path.stem}.txt', expected.shape), expected)
