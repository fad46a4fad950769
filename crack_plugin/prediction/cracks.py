"""What is made of masks that are predicted: ``cracks.csv``, vectors, profiles of the width, annotations, a report."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crack_plugin.datasets.names import listed
from crack_plugin.inspection.bands import Band, Crack, cracks_in_order
from crack_plugin.inspection.features import Feature, Photograph, make_feature
from crack_plugin.inspection.georeference import UnreadableError, read_georeference
from crack_plugin.inspection.preannotations import Annotated, PreannotationError, write_preannotations
from crack_plugin.inspection.scale import Scales
from crack_plugin.inspection.severity import Profile
from crack_plugin.inspection.vectors import (
    PROPERTIES,
    check_packages,
    common_place,
    properties,
    write_geojson,
    write_geopackage,
)
from crack_plugin.prediction.pictures import read_mask
from crack_plugin.prediction.raster import is_raster, read_bands
from crack_plugin.prediction.records import Record, read_record, record_of, recorded
from crack_plugin.prediction.report_page import Origin, Run, write_report
from crack_plugin.prediction.settings import OptionError
from crack_plugin.prediction.sources import MASKS, VIDEO_SUFFIXES, Source
from crack_plugin.prediction.spool import spooled
from crack_plugin.prediction.tables import TABLE, Row, read_table, write_csv

CRACKS, PROFILES, UNCERTAINTY = 'cracks.csv', 'profiles.csv', 'uncertainty.csv'
PROFILE_COLUMNS = ['image', 'mask', 'id', 'branch', 'x', 'y', 'distance', 'width', 'unit']


@dataclass(frozen=True)
class Wanted:
    """What is to be made.

    Attributes:
        measure: Whether ``measurements.csv`` is.
        probabilities: Whether those of large GeoTIFFs are.
        cracks: Whether ``cracks.csv`` is.
        vector: Some of ``gpkg`` and ``geojson``.
        severity: Limits of the width; None for no severity.
        width_profile: Whether ``profiles.csv`` is.
        labels: Formats of annotations.
        report: What ``report.html`` says the run was started with; None for no report.
        scales: Of the photographs.
    """

    measure: bool = False
    probabilities: bool = False
    cracks: bool = False
    vector: tuple[str, ...] = ()
    severity: Profile | None = None
    width_profile: bool = False
    labels: tuple[str, ...] = ()
    report: Origin | None = None
    scales: Scales = field(default_factory=Scales)

    @property
    def features(self) -> bool:
        """Whether cracks are measured one by one."""
        by_crack = (self.cracks, self.width_profile, bool(self.vector))
        return any(by_crack) or self.severity is not None or self.report is not None

    @property
    def records(self) -> bool:
        """Whether more is needed than masks."""
        return self.features or bool(self.labels)

    def check(self, sources: Sequence[Source], done: dict[str, list[Row]]) -> None:
        """Refuse what cannot be made, before anything is predicted.

        Args:
            sources: What is to be predicted.
            done: What is predicted already, which the results are of as well.

        Raises:
            ScaleError: The scale of a photograph is needed and not known.
            GeoreferenceError: Photographs of several CRS are to share a layer.
            MissingPackageError: A package is not installed.
            PreannotationError: There are to be annotations of a video, or of a raster that is predicted in bands.
            OptionError: A raster that is predicted in bands is to be measured as one.
        """
        # What cannot be read is told after the others are predicted.
        new = [source.path for source in sources if source.path.is_file()]
        former = {Path(rows[0].image): None for rows in done.values()}
        images = list(dict.fromkeys([*new, *former]))
        videos = [image for image in images if image.suffix.lower() in VIDEO_SUFFIXES]
        if self.labels and videos:
            raise PreannotationError(
                f'--labels: {listed(videos)} is a video, whose frames are no files that could be labelled. Extract '
                'them (`ffmpeg -i VIDEO frames/%06d.png`), and predict their folder, into another --out.'
            )
        rasters = [source.path for source in sources if source.is_raster]
        rasters += [Path(rows[0].image) for mask, rows in done.items() if is_raster(mask)]
        if self.labels and rasters:
            raise PreannotationError(
                f'--labels: {listed(rasters)} is too large for labelling tools. Cut it into tiles first '
                '(`gdal_retile.py -ps 2048 2048`), and predict their folder, into another --out.'
            )
        if self.measure and rasters:
            raise OptionError(
                f'--measure adds up whole images, and {listed(rasters)} is predicted in bands: take --cracks, which '
                'measures each crack of it.'
            )
        if self.report is not None and rasters:
            raise OptionError(
                f'--report shows whole photographs, and {listed(rasters)} is predicted in bands: take --cracks and '
                '--vector, whose files a GIS shows on the map.'
            )
        if self.features or self.measure:
            images = [image for image in images if image in former or _has_readable_place(image)]
            for image in images:
                self.scales.of(image)
            if self.severity is not None:
                self.scales.require(images, '--severity')
            if self.scales.table is not None:
                # Rows in pixels among those in millimetres would hardly be noticed.
                self.scales.require(images, '--mm-per-pixel with a table')
        if 'gpkg' in self.vector:
            check_packages()
        if self.vector:
            common_place({image: read_georeference(image) for image in images})


def _has_readable_place(image: Path) -> bool:
    try:
        read_georeference(image)
    except UnreadableError:
        return False
    return True


def make_all(
    out: Path,
    class_names: Sequence[str],
    wanted: Wanted,
    overwrite: bool = False,
    threshold: float | None = None,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Make what is wanted of all masks in a folder, those of earlier runs as well.

    Args:
        out: Folder with masks, records and predictions.csv.
        class_names: Of the K classes.
        wanted: What is to be made.
        overwrite: Whether annotations that were changed since are replaced.
        threshold: Of the predictor, for the report.
        left_out: A line on each file, or kind of file, that could not be read, for the report.

    Returns:
        Lines that say what there is.
    """
    found = read_table(out / TABLE, len(class_names))
    done = recorded(found, out)
    lines = []
    if len(done) < len(found):
        lines.append(
            f'{len(found) - len(done):,} images of earlier runs are left out, since those did not keep what is needed: '
            'name their files, too, and they are predicted again.'
        )
    missing = [*left_out, *lines]
    if wanted.features:
        features = _features(done, out, class_names, wanted)
        if wanted.report is None and (wanted.vector or wanted.width_profile):
            with spooled(features, out) as kept:
                lines += _write_features(kept, done, out, wanted)
        elif wanted.report is None:
            lines += _write_features(features, done, out, wanted)
        else:
            # The page begins with what is worst of all.
            together = list(features)
            lines += _write_features(together, done, out, wanted)
            run = Run(out, wanted.report, class_names, wanted.scales, wanted.severity, threshold, missing)
            lines.append(write_report(run, done, together))
    if wanted.labels:
        uncertainties: list[tuple[str, str, float]] = []

        def photographs() -> Iterator[Annotated]:
            for rows, labels, cracks, record in _masks(done, out, 'labels'):
                name = Path(rows[0].mask).relative_to(MASKS).with_suffix('').as_posix()
                uncertainties.append((rows[0].image, rows[0].mask, record.uncertainty))
                yield Annotated(Path(rows[0].image), name, labels, list(cracks), record.uncertainty)

        lines += write_preannotations(photographs(), out, wanted.labels, class_names, overwrite)
        ordered = sorted(uncertainties, key=lambda row: (-row[2], row[1]))
        write_csv(out / UNCERTAINTY, ['image', 'mask', 'uncertainty'], ordered)
        lines.append(f'{out / UNCERTAINTY}: the photographs that the model is least sure of come first')
    return lines


def _features(done: dict[str, list[Row]], out: Path, class_names: Sequence[str], wanted: Wanted) -> Iterator[Feature]:
    """The cracks of all photographs, each measured when it is asked for."""
    for rows, _, cracks, _ in _masks(done, out, 'measuring'):
        photograph = _photograph(rows, class_names, wanted.scales)
        for number, crack in enumerate(cracks, start=1):
            yield make_feature(photograph, number, crack, wanted.severity)


def _masks(
    done: dict[str, list[Row]], out: Path, title: str
) -> Iterator[tuple[list[Row], np.ndarray, Iterator[Crack], Record]]:
    """Rows, label map (empty for a raster), cracks with their scores, and record of each mask."""
    for mask, rows in tqdm(done.items(), desc=title):
        record = read_record(out / record_of(mask))
        labels = np.zeros((0, 0), np.uint8) if is_raster(mask) else read_mask(out / mask, len(rows))
        bands = read_bands(out / mask) if is_raster(mask) else [Band(labels)]
        yield rows, labels, _scored(cracks_in_order(bands), record, out / record_of(mask)), record


def _scored(cracks: Iterable[Crack], record: Record, path: Path) -> Iterator[Crack]:
    """Cracks, each as it comes, with their scores.

    Raises:
        RecordError: There are more or fewer than in the record ``path``.
    """
    count = 0
    for count, crack in enumerate(cracks, start=1):
        if count <= len(record.scores):
            yield replace(crack, score=record.scores[count - 1])
    record.check(count, path)


def _photograph(rows: list[Row], class_names: Sequence[str], scales: Scales) -> Photograph:
    image = Path(rows[0].image)
    georeference = read_georeference(image)
    return Photograph(image, rows[0].mask, (rows[0].height, rows[0].width), class_names, scales.of(image), georeference)


def _write_features(features: Iterable[Feature], done: dict[str, list[Row]], out: Path, wanted: Wanted) -> list[str]:
    """Write what is wanted of features, which are gone over once for each file."""
    counts: Counter[str] = Counter()
    total = 0

    def cells() -> Iterator[list[object]]:
        nonlocal total
        for feature in features:
            total += 1
            if feature.rating is not None:
                counts[feature.rating.severity] += 1
            yield ['' if value is None else value for value in properties(feature).values()]

    write_csv(out / CRACKS, PROPERTIES, cells())
    if wanted.width_profile:
        write_csv(out / PROFILES, PROFILE_COLUMNS, (row for feature in features for row in _profile(feature)))
    lines = [f'{out / CRACKS}: {total:,} cracks in {len(done):,} images']
    if wanted.vector:
        place = common_place({Path(rows[0].image): read_georeference(Path(rows[0].image)) for rows in done.values()})
        if 'geojson' in wanted.vector:
            write_geojson(out, features, place)
        if 'gpkg' in wanted.vector:
            write_geopackage(out, features, place)
        lines.append(f'vectors in {place.name}')
    if wanted.severity is not None:
        levels = [level.name for level in wanted.severity.levels]
        lines.append(f'severity by {wanted.severity.name}: {wanted.severity.source}')
        lines += [f'  {level}: {counts.pop(level, 0):,}' for level in levels]
        lines += [f'  {level}: {count:,}' for level, count in sorted(counts.items())]
    return lines


def _profile(feature: Feature) -> Iterator[list[object]]:
    """Rows of profiles.csv: a place of the centreline about every pixel, in pixels; distance and width in the unit."""
    scale = feature.scale
    for number, branch in enumerate(feature.branches, start=1):
        for (x, y), distance, width in zip(branch.points, branch.distances, branch.widths, strict=True):
            place = (round(float(x), 3), round(float(y), 3))
            sizes = (round(float(value), 4) for value in (distance * scale, width * scale))
            yield [str(feature.image), feature.mask, feature.id, number, *place, *sizes, feature.unit]
