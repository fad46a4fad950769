"""Read a whole dataset before a training does, and say all that is wrong with it in one table: a row a cause.

Also counts, sizes, crack pixels, crack width in the files and at the model's resolution, and pictures that occur in two
splits. Exit code 1 if there are errors (with --strict, also if there are warnings), 0 otherwise. --html writes a page
with every single problem and with sample overlays, --csv every single problem.
"""

import argparse
import csv
import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from prettytable import PrettyTable, TableStyle

from crack_plugin.cli import (
    add_annotations_argument,
    add_dataset_arguments,
    dataset_options,
    readable_errors,
    selected_splits,
)
from crack_plugin.datasets.duplicates import HASH_DISTANCE, find_leaks
from crack_plugin.datasets.inspection import inspect_samples, open_split
from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.polygons import LabelError
from crack_plugin.datasets.problems import CAUSES, Problem, describe_cause, group_by_cause
from crack_plugin.datasets.samples import SUMMARY, Sample, find_absent_classes, find_lost_cracks, summarize
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.hooks.files import LEFTOVER, write_whole
from crack_plugin.visualization.document import Block, Heading, Picture, Table, Text, to_html
from crack_plugin.visualization.panels import overlay

_FAULTS = ('severity', 'split', 'cause', 'file', 'line', 'problem')
_COLUMN_WIDTH = 120
_PREVIEW_SIDE = 800


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    for option in ('html', 'csv'):
        if getattr(args, option):
            _check_writable(parser, option, getattr(args, option))
    with readable_errors(parser):
        _check(parser, args)


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    datasets: dict[str, YOLOCrackDataset] = {}
    samples: list[Sample] = []
    problems: list[Problem] = []
    for split in selected_splits(args):
        dataset, found = open_split(args.data_root, split, **_label_options(args), **dataset_options(args))
        problems += found
        if dataset is not None:
            datasets[split] = dataset
            print(f'{split}: {len(dataset)} images')
            for sample, faults in track_iter_progress((inspect_samples(dataset, args.workers), len(dataset))):
                problems += faults
                samples += [] if sample is None else [sample]
    problems += find_absent_classes(samples, args.classes)
    problems += find_lost_cracks(samples, args.image_size)
    problems += find_leaks(samples, args.hash_distance)
    causes = group_by_cause(problems)
    rows = summarize(samples, args.image_size)
    print(_text_table(SUMMARY, rows))
    if problems:
        print(_text_table(*_cause_table(causes)))
    errors = sum(problem.severity == 'error' for problem in problems)
    verdict = f'{errors} errors, {len(problems) - errors} warnings'
    print(verdict)
    if args.html:
        _write_page(args.html, args, verdict, rows, causes, datasets, samples)
        print(f'Wrote {args.html}')
    if args.csv:
        _write_csv(args.csv, causes)
        print(f'Wrote {args.csv}')
    if errors or (args.strict and problems):
        parser.exit(1)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_arguments(parser)
    add_annotations_argument(parser)
    parser.add_argument(
        '--mask-threshold', type=int, metavar='LEVEL', help='levels of masks above this (0 to 254) are foreground'
    )
    parser.add_argument(
        '--image-size',
        type=_pixels,
        default=1008,
        metavar='PX',
        help="of the model's square input (default: %(default)s)",
    )
    parser.add_argument(
        '--hash-distance',
        type=int,
        default=HASH_DISTANCE,
        metavar='BITS',
        help='pictures of two splits are the same if at most this many of 64 bits differ (default: %(default)s)',
    )
    parser.add_argument('--strict', action='store_true', help='exit code 1 for warnings too')
    parser.add_argument('--html', type=Path, metavar='FILE', help='write a page with all of it and sample overlays')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write a table of every single problem')
    parser.add_argument(
        '--samples', type=_count, default=6, metavar='N', help='overlays each split (default: %(default)s)'
    )
    parser.add_argument('--workers', type=_count, default=2, metavar='N', help='processes (default: %(default)s)')
    return parser


def _label_options(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ('annotations', 'mask_suffix', 'mask_threshold')}


def _check_writable(parser: argparse.ArgumentParser, option: str, path: Path) -> None:
    """Stop at once, rather than after a long check, if a file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix='.', suffix=LEFTOVER):
            pass
    except OSError as error:
        parser.error(f'--{option} {path} cannot be written: {error.strerror}')
    if path.is_dir():
        parser.error(f'--{option} {path} is a folder: name a file')


def _count(text: str) -> int:
    """Argparse type: a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 0 or more')
    return int(text)


def _pixels(text: str) -> int:
    """Argparse type: a whole number above 0."""
    number = _count(text)
    if number == 0:
        raise argparse.ArgumentTypeError('0 px: a side of at least 1 px is wanted')
    return number


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = PrettyTable(header, align='l', max_width=_COLUMN_WIDTH)
    table.set_style(TableStyle.SINGLE_BORDER)
    table.add_rows([list(row) for row in rows])
    # Names of files may have bytes that are no text.
    return table.get_string().encode(errors='backslashreplace').decode()


def _write_page(
    path: Path,
    args: argparse.Namespace,
    verdict: str,
    rows: Sequence[Sequence[str]],
    causes: Sequence[Sequence[Problem]],
    datasets: dict[str, YOLOCrackDataset],
    samples: Sequence[Sample],
) -> None:
    page: list[Block] = [
        Heading(f'Dataset {args.data_root}', 1),
        Text(verdict, note=bool(causes)),
        Heading('What is in it'),
        Table(SUMMARY, rows),
        Text(
            'Crack width: median along the centre lines of an image; shown are the median over the images, least and '
            f"largest, in the files, at the model's input of {args.image_size} px and at its output (2/7 of that)."
        ),
        Heading('Problems'),
        Table(*_cause_table(causes)) if causes else Text('None.'),
        Heading('Samples'),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for split, dataset in datasets.items():
            readable = {sample.image for sample in samples if sample.split == split}
            page += _overlays(split, dataset, readable, args.samples, Path(folder))
        if causes:
            page += [Heading('Every single problem'), Table(_FAULTS, _faults(causes))]
        write_whole(path, to_html(page, Path(folder)).encode(errors='backslashreplace'))


def _cause_table(causes: Sequence[Sequence[Problem]]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Header and rows; the rows are numbered for ``_faults`` to refer to."""
    rows = [(str(number), *describe_cause(cause)) for number, cause in enumerate(causes, start=1)]
    return ('cause', *CAUSES), rows


def _write_csv(path: Path, causes: Sequence[Sequence[Problem]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([_FAULTS, *_faults(causes)])
    write_whole(path, text.getvalue().encode(errors='backslashreplace'))


def _faults(causes: Sequence[Sequence[Problem]]) -> list[tuple[str, ...]]:
    """A row under ``_FAULTS`` for each problem, with the number of its cause."""
    return [
        (problem.severity, problem.split, str(number), problem.file or '', str(problem.line or ''), problem.text)
        for number, cause in enumerate(causes, start=1)
        for problem in cause
    ]


def _overlays(split: str, dataset: YOLOCrackDataset, readable: set[str], count: int, folder: Path) -> list[Block]:
    """Evenly spaced samples of a split with their labels painted over them."""
    blocks: list[Block] = []
    indices = [i for i in range(len(dataset)) if dataset.get_data_info(i)['img_path'] in readable]
    for i in indices[:: max(1, len(indices) // count)][:count] if count else []:
        sample = dataset[i]
        try:
            labels = LoadYOLOPolygons()(sample)['gt_seg_map']
        except LabelError:
            continue  # the table of problems tells why
        painted = overlay(*_preview(sample['img'], labels))
        name = f'{split}_{i}.png'
        (folder / name).write_bytes(cv2.imencode('.png', cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))[1].tobytes())
        blocks.append(Picture(name, f'{split}: {sample["img_path"]}'))
    return blocks


def _preview(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BGR image and label map as RGB image and label map of at most ``_PREVIEW_SIDE`` pixels."""
    picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    factor = max(labels.shape) / _PREVIEW_SIDE
    if factor <= 1:
        return picture, labels
    height, width = (max(1, round(side / factor)) for side in labels.shape)
    # A thin crack would fall through the grid of the smaller picture.
    thickness = math.ceil(factor)
    thick = cv2.dilate(labels, np.ones((thickness, thickness), np.uint8))
    return (
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
        cv2.resize(thick, (width, height), interpolation=cv2.INTER_NEAREST),
    )


if __name__ == '__main__':
    main()
