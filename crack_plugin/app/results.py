"""What is made of the cracks of a session: rows for the page, and the files of ``tools/predict.py`` to download."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crack_plugin.app.jobs import test_cfg_of
from crack_plugin.app.limits import AppError, UnknownError
from crack_plugin.app.maps import width_map
from crack_plugin.app.models import Models
from crack_plugin.app.photographs import NOW, Photograph
from crack_plugin.app.sessions import Session
from crack_plugin.datasets.photographs import read_photograph
from crack_plugin.files import write_atomically
from crack_plugin.inspection.bands import Band, find_cracks
from crack_plugin.inspection.features import Feature, make_features
from crack_plugin.inspection.features import Photograph as Measured
from crack_plugin.inspection.georeference import read_georeference
from crack_plugin.inspection.scale import Scales, read_scales
from crack_plugin.inspection.severity import PROFILES, Profile
from crack_plugin.prediction.cracks import CRACKS, Wanted, make_all
from crack_plugin.prediction.output import write_one
from crack_plugin.prediction.records import record_of_parts
from crack_plugin.prediction.report_page import REPORT, Origin
from crack_plugin.prediction.settings import write_settings
from crack_plugin.prediction.sources import MASKS, OVERLAYS, Source
from crack_plugin.prediction.tables import TABLE, write_csv, write_table
from crack_plugin.visualization.panels import overlay

SCALES = 'scales.csv'
ARCHIVE = 'cracks.zip'
FILES = (CRACKS, 'polygons.geojson', 'centerlines.geojson', REPORT)
"""What there is to download of all photographs together; :data:`ARCHIVE` has all of it, and the pictures."""


@dataclass(frozen=True, eq=False)
class Found:
    """Attributes:
    labels: Shape (H, W), uint8.
    features: The cracks in them.
    """

    labels: np.ndarray
    features: list[Feature]


def find(photograph: Photograph, threshold: float, profile: Profile | None = None) -> Found:
    """The cracks of a photograph, measured.

    Args:
        photograph: Predicted.
        threshold: A crack is what is more probable.
        profile: Limits of the severity; without a scale there is none.

    Raises:
        UnknownError: It was not predicted.
    """
    labels = photograph.labels(threshold)
    cracks = find_cracks([Band(labels, photograph.probability() / 255)])
    measured = Measured(
        photograph.file,
        _mask(photograph),
        photograph.shape,
        [photograph.predicted[NOW].prompt],
        photograph.mm_per_pixel,
        read_georeference(photograph.file),
    )
    return Found(labels, make_features(measured, cracks, None if photograph.mm_per_pixel is None else profile))


def rows(found: Found) -> list[dict[str, Any]]:
    """What the table of the page shows of the cracks, the widest first."""
    return [_row(feature) for feature in sorted(found.features, key=lambda feature: -feature.max_width)]


def widths(found: Found) -> tuple[np.ndarray, float]:
    """As :func:`~crack_plugin.app.maps.width_map`."""
    return width_map(found.labels, found.features)


def mask_png(photograph: Photograph, threshold: float) -> bytes:
    """The mask as PNG of 0 and 255."""
    return _encoded('.png', 255 * photograph.labels(threshold))


def overlay_jpg(photograph: Photograph, threshold: float) -> bytes:
    """The photograph with its cracks painted over, as JPEG."""
    image = read_photograph(str(photograph.file))
    return _encoded('.jpg', overlay(image, photograph.labels(threshold), is_bgr=True))


def find_profile(name: str) -> Profile | None:
    """Limits of the severity by their name; None for an empty one.

    Raises:
        UnknownError: There are none of that name.
    """
    if name and name not in PROFILES:
        raise UnknownError(f'{name}: no such severity profile; there are {", ".join(PROFILES)}.')
    return PROFILES[name] if name else None


def build(session: Session, models: Models, threshold: float, profile: Profile | None) -> Path:
    """Write the files of all predicted photographs of a session, in place of those of former times.

    Severities are there if all photographs have a scale.

    Returns:
        The folder with :data:`FILES` and :data:`ARCHIVE`.

    Raises:
        CrackPluginError: Nothing was predicted, or not with the same settings; or there is no room.
    """
    with session.lock:
        photographs = [photograph for photograph in session.photographs if photograph.predicted.get(NOW)]
        _check_settings(photographs)
        session.check_room(sum(4 * photograph.pixels for photograph in photographs))
        out = session.folder / 'results'
        settings = photographs[0].predicted[NOW]
        names = [settings.prompt]
        table = []
        for photograph in photographs:
            labels = photograph.labels(threshold)
            table += write_one(
                (Source(photograph.file, photograph.file.stem), _mask(photograph)),
                read_photograph(str(photograph.file)),
                labels,
                [_score(photograph, labels)],
                record_of_parts([(labels, photograph.probability()[None] / np.float32(255))]),
                out=out,
                class_names=names,
            )
        write_table(out / TABLE, table)
        test_cfg = test_cfg_of(settings, models.config)
        write_settings(out, models.settings(settings.weights, settings.prompt, test_cfg))
        missing = [photograph.name for photograph in photographs if photograph.mm_per_pixel is None]
        scaled = [photograph for photograph in photographs if photograph.mm_per_pixel is not None]
        scales = [(str(each.file), each.mm_per_pixel) for each in scaled if not each.is_georeferenced]
        write_csv(out / SCALES, ['image', 'mm_per_pixel'], scales)
        left_out = []
        if profile is not None and missing:
            left_out = [f'Severities: the scale of {len(missing)} photographs, such as {missing[0]}, is not known.']
        wanted = Wanted(
            cracks=True,
            vector=('geojson',),
            severity=None if missing else profile,
            report=Origin(models.config.filename, models.weights(settings.weights).name),
            scales=read_scales(str(out / SCALES)) if scales else Scales(),
        )
        make_all(out, names, wanted, threshold=threshold, left_out=left_out)
        for name in (*FILES, TABLE, SCALES):
            _without_folders(out / name, [out, *(photograph.folder for photograph in photographs)])
        _archive(out, photographs)
        return out


def _check_settings(photographs: Sequence[Photograph]) -> None:
    if not photographs:
        raise UnknownError('nothing was predicted yet: press "Find cracks".')
    first, *others = photographs
    for other in others:
        if other.predicted[NOW] != first.predicted[NOW]:
            raise AppError(
                f'{first.name} and {other.name} were predicted with different weights, prompts or windows, and a table '
                'or a report of both would not say so. Press "Find cracks" for all photographs, or remove some.'
            )


def _mask(photograph: Photograph) -> str:
    return Source(photograph.file, photograph.file.stem).mask


def _score(photograph: Photograph, labels: np.ndarray) -> float:
    """Mean probability over what is labelled; 0 if nothing is."""
    marked = photograph.probability()[labels > 0]
    return float(marked.mean(dtype=np.float64) / 255) if marked.size else 0.0


def _row(feature: Feature) -> dict[str, Any]:
    points = np.concatenate([outline.shell for outline in feature.outlines])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return {
        'id': feature.id,
        'unit': feature.unit,
        'length': round(feature.length, 1 if feature.unit == 'px' else 2),
        'mean_width': round(feature.mean_width, 2),
        'max_width': round(feature.max_width, 2),
        'uncertainty': round(feature.width_uncertainty, 2),
        'score': None if feature.score is None else round(feature.score, 2),
        'severity': feature.rating.severity if feature.rating else None,
        'box': [float(left), float(top), float(right), float(bottom)],
        'widest': list(feature.widest),
    }


def _without_folders(path: Path, folders: Sequence[Path]) -> None:
    """Name files in a text as their owner knows them: where they lay for an hour helps nobody."""
    text = path.read_text(encoding='utf-8', errors='surrogateescape')
    for folder in folders:
        text = text.replace(f'{folder}/', '')
    write_atomically(path, text.encode(errors='surrogateescape'))


def _archive(out: Path, photographs: Sequence[Photograph]) -> None:
    masks = [_mask(photograph) for photograph in photographs]
    pictures = [name for mask in masks for name in (mask, mask.replace(MASKS, OVERLAYS, 1)[: -len('png')] + 'jpg')]

    def write(scratch: Path) -> None:
        with zipfile.ZipFile(scratch, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name in (*FILES, TABLE, *pictures):
                archive.write(out / name, name)

    write_atomically(out / ARCHIVE, write)


def _encoded(suffix: str, image: np.ndarray) -> bytes:
    encoded, content = cv2.imencode(suffix, image)
    if not encoded:
        raise AppError(f'this picture of {image.shape[1]} x {image.shape[0]} pixels does not fit a {suffix} file.')
    return content.tobytes()
