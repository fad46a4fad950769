"""Prediction of a GeoTIFF of any size into a folder: a tiled mask in the same place, an overlay and a record.

Memory depends on the width of a band, not on the image. A run that was interrupted goes on at its band.
"""

import glob
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crack_plugin.files import LEFTOVER, SaveError, write_atomically
from crack_plugin.inspection.bands import join_bands
from crack_plugin.inspection.georeference import import_rasterio
from crack_plugin.inspection.uncertainty import Doubt
from crack_plugin.prediction.bands import (
    BANDS,
    MOST_PROBABLE,
    BandStore,
    FoundBand,
    checksum,
    delete_bands,
    make_band,
)
from crack_plugin.prediction.mosaic import Windows, blend_bands
from crack_plugin.prediction.pictures import write_image
from crack_plugin.prediction.predictor import Predictor, check_logits
from crack_plugin.prediction.raster import (
    NO_DATA,
    RASTER_PIXELS,
    TILE,
    Raster,
    open_raster,
    pixels_of,
    without_no_data,
)
from crack_plugin.prediction.records import Record, record_of, write_record
from crack_plugin.prediction.settings import OptionError
from crack_plugin.prediction.sources import Source, overlay_of, probabilities_of
from crack_plugin.prediction.tables import Row
from crack_plugin.visualization.panels import overlay

MOST_PIXELS_AT_ONCE = 2**30
"""What OpenCV decodes."""

_PREVIEW_SIDE = 2048


def mark_rasters(sources: Sequence[Source], windows: Windows | None, with_probabilities: bool) -> list[Source]:
    """Which files are predicted in bands: those of more than ``RASTER_PIXELS``, by a model that predicts in windows.

    Raises:
        MissingPackageError: There are such, and rasterio is not installed.
        OptionError: An image is too large for memory, and the model predicts entire images alone; or there is none to
            have probabilities of.
    """
    marked = []
    for source in sources:
        pixels = pixels_of(source.path)
        if pixels > MOST_PIXELS_AT_ONCE and windows is None:
            raise OptionError(
                f'{source.path} has {pixels / 1e6:,.0f} megapixels: too many for memory, and cracks would be lost '
                'where the model sees all at once. Predict it in windows, such as --slide 1008 672 (SAM3TextLoRA, and '
                'a test pipeline that only loads and packs).'
            )
        is_raster = windows is not None and pixels > RASTER_PIXELS
        if is_raster:
            import_rasterio(source.path)
        marked.append(replace(source, is_raster=is_raster))
    if with_probabilities and not any(source.is_raster for source in marked):
        raise OptionError(
            f'--probabilities are of images of more than {RASTER_PIXELS / 1e6:.0f} megapixels that are predicted in '
            'windows (--slide), and there is none. Leave it out.'
        )
    return marked


def bands_of(out: Path, source: Source) -> Path:
    """The folder with the bands of a raster while it is predicted."""
    return out / BANDS / source.name


def discard_bands(out: Path, source: Source | None = None) -> None:
    """Delete the bands of a raster whose row is in the table, or of all (None), which begin anew then."""
    if source is not None:
        delete_bands(bands_of(out, source))
    elif (out / BANDS).exists():
        shutil.rmtree(out / BANDS)


@dataclass(frozen=True)
class _Task:
    source: Source
    out: Path
    class_names: Sequence[str]
    with_probabilities: bool


def predict_raster(
    source: Source,
    predictor: Predictor,
    out: Path,
    with_probabilities: bool = False,
) -> list[Row]:
    """Predict a raster, or go on with it, and write mask, overlay and record.

    Its bands stay until :func:`discard_bands`, so that the caller can keep its rows first.

    Args:
        source: The raster.
        predictor: With :attr:`~crack_plugin.prediction.predictor.Predictor.windows`.
        out: Folder to write to.
        with_probabilities: Whether the probabilities are written as well.

    Returns:
        Its rows of predictions.csv; ``share`` is of the pixels that have data.

    Raises:
        RasterError: It cannot be read. The bands before are kept.
        PredictionError: The model gives NaN.
        SaveError: A file could not be written. The bands before are kept.
    """
    windows = predictor.windows
    assert windows is not None
    task = _Task(source, out, predictor.class_names, with_probabilities)
    with open_raster(source.path) as raster:
        state = {'shape': raster.shape, 'windows': astuple(windows), 'probabilities': with_probabilities}
        store = BandStore(bands_of(out, source), state)
        try:
            _predict_bands(task, raster, store, predictor, windows)
            return _join(task, raster, store)
        except SaveError as error:
            raise SaveError(
                f'{error} {store.done:,} bands of {source.path} are kept: the same command of tools/predict.py goes on '
                'there.'
            ) from error


def _predict_bands(task: _Task, raster: Raster, store: BandStore, predictor: Predictor, windows: Windows) -> None:
    """Predict the bands that are not there yet."""
    bands = windows.bands(raster.shape[0])
    name = task.source.path.name
    with tqdm(total=len(bands), desc=f'bands of {name}', leave=False) as bar:
        if store.done:
            tqdm.write(f'{task.source.path}: {store.done:,} of {len(bands):,} bands are done already')
        for number in range(store.done):
            if checksum(*raster.read(*bands[number])) != store.checksum(number):
                tqdm.write(f'{task.source.path} has changed since its bands were predicted, and is predicted again')
                store.discard()
                break
            bar.update()
        if store.done == len(bands):
            return
        bar.reset()
        bar.update(store.done)
        step = _preview_step(raster.shape)
        for blended in blend_bands(
            raster.read,
            raster.shape,
            predictor.segment_windows,
            len(predictor.class_names),
            windows,
            predictor.device,
            store.done,
        ):
            check_logits(blended.logits, task.source.path)
            band = make_band(blended, predictor.model.threshold, step, task.with_probabilities)
            store.write(blended.number, band)
            bar.update()


def _join(task: _Task, raster: Raster, store: BandStore) -> list[Row]:
    """Write what all bands together give."""
    mask, out = task.source.mask, task.out
    classes = len(task.class_names)
    for path in (out / mask, out / probabilities_of(mask)):
        for leftover in path.parent.glob(f'.{glob.escape(path.name[:50])}-*{LEFTOVER}'):
            leftover.unlink()
    (out / probabilities_of(mask)).unlink(missing_ok=True)
    if task.with_probabilities:
        values = _parts(store, 'probabilities', lambda band: band.probabilities)
        _write_raster(out / probabilities_of(mask), raster, classes, values, 1 / MOST_PROBABLE)
    totals = [store.read(number, 'sums', 'counts', 'doubt') for number in range(store.done)]
    right, wrong = np.sum([band.doubt for band in totals], axis=0)
    # Scores in the order of find_cracks, without holding the cracks
    scores = sorted((*crack.runs[0, :2].tolist(), crack.score) for crack in join_bands(store.labelled()))
    uncertainty = Doubt(right, wrong).uncertainty(raster.shape)
    write_record(out / record_of(mask), Record(round(uncertainty, 6), [round(score, 6) for *_, score in scores]))
    valid, shown = _preview(store, raster.shape)
    write_image(out / overlay_of(mask), shown)
    _write_raster(out / mask, raster, 1, _parts(store, 'labels', lambda band: band.labels[None]))
    counts, sums = (np.sum([getattr(band, name) for band in totals], axis=0) for name in ('counts', 'sums'))
    height, width = raster.shape
    return [
        Row(
            str(task.source.path),
            mask,
            width,
            height,
            name,
            int(counts[index]),
            round(int(counts[index]) / max(1, valid), 8),
            round(float(sums[index] / max(1, counts[index])), 6),
        )
        for index, name in enumerate(task.class_names)
    ]


def _parts(store: BandStore, name: str, chosen: Callable[[FoundBand], np.ndarray]) -> Iterator[np.ndarray]:
    """Rows of the bands, divided again into as many as tiles are high; each of shape (C, h, W)."""
    rest: list[np.ndarray] = []
    for number in range(store.done):
        values = chosen(store.read(number, name))
        while sum(part.shape[1] for part in rest) + values.shape[1] >= TILE:
            used = TILE - sum(part.shape[1] for part in rest)
            yield np.concatenate([*rest, values[:, :used]], axis=1)
            rest, values = [], values[:, used:]
        # Of its own memory, so that the band is let go
        rest.append(values.copy())
    last = np.concatenate(rest, axis=1)
    if last.size:
        yield last


def _write_raster(path: Path, raster: Raster, count: int, parts: Iterator[np.ndarray], scale: float = 1.0) -> None:
    """Write a tiled GeoTIFF in the place of another, and read it back: GDAL does not tell of all that goes wrong.

    Raises:
        SaveError: It could not be written; a former file is as it was.
    """
    rasterio = import_rasterio(path)
    profile = {
        'driver': 'GTiff',
        'height': raster.shape[0],
        'width': raster.shape[1],
        'count': count,
        'dtype': 'uint8',
        'crs': raster.crs,
        'nodata': NO_DATA,
        'tiled': True,
        'blockxsize': TILE,
        'blockysize': TILE,
        'compress': 'deflate',
        # Three channels would be red, green and blue, and a fourth the opacity.
        'photometric': 'MINISBLACK',
        'BIGTIFF': 'IF_SAFER',
    }
    if not raster.transform.is_identity:
        profile['transform'] = raster.transform

    def write(scratch: Path) -> None:
        sums = []
        try:
            with rasterio.open(scratch, 'w', **profile) as target:
                target.scales = (scale,) * count
                for number, part in enumerate(parts):
                    top = number * TILE
                    target.write(part, window=((top, top + part.shape[1]), (0, part.shape[2])))
                    sums.append(_sum(part))
            with rasterio.open(scratch) as written:
                for number, expected in enumerate(sums):
                    top = number * TILE
                    window = ((top, min(top + TILE, raster.shape[0])), (0, raster.shape[1]))
                    if _sum(written.read(window=window)) != expected:
                        raise SaveError(f'rows from {top:,} on are not as they were written: is the disk full?')
        except rasterio.errors.RasterioError as error:
            raise SaveError(f'{error.__cause__ or error}: is the disk full?') from error

    write_atomically(path, write)


def _sum(values: np.ndarray) -> int:
    return checksum(values, np.zeros((values.shape[1], 0), bool))


def _preview_step(shape: tuple[int, int]) -> int:
    return -(-max(shape) // _PREVIEW_SIDE)


def _preview(store: BandStore, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
    """How many pixels have data, and the overlay of the image, reduced to a few megapixels: a crack, however thin,
    stays."""
    step = _preview_step(shape)
    columns = np.arange(0, shape[1], step)
    labels = np.zeros((-(-shape[0] // step), len(columns)), np.uint8)
    images, top, valid = [], 0, 0
    for number in range(store.done):
        band = store.read(number, 'labels', 'preview')
        images.append(band.preview)
        valid += int(np.count_nonzero(band.labels != NO_DATA))
        wide = np.maximum.reduceat(without_no_data(band.labels), columns, axis=1)
        np.maximum.at(labels, np.arange(top, top + len(wide)) // step, wide)
        top += len(wide)
    image = np.concatenate(images, axis=1).transpose(1, 2, 0)
    return valid, overlay(np.ascontiguousarray(image), labels, is_bgr=True)


def has_probabilities(out: Path, mask: str) -> bool:
    """Whether the probabilities that belong to the mask of a raster are there."""
    return (out / probabilities_of(mask)).is_file()


def sample_window(path: Path, windows: Windows | None) -> np.ndarray:
    """The window in the middle of a raster, BGR, shape (h, w, 3), uint8."""
    assert windows is not None
    with open_raster(path) as raster:
        (top, bottom), (left, right) = (
            (max(0, (size - crop) // 2), min(size, max(0, (size - crop) // 2) + crop))
            for size, crop in zip(raster.shape, windows.crop_size, strict=True)
        )
        return np.ascontiguousarray(raster.read(top, bottom, left, right)[0].transpose(1, 2, 0))
