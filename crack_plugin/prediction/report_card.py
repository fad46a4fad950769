"""A photograph in the inspection report: its picture with the widest place marked, and a table of its cracks."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from crack_plugin.inspection.features import Feature
from crack_plugin.inspection.georeference import Georeference
from crack_plugin.inspection.vectors import properties
from crack_plugin.prediction.pictures import read_image, read_mask
from crack_plugin.prediction.sources import VIDEO_SUFFIXES, overlay_of
from crack_plugin.prediction.tables import Row
from crack_plugin.visualization.document import Table, html_body
from crack_plugin.visualization.panels import overlay

LISTED = 10
"""How many cracks of a photograph its table lists: a card must fit a page."""
_SIDE = 900
_QUALITY = 80
_PAPER, _TEXT = (180, 100), 3.6
"""Largest width and height of a picture, and the size of its labels, on paper, in mm."""
_Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a label."""


@dataclass(frozen=True, eq=False)
class Card:
    """What is told of a photograph.

    Attributes:
        number: From 1.
        row: The first of its rows in predictions.csv.
        features: Its cracks.
        classes: Number of classes K.
        mm_per_pixel: Its scale, if it is known.
        georeference: Its place on the earth, if it is known.
    """

    number: int
    row: Row
    features: Sequence[Feature]
    classes: int
    mm_per_pixel: float | None
    georeference: Georeference | None

    @property
    def name(self) -> str:
        """Its file, or the frame of a video."""
        image = Path(self.row.image)
        frame = f', frame {int(Path(self.row.mask).stem)}' if image.suffix.lower() in VIDEO_SUFFIXES else ''
        return f'{image}{frame}'

    @property
    def widest(self) -> Feature | None:
        """Its widest crack."""
        return max(self.features, key=lambda feature: feature.max_width, default=None)

    def html(self, out: Path) -> str:
        """The card.

        Args:
            out: Folder with mask and overlay, which are read, and scaled down, only now.

        Raises:
            OutputError: One of them cannot be read.
        """
        listed = sorted(self.features, key=lambda feature: -feature.length)[:LISTED]
        scale = 'scale not known' if self.mm_per_pixel is None else f'{self.mm_per_pixel:g} mm a pixel'
        return '\n'.join(
            [
                f'<section class="{"card" if self.features else "card empty"}" id="photograph-{self.number}">',
                f'<h3>{self.number}. {escape(self.name)}</h3>',
                f'<p>{self.row.width} x {self.row.height} px, {scale}. {self._total()}</p>',
                f'<figure>{self._picture(out, listed)}<figcaption>{escape(self._caption())}</figcaption></figure>',
                *self._table(listed),
                '</section>',
            ]
        )

    def _total(self) -> str:
        if not self.features:
            return 'No crack was found.'
        total = sum(feature.length for feature in self.features)
        cracks = 'cracks' if len(self.features) > 1 else 'crack'
        return f'{len(self.features):,} {cracks}, {length_of(total, self.features[0].unit)} in total.'

    def _caption(self) -> str:
        widest = self.widest
        if widest is None:
            return 'No crack is marked.'
        x, y = widest.widest
        text = f'Widest place: crack {widest.id}, {width_of(widest)}, at x {x:.1f}, y {y:.1f} px'
        if self.georeference is not None:
            own = properties(widest)
            text += f'; {self.georeference.name}: {own["x"]}, {own["y"]}'
        return f'{text}. {widest.rating.severity}.' if widest.rating else f'{text}.'

    def _picture(self, out: Path, listed: Sequence[Feature]) -> str:
        width, height, widest = self.row.width, self.row.height, self.widest
        data = base64.b64encode(thumbnail(out, self.row.mask, self.classes)).decode()
        size = _TEXT * max(width / _PAPER[0], height / _PAPER[1])
        parts = [
            f'<svg class="photograph" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.name)}">',
            f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{data}"/>',
        ]
        labels: list[tuple[Feature, str, str]] = []
        taken: list[_Box] = []
        if widest is not None:
            x, y = widest.widest
            ring = f'cx="{round(x, 6)}" cy="{round(y, 6)}" r="{size:.1f}"'
            parts += [
                f'<circle class="halo" {ring} stroke-width="{size / 3:.1f}"/>',
                f'<circle class="widest" {ring} stroke-width="{size / 7:.1f}"/>',
            ]
            taken = [(x - size, y - size, x + size, y + size)]
            labels = [(widest, f'{widest.id}: {width_of(widest)}', 'widest')]
        labels += [(each, str(each.id), 'number') for each in listed if each is not widest]
        for each, text, kind in labels:
            taken.append(_free_box(text, each.widest, size, (width, height), taken))
            left, _, _, bottom = taken[-1]
            parts.append(
                f'<text class="{kind}" x="{left:.1f}" y="{bottom - size / 4:.1f}" font-size="{size:.1f}" '
                f'stroke-width="{size / 4:.1f}">{escape(text)}</text>'
            )
        return '\n'.join([*parts, '</svg>'])

    def _table(self, listed: Sequence[Feature]) -> list[str]:
        if not listed:
            return []
        unit = listed[0].unit
        header = ['Crack', f'Length, {unit}', f'Mean width, {unit}', f'Widest, {unit}', 'Direction', 'Score']
        rows = [
            [
                str(each.id),
                f'{each.length:,.1f}',
                f'{each.mean_width:.{decimals(each)}f}',
                width_of(each).removesuffix(f' {unit}'),
                '-' if each.orientation is None else f'{round(each.orientation) % 180}°',
                '-' if each.score is None else f'{each.score:.2f}',
            ]
            for each in listed
        ]
        if self.classes > 1:
            header.append('Class')
            rows = [[*row, each.class_name] for row, each in zip(rows, listed, strict=True)]
        if listed[0].rating is not None:
            header.append('Severity')
            ratings = [each.rating for each in listed]
            rows = [[*row, rating.severity if rating else '-'] for row, rating in zip(rows, ratings, strict=True)]
        parts = [html_body([Table(header, rows)])]
        more = len(self.features) - len(listed)
        if more:
            rest = sum(each.length for each in self.features) - sum(each.length for each in listed)
            parts.append(
                f'<p>The {len(listed)} longest; {more:,} more, {length_of(rest, unit)} in total, are in cracks.csv.</p>'
            )
        return parts


def decimals(feature: Feature) -> int:
    """Decimals of a width: its uncertainty has two digits."""
    return max(0, 1 - math.floor(math.log10(feature.width_uncertainty)))


def width_of(feature: Feature) -> str:
    """The largest width of a crack with its uncertainty and unit."""
    digits = decimals(feature)
    return f'{feature.max_width:.{digits}f} ± {feature.width_uncertainty:.{digits}f} {feature.unit}'


def length_of(value: float, unit: str) -> str:
    """A length with its unit; of a metre and more in metres."""
    return f'{value / 1000:,.2f} m' if unit == 'mm' and value >= 1000 else f'{value:,.1f} {unit}'


def thumbnail(out: Path, mask: str, classes: int) -> bytes:
    """The overlay of a photograph, scaled down to 900 pixels, as JPEG.

    Args:
        out: Folder of the results.
        mask: Mask, relative to it.
        classes: Number of classes K.

    Raises:
        OutputError: Mask or overlay cannot be read.
    """
    labels = read_mask(out / mask, classes)
    factor = max(labels.shape) / _SIDE
    # Decoding at an eighth of the size takes a fraction of time and memory.
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    reduced = next((each for each in flags if each <= factor), 1)
    picture = read_image(out / overlay_of(mask), flags.get(reduced, cv2.IMREAD_COLOR))
    if factor > 1:
        height, width = (max(1, round(side / factor)) for side in labels.shape)
        # Scaled down, the paint of a thin crack would fade away.
        thickness = math.ceil(factor)
        labels = cv2.dilate(labels, np.ones((thickness, thickness), np.uint8))
        labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        picture = overlay(picture, labels, is_bgr=True)
    # With colours at half the size, as is usual, the paint of a thin crack would fade as well.
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *sampling])[1].tobytes()


def _free_box(
    text: str, place: tuple[float, float], size: float, shape: tuple[int, int], taken: Sequence[_Box]
) -> _Box:
    """Where a label goes: beside its place, or a little above or below, inside the picture and clear of others."""
    x, y = place
    length = 0.62 * size * len(text)
    # In a narrow picture there may be room above and below alone.
    lefts = (x + 1.5 * size, x - 1.5 * size - length, min(max(x - length / 2, 0), shape[0] - length))
    boxes = [
        (left, y + (step - 0.6) * size, left + length, y + (step + 0.6) * size)
        for step in (0, 1.2, -1.2, 2.4, -2.4, 3.6, -3.6)
        for left in lefts[: 3 if abs(step) > 2 else 2]
    ]
    inside = [box for box in boxes if min(box) >= 0 and box[2] <= shape[0] and box[3] <= shape[1]]
    free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
    return (free or inside or boxes)[0]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
