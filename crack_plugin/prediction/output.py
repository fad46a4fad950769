"""Prediction of many images into a folder: masks, overlays and the table, going on where an earlier run stopped."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from crack_plugin.datasets.photographs import ImageError
from crack_plugin.files import write_atomically
from crack_plugin.prediction.predictor import Predictor
from crack_plugin.prediction.records import make_record, record_of, write_record
from crack_plugin.prediction.settings import OutputError
from crack_plugin.prediction.sources import Source, VideoError, overlay_of
from crack_plugin.prediction.tables import TABLE, Row, write_table
from crack_plugin.visualization.panels import overlay


def check_names(sources: Sequence[Source], done: Mapping[str, Sequence[Row]]) -> None:
    """Refuse two files with one mask, in this run or over runs.

    Raises:
        OutputError: There are such.
    """
    owners = {rows[0].mask: Path(rows[0].image) for rows in done.values()}
    for source in sources:
        mask = source.frame_mask(0) if source.is_video else source.mask
        other = owners.setdefault(mask, source.path)
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
        ImageError, VideoError: None of them can be read; the message is of the first.
        PredictionError: The model has no adapters.
    """
    if not predictor.has_adapters and predictor.precision == torch.float32:
        return 'In fp32 adapters are merged in any case, which changes the logits by less than 1e-5.'
    precision = str(predictor.precision).removeprefix('torch.')
    failures: list[ImageError | VideoError] = []
    for source in sources:
        try:
            difference = predictor.merge(next(source.images())[0])
        except (ImageError, VideoError) as error:
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
    records: bool = False,
) -> list[str]:
    """Predict what is not done yet.

    Args:
        sources: Images and videos.
        predictor: For one image.
        out: Folder to write to.
        done: Rows of earlier runs by mask; what is there is not predicted again.
        records: Whether each image gets a record, see :mod:`crack_plugin.prediction.records`.

    Returns:
        A line for each file that could not be read to its end.
    """
    masks = {source.mask for source in sources}
    skipped = sum(mask in masks or f'{Path(mask).parent.as_posix()}.png' in masks for mask in done)
    if skipped:
        print(f'{skipped:,} images or frames are done already and skipped')
    failures: list[str] = []
    rows = [row for group in done.values() for row in group]
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / TABLE, rows)
    total = sum(source.count_images() for source in sources) - skipped
    with (
        (out / TABLE).open('a', newline='', encoding='utf-8', errors='surrogateescape') as file,
        tqdm(total=total, desc='images') as bar,
    ):
        writer = csv.writer(file, lineterminator='\n')
        for source in sources:
            try:
                for image, mask in source.images():
                    if mask in done:
                        continue
                    added = predict_one(image, source, mask, predictor, out, records)
                    writer.writerows(astuple(row) for row in added)
                    file.flush()
                    rows += added
                    bar.update()
            except (ImageError, VideoError) as error:
                failures.append(str(error))
                if not source.is_video:
                    bar.update()
    write_table(out / TABLE, sorted(rows, key=lambda row: row.mask))
    return failures


def predict_one(
    image: str | np.ndarray, source: Source, mask: str, predictor: Predictor, out: Path, record: bool = False
) -> list[Row]:
    """Predict an image, and write its mask and overlay.

    Args:
        image: The image file, or a frame, BGR of shape (H, W, 3).
        source: Where it comes from.
        mask: Where its mask goes, relative to ``out``.
        predictor: For one image.
        out: Folder to write to.
        record: Whether its record is written as well.

    Returns:
        Its rows of predictions.csv.
    """
    prediction = predictor(image)
    shown, labels, scores = prediction.image[..., ::-1], prediction.labels, prediction.scores
    if record:
        write_record(out / record_of(mask), make_record(prediction))
    else:
        # That of an earlier prediction would be of other cracks.
        (out / record_of(mask)).unlink(missing_ok=True)
    # Its logits are the most that a large photograph needs, and the overlay would come on top.
    del prediction
    several = len(predictor.class_names) > 1
    painted = overlay(shown, labels)[..., ::-1]
    write_image(out / overlay_of(mask), painted)
    write_image(out / mask, labels if several else 255 * labels)
    height, width = labels.shape
    rows = []
    for label, (name, score) in enumerate(zip(predictor.class_names, scores, strict=True), start=1):
        pixels = int(np.count_nonzero(labels == label))
        share = round(pixels / labels.size, 8)
        rows.append(Row(str(source.path), mask, width, height, name, pixels, share, round(score, 6)))
    return rows


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image in the format of its suffix; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, cv2.imencode(path.suffix, image)[1].tobytes())
