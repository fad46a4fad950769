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


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'bmp', 'tif', 'webp'])
def test_damaged_masks_are_named(tmp_path, mask, suffix):
    """Cut short, or with wrong bytes in the header: a mask or a ``LabelError``, nothing else."""
    path = tmp_path / f'a.{suffix}'
    content = cv2.imencode(f'.{suffix}', mask * 255)[1].tobytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(8, 60)] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged))])
        try:
            read_mask(path)
        except LabelError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 30


def test_masks_whatever_the_names_of_polygons_are(images, mask):
    (root_of(images) / 'data.yaml').write_text('names: [background, Riss]')
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', pipeline=PIPELINE)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], mask)


@pytest.mark.parametrize('suffix', ['bmp', 'TIF', 'webp', 'jpg'])
def test_masks_of_other_formats(images, mask, suffix):
    for path in masks_of(images).iterdir():
        path.unlink()
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == 'webp' else []
    soft = cv2.resize(mask * 255, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(masks_of(images) / f'a.{suffix}'), soft, options)
    cv2.imwrite(str(images / 'a.jpg'), soft)
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', mask_threshold=127, pipeline=PIPELINE)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], soft > 127)
    if suffix == 'jpg':
        with pytest.raises(LabelError, match=r'a\.jpg has the values .* mask_threshold=127'):
            YOLOCrackDataset(root_of(images), annotations='masks', pipeline=PIPELINE)[0]


def test_two_masks_of_an_image_are_an_error(images, mask):
    cv2.imwrite(str(masks_of(images) / 'a.bmp'), mask * 255)
    with pytest.raises(ValueError, match=r'a\.bmp and .*a\.png would both be the mask of a'):
        YOLOCrackDataset(root_of(images), annotations='masks')


def test_mask_suffix(images, mask):
    for path in masks_of(images).iterdir():
        path.rename(path.with_name(f'{path.stem}_mask.png'))
    with pytest.raises(FileNotFoundError, match=r'none of the 3 images has a label, .*a_mask\.png.*mask_suffix'):
        YOLOCrackDataset(root_of(images), annotations='masks')
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', mask_suffix='_mask', pipeline=PIPELINE)
    np.testing.assert_array_equal([sample['gt_seg_map'] for sample in dataset], [mask, mask, 0 * mask])
    with pytest.raises(FileNotFoundError, match='1 of 3 images have no label file'):
        YOLOCrackDataset(root_of(images), annotations='masks', mask_suffix='_mask', missing_label='error')


@pytest.mark.parametrize('folder', ['traincrop', 'images'])
@pytest.mark.parametrize('mask_suffix', ['', '_mask'])
def test_masks_beside_the_images(tmp_path, mask, folder, mask_suffix):
    """``NAME.jpg`` and ``NAME.png``, or ``NAME_mask.png``, in one folder."""
    place = tmp_path / folder
    place.mkdir()
    for name in ('a', 'b.c'):
        cv2.imwrite(str(place / f'{name}.jpg'), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(place / f'a{mask_suffix}.png'), mask * 255)
    (tmp_path / 'data.yaml').write_text(f'train: {folder}')
    options = {'annotations': 'masks', 'mask_suffix': mask_suffix}
    dataset = YOLOCrackDataset(tmp_path, pipeline=PIPELINE, **options)
    assert [Path(sample['img_path']).name for sample in dataset] == ['a.jpg', 'b.c.jpg']
    np.testing.assert_array_equal([sample['gt_seg_map'] for sample in dataset], [mask, 0 * mask])

    (tmp_path / 'list.txt').write_text(f'{folder}/a.jpg')
    (tmp_path / 'data.yaml').write_text('train: list.txt')
    (sample,) = YOLOCrackDataset(tmp_path, pipeline=PIPELINE, **options)
    np.testing.assert_array_equal(sample['gt_seg_map'], mask)


def test_foreground_that_a_threshold_would_empty_is_an_error(images):
    dataset = YOLOCrackDataset(root_of(images), annotations='masks', mask_threshold=127, pipeline=PIPELINE)
    assert dataset[0]['gt_seg_map'].any()
    with pytest.raises(LabelError, match=r'b\.png would lose its foreground.*Masks of 0 and 1 are read without'):
        dataset[1]
    opened, _ = open_split(root_of(images), 'train', annotations='masks', mask_threshold=127)
    faults = [problem.text for _, problems in inspect_samples(opened) for problem in problems]
    assert len(faults) == 1
    assert 'b.png would lose its foreground' in faults[0]


@pytest.mark.filterwarnings('error')
@pytest.mark.slow
def test_mask_of_200_megapixels(tmp_path):
    mask = np.zeros((10_000, 20_000), np.uint8)
    mask[5, 7] = 255
    cv2.imwrite(str(tmp_path / 'a.png'), mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert np.argwhere(read_mask(tmp_path / 'a.png').foreground).tolist() == [[5, 7]]


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
        ({'mask_suffix': '_mask'}, "are for annotations='masks'"),
        ({'mask_threshold': 0}, "are for annotations='masks'"),
        ({'annotations': 'masks', 'mask_threshold': 255}, 'thresholds from 0 to 254'),
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
