"""Label maps as pictures: overlays, differences, and the panels that show an example.

All colours are of the palette of Okabe and Ito, "Color Universal Design" (2008), which readers with any kind of colour
vision can tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.color import gray2rgb, label2rgb, rgb2gray

ORANGE, SKY_BLUE, GREEN, YELLOW = '#E69F00', '#56B4E9', '#009E73', '#F0E442'
BLUE, VERMILLION, PURPLE = '#0072B2', '#D55E00', '#CC79A7'
CLASS_COLORS = (ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
"""Colour of foreground class c is ``CLASS_COLORS[(c - 1) % 7]``."""

FOUND, FALSE_ALARM, MISSED = 1, 2, 3
DIFFERENCE_COLORS = (SKY_BLUE, YELLOW, VERMILLION)
DIFFERENCE_NAMES = ('found', 'false alarm', 'missed')
IGNORED = 255

_TILE = 64, 256
"""Rows and columns that :func:`overlay` paints at once: they fit the cache, and most show no crack."""


def overlay(image: np.ndarray, labels: np.ndarray, alpha: float = 0.6, is_bgr: bool = False) -> np.ndarray:
    """Paint the foreground classes over an image.

    Args:
        image: RGB, shape (H, W, 3), uint8.
        labels: 0 for the background, 1 to K for the classes, 255 for ignored pixels, shape (H, W).
        alpha: Opacity of the paint, in [0, 1].
        is_bgr: Whether the image's channels are blue, green and red, as OpenCV has them.

    Returns:
        Shape (H, W, 3), uint8, channels as in ``image``; background and ignored pixels are the image's own.
    """
    painted = np.array(image, order='C')
    paints: dict[int, np.ndarray] = {}
    for top in range(0, labels.shape[0], _TILE[0]):
        for left in range(0, labels.shape[1], _TILE[1]):
            window = np.s_[top : top + _TILE[0], left : left + _TILE[1]]
            own = labels[window]
            if not own.any():
                continue
            for label in set(np.flatnonzero(np.bincount(own.ravel())).tolist()) - {0, IGNORED}:
                if label not in paints:
                    paints[label] = _paint_table(label, alpha, is_bgr)
                tile = np.ascontiguousarray(painted[window])
                painted[window] = cv2.copyTo(cv2.LUT(tile, paints[label]), (own == label).view(np.uint8), tile)
    return painted


def paint_labels(labels: np.ndarray) -> np.ndarray:
    """A label map in colours on black, ignored pixels grey.

    Args:
        labels: As for :func:`overlay`.

    Returns:
        RGB, shape (H, W, 3), uint8.
    """
    ignored = labels == IGNORED
    background = np.where(ignored, 0.5, 0.0)
    return _paint(gray2rgb(background), np.where(ignored, 0, labels), CLASS_COLORS, alpha=1)


def difference(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compare two label maps pixel by pixel.

    Args:
        prediction: Predicted labels, shape (H, W).
        truth: True labels, shape (H, W), 255 where ignored.

    Returns:
        Shape (H, W), uint8: 0 where both are background or the truth is ignored, ``FOUND`` where a foreground class is
        predicted rightly, ``FALSE_ALARM`` where one is predicted on background, ``MISSED`` where one is taken for
        background or for another class.
    """
    result = np.zeros(truth.shape, np.uint8)
    result[(truth == 0) & (prediction > 0)] = FALSE_ALARM
    result[(truth > 0) & (prediction != truth)] = MISSED
    result[(truth > 0) & (prediction == truth)] = FOUND
    result[truth == IGNORED] = 0
    return result


def paint_difference(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The :func:`difference` in colours over the darkened grey image.

    Args:
        image: RGB, shape (H, W, 3), uint8.
        prediction: Predicted labels, shape (H, W).
        truth: True labels, shape (H, W), 255 where ignored.

    Returns:
        RGB, shape (H, W, 3), uint8.
    """
    darkened = 0.4 * gray2rgb(rgb2gray(image))
    return _paint(darkened, difference(prediction, truth), DIFFERENCE_COLORS, alpha=1)


def save_panel(path: Path, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, title: str) -> None:
    """Write image, ground truth, prediction and difference side by side as PNG.

    Args:
        path: File to write.
        image: RGB, shape (H, W, 3), uint8.
        truth: True labels, shape (H, W), 255 where ignored.
        prediction: Predicted labels, shape (H, W).
        title: Written above, taken as it is (no mathematical notation).
    """
    pictures = {
        'image': image,
        'ground truth': paint_labels(truth),
        'prediction': paint_labels(prediction),
        'difference': paint_difference(image, prediction, truth),
    }
    side = 3.6  # inches
    ratio = float(np.clip(image.shape[0] / image.shape[1], 0.25, 3))
    figure = Figure(figsize=(4 * side, side * ratio + 1.1), dpi=100, layout='constrained')
    for axes, (name, picture) in zip(figure.subplots(1, 4), pictures.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(name)
        axes.set_axis_off()
    figure.suptitle(title, parse_math=False)
    _add_difference_legend(figure)
    figure.savefig(path)


def save_contact_sheet(
    path: Path,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Write the same images under several models as PNG: a row an image; image, ground truth, then each difference.

    Args:
        path: File to write.
        images: RGB, each of shape (H, W, 3), uint8.
        truths: True labels by image, shape (H, W), 255 where ignored.
        predictions: By model, the predicted labels of each image, shape (H, W).
    """
    columns = 2 + len(predictions)
    side = 2.4  # inches
    heights = [float(np.clip(image.shape[0] / image.shape[1], 0.25, 3)) for image in images]
    figure = Figure(figsize=(columns * side, side * sum(heights) + 1.0), dpi=100, layout='constrained')
    grid = figure.subplots(len(images), columns, squeeze=False, height_ratios=heights)
    for row, (axes, image, truth) in enumerate(zip(grid, images, truths, strict=True)):
        pictures = {'image': image, 'ground truth': paint_labels(truth)}
        pictures |= {name: paint_difference(image, labels[row], truth) for name, labels in predictions.items()}
        for place, (name, picture) in zip(axes, pictures.items(), strict=True):
            place.imshow(picture)
            place.set_axis_off()
            if row == 0:
                place.set_title(name, fontsize=8, parse_math=False)
    _add_difference_legend(figure)
    figure.savefig(path)


def _add_difference_legend(figure: Figure) -> None:
    legend = zip(DIFFERENCE_NAMES, DIFFERENCE_COLORS, strict=True)
    handles = [Patch(facecolor=color, edgecolor='black', label=name) for name, color in legend]
    figure.legend(handles=handles, loc='outside lower right', ncols=3, frameon=False)


def _paint_table(label: int, alpha: float, is_bgr: bool) -> np.ndarray:
    """What becomes of each value of each channel under the paint of a class, shape (1, 256, 3), uint8."""
    color = np.array(to_rgb(CLASS_COLORS[(label - 1) % len(CLASS_COLORS)]))[:: -1 if is_bgr else 1]
    values = np.arange(256)[:, None] / 255
    return np.rint(255 * (color * alpha + values * (1 - alpha))).astype(np.uint8)[None]


def _paint(image: np.ndarray, labels: np.ndarray, colors: tuple[str, ...], alpha: float) -> np.ndarray:
    """Paint labels from 1 on over an RGB image in [0, 1]."""
    present = np.unique(labels[labels > 0])
    if not present.size:
        return np.rint(255 * image).astype(np.uint8)
    shown = [to_rgb(colors[(label - 1) % len(colors)]) for label in present]
    painted = label2rgb(labels, image, colors=shown, alpha=alpha, bg_label=0, saturation=1)
    painted[labels == 0] = image[labels == 0]
    return np.rint(255 * painted).astype(np.uint8)
