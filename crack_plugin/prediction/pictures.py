"""The pictures in a folder of results: how they are written, and masks read again."""

from pathlib import Path

import cv2
import numpy as np

from crack_plugin.files import SaveError, write_atomically
from crack_plugin.prediction.settings import OutputError


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image in the format of its suffix; its folder is made if it is not there.

    Raises:
        SaveError: It could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, content = cv2.imencode(path.suffix, image)
    if not encoded:
        height, width = image.shape[:2]
        raise SaveError(f'{path} could not be written: {width} x {height} pixels are too many for its format.')
    write_atomically(path, content.tobytes())


def read_image(path: Path, flags: int) -> np.ndarray:
    """Read an image that was written here.

    Args:
        path: The file.
        flags: Of ``cv2.imread``.

    Raises:
        OutputError: It is not as it was written.
    """
    image = cv2.imread(str(path), flags)
    if image is None:
        raise OutputError(f'{path} cannot be read. Delete it: the same command then predicts its image again.')
    return image


def write_mask(path: Path, labels: np.ndarray, classes: int) -> None:
    """Write labels, from 1 to K, as a PNG: of one class 0 and 255, of several as they are.

    Args:
        path: The file.
        labels: Shape (H, W), uint8.
        classes: K.
    """
    write_image(path, labels if classes > 1 else 255 * labels)


def read_mask(path: Path, classes: int) -> np.ndarray:
    """The labels that :func:`write_mask` was given.

    Raises:
        OutputError: They are not as they were written.
    """
    mask = read_image(path, cv2.IMREAD_UNCHANGED)
    return mask if classes > 1 else (mask == 255).astype(np.uint8)
