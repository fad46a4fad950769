"""Draw a synthetic data set: ``python tools/make_synthetic.py OUT --surface asphalt --train 120 --valid 40``."""

import argparse
from collections.abc import Sequence

from crack_plugin.cli import readable_errors
from crack_plugin.datasets.synthetic import DEFECTS, HELD_OUT, PRETRAINING_SURFACES, SURFACES, write_dataset
from crack_plugin.datasets.synthetic.contact_sheet import write_contact_sheet

ALL = 'pretraining'


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Draw pictures of cracked surfaces with exact YOLO polygons, in the layout of a Roboflow export. '
        'The same command gives the same files, and does nothing where they are already there.'
    )
    parser.add_argument('out', help='folder to write, new or empty')
    parser.add_argument(
        '--surface',
        nargs='+',
        default=['concrete'],
        choices=[*SURFACES, ALL],
        metavar='NAME',
        help=f'one or several of: {", ".join(map(repr, SURFACES))}; or {ALL!r}, all of these but '
        f'{" and ".join(HELD_OUT)}, which are kept for tests (default: concrete)',
    )
    parser.add_argument(
        '--defects',
        nargs='+',
        default=['crack'],
        choices=DEFECTS,
        metavar='NAME',
        help=f'classes in the order of their ids, from: {", ".join(map(repr, DEFECTS))} (default: crack)',
    )
    parser.add_argument('--train', type=int, default=120, help='number of training pictures (default: 120)')
    parser.add_argument('--valid', type=int, default=40, help='number of validation pictures (default: 40)')
    parser.add_argument(
        '--size', type=int, nargs=2, default=[336, 336], metavar=('HEIGHT', 'WIDTH'), help='pixels (default: 336 336)'
    )
    parser.add_argument(
        '--max-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='each picture takes a height and a width between --size and this (default: all have --size)',
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed draws other pictures (default: 0)')
    parser.add_argument(
        '--negative-share', type=float, default=0.18, help='share of pictures without defects (default: 0.18)'
    )
    parser.add_argument(
        '--label-margin',
        type=float,
        nargs=2,
        default=[0.2, 1.2],
        metavar=('LOW', 'HIGH'),
        help='how far labels reach over the dark line on either side, in pixels; each picture takes a value between '
        'the two (default: 0.2 1.2)',
    )
    parser.add_argument('--workers', type=int, default=1, help='processes that draw (default: 1)')
    parser.add_argument(
        '--contact-sheet',
        action='store_true',
        help='OUT is a picture instead (sheet.png): a cell for each surface and class, with the outlines of the labels',
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    surfaces = tuple(
        dict.fromkeys(s for name in args.surface for s in (PRETRAINING_SURFACES if name == ALL else (name,)))
    )
    with readable_errors(parser):
        if args.contact_sheet:
            write_contact_sheet(args.out, surfaces, args.defects, tuple(args.size), args.seed)
            print(f'Wrote {args.out}.')
            return
        drawn = write_dataset(
            args.out,
            n_train=args.train,
            n_valid=args.valid,
            size=tuple(args.size),
            surfaces=surfaces,
            defects=args.defects,
            seed=args.seed,
            negative_share=args.negative_share,
            label_margin=tuple(args.label_margin),
            workers=args.workers,
            max_size=None if args.max_size is None else tuple(args.max_size),
        )
    what = f'{args.train} training and {args.valid} validation pictures'
    print(f'Wrote {what} to {args.out}.' if drawn else f'{args.out} already holds these {what}.')


if __name__ == '__main__':
    main()
