"""Prediction of many images into a folder: masks, overlays and the table, going on where an earlier run stopped."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, barrier, broadcast_object_list, get_dist_info, is_main_process
from tqdm import tqdm

from crack_plugin.datasets.photographs import ImageError
from crack_plugin.prediction.pictures import write_image, write_mask
from crack_plugin.prediction.pipeline import WORKERS, Failure, Task, predict_in_order
from crack_plugin.prediction.predictor import Predictor
from crack_plugin.prediction.raster import RasterError, is_raster
from crack_plugin.prediction.raster_output import discard_bands, has_probabilities, predict_raster, sample_window
from crack_plugin.prediction.records import Record, has_record, make_record, record_of, write_record
from crack_plugin.prediction.settings import OutputError
from crack_plugin.prediction.sources import Source, VideoError, overlay_of
from crack_plugin.prediction.tables import TABLE, Row, join_parts, open_table, part_of, write_table
from crack_plugin.visualization.panels import overlay

# Pixels of a side: more does no JPEG have, as libjpeg writes it.
_LONGEST_JPEG = 65500


def rows_done(out: Path, classes: int, overwrite: bool) -> dict[str, list[Row]]:
    """Rows of the images that earlier runs have completed, the same in all processes.

    Args:
        out: Folder with masks and predictions.csv.
        classes: Number of foreground classes K.
        overwrite: Whether all is to be predicted again.

    Raises:
        TableError: The table is not as it was written.
    """
    done: list[dict[str, list[Row]]] = [{}]
    # The first process alone tidies up what several left.
    if is_main_process():
        if overwrite:
            discard_bands(out)
        done = [join_parts(out / TABLE, classes, drop=overwrite)]
    broadcast_object_list(done)
    return done[0]


def check_names(sources: Sequence[Source], done: Mapping[str, Sequence[Row]]) -> None:
    """Refuse two files with one mask, in this run or over runs.

    Raises:
        OutputError: There are such.
    """
    # Overlays and records have the mask's name without its suffix.
    owners = {Path(rows[0].mask).with_suffix(''): Path(rows[0].image) for rows in done.values()}
    for source in sources:
        mask = source.frame_mask(0) if source.is_video else source.mask
        other = owners.setdefault(Path(mask).with_suffix(''), source.path)
        if other.resolve() != source.path.resolve():
            raise OutputError(
                f'{other} and {source.path} would share the mask {mask}. Rename one, take another --out, or give the '
                'folder that holds both.'
            )


def merge_adapters(predictor: Predictor, sources: Sequence[Source]) -> str:
    """Merge the predictor's adapters.

    Args:
        predictor: Of a ``SAM3TextLoRA``.
        sources: Images and videos; the first that can be read shows what merging changes.

    Returns:
        A line that tells.

    Raises:
        ImageError, RasterError, VideoError: None of them can be read; the message is of the first.
        PredictionError: The model has no adapters.
    """
    if not predictor.has_adapters and predictor.precision == torch.float32:
        return 'In fp32 adapters are merged in any case, which changes the logits by less than 1e-5.'
    precision = str(predictor.precision).removeprefix('torch.')
    failures: list[ImageError | RasterError | VideoError] = []
    for source in sources:
        try:
            sample = sample_window(source.path, predictor.windows) if source.is_raster else next(source.images())[0]
            difference = predictor.merge(sample)
        except (ImageError, RasterError, VideoError) as error:
            failures.append(error)
            continue
        assert difference is not None
        return (
            f'Adapters merged in {precision}: on {source.path} the logits differ from those of the adapters apart by '
            f'{difference.mean:.2g} on average and {difference.largest:.2g} at most, and {difference.changed:.3%} of '
            'the pixels change their label.'
        )
    raise failures[0]


def predict_all(
    sources: Sequence[Source],
    predictor: Predictor,
    out: Path,
    done: Mapping[str, Sequence[Row]],
    workers: int = WORKERS,
    batch_size: int = 1,
    records: bool = False,
    probabilities: bool = False,
) -> list[str]:
    """Predict what is not done yet. Several processes (``mmengine.dist``) divide the files, and end in one table.

    Args:
        sources: Images and videos.
        predictor: Of the images.
        out: Folder to write to.
        done: Rows of earlier runs by mask; what is there is not predicted again.
        workers: As for :func:`~crack_plugin.prediction.pipeline.predict_in_order`.
        batch_size: Likewise.
        records: Whether each image gets a record, see :mod:`crack_plugin.prediction.records`; what is done and has none
            is predicted again.
        probabilities: Whether those of rasters are written; likewise.

    Returns:
        A line for each file that could not be read to its end, the same in all processes.
    """
    rank, processes = get_dist_info()
    masks = {source.mask for source in sources}
    own = {mask for mask in done if mask in masks or f'{Path(mask).parent.as_posix()}.png' in masks}
    complete = [_complete(done, out, records, probabilities)]
    # Before any process writes a record that the others would count.
    broadcast_object_list(complete)
    done = {mask: rows for mask, rows in done.items() if mask not in own - complete[0]}
    skipped = len(own & complete[0])
    if skipped and not rank:
        print(f'{skipped:,} images or frames are done already and skipped')
    table = out / TABLE
    rows = [row for group in done.values() for row in group]
    if not rank:
        write_table(table, rows)
    own_table = table if processes == 1 else part_of(table, rank)
    if processes > 1:
        write_table(own_table, [])
    share = _share(sources, done, rank, processes)
    failures: dict[str, str] = {}
    for source in sources[rank::processes]:
        if source.is_raster and source.mask in done:
            # Of a run that was killed when it had added the rows
            discard_bands(out, source)
    rasters, images = ([each for each in share if each.is_raster is kind] for kind in (True, False))
    added = _predict_share(images, predictor, out, done, own_table, failures, workers, batch_size, records)
    added += _predict_rasters(rasters, predictor, out, own_table, failures, probabilities)
    gathered = all_gather_object((added, failures))
    if not rank:
        rows += [row for others, _ in gathered for row in others]
        write_table(table, sorted(rows, key=lambda row: row.mask))
        for other in range(processes):
            part_of(table, other).unlink(missing_ok=True)
    barrier()
    failures = {path: line for _, others in gathered for path, line in others.items()}
    return [failures[str(source.path)] for source in sources if str(source.path) in failures]


def _complete(done: Mapping[str, Sequence[Row]], out: Path, records: bool, probabilities: bool) -> set[str]:
    """Masks beside which there is all that is asked for."""
    return {
        mask
        for mask in done
        if not (records and not has_record(out, mask))
        and not (probabilities and is_raster(mask) and not has_probabilities(out, mask))
    }


def _share(sources: Sequence[Source], done: Mapping[str, Sequence[Row]], rank: int, processes: int) -> Sequence[Source]:
    """Every n-th of the files that are not done: neighbours in a folder are of like size."""
    return [source for source in sources if source.is_video or source.mask not in done][rank::processes]


def _predict_share(
    sources: Sequence[Source],
    predictor: Predictor,
    out: Path,
    done: Mapping[str, Sequence[Row]],
    table: Path,
    failures: dict[str, str],
    workers: int,
    batch_size: int,
    records: bool,
) -> list[Row]:
    """Predict the files of this process; its rows are appended to ``table`` and returned, failures added by path."""
    rows: list[Row] = []
    total = sum(source.count_images() for source in sources)
    write = partial(write_one, out=out, class_names=predictor.class_names)
    with (
        open_table(table, 'a') as file,
        tqdm(total=total, desc='images', disable=not is_main_process()) as bar,
    ):
        writer = csv.writer(file, lineterminator='\n')
        outcomes = predict_in_order(
            _tasks(sources, done), predictor, write, workers, batch_size, make_record if records else None
        )
        for (source, _), outcome in outcomes:
            if isinstance(outcome, Failure):
                failures[str(source.path)] = outcome.reason
                bar.update(not source.is_video)
                continue
            writer.writerows(astuple(row) for row in outcome)
            file.flush()
            rows += outcome
            bar.update()
    return rows


def _predict_rasters(
    sources: Sequence[Source],
    predictor: Predictor,
    out: Path,
    table: Path,
    failures: dict[str, str],
    probabilities: bool,
) -> list[Row]:
    """As :func:`_predict_share`, for rasters, one after the other."""
    rows: list[Row] = []
    for source in sources:
        try:
            outcome = predict_raster(source, predictor, out, probabilities)
        except RasterError as error:
            failures[str(source.path)] = str(error)
            continue
        with open_table(table, 'a') as file:
            csv.writer(file, lineterminator='\n').writerows(astuple(row) for row in outcome)
        discard_bands(out, source)
        rows += outcome
    return rows


def _tasks(sources: Sequence[Source], done: Mapping[str, Sequence[Row]]) -> Iterator[Task[tuple[Source, str]]]:
    """What is not done, with source and mask."""
    for source in sources:
        try:
            for image, mask in source.images():
                if mask not in done:
                    yield Task(image, (source, mask))
        except VideoError as error:
            yield Task(Failure(str(error)), (source, ''))


def write_one(
    key: tuple[Source, str],
    image: np.ndarray,
    labels: np.ndarray,
    scores: Sequence[float],
    record: Record | None = None,
    *,
    out: Path,
    class_names: Sequence[str],
) -> list[Row]:
    """Write the mask and the overlay of an image.

    Args:
        key: Where the image comes from, and where its mask goes, relative to ``out``.
        image: BGR, shape (H, W, 3), uint8.
        labels: Of the K classes, from 1 on, shape (H, W), uint8.
        scores: One a class.
        record: Of the prediction, if it is to be kept.
        out: Folder to write to.
        class_names: Of the K classes.

    Returns:
        Its rows of predictions.csv.
    """
    source, mask = key
    if record is None:
        # That of an earlier prediction would be of other cracks.
        (out / record_of(mask)).unlink(missing_ok=True)
    else:
        write_record(out / record_of(mask), record)
    painted = overlay(image, labels, is_bgr=True)
    # What is longer is shown with every second pixel, every third and so on.
    step = math.ceil(max(painted.shape) / _LONGEST_JPEG)
    write_image(out / overlay_of(mask), painted[::step, ::step])
    write_mask(out / mask, labels, len(class_names))
    height, width = labels.shape
    rows = []
    for label, (name, score) in enumerate(zip(class_names, scores, strict=True), start=1):
        pixels = int(np.count_nonzero(labels == label))
        share = round(pixels / labels.size, 8)
        rows.append(Row(str(source.path), mask, width, height, name, pixels, share, round(score, 6)))
    return rows
