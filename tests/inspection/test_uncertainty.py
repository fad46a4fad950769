"""How unsure a model is of a photograph, against the expected IoU by drawing truths from the probabilities."""

import numpy as np
import pytest

from crack_plugin.inspection.uncertainty import Doubt, doubt


def test_it_is_one_minus_the_expected_iou() -> None:
    rng = np.random.default_rng(0)
    probability = np.where(rng.random((40, 50)) < 0.2, rng.uniform(0.15, 1, (40, 50)), 0)
    labels = (probability > 0.5).astype(np.uint8)
    total = doubt(labels, probability[None])
    truths = rng.random((2000, 40, 50)) < probability
    right = (truths & (labels > 0)).sum(axis=(1, 2))
    wrong = (truths ^ (labels > 0)).sum(axis=(1, 2))
    assert total.right == pytest.approx(right.mean(), rel=0.01)
    assert total.wrong == pytest.approx(wrong.mean(), rel=0.01)
    assert total.uncertainty((40, 50)) == pytest.approx(np.mean(wrong / (wrong + right + 50)), rel=0.02)


def test_parts_add_up_and_classes_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet((1, 1, 1), (30, 20)).transpose(2, 0, 1)[1:]
    labels = np.where(probabilities.sum(axis=0) > 0.5, 1 + probabilities.argmax(axis=0), 0).astype(np.uint8)
    whole = doubt(labels, probabilities)
    parts = doubt(labels[:7], probabilities[:, :7]) + doubt(labels[7:], probabilities[:, 7:])
    assert (parts.right, parts.wrong) == pytest.approx((whole.right, whole.wrong))
    assert whole.right == pytest.approx(sum(probabilities[c][labels == c + 1].sum() for c in range(2)))


def test_order() -> None:
    shape = (100, 100)
    clean = np.full(shape, 0.05)
    faint = clean.copy()
    faint[50, 40:44] = 0.3
    crack = clean.copy()
    crack[50:53] = 0.95
    doubtful = clean.copy()
    doubtful[50:53] = 0.55
    values = [
        doubt((image > 0.5).astype(np.uint8), image[None]).uncertainty(shape)
        for image in (clean, faint, crack, doubtful)
    ]
    assert values[0] == 0
    assert values == sorted(values)
    assert Doubt().uncertainty(shape) == 0
