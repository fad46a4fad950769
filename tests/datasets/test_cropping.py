"""Crops that hold cracks."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS


def crop_many(labels: np.ndarray, count: int = 300, **arguments) -> list[dict]:
    np.random.seed(0)  # noqa: NPY002 - what MMSegmentation's transforms draw from
    transform = TRANSFORMS.build({'type': 'CrackRandomCrop', **arguments})
    image = np.stack([labels] * 3, axis=-1)
    return [transform({'img': image, 'gt_seg_map': labels, 'seg_fields': ['gt_seg_map']}) for _ in range(count)]


@pytest.fixture
def labels() -> np.ndarray:
    """A crack of 1 x 40 pixels in 300 x 400, and an ignored corner."""
    labels = np.zeros((300, 400), np.uint8)
    labels[150, 200:240] = 1
    labels[:60, :60] = 255
    return labels


def test_every_crop_holds_the_crack_if_asked_to(labels: np.ndarray) -> None:
    results = crop_many(labels, crop_size=(64, 80), crack_prob=1.0)
    assert all((result['gt_seg_map'] == 1).any() for result in results)
    for result in results:
        assert result['img_shape'] == result['gt_seg_map'].shape == (64, 80)
        assert np.array_equal(result['img'][..., 0], result['gt_seg_map'])


def test_the_crack_lies_anywhere_in_the_crop(labels: np.ndarray) -> None:
    results = crop_many(labels, crop_size=64, crack_prob=1.0)
    rows = np.concatenate([np.nonzero(result['gt_seg_map'] == 1)[0] for result in results])
    assert rows.min() < 4
    assert rows.max() > 59
    assert abs(rows.mean() - 31.5) < 4


def test_share_of_crops_with_cracks(labels: np.ndarray) -> None:
    def share(**arguments) -> float:
        results = crop_many(labels, crop_size=64, **arguments)
        return float(np.mean([(result['gt_seg_map'] == 1).any() for result in results]))

    anywhere = share(crack_prob=0.0)
    assert anywhere < 0.25
    assert share() == pytest.approx(0.75 + 0.25 * anywhere, abs=0.08)


@pytest.mark.parametrize('crop_size', [(20, 20), (300, 100), (400, 500), (20, 500)])
def test_cracks_at_the_edge_and_small_pictures(crop_size: tuple[int, int]) -> None:
    labels = np.zeros((300, 400), np.uint8)
    labels[0, 0] = labels[299, 399] = 1
    for result in crop_many(labels, 40, crop_size=crop_size, crack_prob=1.0):
        assert result['gt_seg_map'].shape == (min(300, crop_size[0]), min(400, crop_size[1]))
        assert (result['gt_seg_map'] == 1).any()


def test_pictures_without_cracks_are_cropped_anywhere() -> None:
    labels = np.full((100, 100), 255, np.uint8)
    labels[50:] = 0
    results = crop_many(labels, 50, crop_size=30, crack_prob=1.0)
    assert len({int((result['gt_seg_map'] == 0).sum()) for result in results}) > 10


def test_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r'crack_prob=1\.5'):
        TRANSFORMS.build({'type': 'CrackRandomCrop', 'crop_size': 10, 'crack_prob': 1.5})
