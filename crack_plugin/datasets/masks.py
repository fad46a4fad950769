"""Binary masks in image files."""

from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from crack_plugin.datasets.polygons import LabelError


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """Read a PNG file as a mask.

    Args:
        path: A greyscale, two-level, palette or grey RGB image.
        threshold: Values above are foreground. None: only 0 and 1, or 0 and 255, may occur.

    Returns:
        Shape (H, W), bool.

    Raises:
        LabelError: The file is no such image, or has other values.
    """
    values = _read_values(path)
    if threshold is not None:
        return values > threshold
    levels = np.unique(values)
    if not (np.isin(levels, (0, 1)).all() or np.isin(levels, (0, 255)).all()):
        shown = ', '.join(map(str, levels[:8])) + (', ...' if len(levels) > 8 else '')
        raise LabelError(
            f'{path} has the values {shown}; a mask has 0 and 255, or 0 and 1. Save it so, or convert '
            'it with tools/convert_masks_to_yolo.py --threshold 127, which takes what is above as crack.'
        )
    return values > 0


def _read_values(path: Path) -> np.ndarray:
    try:
        # Image.open would warn of masks from 90 megapixels on, and refuse those above 179.
        with PngImageFile(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise LabelError(f'{path} cannot be read as an image: {error}. Export it again.') from error
    if image.mode == 'P' and (image.getpalette() or [])[:3] != [0, 0, 0]:
        raise LabelError(f'{path}: the first colour of its palette is not black. Save it as greyscale.')
    values = np.asarray(image)
    if image.mode == 'RGB' and (values == values[..., :1]).all():
        return values[..., 0]
    if values.ndim != 2:
        raise LabelError(f'{path} is a colour image (mode {image.mode}), not a mask. Save it as greyscale.')
    return values
