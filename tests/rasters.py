"""Large images in small: TIFFs, and a cheap model for them whose windows are small."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from crack_plugin.prediction.mosaic import Windows

rasterio = pytest.importorskip('rasterio')
WINDOWS = Windows((96, 80), (64, 56), 3)
PLACE = {'crs': 'EPSG:32632', 'transform': rasterio.Affine.translation(5e5, 5.4e6) @ rasterio.Affine.rotation(30)}
PLACE['transform'] @= rasterio.Affine.scale(0.002, -0.002)
"""Turned by 30 degrees; a pixel is 2 mm."""


class Drawn:
    """Stands for a ``Predictor``: what is dark in a window is a crack, with a probability that varies."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.class_names, self.device = ['crack'], torch.device('cpu')
        self.windows, self.model = WINDOWS, SimpleNamespace(threshold=0.5)
        self.calls, self.fail_at = 0, fail_at

    def segment_windows(self, windows: torch.Tensor) -> torch.Tensor:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return (100 - windows[:, :1].float()) / 20


def write_tiff(path: Path, image: np.ndarray, **options: Any) -> Path:
    """Write channels (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {'driver': 'GTiff', 'count': len(image), 'height': image.shape[1], 'width': image.shape[2]}
    tiles = {'tiled': True, 'blockxsize': 64, 'blockysize': 64, 'compress': 'deflate'}
    with rasterio.open(
        path, 'w', **{**profile, 'dtype': image.dtype, 'photometric': 'rgb', **tiles, **options}
    ) as file:
        file.write(image)
    return path


def mask_of(out: Path, name: str = 'masks/ortho.tif') -> np.ndarray:
    with rasterio.open(out / name) as file:
        return file.read()
