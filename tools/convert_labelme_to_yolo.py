"""Convert LabelMe's JSON files (also X-AnyLabeling's), one for each image, to a YOLO dataset.

Polygons, circles and masks are areas; where they overlap, the later one is on top. What to do with boxes, lines and
points has to be told, and is an error otherwise. Writes OUT/SPLIT/labels/NAME.txt, links the images into
OUT/SPLIT/images, and names the classes in OUT/data.yaml. All files are checked first: if some cannot be converted, each
kind of fault is named, and nothing is written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import KeyValueAction, add_conversion_arguments, readable_errors
from crack_plugin.datasets.labelme import Options, convert_labelme
from crack_plugin.datasets.labelme_shapes import KINDS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    options = Options(args.boxes, args.outside, args.line_width, args.drop_shapes)
    with readable_errors(parser):
        count, notes = convert_labelme(
            args.source,
            args.out,
            args.split,
            args.images,
            args.classes,
            {label: name if name is None else str(name) for label, name in args.class_map.items()},
            args.unannotated,
            args.overwrite,
            options,
        )
    print(*notes, f'{count} images to {args.out / args.split}', sep='\n')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='folder of .json files, subfolders included, or one such file')
    add_conversion_arguments(parser)
    parser.add_argument(
        '--images', type=Path, metavar='DIR', help='where to look for the images, besides the folder of each .json'
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='default: those of an earlier split, or all labels, sorted'
    )
    parser.add_argument(
        '--class-map',
        nargs='+',
        action=KeyValueAction,
        default={},
        metavar='LABEL=CLASS',
        help='label to the name of its class, or to None to leave its shapes out',
    )
    parser.add_argument(
        '--line-width', type=_width, metavar='PIXELS', help='draw lines with this width (default: lines are an error)'
    )
    parser.add_argument(
        '--drop-shapes', nargs='+', choices=KINDS, default=[], metavar='TYPE', help=f'leave out: {", ".join(KINDS)}'
    )
    parser.add_argument(
        '--unannotated',
        choices=['skip', 'background'],
        default='skip',
        help='images without a .json: left out, or taken as free of cracks (default: %(default)s)',
    )
    return parser


def _width(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f'{text!r} is no width: whole pixels, from 1 to 1000')
    return int(text)


if __name__ == '__main__':
    main()
