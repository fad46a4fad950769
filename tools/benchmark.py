"""Compare models on the same images: ``python tools/benchmark.py MODEL [MODEL ...]`` makes one table of them.

A MODEL is CONFIG=CHECKPOINT, a work directory of tools/train.py (or a folder of them), or a CONFIG alone: SAM 3
zero-shot is measured as it is, anything else is trained first with --train. Each model is trained and measured in a
process of its own. One that fails is reported in its place with its reason, the others go on, and the exit code is 1.

With --train, what --out holds already is not trained again, and an interrupted training is resumed.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.device import get_device

from crack_plugin.cli import KeyValueAction
from crack_plugin.comparison.compare import compare
from crack_plugin.comparison.plan import plan_runs
from crack_plugin.comparison.settings import Settings

TRAIN_TOOL = Path(__file__).with_name('train.py')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (None: the process's).

    Returns:
        1 if a model failed, 0 otherwise.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    settings = Settings(
        data_root=args.data_root,
        test_data=args.test_data,
        test_split=args.test_split,
        image_size=args.image_size,
        epochs=args.epochs,
        pretrained=args.pretrained,
        cfg_options=args.cfg_options,
    )
    try:
        runs = plan_runs(args.models, settings, args.out, args.train, args.seeds)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    command = shlex.join(['python', 'tools/benchmark.py', *(sys.argv[1:] if argv is None else argv)])
    rows = compare(
        runs,
        args.out,
        TRAIN_TOOL,
        args.device,
        use=args.use,
        examples=args.examples,
        resamples=args.resamples,
        facts={'Command': command, 'Machine': f'{os.cpu_count()} CPU cores'},
    )
    print((args.out / 'benchmark.md').read_text(encoding='utf-8'))
    print(f'Wrote {args.out / "benchmark.md"}, benchmark.csv and benchmark.json')
    return int(any(row.failures for row in rows))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='MODEL', help='CONFIG, CONFIG=CHECKPOINT, or folder of work dirs')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmark'),
        metavar='DIR',
        help='folder for tables, plots and trainings (default: %(default)s)',
    )
    parser.add_argument('--train', action='store_true', help='train the configs that come without a checkpoint')
    parser.add_argument(
        '--seeds', type=int, nargs='+', metavar='N', help="train each config from these (default: the config's own)"
    )
    parser.add_argument('--epochs', type=positive, metavar='N', help='length of each training')
    parser.add_argument(
        '--no-pretrained',
        dest='pretrained',
        action='store_false',
        help='start the backbones of stock models from random weights, without a download',
    )
    parser.add_argument(
        '--image-size', type=positive, metavar='N', help='stretch images to N x N pixels (SAM 3: a multiple of 336)'
    )
    parser.add_argument('--data-root', metavar='DIR', help='dataset to train and test on')
    parser.add_argument('--test-data', metavar='DIR', help='dataset to test on, if it is another')
    parser.add_argument('--test-split', metavar='SPLIT', help="split to test on (default: the configs')")
    parser.add_argument(
        '--use',
        choices=['last', 'best'],
        default='last',
        help='checkpoint of a training to score: the last, or the one selected on the validation images, whose score '
        'on those same images is flattered (default: %(default)s)',
    )
    parser.add_argument('--device', default=get_device(), help='to measure on (default: %(default)s)')
    parser.add_argument(
        '--examples', type=int, default=4, metavar='N', help='images on the contact sheet (default: %(default)s)'
    )
    parser.add_argument(
        '--resamples', type=positive, default=1000, metavar='N', help='of the bootstrap (default: %(default)s)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='override values in every config'
    )
    return parser


def positive(text: str) -> int:
    """Argparse type: a whole number from 1 on."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'a whole number from 1 on was expected, not {text}')
    return value


if __name__ == '__main__':
    sys.exit(main())
