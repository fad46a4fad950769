"""How unsure a model is of a photograph, from its probabilities: which photographs a labeller looks at first."""

from dataclasses import dataclass

import numpy as np

FAINTEST = 0.1
"""Probability below which a pixel of background is taken for certain: on clean concrete there are millions of them."""


@dataclass(frozen=True)
class Doubt:
    """Expected numbers of pixels, if the probabilities are right; of parts of a photograph they add up.

    Attributes:
        right: Of the labelled ones, that are of their class.
        wrong: Labelled ones that are not, and others that ought to be labelled.
    """

    right: float = 0.0
    wrong: float = 0.0

    def __add__(self, other: 'Doubt') -> 'Doubt':
        return Doubt(self.right + other.right, self.wrong + other.wrong)

    def uncertainty(self, shape: tuple[int, int]) -> float:
        """One minus the IoU to be expected of labels and truth, from 0 (sure) to 1.

        A crack of one pixel across the photograph is taken for found besides, so that a few faint pixels on clean
        concrete do not come before a crack of which half is in doubt.

        Args:
            shape: (H, W) of the photograph.
        """
        return self.wrong / (self.wrong + self.right + max(shape))


def doubt(labels: np.ndarray, probabilities: np.ndarray) -> Doubt:
    """What a part of a photograph adds.

    Args:
        labels: 0 for the background, from 1 the classes, shape (h, W).
        probabilities: Of the classes, shape (K, h, W).

    Example:
        >>> doubt(np.array([[1, 0, 0]]), np.array([[[0.75, 0.5, 0.01]]]))
        Doubt(right=0.75, wrong=0.75)
    """
    foreground = probabilities.sum(axis=0, dtype=np.float64)
    labelled = labels > 0
    own = np.take_along_axis(probabilities, np.maximum(labels.astype(np.intp) - 1, 0)[None], axis=0)[0]
    right = float(own[labelled].sum(dtype=np.float64))
    missed = float(foreground[~labelled & (foreground >= FAINTEST)].sum())
    return Doubt(right, float(labelled.sum()) - right + missed)
