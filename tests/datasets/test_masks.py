from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile

from crack_plugin.datasets import LabelError, LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.inspection import inspect_samples, open_split
from crack_plugin.datasets.masks import read_mask

PIPELINE = [LoadImageFromFile(), LoadYOLOPolygons()]


@pytest.fixture
def mask() -> np.ndarray:
    """Noise with holes, 0 and 1."""
    return (np.random.default_rng(0).random((20, 30)) < 0.4).astype(np.uint8)


@pytest.fixture(params=['train/{}', '{}/train'])
def images(request, tmp_path, mask) -> Path:
    """Three images; a mask of 0 and 255, one of 0 and 1, none."""
    images, masks = (tmp_path / request.param.format(kind) for kind in ('images', 'masks'))
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for name in 'abc':
        cv2.imwrite(str(images / f'{name}.jpg'), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(masks / 'a.png'), mask * 255)
    cv2.imwrite(str(masks / 'b.png'), mask)
    return images


def masks_of(images: Path) -> Path:
    return Path(str(images).replace('images', 'masks'))


def root_of(images: Path) -> Path:
    return images.parents[1]


def test_masks_are_read_pixel_for_pixel(images, mask):
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', pipeline=PIPELINE)
    maps = [sample['gt_seg_map'] for sample in dataset]
    np.testing.assert_array_equal(maps[0], mask)
    np.testing.assert_array_equal(maps[1], mask)
    assert not maps[2].any()
    assert {label_map.dtype for label_map in maps} == {np.dtype(np.uint8)}


def test_missing_mask_can_be_an_error(images):
    with pytest.raises(FileNotFoundError, match='1 of 3 images have no label file'):
        YOLOCrackDataset(root_of(images), annotations='masks', missing_label='error')


def test_masks_are_taken_only_when_asked_for(images):
    with pytest.raises(FileNotFoundError, match='no folder of labels'):
        YOLOCrackDataset(root_of(images))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (np.full((20, 30), 7, np.uint8), r'a\.png has the values 7'),
        (np.zeros((30, 20), np.uint8), r'a\.png is a mask of 20 x 30 pixels for an image of 30 x 20'),
        (b'', r'a\.png cannot be read'),
    ],
)
def test_faulty_mask_is_named(images, content, message):
    path = masks_of(images) / 'a.png'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        cv2.imwrite(str(path), content)
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', pipeline=PIPELINE)
    with pytest.raises(LabelError, match=message):
        dataset[0]


def test_masks_whatever_the_names_of_polygons_are(images, mask):
    (root_of(images) / 'data.yaml').write_text('names: [background, Riss]')
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', pipeline=PIPELINE)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], mask)


def test_masks_of_another_format_are_an_error(images, mask):
    for path in masks_of(images).iterdir():
        cv2.imwrite(str(path.with_suffix('.bmp')), mask * 255)
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'none of the 3 images has a label, .*a\.bmp, .*would be .*a\.png'):
        YOLOCrackDataset(root_of(images), annotations='masks')


@pytest.mark.filterwarnings('error')
@pytest.mark.slow
def test_mask_of_200_megapixels(tmp_path):
    mask = np.zeros((10_000, 20_000), np.uint8)
    mask[5, 7] = 255
    cv2.imwrite(str(tmp_path / 'a.png'), mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert np.argwhere(read_mask(tmp_path / 'a.png')).tolist() == [[5, 7]]


def test_check_reads_masks(images, mask):
    cv2.imwrite(str(masks_of(images) / 'b.png'), np.full((20, 30), 7, np.uint8))
    dataset, problems = open_split(root_of(images), 'train', annotations='masks')
    results = list(inspect_samples(dataset))
    assert ['no label file' in problem.text for problem in problems] == [True]
    assert results[0][0].foreground == pytest.approx(mask.mean())
    assert [problem.severity for problem in results[1][1]] == ['error']
    assert 'b.png has the values 7' in results[1][1][0].text


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'annotations': 'boxes'}, "annotations='boxes' is not known"),
        ({'annotations': 'masks', 'classes': ('crack', 'rust')}, 'has one class'),
        ({'annotations': 'masks', 'class_map': {'a': 'crack'}}, 'has one class'),
    ],
)
def test_faulty_options(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOCrackDataset('nowhere', lazy_init=True, **options)


def test_masks_need_a_folder_of_images(tmp_path):
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures/a.jpg').touch()
    (tmp_path / 'data.yaml').write_text('train: pictures')
    with pytest.raises(ValueError, match='is in none of that name'):
        YOLOCrackDataset(tmp_path, annotations='masks')
