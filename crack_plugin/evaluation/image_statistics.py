"""What the images of a dataset add to its scores, and how sure the scores are, given that there are so few images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from crack_plugin.evaluation import measures
from crack_plugin.evaluation.measures import MetricError

PIXEL_MEASURES = ('IoU', 'Dice', 'Precision', 'Recall')


@dataclass(frozen=True)
class ImageStatistics:
    """All that the scores of N images with K foreground classes are computed from.

    Attributes:
        areas: Pixels of intersection, union, prediction and label by class, background first, shape (N, 4, K + 1).
        centerline: :func:`~crack_plugin.evaluation.measures.centerline_counts`, shape (N, K, 3).
        centerline_dice: :func:`~crack_plugin.evaluation.measures.centerline_dice`, shape (N, K).
        histograms: :func:`~crack_plugin.evaluation.measures.probability_histogram`, shape (N, K, 2, 100); None if not
            all predictions have probabilities.
    """

    areas: np.ndarray
    centerline: np.ndarray
    centerline_dice: np.ndarray
    histograms: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def counts(self) -> np.ndarray:
        """(tp, fp, fn) by image and foreground class, shape (N, K, 3)."""
        intersection, _, predicted, true = np.moveaxis(self.areas[..., 1:], 1, 0)
        return np.stack([intersection, predicted - intersection, true - intersection], axis=-1)

    @property
    def false_alarms(self) -> np.ndarray:
        """Marked pixels per megapixel by image and foreground class, shape (N, K); NaN where an image has the class.

        Only pixels that are not ignored count, of which an image without any is NaN, too.
        """
        _, _, predicted, true = np.moveaxis(self.areas[..., 1:], 1, 0)
        pixels = self.areas[:, 3].sum(axis=-1)[:, None]
        free = (true == 0) & (pixels > 0)
        return np.where(free, 1e6 * predicted / np.where(free, pixels, 1), np.nan)

    def false_alarm_scores(self) -> dict[str, np.ndarray]:
        """Scores of the images without crack, by foreground class.

        Returns:
            'FalseAlarm', the share of these images with a pixel marked, and 'FalseAlarmPixels', marked pixels per
            megapixel of all of them; shape (K,), NaN for a class that no image is without.
        """
        free = ~np.isnan(self.false_alarms)
        _, _, predicted, _ = np.moveaxis(self.areas[..., 1:], 1, 0)
        pixels = (self.areas[:, 3].sum(axis=-1)[:, None] * free).sum(axis=0)
        with np.errstate(invalid='ignore'):
            # 0 / 0 is NaN.
            return {
                'FalseAlarm': (free & (predicted > 0)).sum(axis=0) / free.sum(axis=0),
                'FalseAlarmPixels': 1e6 * (predicted * free).sum(axis=0) / pixels,
            }

    def take(self, indices: np.ndarray) -> 'ImageStatistics':
        """Those of a selection of images; an image may be taken several times.

        Args:
            indices: Shape (M,).
        """
        histograms = None if self.histograms is None else self.histograms[indices]
        return ImageStatistics(self.areas[indices], self.centerline[indices], self.centerline_dice[indices], histograms)

    def scores(self) -> dict[str, np.ndarray]:
        """The crack scores of :class:`~crack_plugin.evaluation.CrackMetric` by foreground class.

        Returns:
            Scores by name without the prefix ``crack/``, each of shape (K,); without ODS and OIS if there are no
            ``histograms``.
        """
        counts = self.counts
        per_image = measures.overlap_scores(counts)
        scores = {name: per_image[name].mean(axis=0) for name in PIXEL_MEASURES}
        of_dataset = measures.overlap_scores(counts.sum(axis=0))
        scores |= {f'd{name}': of_dataset[name] for name in PIXEL_MEASURES}
        if self.histograms is not None:
            by_class = np.moveaxis(self.histograms, 1, 0)
            scores['ODS'] = np.array([measures.ods_f1(images)[0] for images in by_class])
            scores['OIS'] = np.array([measures.ois_f1(images) for images in by_class])
        scores['clIoU'] = measures.overlap_scores(self.centerline.sum(axis=0))['IoU']
        scores['clDice'] = self.centerline_dice.mean(axis=0)
        return scores

    def summary(self) -> dict[str, float]:
        """The same as means over foreground classes, and ``mIoU``.

        Returns:
            Fractions by name. ``mIoU`` is MMSegmentation's: of the summed pixels, the mean over classes with the
            background, without classes that occur in neither predictions nor labels.
        """
        intersection, union = self.areas[:, :2].sum(axis=0)
        present = union > 0
        mean_iou = float((intersection[present] / union[present]).mean())
        return {'mIoU': mean_iou} | {name: float(values.mean()) for name, values in self.scores().items()}


def bootstrap_intervals(
    runs: Sequence[ImageStatistics], resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of the scores over images: the percentile bootstrap (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 1993, section 13.3), by SciPy.

    As many images as there are get drawn with replacement, and scored; the interval holds the middle ``level`` of the
    scores so found. It speaks of other images of the same kind. It does not speak of other trainings, and photographs
    that resemble each other make it too narrow.

    Args:
        runs: The same images under one model, or under several that differ by their seed: these are scored on the same
            draw, and the mean of their scores counts.
        resamples: How many times images are drawn.
        level: Share of the draws inside the interval.
        seed: Of the draws. The same seed gives the same images to every model.

    Returns:
        Low and high end by score, as :meth:`ImageStatistics.summary` names them.

    Raises:
        MetricError: The runs are of different numbers of images.
    """
    sizes = {len(run) for run in runs}
    if len(sizes) != 1:
        raise MetricError(f'the runs must be of the same images, and have {sorted(sizes)} of them')
    (size,) = sizes
    names = list(runs[0].summary())

    def mean_scores(draws: np.ndarray, axis: int) -> np.ndarray:
        """Scores by name and draw, shape (S, D), of the images that draws (D, N) select."""
        summaries = [[run.take(images).summary() for run in runs] for images in draws]
        return np.array([[np.mean([one[name] for one in draw]) for draw in summaries] for name in names])

    if size == 1:
        # SciPy refuses a sample of one, of which every draw is the same.
        low = high = mean_scores(np.array([[0]]), axis=-1)[:, 0]
    else:
        low, high = stats.bootstrap(
            (np.arange(size),),
            mean_scores,
            n_resamples=resamples,
            batch=1,
            vectorized=True,
            confidence_level=level,
            method='percentile',
            random_state=np.random.default_rng(seed),  # `rng` from SciPy 1.15 on
        ).confidence_interval
    return {name: (float(start), float(end)) for name, start, end in zip(names, low, high, strict=True)}
