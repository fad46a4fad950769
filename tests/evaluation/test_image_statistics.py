"""Bootstrap intervals of the scores, and the scores of a selection of images."""

import numpy as np
import pytest
from scipy import stats

from crack_plugin.evaluation import measures
from crack_plugin.evaluation.image_statistics import ImageStatistics, bootstrap_intervals


def random_statistics(seed: int, images: int = 12, classes: int = 1) -> ImageStatistics:
    """Counts such as predictions of unequal quality give."""
    random = np.random.default_rng(seed)
    intersection = random.integers(20, 80, (images, classes + 1))
    predicted, true = (intersection + random.integers(0, 60, (images, classes + 1)) for _ in range(2))
    return ImageStatistics(
        areas=np.stack([intersection, predicted + true - intersection, predicted, true], axis=1),
        centerline=random.integers(0, 50, (images, classes, 3)),
        centerline_dice=random.random((images, classes)),
        histograms=random.integers(0, 9, (images, classes, 2, 100)).astype(np.int32),
    )


@pytest.mark.slow
def test_intervals_of_a_mean_agree_with_scipy() -> None:
    statistics = random_statistics(0)
    ious = measures.overlap_scores(statistics.counts)['IoU'][:, 0]
    reference = stats.bootstrap((ious,), np.mean, n_resamples=4000, method='percentile', random_state=1)
    interval = bootstrap_intervals([statistics], resamples=4000)['IoU']
    # Two draws of 4,000: their ends differ by chance.
    tolerance = 0.05 * (reference.confidence_interval.high - reference.confidence_interval.low)
    assert interval == pytest.approx(tuple(reference.confidence_interval), abs=tolerance)


def test_intervals_are_percentiles_of_the_draws_of_the_seed() -> None:
    """Figures in the documentation stay what they are."""
    statistics = random_statistics(7)
    random = np.random.default_rng(3)
    draws = [statistics.take(random.integers(12, size=12)).summary() for _ in range(40)]
    intervals = bootstrap_intervals([statistics], resamples=40, level=0.9, seed=3)
    for name, interval in intervals.items():
        assert interval == pytest.approx(tuple(np.percentile([draw[name] for draw in draws], [5, 95])), abs=1e-12)


def test_a_single_image_has_no_interval() -> None:
    statistics = random_statistics(8, images=1)
    assert bootstrap_intervals([statistics], 20) == {name: (v, v) for name, v in statistics.summary().items()}


def test_intervals_hold_the_score_of_every_kind() -> None:
    statistics = random_statistics(1)
    intervals = bootstrap_intervals([statistics], resamples=300)
    scores = statistics.summary()
    assert set(intervals) == set(scores)
    for name, (low, high) in intervals.items():
        # OIS is of the best thresholds, the others are centred on the score.
        assert low < scores[name] < high, name


def test_seeds_are_averaged_on_the_same_draw() -> None:
    statistics = random_statistics(2)
    assert bootstrap_intervals([statistics, statistics], 50) == bootstrap_intervals([statistics], 50)
    opposed = ImageStatistics(**{**vars(statistics), 'centerline_dice': 1 - statistics.centerline_dice})
    low, high = bootstrap_intervals([statistics, opposed], 50)['clDice']
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)


def test_a_constant_score_has_no_width() -> None:
    statistics = random_statistics(3).take(np.zeros(5, int))
    low, high = bootstrap_intervals([statistics], 20)['IoU']
    assert low == pytest.approx(high) == pytest.approx(statistics.summary()['IoU'])


def test_selection_with_repetition() -> None:
    statistics = random_statistics(4, classes=2)
    chosen = statistics.take(np.array([3, 3, 5]))
    ious = measures.overlap_scores(statistics.counts)['IoU']
    assert len(chosen) == 3
    np.testing.assert_allclose(chosen.scores()['IoU'], (2 * ious[3] + ious[5]) / 3)
    assert chosen.summary()['IoU'] == pytest.approx(chosen.scores()['IoU'].mean())


def test_a_class_that_nowhere_occurs_is_left_out_of_the_mean() -> None:
    statistics = random_statistics(5, classes=2)
    statistics.areas[..., 2] = 0
    sums = statistics.areas.sum(axis=0)
    assert statistics.summary()['mIoU'] == pytest.approx((sums[0, :2] / sums[1, :2]).mean())


def test_without_probabilities_there_is_no_ods() -> None:
    statistics = ImageStatistics(**{**vars(random_statistics(6)), 'histograms': None})
    assert not {'ODS', 'OIS'} & set(bootstrap_intervals([statistics], 5))


def test_runs_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r'\[3, 4\]'):
        bootstrap_intervals([random_statistics(0, 3), random_statistics(0, 4)])
