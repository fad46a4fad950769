"""Maps of cracks: places, lengths and the scale bar are those of the CRS, on turned photographs too."""

import math
import re

import numpy as np
import pytest
from drawn_cracks import line

from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.crack_map import Mapped, draw_map
from crack_plugin.inspection.features import Photograph, make_features
from crack_plugin.inspection.georeference import Georeference

SHAPE = (200, 300)
ENDS = [(30.2, 40.4), (150.8, 260.1)]


def mapped(number: int, metres: float | None, east: float = 0.0) -> Mapped:
    """A photograph of pixels of 5 mm, in the unit of the CRS, turned by 27 degrees, with one crack."""
    size = 0.005 / (metres or 1)
    a, b = size * math.cos(math.radians(27)), size * math.sin(math.radians(27))
    georeference = Georeference((a, b, 500000.0 + east, b, -a, 5400000.0), 'WKT', 'EPSG:1 <&>', metres)
    labels = line(SHAPE, ENDS, 3.0).astype(np.uint8)
    photograph = Photograph(None, 'm', SHAPE, ['crack'], 5.0, georeference)
    return Mapped(number, SHAPE, georeference, make_features(photograph, find_cracks([Band(labels)])))


def points(text: str) -> np.ndarray:
    return np.array([[float(each) for each in pair.split(',')] for pair in re.findall(r'[\d.]+,[\d.]+', text)])


@pytest.mark.parametrize(
    ('metres', 'text'), [(1.0, '50 cm'), (0.3048, '50 cm'), (None, '0.5 units of EPSG:1 &lt;&amp;&gt;')]
)
def test_crack_and_bar_have_their_lengths(metres: float | None, text: str) -> None:
    photograph = mapped(7, metres)
    svg = draw_map([photograph], lambda _: '#123456')
    assert text in svg
    bar = float(re.search(r'class="bar" d="[^"]*h([\d.]+)m', svg)[1])
    per_metre = bar / 0.5
    crack = points(re.search(r'stroke="#123456" d="([^"]*)"', svg)[1])
    drawn = np.hypot(*np.diff(crack, axis=0).T).sum()
    # 5 mm a pixel, and the ends are round
    assert drawn / per_metre == pytest.approx(0.005 * (np.hypot(*np.subtract(*ENDS)) + 3), rel=0.02)
    corners = points(re.search(r'polygon points="([^"]*)"', svg)[1])
    sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    assert sides / per_metre == pytest.approx([1.5, 1, 1.5, 1], rel=0.001)
    # The row of pixels rises to the east by 27 degrees; the drawing's y axis points down.
    right, down = corners[1] - corners[0]
    assert math.degrees(math.atan2(-down, right)) == pytest.approx(27, abs=0.1)
    assert 'href="#photograph-7"' in svg


def test_photographs_lie_beside_each_other() -> None:
    svg = draw_map([mapped(1, 1.0), mapped(2, 1.0, east=4.0)], lambda _: 'red')
    first, second = (points(each) for each in re.findall(r'polygon points="([^"]*)"', svg))
    bar = float(re.search(r'class="bar" d="[^"]*h([\d.]+)m', svg)[1])
    assert '>1 m<' in svg
    assert second - first == pytest.approx(np.tile([4 * bar, 0], (4, 1)), abs=0.2)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    every = points(svg.partition('class="bar"')[0])
    assert every.min() >= 0
    assert (every.max(axis=0) < (width, height)).all()
