"""Measures of a predicted mask against the true one: pure functions on arrays.

Counts come in the last axis as (tp, fp, fn): true positive, false positive and false negative pixels. The two
functions that look at every pixel (:func:`confusion_matrix` and :func:`probability_histogram`) run in torch, on the
device where the pixels are, and give back something small.
"""

import cv2
import numpy as np
import torch
from skimage import morphology
from torch import Tensor

from crack_plugin.errors import CrackPluginError
from crack_plugin.evaluation.thinning import thin

EPSILON = 1e-6
"""Added to both sides of every ratio of :func:`overlap_scores`, so that 0 / 0 is 1."""

THRESHOLDS = (np.arange(1, 100) / 100).astype(np.float32)
"""The 99 thresholds 0.01, 0.02, ... 0.99 of ODS and OIS, in the precision of the probabilities."""

PART_PIXELS = 2**16
"""Pixels that are counted at once on a CPU."""


class MetricError(CrackPluginError, ValueError):
    """Predictions and labels that cannot be scored, or settings of a metric that contradict each other."""


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of every pair of true and predicted class.

    Args:
        prediction (Tensor): Predicted classes, any shape, integers or whole floats from 0 to ``num_classes - 1``.
        label (Tensor): True classes or ``ignore_index``, same shape and device.
        num_classes (int): Number of classes C, background included.
        ignore_index (int): Label of the pixels left out. Defaults to 255.

    Returns:
        Tensor: Pixels by [true class, predicted class], shape (C, C), int64.

    Raises:
        MetricError: A predicted class or a label is out of range.

    Example:
        >>> label = torch.tensor([0, 0, 1, 255])
        >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), label, num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    pairs = num_classes**2
    # Ignored pixels go to a second matrix, dropped: cheaper than copying the others out.
    counts = torch.zeros(2 * pairs, dtype=torch.int64, device=prediction.device)
    for predicted, true in zip(_parts(prediction), _parts(label), strict=True):
        ignored = true == ignore_index
        predicted, true = predicted.long(), torch.where(ignored, 0, true.long())
        for name, values in (('prediction', predicted), ('label', true)):
            low, high = (int(bound) for bound in torch.aminmax(values))
            if low < 0 or high >= num_classes:
                raise MetricError(
                    f'the {name} holds class {low if low < 0 else high}, but there are {num_classes} classes '
                    f'(0 to {num_classes - 1}) and ignore_index is {ignore_index}'
                )
        counts += torch.bincount(true * num_classes + predicted + ignored * pairs, minlength=2 * pairs)
    return counts[:pairs].view(num_classes, num_classes)


def probability_histogram(probability: Tensor, positive: Tensor, valid: Tensor) -> np.ndarray:
    """Count pixels by true class and by how many of :data:`THRESHOLDS` their probability exceeds.

    A pixel in bin b is predicted positive (probability > threshold) at the first b thresholds and at no other, so
    these counts hold all that any threshold's true and false positives depend on.

    Args:
        probability (Tensor): Foreground probability, any shape, float32.
        positive (Tensor): Whether a pixel truly is foreground, bool, same shape.
        valid (Tensor): Whether a pixel counts, bool, same shape.

    Returns:
        np.ndarray: Pixels by [negative or positive, bin], shape (2, 100), int32.

    Example:
        >>> probability = torch.tensor([0.005, 0.995])
        >>> histogram = probability_histogram(probability, torch.tensor([False, True]), torch.tensor([True, True]))
        >>> histogram[0, 0].item(), histogram[1, 99].item()
        (1, 1)
    """
    thresholds = torch.from_numpy(THRESHOLDS).to(probability.device)
    bins = len(THRESHOLDS) + 1
    row = torch.where(valid, positive.long(), 2)
    # Most pixels of most photographs exceed none, and need not be searched for among the others.
    exceeding = probability > thresholds[0]
    binned = row[exceeding] * bins + torch.bucketize(probability[exceeding], thresholds)
    counts = torch.bincount(binned, minlength=3 * bins).view(3, bins)
    counts[:, 0] = torch.bincount(row.flatten(), minlength=3) - counts.sum(dim=1)
    return counts[:2].to(torch.int32).cpu().numpy()


def counts_by_threshold(histogram: np.ndarray) -> np.ndarray:
    """Turn histograms of :func:`probability_histogram` into counts at every threshold.

    Args:
        histogram (np.ndarray): Shape (..., 2, 100).

    Returns:
        np.ndarray: (tp, fp, fn) at each of :data:`THRESHOLDS`, shape (..., 99, 3), int64.

    Example:
        >>> histogram = np.zeros((2, 100), int)
        >>> histogram[0, 20], histogram[1, 60] = 3, 5  # 3 background pixels, 5 crack pixels
        >>> counts_by_threshold(histogram)[[9, 49, 89]].tolist()  # (tp, fp, fn) at 0.1, 0.5 and 0.9
        [[5, 3, 0], [5, 0, 0], [0, 0, 5]]
    """
    exceeding = np.cumsum(histogram[..., ::-1], axis=-1, dtype=np.int64)[..., ::-1]
    total = exceeding[..., :1]
    predicted = exceeding[..., 1:]
    fp, tp = predicted[..., 0, :], predicted[..., 1, :]
    return np.stack([tp, fp, total[..., 1, :] - tp], axis=-1)


def overlap_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, Dice, precision and recall from counts of pixels.

    IoU = (tp + e) / (tp + fp + fn + e), Dice = (2 tp + e) / (2 tp + fp + fn + e), Precision = (tp + e) / (tp + fp + e)
    and Recall = (tp + e) / (tp + fn + e) with e = 1e-6. So an empty prediction on an empty mask scores 1 in all four,
    and an empty prediction on a mask with foreground has precision 1, recall 0 and IoU 0.

    Args:
        counts (np.ndarray): (tp, fp, fn), shape (..., 3).

    Returns:
        dict[str, np.ndarray]: 'IoU', 'Dice', 'Precision' and 'Recall', fractions in [0, 1], each of shape (...).

    Example:
        >>> scores = overlap_scores(np.array([6, 2, 4]))
        >>> {name: round(float(score), 3) for name, score in scores.items()}
        {'IoU': 0.5, 'Dice': 0.667, 'Precision': 0.75, 'Recall': 0.6}
    """
    tp, fp, fn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return {
        'IoU': (tp + EPSILON) / (tp + fp + fn + EPSILON),
        'Dice': (2 * tp + EPSILON) / (2 * tp + fp + fn + EPSILON),
        'Precision': (tp + EPSILON) / (tp + fp + EPSILON),
        'Recall': (tp + EPSILON) / (tp + fn + EPSILON),
    }


def scores_by_threshold(histograms: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of a dataset at each of :data:`THRESHOLDS`, from pixels summed over its images.

    Args:
        histograms (np.ndarray): One :func:`probability_histogram` per image, shape (N, ..., 2, 100).

    Returns:
        dict[str, np.ndarray]: As :func:`overlap_scores`, each of shape (..., 99). 'Dice' is the F1.

    Example:
        >>> histograms = np.zeros((1, 2, 100), int)
        >>> histograms[0, 0, 20], histograms[0, 1, 60] = 3, 5
        >>> scores_by_threshold(histograms)['IoU'][[9, 49, 89]].round(3).tolist()  # at 0.1, 0.5 and 0.9
        [0.625, 1.0, 0.0]
    """
    return overlap_scores(counts_by_threshold(histograms.sum(axis=0, dtype=np.int64)))


def ods_f1(histograms: np.ndarray) -> tuple[float, float]:
    """F1 at the one threshold that is best for the dataset (optimal dataset scale).

    Pixels are compared without a distance tolerance, as DeepCrack (Liu et al., Neurocomputing 2019) evaluates cracks;
    the boundary benchmark ODS comes from (Arbelaez et al., TPAMI 2011) matches pixels within a distance. F1 of counts
    is their Dice, with the rule of :func:`overlap_scores`.

    Args:
        histograms (np.ndarray): One :func:`probability_histogram` per image, shape (N, 2, 100).

    Returns:
        tuple[float, float]: The best F1 of the counts summed over images, and its threshold (the lowest of equals).

    Example:
        >>> histograms = np.zeros((1, 2, 100), int)
        >>> histograms[0, 0, 20], histograms[0, 1, 60] = 3, 5
        >>> ods_f1(histograms)  # above it, nothing is marked that is no crack
        (1.0, 0.21)
    """
    scores = scores_by_threshold(histograms)['Dice']
    best = int(scores.argmax())
    return float(scores[best]), round(float(THRESHOLDS[best]), 2)  # 0.37, not its float32 neighbour 0.370000005


def ois_f1(histograms: np.ndarray) -> float:
    """Mean over images of the F1 at the threshold that is best for each (optimal image scale).

    The mean of per-image scores, as DeepCrack (Liu et al., Neurocomputing 2019) evaluates cracks; definitions as in
    :func:`ods_f1`.

    Args:
        histograms (np.ndarray): One :func:`probability_histogram` per image, shape (N, 2, 100).

    Returns:
        float: Mean of the images' best F1.

    Example:
        >>> histograms = np.zeros((2, 2, 100), int)
        >>> histograms[0, 1, 60], histograms[1, 0, 30] = 5, 5  # a crack found, and a false alarm that 0.3 silences
        >>> ois_f1(histograms)
        1.0
    """
    scores = overlap_scores(counts_by_threshold(histograms))['Dice']
    return float(scores.max(axis=-1).mean())


def _parts(pixels: Tensor) -> tuple[Tensor, ...]:
    """Pixels cut into flat parts, of which intermediate results fit a CPU's cache; a GPU is given more at once."""
    return pixels.flatten().split(PART_PIXELS if pixels.device.type == 'cpu' else 2**24)


def skeleton(mask: np.ndarray) -> np.ndarray:
    """One pixel wide skeleton of a mask (Zhang and Suen, CACM 1984, as ``skimage.morphology.skeletonize``).

    Args:
        mask (np.ndarray): Shape (H, W), bool.

    Returns:
        np.ndarray: Shape (H, W), bool.

    Example:
        >>> bar = np.zeros((5, 9), bool)
        >>> bar[1:4, 1:8] = True
        >>> int(skeleton(bar).sum(axis=0).max())  # one pixel wide
        1
    """
    result = np.zeros_like(mask)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width:
        box = np.s_[y : y + height, x : x + width]
        result[box] = thin(mask[box])
    return result


def centerline_counts(predicted: np.ndarray, true: np.ndarray, tolerance: int = 4) -> np.ndarray:
    """Counts of the centerline IoU (clIoU) of OmniCrack30k (Benz and Rodehorst, CVPR Workshops 2024).

    True positives are pixels of the TRUE skeleton with a predicted skeleton pixel within ``tolerance``, false
    negatives the rest of the true skeleton, false positives the predicted skeleton's pixels without a true one within
    ``tolerance``. Distances are Euclidean: dilation by a disk, as in the authors' ``evaluation.py``. (Predicted pixels
    that do lie near the true skeleton are counted nowhere, so a doubled line is not punished.)

    clIoU = tp / (tp + fp + fn) over all pixels of a dataset: sum these counts, then the IoU of
    :func:`overlap_scores`. The authors thin predictions with ``skimage.morphology.thin`` and compare them with the
    centerlines their dataset ships; here both skeletons come from masks, by :func:`skeleton`.

    Args:
        predicted (np.ndarray): :func:`skeleton` of the prediction, shape (H, W), bool.
        true (np.ndarray): :func:`skeleton` of the mask, shape (H, W), bool.
        tolerance (int): In pixels. Defaults to 4, the benchmark's.

    Returns:
        np.ndarray: (tp, fp, fn), shape (3,), int64.

    Example:
        >>> true, predicted = np.zeros((2, 12, 10), bool)
        >>> true[2], predicted[5, :6] = True, True
        >>> centerline_counts(predicted, true).tolist()  # 3 px away is near enough; the last two pixels are not reached
        [8, 0, 2]
    """
    disk = morphology.disk(tolerance)
    near_predicted = cv2.dilate(predicted.astype(np.uint8), disk).astype(bool)
    near_true = cv2.dilate(true.astype(np.uint8), disk).astype(bool)
    return np.array(
        [
            np.count_nonzero(true & near_predicted),
            np.count_nonzero(predicted & ~near_true),
            np.count_nonzero(true & ~near_predicted),
        ],
        dtype=np.int64,
    )


def centerline_dice(
    predicted: np.ndarray, true: np.ndarray, predicted_skeleton: np.ndarray, true_skeleton: np.ndarray
) -> float:
    """clDice of one image (Shit et al., CVPR 2021, equations 1 and 2).

    The harmonic mean of topology precision (the share of the predicted skeleton inside the true mask) and topology
    sensitivity (the share of the true skeleton inside the predicted mask). Two empty masks score 1, one empty mask 0.

    Args:
        predicted (np.ndarray): The prediction, shape (H, W), bool.
        true (np.ndarray): The mask, shape (H, W), bool.
        predicted_skeleton (np.ndarray): :func:`skeleton` of ``predicted``.
        true_skeleton (np.ndarray): :func:`skeleton` of ``true``.

    Returns:
        float: In [0, 1].

    Example:
        >>> true = np.zeros((6, 10), bool)
        >>> true[2:5] = True
        >>> half = true & (np.arange(10) < 5)
        >>> centre = true & (np.arange(6) == 3)[:, None]
        >>> round(centerline_dice(half, true, centre & half, centre), 3)  # precision 1, sensitivity 0.5
        0.667
    """
    predicted_length, true_length = np.count_nonzero(predicted_skeleton), np.count_nonzero(true_skeleton)
    if not predicted_length or not true_length:
        return float(predicted_length == true_length)
    precision = np.count_nonzero(predicted_skeleton & true) / predicted_length
    sensitivity = np.count_nonzero(true_skeleton & predicted) / true_length
    if precision + sensitivity == 0:
        return 0.0
    return float(2 * precision * sensitivity / (precision + sensitivity))
