"""One synthetic picture with its exact label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.polygons import Polygon, mask_to_polygons
from crack_plugin.datasets.synthetic.camera import photograph
from crack_plugin.datasets.synthetic.defects import PAINTERS
from crack_plugin.datasets.synthetic.distractors import add_distractors
from crack_plugin.datasets.synthetic.noise import Range
from crack_plugin.datasets.synthetic.surfaces import SURFACES

DEFECTS = ('crack', 'spalling', 'rust stain')


class Picture(NamedTuple):
    """One synthetic picture.

    Attributes:
        image: Shape (H, W, 3), uint8, BGR as in OpenCV.
        polygons: Class ids and (n, 2) points as fractions of width and height. Rasterised, they give ``mask``.
        mask: Shape (H, W), uint8: 0 is background, class id + 1 a defect.
    """

    image: np.ndarray
    polygons: list[Polygon]
    mask: np.ndarray


def draw(
    rng: np.random.Generator,
    size: tuple[int, int] = (336, 336),
    surface: str = 'concrete',
    defects: Sequence[str] = ('crack',),
    label_margin: float | Range = (0.2, 1.2),
) -> Picture:
    """Draw one picture.

    Args:
        rng: The only source of chance: the same state gives the same picture.
        size: (H, W) in pixels, both at least 32.
        surface: 'concrete' (from light plaster to dark speckled slabs), 'asphalt' or 'masonry'.
        defects: Any of 'crack', 'spalling' and 'rust stain'; the class id is the place in this sequence. Of several,
            a picture shows a random choice, at least one. Empty: a picture without defects.
        label_margin: How far the label of a crack reaches over the dark line on either side, in pixels: a number, or
            a range from which each picture takes its own. Labels are at least 1.6 pixels wide.

    Returns:
        Picture, polygons and label map. Every pixel where cracks, spalling and rust meet has one label: crack before
        spalling before rust stain.

    Raises:
        DatasetError: An argument is none of the above.
    """
    low, high = margin = as_range(label_margin)
    check_picture(size, surface, tuple(defects), margin)
    light = rng.uniform(0, 2 * np.pi)
    image = SURFACES[surface](rng, size, light)
    add_distractors(rng, image, surface, before=True)

    mask = np.zeros(size, np.uint8)
    shown = rng.permutation(len(defects))[: rng.integers(1, len(defects) + 1)] if defects else ()
    for kind in reversed(DEFECTS):
        if kind in defects and defects.index(kind) in shown:
            region = PAINTERS[kind](rng, image, light, rng.uniform(low, high))
            mask[region] = defects.index(kind) + 1
    add_distractors(rng, image, surface, before=False)
    return Picture(photograph(rng, image), _polygons(mask), mask)


def as_range(value: float | Range) -> Range:
    return (value[0], value[1]) if isinstance(value, Sequence) else (value, value)


def check_picture(size: tuple[int, int], surface: str, defects: Sequence[str], margin: Range) -> None:
    if min(size) < 32:
        raise DatasetError(f'size={size}: height and width are at least 32 pixels')
    if surface not in SURFACES:
        raise DatasetError(f'unknown surface {surface!r}: choose from {", ".join(SURFACES)}')
    if not set(defects) <= set(DEFECTS) or len(set(defects)) < len(defects):
        raise DatasetError(f'defects={defects}: any of {", ".join(map(repr, DEFECTS))}, each once')
    if not 0 <= margin[0] <= margin[1]:
        raise DatasetError(f'label_margin={margin}: pixels from 0, the lower bound first')


def _polygons(mask: np.ndarray) -> list[Polygon]:
    height, width = mask.shape
    return [
        Polygon(label - 1, points / (width, height))
        for label in range(1, int(mask.max()) + 1)
        for points in mask_to_polygons(mask == label)
    ]
