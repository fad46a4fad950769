"""What is in a dataset: the facts of each sample, and what they say about a split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crack_plugin.datasets.foreground import describe_absence
from crack_plugin.datasets.problems import Problem

SUMMARY = (
    'split',
    'images',
    'without crack',
    'polygons',
    'size in px',
    'crack pixels',
    'crack width in px',
    'at the input',
    'at the output',
)
"""Names of the columns of :func:`summarize`."""

# SAM 3's semantic map has 288 pixels where its input has 1008.
OUTPUT_PER_INPUT = 2 / 7


@dataclass(frozen=True)
class Sample:
    """An image and its label, as they were found.

    Attributes:
        split: The split it belongs to.
        image: Path of the image.
        shape: (H, W) in pixels, EXIF orientation applied.
        polygons: Number of readable polygons by name of their class, and of what is not drawn: polygons of a class
            that is left out, and boxes that are dropped. With masks, empty.
        foreground: Share of the pixels that belong to any foreground class, in [0, 1].
        present: The foreground classes that have a pixel.
        is_complete: Whether all of the label could be read.
        widths: Thinnest tenth (10th percentile) and median of the width along the centre lines of the foreground, in
            pixels; None without foreground.
        hashes: Perceptual hash of the picture and of its seven flips and turns, shape (8,), uint64.
    """

    split: str
    image: str
    shape: tuple[int, int]
    polygons: Mapping[str, int]
    foreground: float
    widths: tuple[float, float] | None
    hashes: np.ndarray
    present: frozenset[str] = frozenset()
    is_complete: bool = True

    def scale(self, image_size: int) -> float:
        """Pixels of a model's square input per pixel of the image, along the side that shrinks more."""
        return image_size / max(self.shape)


def summarize(samples: Sequence[Sample], image_size: int) -> list[tuple[str, ...]]:
    """What is in the splits, as rows under ``SUMMARY``.

    A width is the median along the cracks of an image; shown are the median over images, least and largest.

    Args:
        samples: Of all splits.
        image_size: Side of the model's square input in pixels; its output has 2/7 of that.
    """
    rows: list[tuple[str, ...]] = []
    for split in dict.fromkeys(sample.split for sample in samples):
        own = [sample for sample in samples if sample.split == split]
        cracks = [sample for sample in own if sample.widths]
        polygons = sum((Counter(sample.polygons) for sample in own), Counter[str]())
        at_file = [_median_width(sample) for sample in cracks]
        at_input = [_median_width(sample) * sample.scale(image_size) for sample in cracks]
        rows.append(
            (
                split,
                str(len(own)),
                str(len(own) - len(cracks)),
                ', '.join(f'{count} {name}' for name, count in sorted(polygons.items())) or '0',
                _sizes(own),
                f'{np.mean([sample.foreground for sample in own]):.2%}',
                _spread(at_file),
                _spread(at_input),
                _spread([OUTPUT_PER_INPUT * width for width in at_input]),
            )
        )
    return rows


def find_lost_cracks(samples: Sequence[Sample], image_size: int) -> list[Problem]:
    """Say where cracks are thinner than one pixel of the model's input, and how large tiles have to be.

    Args:
        samples: Of one or more splits.
        image_size: Side of the model's square input in pixels.
    """
    problems = []
    for split in dict.fromkeys(sample.split for sample in samples):
        cracks = [sample for sample in samples if sample.split == split and sample.widths]
        lost = [sample for sample in cracks if _median_width(sample) * sample.scale(image_size) < 1]
        if not lost:
            continue
        thinnest = min(lost, key=_median_width)
        worst = min(lost, key=lambda sample: _median_width(sample) * sample.scale(image_size))
        height, width = worst.shape
        side = int(_median_width(thinnest) * image_size)
        problems.append(
            Problem(
                'warning',
                split,
                f'cracks are lost in {len(lost)} of the {len(cracks)} images that have any: at least half of their '
                f'length is thinner than one pixel of the {image_size} px input. In {worst.image}, '
                f'{width} x {height} pixels, a crack of {_median_width(worst):.1f} px becomes '
                f'{_median_width(worst) * worst.scale(image_size):.2f} px. Train on tiles (RandomCrop) and test on '
                f"tiles (test_cfg mode='slide') of at most {side} x {side} pixels.",
            )
        )
    return problems


def find_absent_classes(samples: Sequence[Sample], classes: Sequence[str]) -> list[Problem]:
    """Foreground classes that have no pixel in a split; labels with faults are left out, for they may have some.

    Args:
        samples: Of one or more splits.
        classes: The foreground classes.
    """
    problems = []
    for split in dict.fromkeys(sample.split for sample in samples):
        own = [sample for sample in samples if sample.split == split]
        complete = [sample for sample in own if sample.is_complete]
        present = frozenset().union(*(sample.present for sample in own))
        absent = [name for name in classes if name not in present]
        if complete and absent:
            images = f'{len(own)} images'
            if len(complete) < len(own):
                images = f'the {len(complete)} of {len(own)} images whose labels have no faults'
            problems.append(Problem('warning', split, describe_absence(absent, classes, images)))
    return problems


def _median_width(sample: Sample) -> float:
    assert sample.widths is not None
    return sample.widths[1]


def _sizes(samples: Sequence[Sample]) -> str:
    shapes = sorted({sample.shape for sample in samples}, key=lambda shape: shape[0] * shape[1])
    ends = [shapes[0], shapes[-1]] if len(shapes) > 1 else shapes
    return ' to '.join(f'{width} x {height}' for height, width in ends)


def _spread(values: Sequence[float]) -> str:
    return f'{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})' if values else '-'
