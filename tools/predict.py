"""Predict masks, overlays and a table of crack areas: ``python tools/predict.py IMAGES --config CONFIG --out OUT``.

IMAGES are image files, folders (with their subfolders), quoted patterns such as 'site/**/*.jpg', or videos, of which
every frame is predicted. For each image OUT/masks gets a PNG (0/255; with several classes a label map, 0 for the
background), OUT/overlays a JPEG, and OUT/predictions.csv a row per class. With --measure, OUT/measurements.csv has
length, width, orientation and density of the cracks as well.

An interrupted run goes on where it stopped when the same command is given again. A file that cannot be read does not
stop the others: all such files are listed at the end, and the exit code is 1. Pictures of formats that are not read
(.heic, .gif, raw files) and videos in folders are among them; files that are no pictures are not.
"""

import argparse
import csv
import glob
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.runner.amp import autocast
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor
from tqdm import tqdm

from crack_plugin.cli import KeyValueAction, config_file, merge_options, readable_errors
from crack_plugin.datasets.photographs import IMAGE_SUFFIXES, UNREAD_SUFFIXES, ImageError, unread_remedy
from crack_plugin.datasets.yolo_layout import listed
from crack_plugin.evaluation.geometry import CrackGeometry, measure_cracks
from crack_plugin.files import write_atomically
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.adapters import base_weights, is_adapted
from crack_plugin.models.strips import strips
from crack_plugin.visualization.panels import overlay

MASKS, OVERLAYS, TABLE, SETTINGS = 'masks', 'overlays', 'predictions.csv', 'predict.json'
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
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')


class UnreadableError(ValueError):
    """A video that cannot be decoded."""


@dataclass(frozen=True)
class Source:
    """A file to predict.

    Attributes:
        path: The file.
        name: Its path without suffix below masks/ and overlays/; the folder of its frames, for a video.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether every frame is predicted."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def mask(self) -> str:
        """Mask of an image, relative to OUT; for a video, its frames' masks are in the folder without the suffix."""
        return f'{MASKS}/{self.name}.png'


@dataclass(frozen=True)
class Row:
    """A row of predictions.csv: one class in one image.

    Attributes:
        image: The image file, or the video.
        mask: Its mask, relative to OUT; the name of a frame's mask is its number, from 0.
        width: In pixels.
        height: In pixels.
        class_name: The foreground class.
        pixels: How many are predicted as the class.
        share: The same as a fraction of the image.
        score: Mean probability of the class over those pixels; 0 if there are none.
    """

    image: str
    mask: str
    width: int
    height: int
    class_name: str
    pixels: int
    share: float
    score: float


COLUMNS = [field.name for field in fields(Row)]


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.mm_per_pixel is not None and not args.measure:
        parser.error('--mm-per-pixel is the scale of --measure: give both')
    with readable_errors(parser):
        cfg = _load_config(parser, args)
        settings = _settings(cfg, args)
        sources, unread = _find_sources(parser, args.images)
        for suffix, files in unread.items():
            print(_unread_line(suffix, files))
        if not args.overwrite:
            _check_out(parser, args.out, settings)
        predictor = Predictor(cfg, args.checkpoint, args.device, args.prompt)
        table = args.out / TABLE
        done = {} if args.overwrite else read_table(table, len(predictor.class_names))
        _check_names(parser, sources, done)
        if args.merge:
            print(merge_adapters(predictor, sources))
        _write(args.out / SETTINGS, json.dumps(settings, indent=2).encode())
        failures = predict_all(sources, predictor, args.out, done)
        if args.measure:
            measurements = measure_all(args.out, predictor.class_names, args.mm_per_pixel)
            print('\n'.join(summaries(measurements)))
    print(f'Results in {args.out}')
    count = len(failures) + sum(map(len, unread.values()))
    if count:
        lines = [*failures, *(_unread_line(suffix, files) for suffix, files in unread.items())]
        text = '\n'.join(f'  {line}' for line in lines)
        parser.exit(1, f'{parser.prog}: error: {count} files could not be read, the others are done:\n{text}\n')


class Predictor:
    """Predicts one image at a time, with the logits that ``tools/test.py`` has for it.

    Adapters on fp32 weights are merged, which leaves them to within 1e-5 and saves memory and time. In lower precision
    merging would round, and is left to :meth:`merge`.

    Args:
        cfg: Config of a segmentor.
        checkpoint: Its weights; None for the model as configured.
        device: Where to run.
        prompts: Prompts that were given in place of the config's, if any; they name the classes then.
    """

    def __init__(self, cfg: Config, checkpoint: str | None, device: str, prompts: Sequence[str] | None = None) -> None:
        from mmseg.apis import init_model

        dataset = cfg.test_dataloader.dataset
        pipeline = [step for step in _pipeline(cfg) if step['type'] != 'LoadAnnotations']
        # First to the CPU: merged, the model is smaller, and never whole on the device.
        self.model = init_model(cfg, checkpoint, device='cpu')
        self.fp16 = (cfg.get('test_cfg') or {}).get('fp16', False)
        if isinstance(self.model, SAM3TextLoRA):
            self.model.window_progress = show_windows
            if self.has_adapters and self.precision == torch.float32:
                self.model.merge_adapter()
        self.model.to(device)
        # Reads files, and takes arrays as they are.
        self.load = TRANSFORMS.build({**pipeline[0], 'type': 'InferencerLoader'})
        self.transform = Compose(pipeline[1:])
        trained_on = getattr(self.model, 'dataset_meta', {}).get('classes', ())[1:]
        names = [prompts, trained_on, dataset.get('classes'), cfg.model.get('prompts')]
        numbers = [str(label) for label in range(1, max(self.model.out_channels, 2))]
        self.class_names = next((list(some) for some in names if some and len(some) == len(numbers)), numbers)

    @property
    def has_adapters(self) -> bool:
        """Whether there are adapters that are not merged."""
        return is_adapted(self.model.sam3)

    @property
    def precision(self) -> torch.dtype:
        """Of the weights, or of the products if that is lower."""
        dtypes = {weight.dtype for weight in base_weights(self.model.sam3).values() if weight.is_floating_point()}
        lower = sorted(dtypes - {torch.float32}, key=str)
        return torch.float16 if self.fp16 else lower[0] if lower else torch.float32

    def merge(self, image: str | np.ndarray) -> tuple[float, float, float]:
        """Merge the adapters, and compare an image's prediction before and after.

        Returns:
            Of the logits the largest and the mean absolute difference, and of the labels the share that differs.

        Raises:
            ImageError: The image cannot be decoded; nothing is merged.
            ValueError: The model has no adapters.
        """
        before = self._sample(image)[1]
        self.model.merge_adapter()
        after = self._sample(image)[1]
        difference = (after.seg_logits.data - before.seg_logits.data).abs()
        changed = (after.pred_sem_seg.data != before.pred_sem_seg.data).float()
        return difference.max().item(), difference[1:].mean().item(), changed.mean().item()

    def __call__(self, image: str | np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Predict an image file, or a BGR array of shape (H, W, 3).

        Returns:
            The image, RGB of shape (H, W, 3), uint8; labels, shape (H, W), uint8; for each foreground class the mean
            probability over the pixels that are predicted as it, 0 if there are none.

        Raises:
            ImageError: The file is refused, as in training and testing.
        """
        shown, sample = self._sample(image)
        labels = sample.pred_sem_seg.data.squeeze(0).to(torch.uint8)
        return shown, labels.cpu().numpy(), class_scores(sample.seg_logits.data, labels)

    def _sample(self, image: str | np.ndarray) -> tuple[np.ndarray, Any]:
        """The image as it is shown, and its predicted sample."""
        data = self.load(image)
        shown = np.asarray(data['img'][..., ::-1], np.uint8)
        data = self.transform(data)
        batch = {'inputs': [data['inputs']], 'data_samples': [data['data_samples']]}
        with torch.no_grad(), autocast(enabled=self.fp16):
            sample = self.model.test_step(batch)[0]
        return shown, sample


def merge_adapters(predictor: Predictor, sources: Sequence[Source]) -> str:
    """Merge the predictor's adapters.

    Args:
        predictor: Of a ``SAM3TextLoRA``.
        sources: Images and videos; the first that can be read shows what merging changes.

    Returns:
        A line that tells.

    Raises:
        ImageError, UnreadableError: None of them can be read; the message is of the first.
    """
    if not predictor.has_adapters and predictor.precision == torch.float32:
        return 'In fp32 adapters are merged in any case, which changes the logits by less than 1e-5.'
    precision = str(predictor.precision).removeprefix('torch.')
    failures: list[ValueError] = []
    for source in sources:
        try:
            image = next(_frames(source))[0] if source.is_video else str(source.path)
            largest, mean, changed = predictor.merge(image)
        except (ImageError, UnreadableError) as error:
            failures.append(error)
            continue
        return (
            f'Adapters merged in {precision}: on {source.path} the logits differ from those of the adapters apart by '
            f'{mean:.2g} on average and {largest:.2g} at most, and {changed:.3%} of the pixels change their label.'
        )
    raise failures[0]


def show_windows(batches: Sequence) -> Iterable:
    """A progress bar over the windows of an image that takes longer than two seconds."""
    return tqdm(batches, desc='windows', leave=False, delay=2)


def class_scores(logits: Tensor, labels: Tensor) -> list[float]:
    """Mean probability of each foreground class over the pixels predicted as it; 0 if there are none.

    Args:
        logits: Shape (K + 1, H, W), or probabilities of shape (1, H, W), which MMSegmentation stores for a head with
            one channel.
        labels: Shape (H, W).
    """
    classes = max(1, len(logits) - 1)
    index = torch.arange(1, classes + 1, device=labels.device)[:, None, None]
    sums, counts = (torch.zeros(classes, dtype=torch.float64, device=labels.device) for _ in range(2))
    # The probabilities of a large photograph would take as much memory as its logits.
    for rows in strips(labels.shape[0], labels.shape[1], labels.device):
        scores, chosen = logits[:, rows].float(), labels[rows] == index
        probabilities = scores if len(scores) == 1 else scores.softmax(dim=0)[1:]
        sums += torch.where(chosen, probabilities, 0).sum(dim=(1, 2), dtype=torch.float64)
        counts += chosen.sum(dim=(1, 2))
    return (sums / counts.clamp(min=1)).tolist()


def predict_all(
    sources: Sequence[Source], predictor: Predictor, out: Path, done: Mapping[str, Sequence[Row]]
) -> list[str]:
    """Predict what is not done yet.

    Args:
        sources: Images and videos.
        predictor: For one image.
        out: Folder to write to.
        done: Rows of earlier runs by mask; what is there is not predicted again.

    Returns:
        A line for each file that could not be read (whole).
    """
    masks = {source.mask for source in sources}
    skipped = sum(mask in masks or f'{Path(mask).parent.as_posix()}.png' in masks for mask in done)
    if skipped:
        print(f'{skipped:,} images or frames are done already and skipped')
    failures: list[str] = []
    rows = [row for group in done.values() for row in group]
    write_table(out / TABLE, rows)
    total = sum(_frame_count(source) for source in sources) - skipped
    with (
        (out / TABLE).open('a', newline='', encoding='utf-8') as file,
        tqdm(total=total, desc='images') as bar,
    ):
        writer = csv.writer(file, lineterminator='\n')
        for source in sources:
            try:
                for image, mask in _frames(source) if source.is_video else [(str(source.path), source.mask)]:
                    if mask in done:
                        continue
                    added = predict_one(image, source, mask, predictor, out)
                    writer.writerows(astuple(row) for row in added)
                    file.flush()
                    rows += added
                    bar.update()
            except (ImageError, UnreadableError) as error:
                failures.append(str(error))
                if not source.is_video:
                    bar.update()
    write_table(out / TABLE, sorted(rows, key=lambda row: row.mask))
    return failures


def predict_one(image: str | np.ndarray, source: Source, mask: str, predictor: Predictor, out: Path) -> list[Row]:
    """Predict an image, write its mask and overlay, and measure it."""
    shown, labels, scores = predictor(image)
    several = len(predictor.class_names) > 1
    painted = overlay(shown, labels)[..., ::-1]
    place = Path(mask).relative_to(MASKS)
    _write(out / OVERLAYS / place.with_suffix('.jpg'), cv2.imencode('.jpg', painted)[1].tobytes())
    _write(out / mask, cv2.imencode('.png', labels if several else 255 * labels)[1].tobytes())
    height, width = labels.shape
    rows = []
    for label, (name, score) in enumerate(zip(predictor.class_names, scores, strict=True), start=1):
        pixels = int(np.count_nonzero(labels == label))
        share = round(pixels / labels.size, 8)
        rows.append(Row(str(source.path), mask, width, height, name, pixels, share, round(score, 6)))
    return rows


def measure_all(out: Path, class_names: Sequence[str], mm_per_pixel: float | None) -> list[Measurement]:
    """Measure all masks of ``out``, those of earlier runs as well, and write measurements.csv.

    Args:
        out: Folder with masks and predictions.csv.
        class_names: Of the K classes.
        mm_per_pixel: Millimetres a pixel; None for results in pixels.
    """
    unit, scale = ('px', 1.0) if mm_per_pixel is None else ('mm', mm_per_pixel)
    measurements = []
    for mask, rows in tqdm(read_table(out / TABLE, len(class_names)).items(), desc='measuring'):
        labels = np.asarray(cv2.imread(str(out / mask), cv2.IMREAD_UNCHANGED))
        for label, row in enumerate(rows, start=1):
            of_class = labels == (label if len(rows) > 1 else 255)
            measurements.append(Measurement(row, unit, measure_cracks(of_class).scaled(scale)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(MEASURED_COLUMNS)
    writer.writerows(measurement.cells() for measurement in measurements)
    _write(out / MEASUREMENTS, text.getvalue().encode())
    return measurements


def summaries(measurements: Sequence[Measurement]) -> list[str]:
    """A line for each class over all images."""
    by_class: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_class.setdefault(measurement.row.class_name, []).append(measurement)
    lines = []
    for name, group in by_class.items():
        found = [measurement for measurement in group if measurement.cracks.length]
        if not found:
            lines.append(f'{name}: in none of {len(group):,} images')
            continue
        unit, lengths = group[0].unit, [measurement.cracks.length for measurement in found]
        mean = np.average([measurement.cracks.mean_width for measurement in found], weights=lengths)
        widest = max(found, key=lambda measurement: measurement.cracks.max_width)
        lines.append(
            f'{name}: in {len(found):,} of {len(group):,} images, {sum(lengths):,.1f} {unit} long in all, '
            f'{mean:.2f} {unit} wide on average, at most {widest.cracks.max_width:.2f} {unit} ({widest.row.mask})'
        )
    return lines


def read_table(table: Path, classes: int) -> dict[str, list[Row]]:
    """Rows of the images that are complete, by mask: a row for each class, and mask and overlay on disk."""
    if not table.is_file():
        return {}
    groups: dict[str, list[Row]] = {}
    # A killed run may leave half a line at the end.
    lines = [line for line in table.read_text(encoding='utf-8').splitlines(keepends=True) if line.endswith('\n')]
    for cells in csv.DictReader(lines):
        if None not in cells.values():
            values = {field.name: field.type(cells[field.name]) for field in fields(Row)}  # type: ignore[operator]
            groups.setdefault(cells['mask'], []).append(Row(**values))
    out = table.parent
    return {
        mask: rows
        for mask, rows in groups.items()
        if len(rows) == classes
        and (out / mask).is_file()
        and (out / OVERLAYS / Path(mask).relative_to(MASKS).with_suffix('.jpg')).is_file()
    }


def write_table(table: Path, rows: Sequence[Row]) -> None:
    """Write predictions.csv whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    _write(table, text.getvalue().encode())


def find_sources(patterns: Sequence[str]) -> tuple[list[Source], dict[str, list[Path]]]:
    """The images and videos that files, folders and patterns stand for, in order; none twice.

    A file from a folder, or found by a pattern, is named by its path below the folder (the pattern's part before its
    first wildcard), any other by its file name. Hidden files are left out, and so are files that are no pictures
    (``.txt``, ``.json``), except where they are named themselves.

    Returns:
        The sources; and by suffix the pictures that are not read, such as HEIC and raw files, and videos that lie in
        folders, of which nobody said that each frame is wanted.

    Raises:
        FileNotFoundError: Something stands for nothing.
    """
    found: dict[Path, Source] = {}
    unread: dict[str, dict[Path, Path]] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():
            root, files, read = path.parent, [path], frozenset({path.suffix.lower()}) - UNREAD_SUFFIXES
        elif path.is_dir():
            root, files, read = path, _visible_files(path, '**/*'), IMAGE_SUFFIXES
        else:
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
            files, read = _visible_files(root, str(path.relative_to(root))), IMAGE_SUFFIXES.union(VIDEO_SUFFIXES)
        left_out = [file for file in files if file.suffix.lower() in UNREAD_SUFFIXES.union(VIDEO_SUFFIXES) - read]
        files = [file for file in files if file.suffix.lower() in read]
        if not files and not (left_out and path.is_file()):
            reasons = [f'. {_unread_line(suffix, own)}' for suffix, own in _by_suffix(left_out).items()]
            raise FileNotFoundError(
                f'{pattern}: no image is there ({", ".join(sorted(IMAGE_SUFFIXES))}){"".join(reasons)}'
            )
        for file in files:
            name = file.relative_to(root).with_suffix('').as_posix()
            found.setdefault(file.resolve(), Source(file, name))
        for suffix, own in _by_suffix(left_out).items():
            unread.setdefault(suffix, {}).update({file.resolve(): file for file in own})
    return list(found.values()), {
        suffix: [file for resolved, file in files.items() if resolved not in found] for suffix, files in unread.items()
    }


def _visible_files(root: Path, pattern: str) -> list[Path]:
    files = [file for file in sorted(root.glob(pattern)) if file.is_file()]
    return [file for file in files if not any(part.startswith('.') for part in file.relative_to(root).parts)]


def _by_suffix(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(file.suffix.lower(), []).append(file)
    return groups


def _unread_line(suffix: str, files: Sequence[Path]) -> str:
    remedy = (
        f"Videos are taken where they are named, or found by a pattern such as '*{suffix}'."
        if suffix in VIDEO_SUFFIXES
        else unread_remedy(suffix)
    )
    which = f'{len(files)} {suffix} files are' if len(files) > 1 else f'1 {suffix} file is'
    return f'{which} not read: {listed(files)}. {remedy}'


def _frames(source: Source) -> Iterator[tuple[np.ndarray, str]]:
    """Frames of a video and their masks.

    Raises:
        UnreadableError: There are none, or more than a second's less than the file announces.
    """
    video = mmcv.VideoReader(str(source.path))
    count = 0
    while (frame := video.read()) is not None:
        yield frame, f'{MASKS}/{source.name}/{count:06d}.png'
        count += 1
    # What a file announces is in some formats an estimate.
    if not count or count < video.frame_cnt - video.fps:
        raise UnreadableError(f'{source.path}: decoding ended after {count} of {max(0, video.frame_cnt)} frames')


def _frame_count(source: Source) -> int:
    return max(1, mmcv.VideoReader(str(source.path)).frame_cnt) if source.is_video else 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='+', help='image files, folders, quoted patterns, videos')
    parser.add_argument('--config', type=config_file, required=True, help='config file')
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument('--checkpoint', type=_existing_file, help='checkpoint file (.pth)')
    weights.add_argument('--adapter', type=_existing_folder, metavar='DIR', help='PEFT adapter folder')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write to')
    parser.add_argument(
        '--prompt', nargs='+', metavar='TEXT', help="prompts in place of the config's, one for each class; quote blanks"
    )
    parser.add_argument('--threshold', type=float, help="foreground is what is more probable (default: the config's)")
    parser.add_argument(
        '--slide',
        type=int,
        nargs=2,
        metavar=('CROP', 'STRIDE'),
        help='predict in square windows of CROP pixels, one every STRIDE pixels, for large images',
    )
    parser.add_argument(
        '--measure', action='store_true', help='length, width, orientation and density of the cracks in each image'
    )
    parser.add_argument(
        '--mm-per-pixel', type=_positive, metavar='MM', help='scale of the photographs, to measure in millimetres'
    )
    parser.add_argument(
        '--merge',
        action='store_true',
        help='merge the adapters of a model in low precision, for less memory and time, and print what that changes',
    )
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--overwrite', action='store_true', help='predict everything again and begin a new table')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='override config values'
    )
    return parser


def _existing_file(path: str) -> str:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'file not found: {path} (a PEFT adapter folder is given with --adapter)')
    return path


def _existing_folder(path: str) -> str:
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f'{path} is no folder')
    return path


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is no size of a pixel')
    return value


def _load_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """The config with all options applied."""
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    given = {'prompts': args.prompt, 'threshold': args.threshold, 'adapter': args.adapter}
    given = {name: value for name, value in given.items() if value is not None}
    model_class = MODELS.get(cfg.model.type)
    if (given or args.merge) and not (model_class and issubclass(model_class, SAM3TextLoRA)):
        parser.error(
            f'--prompt, --threshold, --adapter and --merge are for SAM3TextLoRA; {args.config} has {cfg.model.type}'
        )
    if args.merge and args.adapter is None and cfg.model.get('adapter') is None and cfg.model.get('lora', 1) is None:
        parser.error(f'--merge: the model of {args.config} has no adapters (lora=None). Leave --merge out.')
    cfg.model.update(given)
    if args.slide:
        crop, stride = args.slide
        if not 0 < stride <= crop:
            parser.error(f'--slide {crop} {stride}: wanted are 0 < STRIDE <= CROP, or pixels are left out')
        cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
    return cfg


def _find_sources(
    parser: argparse.ArgumentParser, patterns: Sequence[str]
) -> tuple[list[Source], dict[str, list[Path]]]:
    try:
        return find_sources(patterns)
    except FileNotFoundError as error:
        parser.error(str(error))


def _check_names(parser: argparse.ArgumentParser, sources: Sequence[Source], done: Mapping[str, Sequence[Row]]) -> None:
    """Refuse two files with one mask, in this run or over runs."""
    owners = {rows[0].mask: Path(rows[0].image) for rows in done.values()}
    for source in sources:
        mask = f'{MASKS}/{source.name}/000000.png' if source.is_video else source.mask
        other = owners.setdefault(mask, source.path)
        if other.resolve() != source.path.resolve():
            parser.error(
                f'{other} and {source.path} would share the mask {mask}. Rename one, take another --out, or give the '
                'folder that holds both.'
            )


def _pipeline(cfg: Config) -> list[dict]:
    """The pipeline of the test set; one that wraps other datasets has none, and ``test_pipeline`` is taken."""
    return cfg.test_dataloader.dataset.get('pipeline') or cfg.test_pipeline


def _settings(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """All that a prediction depends on, as JSON has it."""
    weights = [args.checkpoint] if args.checkpoint else []
    if args.adapter:
        weights = [str(path) for path in sorted(Path(args.adapter).glob('adapter_*'))]
    hashes = {}
    for name in weights:
        with Path(name).open('rb') as file:
            hashes[Path(name).name] = hashlib.file_digest(file, 'sha256').hexdigest()
    model = {f'model.{key}': value for key, value in cfg.model.to_dict().items() if key != 'adapter'}
    settings = {**model, 'pipeline': _pipeline(cfg), 'sha256': hashes}
    if args.merge:
        settings['merge'] = True
    return json.loads(json.dumps(settings, default=str))


def _check_out(parser: argparse.ArgumentParser, out: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix predictions of different models, and to overwrite what is none."""
    file = out / SETTINGS
    if not file.is_file():
        for folder in (out / MASKS, out / OVERLAYS):
            if folder.is_dir() and any(folder.iterdir()):
                parser.error(f'{folder} holds files that no prediction wrote. Take another --out, or pass --overwrite.')
        return
    former = json.loads(file.read_text(encoding='utf-8'))
    differing = [key for key in {**former, **settings} if former.get(key) != settings.get(key)]
    if differing:
        parser.error(
            f'{out} holds predictions made with other settings ({", ".join(differing)}). Take another --out, or pass '
            '--overwrite to predict everything again.'
        )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


if __name__ == '__main__':
    main()
