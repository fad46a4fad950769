"""What has become of the cracks between two photographs of a place: ``python tools/compare_dates.py BEFORE AFTER``.

The photographs are registered, and the cracks of both predicted with --config, or taken from --masks. OUT/changes.csv
has a row for each piece of a crack that is new, gone, widened, narrowed, unchanged, or outside of the other photograph;
OUT/changes.jpg is AFTER with these in colours, OUT/before_registered.jpg is BEFORE as AFTER would see it. Photographs
that cannot be registered with confidence are refused.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.device import get_device

from crack_plugin.cli import (
    add_cfg_options,
    add_weights,
    config_file,
    existing_file,
    load_trained_config,
    readable_errors,
)
from crack_plugin.inspection.scale import ScaleError, read_scales
from crack_plugin.prediction import Predictor
from crack_plugin.prediction.dates import RESULTS, compare_dates, read_labels


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if (args.config is None) == (args.masks is None):
        parser.error('give either --config, to predict the masks, or --masks BEFORE_MASK AFTER_MASK')
    if args.masks and (args.checkpoint or args.adapter or args.cfg_options):
        parser.error('--checkpoint, --adapter and --cfg-options are of a model, and --masks needs none')
    existing = [str(args.out / name) for name in RESULTS if (args.out / name).exists()]
    if existing and not args.overwrite:
        parser.error(f'{", ".join(existing)} exists. Take another --out, or pass --overwrite to replace it.')
    with readable_errors(parser):
        try:
            scales = read_scales(args.mm_per_pixel)
        except ScaleError as error:
            parser.error(str(error))
        if args.masks:
            labels_of: list[Callable[[Path], np.ndarray]] = [partial(read_labels, mask) for mask in args.masks]
            class_names = ['crack']
        else:
            labels_of, class_names = _predicted(args)
        print('\n'.join(compare_dates((args.before, args.after), labels_of, class_names, args.out, scales)))
    print(f'Results in {args.out}')


def _predicted(args: argparse.Namespace) -> tuple[list[Callable[[Path], np.ndarray]], list[str]]:
    """What predicts the labels of either photograph, and the names of their classes."""
    predictor = Predictor(load_trained_config(args), args.checkpoint, device=args.device)

    def labels_of(image: Path) -> np.ndarray:
        return predictor(image).labels

    return [labels_of, labels_of], predictor.class_names


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('before', type=existing_file, help='the first photograph')
    parser.add_argument('after', type=existing_file, help='the second photograph')
    parser.add_argument('--config', type=config_file, help='config file of the model')
    add_weights(parser)
    parser.add_argument(
        '--masks',
        type=existing_file,
        nargs=2,
        metavar=('BEFORE_MASK', 'AFTER_MASK'),
        help='masks in place of a model: white is crack',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write to')
    parser.add_argument(
        '--mm-per-pixel',
        metavar='MM',
        help="scale of AFTER, or a CSV file with scales (default: a GeoTIFF's own, or pixels)",
    )
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--overwrite', action='store_true', help='replace the results in DIR')
    add_cfg_options(parser)
    return parser


if __name__ == '__main__':
    main()
