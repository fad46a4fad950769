"""One synthetic picture with its exact label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.polygons import Polygon, mask_to_polygons
from crack_plugin.datasets.synthetic.camera import photograph
from crack_plugin.datasets.synthetic.crack_look import CORE
from crack_plugin.datasets.synthetic.defects import DEFECTS, PAINTERS
from crack_plugin.datasets.synthetic.distractors import add_distractors
from crack_plugin.datasets.synthetic.noise import Range
from crack_plugin.datasets.synthetic.scene import Scene
from crack_plugin.datasets.synthetic.surfaces import SURFACES
from crack_plugin.datasets.synthetic.view import choose_view

# A defect can lie where a tilted camera does not look, or under a leaf: where too little is seen, all is painted anew.
_ATTEMPTS = 30
_LEAST_SHARE = 1 / 500


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
    negative: bool = False,
) -> Picture:
    """Draw one picture.

    Args:
        rng: The only source of chance: the same state gives the same picture.
        size: (H, W) in pixels, both at least 32.
        surface: One of ``SURFACES``.
        defects: Any of ``DEFECTS``; the class id is the place in this sequence. Of several, a picture shows a random
            choice, at least one. All that is seen of them has its label, the joints between bricks and the rust of
            corroded steel included; what is not named here may be seen, and has none. Empty: no labels.
        label_margin: How far the label of a crack reaches over the dark line on either side, in pixels: a number, or
            a range from which each picture takes its own. Labels are at least 1.6 pixels wide.
        negative: Show nothing of ``defects`` but what belongs to the surface or lies about on it.

    Returns:
        Picture, polygons and label map. Every pixel has one label: of several the first in the order of ``DEFECTS``.

    Raises:
        DatasetError: An argument is none of the above.
    """
    image, mask = paint(rng, size, surface, defects, label_margin, negative)
    return Picture(image, _polygons(mask), mask)


def paint(
    rng: np.random.Generator,
    size: tuple[int, int],
    surface: str,
    defects: Sequence[str],
    label_margin: float | Range,
    negative: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Picture and label map of ``draw``, without the polygons."""
    low, high = margin = as_range(label_margin)
    check_picture(size, surface, tuple(defects), margin)
    shown = () if negative or not defects else _choose(rng, defects)
    for _ in range(_ATTEMPTS):
        scene = _set_scene(rng, size, surface, shown, (low, high))
        if all(_is_seen(scene, CORE if name == 'crack' else name) for name in shown):
            break
    mask = label_map(scene, defects)
    layers = [scene.view.take_smooth(plane) for plane in scene.image]
    return photograph(rng, np.stack(layers)), mask


def _choose(rng: np.random.Generator, defects: Sequence[str]) -> list[str]:
    """What a picture shows: one to three, a crack more often than anything else."""
    chosen = [defects[i] for i in rng.permutation(len(defects))[: rng.integers(1, min(3, len(defects)) + 1)]]
    if 'crack' in defects and 'crack' not in chosen and rng.random() < 0.5:
        chosen[0] = 'crack'
    return chosen


def _set_scene(
    rng: np.random.Generator, size: tuple[int, int], surface: str, shown: Sequence[str], margin: Range
) -> Scene:
    view = choose_view(rng, size)
    image = np.empty((3, *view.canvas), np.float32)
    scene = Scene(image, view, light=rng.uniform(0, 2 * np.pi), margin=rng.uniform(*margin))
    SURFACES[surface](rng, scene)
    has_joints = 'joint' in scene.coverage
    add_distractors(rng, scene, surface, before=True)
    for name in reversed(DEFECTS):
        if name in shown and not (name == 'joint' and has_joints):
            PAINTERS[name](rng, scene)
    add_distractors(rng, scene, surface, before=False)
    return scene


def _is_seen(scene: Scene, name: str) -> bool:
    if name not in scene.coverage:
        return False
    height, width = scene.view.size
    seen = np.count_nonzero(scene.view.take(scene.coverage[name]) >= 0.5)
    return bool(seen >= max(4, _LEAST_SHARE * height * width))


def label_map(scene: Scene, defects: Sequence[str]) -> np.ndarray:
    """Shape (H, W) of the picture, uint8: 0, or 1 + the place in ``defects`` of the first of ``DEFECTS`` there."""
    mask = np.zeros(scene.view.size, np.uint8)
    for name in reversed(DEFECTS):
        if name in defects and name in scene.coverage:
            mask[scene.view.take(scene.coverage[name]) >= 0.5] = defects.index(name) + 1
    return mask


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
