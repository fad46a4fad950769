"""One picture that shows the whole world: each surface with each kind of defect, and the labels' outlines."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.synthetic.picture import draw
from crack_plugin.files import write_atomically

# Distinct on grey, BGR.
_COLOURS = ((0, 255, 255), (255, 0, 255), (0, 128, 255), (0, 255, 0), (255, 160, 0))
_BAR = 18


def contact_sheet(
    surfaces: Sequence[str], defects: Sequence[str], size: tuple[int, int] = (336, 336), seed: int = 0
) -> np.ndarray:
    """Draw a sheet with a row for each surface, and in it for each class a picture without and with the outlines.

    Args:
        surfaces: Names from ``SURFACES``.
        defects: Names from ``DEFECTS``; each picture shows one of them.
        size: (H, W) of a picture in pixels.
        seed: Another seed draws other pictures.

    Returns:
        Shape (rows, columns, 3), uint8, BGR.

    Raises:
        DatasetError: A surface or a class is not known, or the size is too small.
    """
    rows = []
    for surface in surfaces:
        cells = []
        for i, defect in enumerate(defects):
            image, _, mask = draw(np.random.default_rng([seed, i]), size, surface, (defect,))
            outlined = image.copy()
            outlines = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(outlined, outlines, -1, _COLOURS[i % len(_COLOURS)], 1)
            bar = np.zeros((_BAR, 2 * size[1], 3), np.uint8)
            cv2.putText(bar, f'{surface}: {defect}', (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1)
            cells.append(np.concatenate([bar, np.concatenate([image, outlined], axis=1)]))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def write_contact_sheet(
    file: str | Path, surfaces: Sequence[str], defects: Sequence[str], size: tuple[int, int] = (336, 336), seed: int = 0
) -> None:
    """Write ``contact_sheet`` to a PNG or JPEG file.

    Raises:
        DatasetError: As there; or the file's name ends in neither ``.png`` nor ``.jpg``.
    """
    file = Path(file)
    if file.suffix not in ('.png', '.jpg'):
        raise DatasetError(f'{file}: a contact sheet is a .png or a .jpg file, name one')
    content = cv2.imencode(file.suffix, contact_sheet(surfaces, defects, size, seed))[1].tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content)
