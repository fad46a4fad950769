import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.morphology import skeletonize

from crack_plugin.evaluation import measures


def random_mask(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Smooth blobs, some of them thin."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return np.abs(field) < 0.02


def line(row: int, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row, 10:40] = True
    return mask


def centerline_iou(predicted: np.ndarray, true: np.ndarray, tolerance: int = 4) -> float:
    counts = measures.centerline_counts(measures.skeleton(predicted), measures.skeleton(true), tolerance)
    return float(measures.overlap_scores(counts)['IoU'])


def centerline_dice(predicted: np.ndarray, true: np.ndarray) -> float:
    return measures.centerline_dice(predicted, true, measures.skeleton(predicted), measures.skeleton(true))


class TestOverlapScores:
    def test_formulas(self):
        scores = measures.overlap_scores(np.array([30, 10, 20]))
        assert scores['IoU'] == pytest.approx(30 / 60)
        assert scores['Dice'] == pytest.approx(60 / 90)
        assert scores['Precision'] == pytest.approx(30 / 40)
        assert scores['Recall'] == pytest.approx(30 / 50)

    def test_empty_prediction_on_empty_mask_scores_one(self):
        assert all(score == 1 for score in measures.overlap_scores(np.array([0, 0, 0])).values())

    def test_empty_prediction_on_a_crack(self):
        scores = measures.overlap_scores(np.array([0, 0, 5]))
        assert scores['Precision'] == 1
        for name in ('IoU', 'Dice', 'Recall'):
            assert scores[name] == pytest.approx(0, abs=1e-6)

    def test_any_leading_shape(self):
        counts = np.random.default_rng(0).integers(0, 50, (3, 2, 3))
        scores = measures.overlap_scores(counts)
        assert scores['IoU'].shape == (3, 2)
        assert scores['IoU'][2, 1] == measures.overlap_scores(counts[2, 1])['IoU']


class TestConfusionMatrix:
    def test_against_counting_pixel_by_pixel(self):
        rng = np.random.default_rng(0)
        prediction, label = rng.integers(0, 3, (9, 11)), rng.choice([0, 1, 2, 255], (9, 11))
        expected = np.zeros((3, 3), dtype=int)
        for p, t in zip(prediction.ravel(), label.ravel(), strict=True):
            if t != 255:
                expected[t, p] += 1
        result = measures.confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), 3)
        np.testing.assert_array_equal(result, expected)

    def test_float_masks_and_an_ignore_index_among_the_classes(self):
        prediction, label = torch.tensor([0.0, 1, 1, 0]), torch.tensor([0, 1, 0, 1], dtype=torch.uint8)
        assert measures.confusion_matrix(prediction, label, 2, ignore_index=0).tolist() == [[0, 0], [1, 1]]

    @pytest.mark.parametrize(('prediction', 'label'), [(2, 0), (-1, 0), (0, 2), (0, -1), (0, 254)])
    def test_a_class_out_of_range_is_an_error(self, prediction, label):
        with pytest.raises(ValueError, match='there are 2 classes'):
            measures.confusion_matrix(torch.tensor([0, prediction]), torch.tensor([1, label]), 2)


class TestThresholds:
    """ODS and OIS against a loop over thresholds and images."""

    def images(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        result = []
        for sharpness in (1.0, 2.0, 4.0):
            label = rng.random((20, 30)) < 0.1
            logit = sharpness * rng.standard_normal(label.shape) + 3 * label - 2
            probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
            # Values on a threshold (exceeded by none of its own) and at both ends.
            probability[0, :5] = [0, 1, 0.5, measures.THRESHOLDS[6], measures.THRESHOLDS[28]]
            result.append((probability, label, rng.random(label.shape) < 0.9))
        return result

    def histograms(self) -> np.ndarray:
        return np.stack(
            [measures.probability_histogram(*(torch.from_numpy(array) for array in image)) for image in self.images()]
        )

    def expected_counts(self) -> np.ndarray:
        counts = np.zeros((3, 99, 3), dtype=int)
        for i, (probability, label, valid) in enumerate(self.images()):
            for k in range(99):
                predicted = probability > np.float32((k + 1) / 100)
                counts[i, k] = [
                    (predicted & label & valid).sum(),
                    (predicted & ~label & valid).sum(),
                    (~predicted & label & valid).sum(),
                ]
        return counts

    def test_counts_at_every_threshold(self):
        counts = measures.counts_by_threshold(self.histograms())
        np.testing.assert_array_equal(counts, self.expected_counts())

    def test_ods_is_the_best_threshold_for_all_images(self):
        tp, fp, fn = np.moveaxis(self.expected_counts().sum(axis=0), -1, 0)
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        f1 = 2 * precision * recall / (precision + recall)
        score, threshold = measures.ods_f1(self.histograms())
        assert score == pytest.approx(f1.max(), abs=1e-6)
        assert threshold == (f1.argmax() + 1) / 100

    def test_ois_is_the_mean_of_each_images_best(self):
        tp, fp, fn = np.moveaxis(self.expected_counts(), -1, 0)
        f1 = 2 * tp / (2 * tp + fp + fn)
        assert measures.ois_f1(self.histograms()) == pytest.approx(f1.max(axis=1).mean(), abs=1e-6)
        assert measures.ois_f1(self.histograms()) >= measures.ods_f1(self.histograms())[0]

    def test_a_perfect_probability_scores_one_and_an_empty_mask_too(self):
        label = torch.zeros(2, 4, 4, dtype=torch.bool)
        label[0, 1] = True
        probability = torch.where(label, 0.7, 0.3)
        histograms = np.stack(
            [measures.probability_histogram(p, g, torch.ones_like(g)) for p, g in zip(probability, label, strict=True)]
        )
        assert measures.ods_f1(histograms) == (1, 0.3)  # the lowest threshold that 0.3 does not exceed
        assert measures.ois_f1(histograms) == 1

    def test_sums_beyond_32_bits(self):
        histograms = np.zeros((3, 2, 100), dtype=np.int32)
        histograms[:, 1, 99] = 2**31 - 1
        histograms[0, 0, 99] = 2**31 - 1
        assert measures.ods_f1(histograms)[0] == pytest.approx(6 / 7)


class TestSkeleton:
    @pytest.mark.parametrize('seed', range(4))
    def test_is_scikit_images_wherever_the_mask_lies(self, seed):
        mask = np.zeros((100, 120), dtype=bool)
        mask[13:73, 40:] = random_mask(seed)
        np.testing.assert_array_equal(measures.skeleton(mask), skeletonize(mask))

    def test_empty_and_full(self):
        assert not measures.skeleton(np.zeros((5, 6), dtype=bool)).any()
        full = np.ones((9, 40), dtype=bool)
        np.testing.assert_array_equal(measures.skeleton(full), skeletonize(full))

    @pytest.mark.parametrize('shape', [(1, 1), (1, 2), (2, 2), (1, 5), (3, 3)])
    def test_small_masks_keep_a_pixel(self, shape):
        mask = np.zeros((10, 10), dtype=bool)
        mask[4 : 4 + shape[0], 5 : 5 + shape[1]] = True
        assert measures.skeleton(mask).any()


class TestCenterlineIoU:
    @pytest.mark.parametrize(('shift', 'expected'), [(0, 1), (3, 1), (4, 1), (5, 0)])
    def test_a_shifted_line_within_the_tolerance_is_right(self, shift, expected):
        assert centerline_iou(line(20 + shift), line(20)) == pytest.approx(expected, abs=1e-6)

    def test_tolerance_is_euclidean(self):
        """(3, 3) is sqrt(18) = 4.24 away, (2, 3) is 3.6."""
        true = np.zeros((20, 20), dtype=bool)
        true[10, 10] = True
        assert centerline_iou(np.roll(true, (2, 3), (0, 1)), true) == 1
        assert centerline_iou(np.roll(true, (3, 3), (0, 1)), true) == pytest.approx(0, abs=1e-6)
        assert centerline_iou(np.roll(true, (3, 3), (0, 1)), true, tolerance=5) == 1

    def test_true_positives_are_pixels_of_the_true_skeleton(self):
        """Half of the true line found, and a false line elsewhere as long as a third of it."""
        true, predicted = line(20), line(18)
        predicted[:, 21:] = False  # columns 10 to 20, and within 4 px (2 rows off) up to column 23
        predicted[35, 10:20] = True
        counts = measures.centerline_counts(predicted, true)
        assert counts.tolist() == [14, 10, 16]

    @pytest.mark.parametrize('seed', range(4))
    def test_against_distance_transforms(self, seed):
        predicted, true = skeletonize(random_mask(seed)), skeletonize(random_mask(seed + 10))
        to_predicted, to_true = distance_transform_edt(~predicted), distance_transform_edt(~true)
        for tolerance in (0, 1, 4):
            expected = [
                (true & (to_predicted <= tolerance)).sum(),
                (predicted & (to_true > tolerance)).sum(),
                (true & (to_predicted > tolerance)).sum(),
            ]
            assert measures.centerline_counts(predicted, true, tolerance).tolist() == expected

    def test_empty(self):
        empty = np.zeros((40, 50), dtype=bool)
        assert centerline_iou(empty, empty) == 1
        assert centerline_iou(empty, line(20)) == pytest.approx(0, abs=1e-6)
        assert centerline_iou(line(20), empty) == pytest.approx(0, abs=1e-6)


class TestCenterlineDice:
    def test_closed_form(self):
        """A thick line found over half its length, plus a spur outside: precision 15/20, sensitivity 15/30."""
        true, predicted = np.zeros((20, 60), dtype=bool), np.zeros((20, 60), dtype=bool)
        true[10, 10:40] = True
        predicted[10, 10:25] = True
        predicted[3, 50:55] = True
        assert centerline_dice(predicted, true) == pytest.approx(2 * 0.75 * 0.5 / (0.75 + 0.5))

    @pytest.mark.parametrize('seed', range(4))
    def test_is_the_papers_formula_on_scikit_images_skeletons(self, seed):
        predicted, true = random_mask(seed), random_mask(seed) ^ random_mask(seed + 10)
        precision = (skeletonize(predicted) & true).sum() / skeletonize(predicted).sum()
        sensitivity = (skeletonize(true) & predicted).sum() / skeletonize(true).sum()
        expected = 2 * precision * sensitivity / (precision + sensitivity)
        assert 0.2 < expected < 0.9
        assert centerline_dice(predicted, true) == pytest.approx(expected)

    def test_a_thinner_prediction_inside_a_thick_mask_is_right(self):
        true = np.zeros((20, 60), dtype=bool)
        true[7:14, 10:50] = True
        predicted = measures.skeleton(true)
        assert centerline_dice(predicted, true) == 1

    def test_no_overlap_and_empty(self):
        empty = np.zeros((40, 50), dtype=bool)
        assert centerline_dice(line(10), line(20)) == 0
        assert centerline_dice(empty, line(20)) == 0
        assert centerline_dice(line(20), empty) == 0
        assert centerline_dice(empty, empty) == 1

    def test_one_pixel_is_its_own_skeleton(self):
        pixel = np.zeros((5, 5), dtype=bool)
        pixel[2, 3] = True
        assert centerline_dice(pixel, pixel) == 1
        assert centerline_dice(pixel, np.roll(pixel, 1)) == 0
