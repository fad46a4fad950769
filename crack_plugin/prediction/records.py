"""What a mask does not tell of its prediction: the score of each crack, and how unsure the model is of the photograph.

One small file for each photograph, written with its mask, so that cracks can be measured, rated and exported again
without predicting again.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.uncertainty import Doubt, doubt
from crack_plugin.models.strips import strips
from crack_plugin.prediction.found import Prediction, foreground_probabilities
from crack_plugin.prediction.sources import MASKS
from crack_plugin.prediction.tables import Row

RECORDS = 'records'


class RecordError(CrackPluginError, ValueError):
    """A record that something else has changed."""


@dataclass(frozen=True)
class Record:
    """What is kept of a prediction.

    Attributes:
        uncertainty: See :class:`~crack_plugin.inspection.uncertainty.Doubt`.
        scores: Mean probability of each crack, in the order of :func:`~crack_plugin.inspection.bands.find_cracks`.
    """

    uncertainty: float
    scores: list[float]

    def check(self, cracks: int, path: Path) -> None:
        """Refuse another number of cracks.

        Raises:
            RecordError: The record ``path`` has more or fewer.
        """
        if len(self.scores) != cracks:
            raise RecordError(
                f'{path} is of {len(self.scores)} cracks, and the mask has {cracks}: one of them was changed. Delete '
                'the record: the same command then predicts its image again.'
            )


def record_of(mask: str) -> str:
    """The record that belongs to a mask, both relative to OUT."""
    return (RECORDS / Path(mask).relative_to(MASKS).with_suffix('.json')).as_posix()


def has_record(out: Path, mask: str) -> bool:
    """Whether the record that belongs to a mask is there."""
    return (out / record_of(mask)).is_file()


def make_record(prediction: Prediction) -> Record:
    """The record of a prediction, made strip by strip: probabilities would take as much memory as the logits."""
    labels, logits = prediction.labels, prediction.logits
    rows = strips(labels.shape[0], labels.shape[1], logits.device)
    return record_of_parts((labels[some], foreground_probabilities(logits[:, some]).cpu().numpy()) for some in rows)


def record_of_parts(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Record:
    """The record of an image of which some rows come after the others.

    Args:
        parts: Labels, shape (h, W), and probabilities of the foreground classes, shape (K, h, W).
    """
    total, height, width = Doubt(), 0, 0

    def bands() -> Iterator[Band]:
        nonlocal total, height, width
        for labels, probabilities in parts:
            total += doubt(labels, probabilities)
            height, width = height + len(labels), labels.shape[1]
            # Of several classes a pixel has the likeliest.
            yield Band(labels, probabilities.max(axis=0))

    scores = [round(crack.score, 6) for crack in find_cracks(bands()) if crack.score is not None]
    return Record(round(total.uncertainty((height, width)), 6), scores)


def recorded(done: dict[str, list[Row]], out: Path) -> dict[str, list[Row]]:
    """Those of the images that are done which have a record; the others are to be predicted again."""
    return {mask: rows for mask, rows in done.items() if has_record(out, mask)}


def write_record(path: Path, record: Record) -> None:
    """Write a record."""
    write_atomically(path, json.dumps(asdict(record)).encode())


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: It is not as it was written.
    """
    try:
        return Record(**json.loads(path.read_text(encoding='utf-8')))
    except (OSError, TypeError, ValueError) as error:
        raise RecordError(
            f'{path} is not as it was written. Delete it: the same command then predicts its image again.'
        ) from error
