"""Each crack of a photograph as a feature: its sizes in the photograph's unit, its severity and its shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crack_plugin.inspection.bands import Crack
from crack_plugin.inspection.branches import Branch, branches
from crack_plugin.inspection.georeference import Georeference
from crack_plugin.inspection.measuring import measure
from crack_plugin.inspection.outlines import Outline, outlines
from crack_plugin.inspection.severity import Profile, Rating, rate

EDGE_UNCERTAINTY = 0.5
"""How far either edge of a crack may be from where the mask has it, in pixels."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """What the cracks of a photograph are measured with.

    Attributes:
        image: The file.
        mask: Its mask, relative to the folder of the results.
        shape: (H, W).
        class_names: Of the K classes.
        mm_per_pixel: Its scale; None for results in pixels.
        georeference: Its place on the earth, if it is known.
    """

    image: Path
    mask: str
    shape: tuple[int, int]
    class_names: Sequence[str]
    mm_per_pixel: float | None = None
    georeference: Georeference | None = None


@dataclass(frozen=True, eq=False)
class Feature:
    """A crack.

    Attributes:
        image: The photograph.
        mask: Its mask.
        id: Number of the crack in the photograph, from 1, in the order of their first pixels from the top.
        class_name: What it is.
        unit: ``px`` or ``mm``, of all lengths; the area's is its square.
        scale: Such units a pixel.
        length: Of the centrelines, branches included, from tip to tip.
        mean_width: Over the length.
        max_width: At the widest place.
        width_uncertainty: How far a width may be off on either side: half a pixel at each edge.
        area: Of its pixels.
        orientation: Mean direction in degrees from 0 (horizontal; east on a map) to below 180, counterclockwise; None
            where there is none.
        score: Mean probability of its pixels; None if it is not known.
        widest: (x, y) of the widest place in pixels.
        place: The same in the CRS of a georeferenced photograph, and otherwise in pixels.
        rating: Its severity; None without a profile.
        outlines: Its polygons in pixels.
        branches: Its centrelines in pixels; their distances and widths are in pixels.
    """

    image: Path
    mask: str
    id: int
    class_name: str
    unit: str
    scale: float
    length: float
    mean_width: float
    max_width: float
    width_uncertainty: float
    area: float
    orientation: float | None
    score: float | None
    widest: tuple[float, float]
    place: tuple[float, float]
    rating: Rating | None
    outlines: list[Outline]
    branches: list[Branch]


def make_features(photograph: Photograph, cracks: Sequence[Crack], profile: Profile | None = None) -> list[Feature]:
    """Measure and rate the cracks of a photograph.

    Args:
        photograph: What they are in.
        cracks: In the order of their numbers.
        profile: Limits of the severity; only with ``photograph.mm_per_pixel``.
    """
    return [make_feature(photograph, number, crack, profile) for number, crack in enumerate(cracks, start=1)]


def make_feature(photograph: Photograph, number: int, crack: Crack, profile: Profile | None = None) -> Feature:
    """Measure and rate a crack.

    Args:
        photograph: What it is in.
        number: Its number there.
        crack: Its pixels.
        profile: As for :func:`make_features`.
    """
    measured = measure(crack, photograph.shape)
    scale, unit = (1.0, 'px') if photograph.mm_per_pixel is None else (photograph.mm_per_pixel, 'mm')
    widths = {'max_width': measured.max_width * scale, 'mean_width': measured.mean_width * scale}
    uncertainty = 2 * EDGE_UNCERTAINTY * scale
    widest = place = measured.path[int(np.argmax(measured.widths))][::-1] + 0.5
    orientation = measured.orientation
    if photograph.georeference is not None:
        place = photograph.georeference.places(widest[None])[0]
        orientation = None if orientation is None else photograph.georeference.direction(orientation)
    return Feature(
        image=photograph.image,
        mask=photograph.mask,
        id=number,
        class_name=photograph.class_names[crack.label - 1],
        unit=unit,
        scale=scale,
        length=measured.length * scale,
        mean_width=widths['mean_width'],
        max_width=widths['max_width'],
        width_uncertainty=uncertainty,
        area=crack.area * scale**2,
        orientation=orientation,
        score=crack.score,
        widest=(float(widest[0]), float(widest[1])),
        place=(float(place[0]), float(place[1])),
        rating=None if profile is None else rate(profile, widths[profile.measure], uncertainty),
        outlines=outlines(crack.runs),
        branches=branches(measured),
    )
