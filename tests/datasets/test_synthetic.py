"""Synthetic pictures: the label is the mask, the same request is the same files, pictures show what they say."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from crack_plugin.datasets.polygons import parse_labels, rasterize
from crack_plugin.datasets.synthetic import Request, draw, draw_item, write_dataset

SIZE = (96, 128)
SURFACES = ('concrete', 'asphalt', 'masonry')
DEFECTS = ('crack', 'spalling', 'rust stain')


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)


@pytest.fixture(scope='module')
def three_classes(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic') / 'data'
    request = Request(9, 3, SIZE, SURFACES, DEFECTS, 3, 0.25, (0.5, 1.5))
    write_dataset(root, 9, 3, SIZE, SURFACES, DEFECTS, 3, 0.25, (0.5, 1.5))
    return root, request


@pytest.mark.parametrize('surface', SURFACES)
@pytest.mark.parametrize('size', [(336, 336), (96, 128), (33, 50)])
def test_polygons_give_the_mask_pixel_for_pixel(surface, size):
    for seed in range(3):
        picture = draw(np.random.default_rng(seed), size, surface, DEFECTS)
        assert picture.image.shape == (*size, 3) and picture.image.dtype == np.uint8
        assert picture.mask.shape == size and picture.mask.dtype == np.uint8
        np.testing.assert_array_equal(rasterize(picture.polygons, size), picture.mask)


def test_network_with_holes_keeps_them():
    # Seeds are searched for a picture whose mask encloses background, as alligator cracking does.
    for seed in range(200):
        picture = draw(np.random.default_rng(seed), (160, 160))
        hierarchy = cv2.findContours(picture.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[1]
        if hierarchy is not None and (hierarchy[0, :, 3] >= 0).sum() > 5:
            break
    else:
        pytest.fail('no crack network within 200 pictures')
    np.testing.assert_array_equal(rasterize(picture.polygons, (160, 160)), picture.mask)


def test_chance_comes_from_the_generator_alone():
    first, again, other = (draw(np.random.default_rng(seed), SIZE, 'asphalt', DEFECTS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.image != other.image).any()


@pytest.mark.parametrize('class_id, name', enumerate(DEFECTS))
def test_one_defect_is_always_shown_under_its_id(class_id, name):
    order = tuple(np.roll(DEFECTS, -class_id))
    for seed in range(10):
        alone = draw(np.random.default_rng(seed), SIZE, defects=(name,))
        assert {polygon.class_id for polygon in alone.polygons} == {0}
        assert draw(np.random.default_rng(seed), SIZE, defects=order).mask.any()
    seen = {p.class_id for seed in range(15) for p in draw(np.random.default_rng(seed), SIZE, defects=order).polygons}
    assert seen == {0, 1, 2}


def test_no_defect_asked_for_is_an_empty_label():
    picture = draw(np.random.default_rng(0), SIZE, defects=())
    assert not picture.polygons and not picture.mask.any()


@pytest.mark.parametrize('surface', SURFACES)
def test_cracks_are_darker_than_what_surrounds_them(surface):
    differences = []
    for seed in range(30):
        image, _, mask = draw(np.random.default_rng(seed), (96, 96), surface, label_margin=0)
        crack = mask > 0
        around = cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0
        differences.append(grey(image)[around & ~crack].mean() - grey(image)[crack].mean())
    assert np.mean(differences) > 10
    # About one in twelve is pale.
    assert np.mean(np.array(differences) > 0) > 0.75


def test_rust_is_redder_than_what_surrounds_it():
    ratios = []
    for seed in range(10):
        image, _, mask = draw(np.random.default_rng(seed), SIZE, defects=('rust stain',))
        blue, red = image[..., 0].astype(float), image[..., 2].astype(float)
        stain = mask > 0
        ratios.append(red[stain].mean() / blue[stain].mean() / (red[~stain].mean() / blue[~stain].mean()))
    # Compression takes the colour of the smallest.
    assert np.median(ratios) > 1.2 and np.mean(np.array(ratios) > 1.05) >= 0.8


def test_label_margin_widens_the_label_and_leaves_the_picture():
    narrow, wide = (draw(np.random.default_rng(5), (128, 128), label_margin=margin) for margin in (0, 3))
    np.testing.assert_array_equal(narrow.image, wide.image)
    assert (wide.mask[narrow.mask > 0] > 0).all()
    # At the picture's edge a label can belong to a crack just outside.
    added = (wide.mask > 0)[8:-8, 8:-8]
    distance = cv2.distanceTransform((narrow.mask == 0).astype(np.uint8), cv2.DIST_L2, 5)[8:-8, 8:-8][added]
    # The edges of wide cracks are broken, and the label's with them.
    assert distance.max() >= 2 and np.quantile(distance, 0.95) <= 4.5


def test_surfaces_differ():
    def statistics(surface: str) -> np.ndarray:
        pictures = [
            draw(np.random.default_rng(seed), (96, 96), surface, ('joint',), negative=True) for seed in range(25)
        ]
        return np.mean([[p.image.mean(), (p.mask > 0).mean()] for p in pictures], axis=0)

    concrete, asphalt, masonry = (statistics(surface) for surface in SURFACES)
    assert concrete[0] > asphalt[0] + 3
    assert masonry[1] > concrete[1] + 0.1


def test_written_files_read_back_as_drawn(three_classes):
    root, request = three_classes
    assert yaml.safe_load((root / 'data.yaml').read_text()) == {
        'train': 'train/images',
        'val': 'valid/images',
        'nc': 3,
        'names': list(DEFECTS),
    }
    for split, count in (('train', 9), ('valid', 3)):
        images = sorted((root / split / 'images').iterdir())
        assert len(images) == count
        for index, path in enumerate(images):
            picture = draw_item(request, split, index)
            label = (root / split / 'labels' / path.name).with_suffix('.txt')
            polygons = parse_labels(label.read_bytes(), SIZE, DEFECTS)
            np.testing.assert_array_equal(rasterize(polygons, SIZE), picture.mask)
            read = cv2.imread(str(path))
            # JPEG at quality 95 changes single pixels, not the picture.
            assert np.abs(read.astype(float) - picture.image).mean() < 4


def test_no_picture_occurs_twice(three_classes):
    contents = [content for name, content in files(three_classes[0]).items() if name.endswith('.jpg')]
    assert len(set(contents)) == len(contents) == 12


def test_share_of_negatives_is_exact(tmp_path):
    write_dataset(tmp_path / 'data', 20, 5, (32, 32), negative_share=0.2)
    empty = {
        s: sum(not p.read_text() for p in (tmp_path / 'data' / s / 'labels').iterdir()) for s in ('train', 'valid')
    }
    assert empty == {'train': 4, 'valid': 1}


def test_same_request_is_same_bytes_and_is_not_drawn_again(tmp_path):
    arguments = {'n_train': 4, 'n_valid': 2, 'size': (48, 48), 'seed': 7}
    assert write_dataset(tmp_path / 'a', **arguments)
    assert write_dataset(tmp_path / 'b', **arguments)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'a').rglob('*')}
    assert not write_dataset(tmp_path / 'a', **arguments)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'a').rglob('*')}
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'b'}


@pytest.mark.slow
def test_number_of_processes_does_not_matter(tmp_path):
    write_dataset(tmp_path / 'one', 6, 2, (48, 48))
    write_dataset(tmp_path / 'two', 6, 2, (48, 48), workers=2)
    assert files(tmp_path / 'one') == files(tmp_path / 'two')


def test_existing_folder_is_refused_and_kept(tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    assert write_dataset(foreign / 'new', 1, 0, (32, 32))
    with pytest.raises(FileExistsError, match=r'foreign is not empty and not a synthetic dataset.*Name another folder'):
        write_dataset(foreign, 1, 0, (32, 32))
    with pytest.raises(FileExistsError, match='another request'):
        write_dataset(foreign / 'new', 1, 0, (32, 32), seed=1)
    (foreign / 'new' / 'train' / 'labels' / '000000.txt').unlink()
    with pytest.raises(FileExistsError, match=r'holds 0 \.txt files, 1 were written'):
        write_dataset(foreign / 'new', 1, 0, (32, 32))
    assert (foreign / 'new' / 'train' / 'images' / '000000.jpg').is_file()


def test_empty_folder_is_filled(tmp_path):
    assert write_dataset(tmp_path, 1, 0, (32, 32))
    assert (tmp_path / 'synthetic.json').is_file()


@pytest.mark.parametrize(
    'change, message',
    [
        ({'surfaces': 'marble'}, "unknown surface 'marble': choose from concrete, asphalt, masonry"),
        ({'surfaces': ()}, 'no surface named'),
        ({'defects': ('hole',)}, "any of 'crack', 'spalling', 'rust stain', 'lane marking', 'joint', each once"),
        ({'defects': ('crack', 'crack')}, 'each once'),
        ({'defects': ()}, 'no defect named'),
        ({'size': (16, 64)}, 'at least 32 pixels'),
        ({'n_train': 0, 'n_valid': 0}, 'at least one picture'),
        ({'negative_share': 1.5}, 'from 0 to 1'),
        ({'label_margin': (2, 1)}, 'lower bound first'),
        ({'seed': -1}, 'from 0'),
        ({'workers': 0}, 'at least one process'),
        ({'size': (64, 64), 'max_size': (48, 96)}, r'max_size=\(48, 96\).*at least those of size=\(64, 64\)'),
    ],
)
def test_bad_request_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / 'data', **{'n_train': 1, 'n_valid': 1, **change})
    assert not (tmp_path / 'data').exists()
