"""``measurements.csv``: length, width, orientation and density of the cracks in masks that are predicted already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crack_plugin.evaluation.geometry import CrackGeometry, measure_cracks
from crack_plugin.inspection.scale import Scales
from crack_plugin.prediction.pictures import read_mask
from crack_plugin.prediction.tables import TABLE, Row, read_table, write_csv

MEASUREMENTS = 'measurements.csv'
MEASURED_COLUMNS = [
    'image',
    'mask',
    'class_name',
    'unit',
    'length',
    'mean_width',
    'max_width',
    'orientation',
    'alignment',
    'density',
]


@dataclass(frozen=True)
class Measurement:
    """A row of measurements.csv: one class in one image.

    Attributes:
        row: The same in predictions.csv.
        unit: Of length and widths; density is one by it.
        cracks: What was measured, in that unit.
    """

    row: Row
    unit: str
    cracks: CrackGeometry

    def cells(self) -> list[str | float]:
        """Cells of :data:`MEASURED_COLUMNS`."""
        row, cracks = self.row, self.cracks
        orientation = '' if cracks.orientation is None else round(cracks.orientation, 2) % 180
        sizes = (round(value, 4) for value in (cracks.length, cracks.mean_width, cracks.max_width))
        directions = (orientation, round(cracks.alignment, 4))
        return [row.image, row.mask, row.class_name, self.unit, *sizes, *directions, round(cracks.density, 8)]


def measure_all(out: Path, class_names: Sequence[str], scales: Scales) -> list[Measurement]:
    """Measure all masks of ``out``, those of earlier runs as well, and write measurements.csv.

    Args:
        out: Folder with masks and predictions.csv.
        class_names: Of the K classes.
        scales: Of the photographs; results of those without are in pixels.
    """
    measurements = []
    for mask, rows in tqdm(read_table(out / TABLE, len(class_names)).items(), desc='measuring'):
        mm_per_pixel = scales.of(Path(rows[0].image))
        unit, scale = ('px', 1.0) if mm_per_pixel is None else ('mm', mm_per_pixel)
        labels = read_mask(out / mask, len(rows))
        for label, row in enumerate(rows, start=1):
            measurements.append(Measurement(row, unit, measure_cracks(labels == label).scaled(scale)))
    write_csv(out / MEASUREMENTS, MEASURED_COLUMNS, (measurement.cells() for measurement in measurements))
    return measurements


def summaries(measurements: Sequence[Measurement]) -> list[str]:
    """A line for each class over all images, or over those of each unit."""
    by_class: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        by_class.setdefault((measurement.row.class_name, measurement.unit), []).append(measurement)
    lines = []
    for (name, unit), group in by_class.items():
        found = [measurement for measurement in group if measurement.cracks.length]
        if not found:
            lines.append(f'{name}: in none of {len(group):,} images')
            continue
        lengths = [measurement.cracks.length for measurement in found]
        mean = np.average([measurement.cracks.mean_width for measurement in found], weights=lengths)
        widest = max(found, key=lambda measurement: measurement.cracks.max_width)
        lines.append(
            f'{name}: in {len(found):,} of {len(group):,} images, {sum(lengths):,.1f} {unit} long in all, '
            f'{mean:.2f} {unit} wide on average, at most {widest.cracks.max_width:.2f} {unit} ({widest.row.mask})'
        )
    return lines
