"""Label maps as pictures."""

import numpy as np
from matplotlib.colors import to_rgb
from skimage.color import label2rgb

from crack_plugin.visualization import panels


def test_difference() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 2, 255]])
    prediction = np.array([[0, 1, 1, 0, 2, 1, 1]])
    found, false_alarm, missed = panels.FOUND, panels.FALSE_ALARM, panels.MISSED
    assert panels.difference(prediction, truth).tolist() == [[0, false_alarm, found, missed, found, missed, 0]]


def test_overlay_has_the_colours_of_scikit_image() -> None:
    """Every value of every channel under every colour, in more than one tile; BGR and views as well."""
    values = np.arange(256, dtype=np.uint8)
    image = np.stack([np.tile(np.roll(values, shift), (100, 2)) for shift in (0, 85, 170)], axis=-1)
    labels = np.tile(np.repeat(np.arange(9), 60)[:512], (100, 1)).astype(np.uint8)
    labels[::7] = 0
    colors = [to_rgb(panels.CLASS_COLORS[label % 7]) for label in range(8)]
    expected = label2rgb(labels, image / 255, colors=colors, alpha=0.6, bg_label=0, saturation=1)
    expected = np.where(labels[..., None] > 0, np.rint(255 * expected), image).astype(np.uint8)
    ignored = np.where(labels == 0, panels.IGNORED, labels)
    given = image.copy()
    np.testing.assert_array_equal(panels.overlay(image, labels), expected)
    np.testing.assert_array_equal(panels.overlay(image, ignored.astype(np.int64)), expected)
    np.testing.assert_array_equal(panels.overlay(image[..., ::-1], labels, is_bgr=True)[..., ::-1], expected)
    np.testing.assert_array_equal(image, given)
