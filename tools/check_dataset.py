"""Read a whole dataset before training, and list all that is wrong with it in one table, a row for each cause.

Also counts, sizes, crack pixels, crack width in the files and at the model's resolution, and pictures that occur in two
splits. Exit code 1 if there are errors (with --strict, also if there are warnings), 0 otherwise. --html writes a page
with every single problem and with sample overlays, --csv every single problem.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.utils import track_iter_progress

from crack_plugin.cli import (
    add_annotations_argument,
    add_dataset_arguments,
    dataset_options,
    readable_errors,
    selected_splits,
)
from crack_plugin.datasets.duplicates import HASH_DISTANCE, find_leaks
from crack_plugin.datasets.inspection import inspect_samples, open_split
from crack_plugin.datasets.problems import Problem
from crack_plugin.datasets.samples import Sample, find_absent_classes, find_lost_cracks
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.files import LEFTOVER
from crack_plugin.report.dataset_page import DatasetReport, as_text, write_csv, write_page


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
    report = DatasetReport(args.data_root, args.image_size, datasets, samples, problems)
    print(as_text(report))
    if args.html:
        write_page(args.html, report, args.samples)
        print(f'Wrote {args.html}')
    if args.csv:
        write_csv(args.csv, report)
        print(f'Wrote {args.csv}')
    if report.errors or (args.strict and problems):
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
        raise argparse.ArgumentTypeError('0 px: a side of at least 1 px is needed')
    return number


if __name__ == '__main__':
    main()
