"""What is predicted for one image: :class:`Prediction`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crack_plugin.models.enlarged import Enlarged
from crack_plugin.models.strips import strips


@dataclass(eq=False)
class Prediction:
    """What is predicted for one image of H x W pixels; K is the number of foreground classes.

    It keeps the logits on the device, which take 4 (K + 1) bytes a pixel; of an entire image on a CPU, from when they
    are first asked for. Of many images keep what you need of the predictions, not the predictions.

    Attributes:
        labels: 0 for the background, 1 to K for the classes, shape (H, W), uint8.
        class_names: Of the K classes, in the order of the labels.
        logits: As of the segmentor, shape (K + 1, H, W), channel 0 being the background; of a head with one channel
            the probability, shape (1, H, W), which is what MMSegmentation stores for it.
        image: The image as it was read, turned as its EXIF orientation says, BGR, shape (H, W, 3), uint8.
        image_path: The path that was given; None for an array.
    """

    labels: np.ndarray = field(repr=False)
    class_names: list[str]
    logits: Tensor = field(repr=False)
    image: np.ndarray = field(repr=False)
    image_path: str | Path | None

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probability of each foreground class, shape (K, H, W), float32; computed when it is first asked for."""
        height, width = self.labels.shape
        found = np.empty((len(self.class_names), height, width), np.float32)
        for rows in strips(height, width, self.logits.device):
            found[:, rows] = foreground_probabilities(self.logits[:, rows]).cpu().numpy()
        return found

    @cached_property
    def scores(self) -> list[float]:
        """Mean probability of each foreground class over the pixels predicted as it; 0 if there are none."""
        classes = len(self.class_names)
        sums, counts = np.zeros(classes), np.zeros(classes, np.int64)
        for labels, logits in self._marked():
            probabilities = foreground_probabilities(logits).cpu().numpy()
            for index in range(classes):
                own = probabilities[index][labels == index + 1]
                sums[index] += own.sum(dtype=np.float64)
                counts[index] += len(own)
        return (sums / np.maximum(counts, 1)).tolist()

    def _marked(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Labels (n,) and logits (K + 1, n) of all foreground pixels, some at a time: mostly a few percent."""
        device, (height, width) = self.logits.device, self.labels.shape
        for rows in strips(height, width, device):
            places = np.flatnonzero(self.labels[rows])
            if places.size:
                chosen = self.logits[:, rows].flatten(1)[:, torch.from_numpy(places).to(device)]
                yield self.labels[rows].ravel()[places], chosen


class EnlargedPrediction(Prediction):
    """A prediction of one class whose logits at the image's size are computed when they are first asked for.

    Args:
        enlarged: Gives them; ``is_partial``.
        threshold: Decides the labels; of the other arguments see :class:`Prediction`.
    """

    def __init__(
        self,
        enlarged: Enlarged,
        threshold: float,
        class_names: list[str],
        image: np.ndarray,
        image_path: str | Path | None,
    ) -> None:
        self._enlarged = enlarged
        # What the scores need, at the cost of the foreground alone.
        self._logits_marked: list[Tensor] = []
        self.labels = enlarged.labels(threshold, torch.uint8, self._logits_marked)[0].numpy()
        self.class_names, self.image, self.image_path = class_names, image, image_path

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        """See :class:`Prediction`."""
        return self._enlarged.whole()[0]

    def _marked(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        return ((np.ones(logits.shape[1], np.uint8), logits) for logits in self._logits_marked)


def foreground_probabilities(logits: Tensor) -> Tensor:
    """Probabilities (K, ...), fp32, of logits (K + 1, ...), or of the probabilities (1, ...) of a single channel."""
    scores = logits.float()
    return scores if len(scores) == 1 else scores.softmax(dim=0)[1:]
