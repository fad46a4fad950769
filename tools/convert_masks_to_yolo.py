"""Convert a folder of masks to YOLO polygon labels: OUT/NAME.txt.

Masks are PNG, JPEG, BMP, TIFF or WebP files. Read is what a viewer displays: 255 or 1 is foreground on 0; in a colour
mask, every colour other than black. Grey levels and soft edges need a --threshold. Files of other formats that have the
name of a PNG are taken for the photographs, and so is what lacks the --mask-suffix.

Reading the labels back gives the masks pixel for pixel, holes included. An empty mask becomes an empty file. Masks that
cannot be read do not stop the others: they are listed at the end, and the exit code is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import track_iter_progress

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.mask_conversion import convert_masks, find_masks
from crack_plugin.datasets.masks import check_threshold
from crack_plugin.datasets.names import listed
from crack_plugin.datasets.polygons import MAX_CLASSES

# Of the masks that cannot be read, so many are shown.
_SHOWN = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not 0 <= args.class_id < MAX_CLASSES:
        parser.error(f'--class-id {args.class_id}: ids from 0 to {MAX_CLASSES - 1} are possible')
    try:
        check_threshold(args.threshold)
    except DatasetError as error:
        parser.error(f'--threshold: {error}')
    if not args.masks.is_dir():
        parser.error(f'{args.masks} is no folder')
    try:
        masks, photographs = find_masks(args.masks, args.mask_suffix)
    except DatasetError as error:
        parser.error(str(error))
    if photographs:
        names = listed([path.name for path in photographs])
        print(f'{len(photographs)} files are taken for photographs, not masks: {names}')
    labels = {path: args.out / f'{path.stem.removesuffix(args.mask_suffix)}.txt' for path in masks}
    existing = [label for label in labels.values() if label.exists()]
    if existing and not args.overwrite:
        parser.error(f'{len(existing)} of the labels exist, {existing[0]} for one. Pass --overwrite to replace them.')
    args.out.mkdir(parents=True, exist_ok=True)
    findings = convert_masks(track_iter_progress(list(labels.items())), args.class_id, args.threshold)
    print(f'\n{len(masks) - len(findings.failures)} labels to {args.out}')
    if findings.colored:
        rule = (
            f'every colour other than black is foreground (RGB {listed(sorted(findings.colors), 8)})'
            if args.threshold is None
            else f'foreground is where the brightest of red, green and blue is above {args.threshold}'
        )
        print(
            f'{len(findings.colored)} masks are in colour, {listed([path.name for path in findings.colored])}: {rule}'
        )
    if findings.mostly_foreground:
        names = listed([path.name for path in findings.mostly_foreground])
        print(
            f'{len(findings.mostly_foreground)} masks are more than half foreground: {names}. Are crack and background '
            'swapped?'
        )
    failures = findings.failures
    if failures:
        more = f'\n  and {len(failures) - _SHOWN} more' if len(failures) > _SHOWN else ''
        text = '\n'.join(f'  {failure}' for failure in failures[:_SHOWN])
        parser.exit(
            1,
            f'{parser.prog}: error: {len(failures)} of {len(masks)} masks could not be read, the others are written:\n'
            f'{text}{more}\n',
        )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('masks', type=Path, help='folder of masks')
    parser.add_argument('out', type=Path, help='folder for the .txt labels')
    parser.add_argument('--class-id', type=int, default=0, help='class id of all polygons (default 0)')
    parser.add_argument(
        '--threshold',
        type=int,
        metavar='LEVEL',
        help='for masks with grey levels or soft edges: levels of 0 to 255 above this are foreground; in colour, the '
        'brightest of red, green and blue counts',
    )
    parser.add_argument(
        '--mask-suffix',
        default='',
        metavar='TEXT',
        help="what follows an image's name in its mask's, left out of the label's: _mask",
    )
    parser.add_argument('--overwrite', action='store_true', help='replace labels that exist')
    return parser


if __name__ == '__main__':
    main()
