"""Bands of a large raster on disk, while it is predicted: what makes an interrupted run go on where it stopped.

Each band is a file that is complete or not there. Beside what is found in it, it holds a checksum of the pixels it was
made of, so that a file that was changed meanwhile is predicted anew.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crack_plugin.files import write_atomically
from crack_plugin.inspection.bands import Band
from crack_plugin.inspection.uncertainty import Doubt, doubt
from crack_plugin.models.logits import add_background, threshold_labels
from crack_plugin.models.strips import strips
from crack_plugin.prediction.found import foreground_probabilities
from crack_plugin.prediction.mosaic import Blended
from crack_plugin.prediction.raster import NO_DATA, without_no_data
from crack_plugin.prediction.settings import OutputError

BANDS = 'bands'
MOST_PROBABLE = 254
"""What stands for a probability of 1 in 8 bits."""
_STATE = 'state.json'
_JOINED_PIXELS = 2**22


@dataclass(frozen=True, eq=False)
class FoundBand:
    """What is kept of a band of h rows.

    Attributes:
        checksum: Of its pixels.
        labels: 0 for the background, from 1 the classes, NO_DATA elsewhere, shape (h, W), uint8.
        certainty: Probability of the class of each pixel that has one, row by row, float32.
        sums: Of these by class, shape (K,).
        counts: Pixels by class, shape (K,).
        doubt: ``right`` and ``wrong`` of :class:`~crack_plugin.inspection.uncertainty.Doubt`.
        preview: Every n-th pixel of every n-th row of the image, shape (3, ., .), uint8.
        probabilities: Of the classes, in steps of 1 / MOST_PROBABLE, shape (K, h, W), uint8; or empty.
    """

    checksum: int
    labels: np.ndarray
    certainty: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    doubt: np.ndarray
    preview: np.ndarray
    probabilities: np.ndarray


def make_band(blended: Blended, threshold: float, step: int, with_probabilities: bool) -> FoundBand:
    """Label a band.

    Args:
        blended: Its logits and pixels.
        threshold: A pixel is foreground where 1 - p(background) exceeds it.
        step: Which rows and columns the preview has: those whose number it divides.
        with_probabilities: Whether they are kept.
    """
    classes, height, width = blended.logits.shape
    labels = np.full((height, width), NO_DATA, np.uint8)
    kept = np.full((classes, height, width) if with_probabilities else (classes, 0, 0), NO_DATA, np.uint8)
    sums, counts, total = np.zeros(classes), np.zeros(classes, np.int64), Doubt()
    certainty = [np.zeros(0, np.float32)]
    for rows in strips(height, width, blended.logits.device):
        valid = blended.valid[rows]
        if not valid.any():
            continue
        logits = add_background(blended.logits[None, :, rows])
        own = threshold_labels(logits, threshold)[0].to(torch.uint8).cpu().numpy() * valid
        probabilities = foreground_probabilities(logits[0]).cpu().numpy() * valid
        total += doubt(own, probabilities)
        # Of several classes a pixel has the likeliest.
        certainty.append(probabilities.max(axis=0)[own > 0])
        numbers = own[own > 0] - 1
        sums += np.bincount(numbers, certainty[-1], minlength=classes)
        counts += np.bincount(numbers, minlength=classes)
        labels[rows] = np.where(valid, own, NO_DATA)
        if with_probabilities:
            kept[:, rows] = np.where(valid, np.rint(probabilities * MOST_PROBABLE), NO_DATA)
    first = -blended.top % step
    return FoundBand(
        checksum=checksum(blended.image, blended.valid),
        labels=labels,
        certainty=np.concatenate(certainty),
        sums=sums,
        counts=counts,
        doubt=np.array([total.right, total.wrong]),
        preview=blended.image[:, first::step, ::step].copy(),
        probabilities=kept,
    )


def checksum(image: np.ndarray, valid: np.ndarray) -> int:
    """Of the pixels of a band."""
    found = 0
    for rows in range(image.shape[1]):
        found = zlib.crc32(valid[rows].tobytes(), zlib.crc32(image[:, rows].tobytes(), found))
    return found


def delete_bands(folder: Path) -> None:
    """Delete the bands of a raster. Those of rasters in a folder of its name, which lie below, stay."""
    for path in [*bands_in(folder), folder / _STATE]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def bands_in(folder: Path) -> list[Path]:
    """The files of the bands in a folder."""
    return sorted(folder.glob('[0-9]' * 6 + '.npz'))


class BandStore:
    """The folder with the bands of a raster.

    Args:
        folder: It; made when the first band is written.
        state: What all bands have in common, as JSON has it.

    Attributes:
        done: How many bands are complete, from the first one on.
    """

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.folder = folder
        self._state = json.loads(json.dumps(state))
        self.done = 0
        if self._is_of_this_state():
            while self._file(self.done).is_file():
                self.done += 1
        elif bands_in(self.folder):
            raise OutputError(
                f'{self.folder} holds bands that were predicted with other options, or of another file. Give the '
                'former options to go on, or pass --overwrite to predict everything again.'
            )

    def _is_of_this_state(self) -> bool:
        try:
            return json.loads((self.folder / _STATE).read_text(encoding='utf-8')) == self._state
        except (OSError, ValueError):
            return False

    def _file(self, number: int) -> Path:
        return self.folder / f'{number:06d}.npz'

    def write(self, number: int, band: FoundBand) -> None:
        """Write the next band; a former one of its number, and those after it, are replaced.

        Raises:
            SaveError: It could not be written; those before it are complete.
        """
        if not number:
            write_atomically(self.folder / _STATE, json.dumps(self._state).encode())

        def save(path: Path) -> None:
            # By its name, NumPy would add a suffix.
            with path.open('wb') as file:
                # Not by asdict, which copies
                np.savez_compressed(file, **{each.name: getattr(band, each.name) for each in fields(band)})

        write_atomically(self._file(number), save)
        self.done = number + 1

    def read(self, number: int, *names: str) -> FoundBand:
        """A band; of the arrays only those of ``names``, the others are empty."""
        with np.load(self._file(number)) as content:
            found: dict[str, Any] = {
                each.name: content[each.name] if each.name in names else np.zeros(0) for each in fields(FoundBand)
            }
        return FoundBand(**found)

    def checksum(self, number: int) -> int:
        """That of the pixels a band was made of."""
        return int(self.read(number, 'checksum').checksum)

    def discard(self) -> None:
        """Delete all bands."""
        delete_bands(self.folder)
        self.done = 0

    def labelled(self) -> Iterator[Band]:
        """The labels with their probabilities from the top down, without NO_DATA, a few rows at a time."""
        for number in range(self.done):
            band = self.read(number, 'labels', 'certainty')
            used = 0
            rows = max(1, _JOINED_PIXELS // band.labels.shape[1])
            for start in range(0, len(band.labels), rows):
                labels = without_no_data(band.labels[start : start + rows])
                probability = np.zeros(labels.shape, np.float32)
                count = int(np.count_nonzero(labels))
                probability[labels > 0] = band.certainty[used : used + count]
                used += count
                yield Band(labels, probability)
