"""Which images a report shows."""

from pathlib import Path

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

# isort: split
import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from crack_plugin.report.examples import draw_false_alarms, pick_examples, pick_false_alarms
from crack_plugin.report.training_report import TrainingReport
from crack_plugin.report.validation import Evaluation
from crack_plugin.visualization.document import to_markdown


def test_examples_come_from_their_bands() -> None:
    ious = [1.0, 0.93, 0.92, 0.80, 0.79, 0.75, 0.71, 0.58, 0.57, 0.40]
    has_crack = [False] + [True] * 9
    picked = {band.name: indices for band, indices in pick_examples(ious, has_crack).items()}
    assert picked == {'best': [1, 2], 'good': [3, 6], 'challenging': [7, 8]}


def test_examples_nearest_to_their_bands() -> None:
    ious = [0.3, 0.69, 0.9, 0.75, 0.1]
    picked = {band.name: indices for band, indices in pick_examples(ious, [True] * 5).items()}
    assert picked == {'best': [2, 3], 'good': [1, 0], 'challenging': [4]}


def test_false_alarms_are_the_worst_images_without_crack() -> None:
    nan = float('nan')
    assert pick_false_alarms([nan, 0.0, 12.5, nan, 700.0, 3.0, 0.0], 2) == [4, 2]
    assert pick_false_alarms([nan, 0.0], 2) == []


def test_report_shows_the_worst_false_alarms(tmp_path: Path) -> None:
    """Three images without crack, two of them marked, and one with a crack."""
    nan = float('nan')
    images = [str(tmp_path / f'{i}.png') for i in range(4)]
    for image in images:
        cv2.imwrite(image, np.full((8, 10, 3), 90, np.uint8))
    evaluation = Evaluation(
        metrics={'crack/FalseAlarm': 2 / 3, 'crack/FalseAlarmPixels': 1234.4},
        per_image=[{'img_path': image, 'IoU': 0.5, 'Dice': 0.6} for image in images],
        has_crack=[False, True, False, False],
        seconds_per_image=0.1,
        false_alarms=[50.0, nan, 0.0, 20000.0],
    )

    def step(batch: list[int]) -> list[SegDataSample]:
        labels = torch.zeros(1, 8, 10, dtype=torch.long)
        maps = {'gt_sem_seg': PixelData(data=labels), 'pred_sem_seg': PixelData(data=1 - labels)}
        sample = SegDataSample(metainfo={'img_path': images[batch[0]]})
        sample.set_data(maps)
        return [sample]

    stale = tmp_path / 'examples' / 'false_alarm_3_pixels_7.png'
    stale.parent.mkdir()
    stale.touch()
    drawn = draw_false_alarms(evaluation, step, range(4), Config(), tmp_path, 2)
    assert [(alarm.image, alarm.pixels) for alarm in drawn] == [('3.png', 20000), ('0.png', 50)]
    assert {file.name for file in stale.parent.iterdir()} == {Path(alarm.file).name for alarm in drawn}

    facts = {'recipe': [], 'dataset': [], 'rows': [], 'runtime': [], 'axis': 'epoch', 'best': None, 'zero_shot': None}
    page = to_markdown(TrainingReport('t', **facts, evaluation=evaluation, false_alarms=drawn).blocks())
    assert 'Of 3 images without crack, 2 have marked pixels' in page
    assert page.index('20,000 marked pixels per megapixel') < page.index('50 marked pixels per megapixel')
    assert '66.67%' in page and '1,234 px/MP' in page
