"""The example images of a report, and its false alarms: which are chosen, and their panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from crack_plugin.datasets.photographs import read_photograph
from crack_plugin.inference import Step, predict
from crack_plugin.report.validation import Evaluation
from crack_plugin.visualization.panels import save_panel


@dataclass(frozen=True)
class Band:
    """A range of IoU that examples are taken from.

    Attributes:
        name: First word of the examples' file names.
        title: Heading in the report.
        low: Least IoU.
        high: Largest IoU.
    """

    name: str
    title: str
    low: float
    high: float

    def distance(self, iou: float) -> float:
        """How far an IoU is from the band; 0 inside."""
        return max(self.low - iou, iou - self.high, 0.0)


# From the best down: `best` is above every IoU, so the nearest are the largest.
BANDS = (
    Band('best', 'Best', 1.0, 1.0),
    Band('good', 'Good (IoU 0.70 to 0.80)', 0.70, 0.80),
    Band('challenging', 'Challenging (IoU 0.55 to 0.60)', 0.55, 0.60),
)


@dataclass(frozen=True)
class Example:
    """One validation image shown in the report.

    Attributes:
        file: PNG file of its panel, relative to the report's folder.
        image: Name of the image file.
        iou: Its IoU.
        inside: Whether the IoU lies in the band the example stands for.
    """

    file: str
    image: str
    iou: float
    inside: bool


@dataclass(frozen=True)
class FalseAlarm:
    """One validation image without crack, in which something is marked.

    Attributes:
        file: PNG file of its panel, relative to the report's folder.
        image: Name of the image file.
        pixels: Marked pixels per megapixel.
    """

    file: str
    image: str
    pixels: float


def pick_examples(ious: Sequence[float], has_crack: Sequence[bool], count: int = 2) -> dict[Band, list[int]]:
    """Choose images that show what the model does well and what it does not.

    From each band the images at its top and bottom and evenly between are taken; where it holds fewer than ``count``,
    the nearest outside follow. No image is taken twice. Those without crack are passed over unless there are no
    others: an empty prediction on an empty mask has IoU 1 and shows nothing.

    Args:
        ious: IoU by image.
        has_crack: By image, whether its ground truth has foreground.
        count: Images for each band.

    Returns:
        Indices by band, IoU falling.
    """
    left = sorted(range(len(ious)), key=lambda i: (-ious[i], i))
    if any(has_crack):
        left = [i for i in left if has_crack[i]]
    picked: dict[Band, list[int]] = {}
    for band in BANDS:
        inside = [i for i in left if band.distance(ious[i]) == 0]
        if len(inside) > count:
            chosen = [inside[round(k * (len(inside) - 1) / max(count - 1, 1))] for k in range(count)]
        else:
            chosen = sorted(left, key=lambda i: band.distance(ious[i]))[:count]
        picked[band] = sorted(chosen, key=lambda i: (-ious[i], i))
        left = [i for i in left if i not in chosen]
    return picked


def example_file(band: Band, rank: int, iou: float) -> str:
    """Name of an example's PNG file, such as 'good_example_1_iou_0.722.png'."""
    return f'{band.name}_example_{rank}_iou_{iou:.3f}.png'


def draw_examples(
    evaluation: Evaluation, step: Step, dataset: Any, cfg: Config, folder: Path, count: int = 2
) -> dict[Band, list[Example]]:
    """Write the panels of best, good and challenging images to ``folder``/examples.

    Args:
        evaluation: Scores of ``step`` on ``dataset``.
        step: Predictor.
        dataset: The validation set.
        cfg: Config of the training.
        folder: Of the report. Panels of a former report are removed.
        count: Images for each band.

    Returns:
        What was drawn, by band.
    """
    target = folder / 'examples'
    target.mkdir(parents=True, exist_ok=True)
    for band in BANDS:
        for old in target.glob(f'{band.name}_example_*_iou_*.png'):
            old.unlink()
    ious = [scores['IoU'] for scores in evaluation.per_image]
    drawn: dict[Band, list[Example]] = {}
    for band, indices in pick_examples(ious, evaluation.has_crack, count).items():
        drawn[band] = []
        for rank, index in enumerate(indices, start=1):
            name, dice = example_file(band, rank, ious[index]), evaluation.per_image[index]['Dice']
            image = _draw(step, dataset, index, cfg, target / name, f'IoU {ious[index]:.3f}   Dice {dice:.3f}')
            inside = band.distance(ious[index]) == 0
            drawn[band].append(Example(f'examples/{name}', image, ious[index], inside))
    return drawn


def pick_false_alarms(false_alarms: Sequence[float], count: int = 2) -> list[int]:
    """Indices of the images without crack in which most is marked, worst first; none of those without a marked pixel.

    Args:
        false_alarms: Marked pixels per megapixel by image; NaN for images with crack.
        count: How many at most.
    """
    marked = [i for i, pixels in enumerate(false_alarms) if pixels > 0]
    return sorted(marked, key=lambda i: -false_alarms[i])[:count]


def draw_false_alarms(
    evaluation: Evaluation, step: Step, dataset: Any, cfg: Config, folder: Path, count: int = 2
) -> list[FalseAlarm]:
    """Write the panels of the worst images without crack to ``folder``/examples.

    Args:
        evaluation: As for :func:`draw_examples`.
        step: As for :func:`draw_examples`.
        dataset: As for :func:`draw_examples`.
        cfg: As for :func:`draw_examples`.
        folder: As for :func:`draw_examples`.
        count: How many at most.

    Returns:
        What was drawn, worst first.
    """
    target = folder / 'examples'
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob('false_alarm_*_pixels_*.png'):
        old.unlink()
    drawn = []
    for rank, index in enumerate(pick_false_alarms(evaluation.false_alarms, count), start=1):
        pixels = evaluation.false_alarms[index]
        name = f'false_alarm_{rank}_pixels_{pixels:.0f}.png'
        image = _draw(step, dataset, index, cfg, target / name, f'{pixels:,.0f} marked pixels per megapixel')
        drawn.append(FalseAlarm(f'examples/{name}', image, pixels))
    return drawn


def _draw(step: Step, dataset: Any, index: int, cfg: Config, file: Path, caption: str) -> str:
    """Predict an image of a dataset and write its panel; the name of the image file."""
    sample = predict(step, pseudo_collate([dataset[index]]), cfg)[0]
    maps = (sample.gt_sem_seg, sample.pred_sem_seg)
    truth, prediction = (labels.data.squeeze(0).cpu().numpy().astype(np.uint8) for labels in maps)
    image = read_photograph(sample.img_path)[..., ::-1]
    save_panel(file, image, truth, prediction, caption)
    return Path(sample.img_path).name
