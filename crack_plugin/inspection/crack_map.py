"""Cracks of georeferenced photographs as a map: an SVG drawing with the photographs' outlines and a scale bar."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from crack_plugin.inspection.features import Feature
from crack_plugin.inspection.georeference import Georeference

_SIDE = 1000
_MARGIN, _BAR = 20, 60
_TOLERANCE = 0.3
"""How far a simplified line may be from the centreline, as lengths above in units of the drawing."""
_LENGTHS = ((1000, 'km'), (1, 'm'), (0.01, 'cm'), (0.001, 'mm'))


@dataclass(frozen=True, eq=False)
class Mapped:
    """A photograph on a map.

    Attributes:
        number: Its number on the page, whose card has the id ``photograph-NUMBER``.
        shape: (H, W).
        georeference: Its place.
        features: Its cracks.
    """

    number: int
    shape: tuple[int, int]
    georeference: Georeference
    features: Sequence[Feature]

    @property
    def corners(self) -> np.ndarray:
        """Its corners in the CRS, shape (4, 2)."""
        height, width = self.shape
        return self.georeference.places(np.array([(0, 0), (width, 0), (width, height), (0, height)], float))


def bounds(photographs: Sequence[Mapped]) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest (x, y) of photographs of one CRS."""
    corners = np.concatenate([photograph.corners for photograph in photographs])
    return corners.min(axis=0), corners.max(axis=0)


def draw_map(photographs: Sequence[Mapped], color: Callable[[Feature], str]) -> str:
    """Draw photographs of one CRS and the centrelines of their cracks, the y axis of the CRS upwards.

    Args:
        photographs: One at least.
        color: Of a crack, as CSS has it.

    Returns:
        An ``svg`` element.
    """
    low, high = bounds(photographs)
    unit = float((high - low).max()) / _SIDE  # of the CRS, per unit of the drawing
    width, height = (high - low) / unit

    def drawn(places: np.ndarray) -> np.ndarray:
        return (places - (low[0], high[1])) / (unit, -unit) + _MARGIN

    full = (width + 2 * _MARGIN, height + 2 * _MARGIN + _BAR)
    parts = [
        f'<svg class="map" viewBox="0 0 {full[0]:.0f} {full[1]:.0f}" role="img" aria-label="Map of the cracks">',
        *(_outline(photograph, drawn(photograph.corners)) for photograph in photographs),
    ]
    for photograph in photographs:
        for feature in photograph.features:
            lines = [_path(drawn(photograph.georeference.places(branch.points))) for branch in feature.branches]
            parts.append(f'<path class="crack" stroke="{escape(color(feature))}" d="{"".join(lines)}"/>')
    georeference = photographs[0].georeference
    parts.append(_scale_bar(unit, width, height + 2 * _MARGIN, georeference.metres, georeference.name))
    return '\n'.join([*parts, '</svg>'])


def _outline(photograph: Mapped, corners: np.ndarray) -> str:
    x, y = corners.mean(axis=0)
    size = min(18.0, 0.4 * float(np.hypot(*(corners[1:3] - corners[:2]).T).min()))
    points = ' '.join(f'{left:.1f},{top:.1f}' for left, top in corners)
    # Of thousands of small photographs the numbers could not be read.
    number = f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}">{photograph.number}</text>' if size >= 4 else ''
    return f'<a href="#photograph-{photograph.number}"><polygon points="{points}"/>{number}</a>'


def _path(points: np.ndarray) -> str:
    kept = cv2.approxPolyDP(points.astype(np.float32), _TOLERANCE, False)[:, 0]
    if len(kept) == 1:
        kept = points[[0, -1]]
    return 'M' + ' '.join(f'{x:.1f},{y:.1f}' for x, y in kept)


def _scale_bar(unit: float, width: float, top: float, metres: float | None, crs: str) -> str:
    size = round_length(unit * width / 3 * (metres or 1))
    length, y = size / (metres or 1) / unit, top + 10
    text = f'{size:g} units of {crs}' if metres is None else _with_unit(size)
    bar = f'M{_MARGIN},{y - 6:.1f}v12m0,-6h{length:.3f}m0,-6v12'
    return f'<path class="bar" d="{bar}"/><text class="bar" x="{_MARGIN}" y="{y + 28:.1f}">{escape(text)}</text>'


def round_length(longest: float) -> float:
    """The longest of 1, 2 or 5 times a power of ten that is no longer.

    Example:
        >>> round_length(7.3), round_length(0.034)
        (5.0, 0.02)
    """
    power = 10.0 ** math.floor(math.log10(longest))
    # A power of ten may come out a little above what it is the logarithm of.
    factor = next((factor for factor in (5, 2) if factor * power <= longest * (1 + 1e-9)), 1)
    return float(f'{factor * power:.6g}')


def _with_unit(metres: float) -> str:
    size, name = next((each for each in _LENGTHS if metres >= each[0] * (1 - 1e-9)), _LENGTHS[-1])
    return f'{metres / size:g} {name}'
