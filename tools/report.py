"""Write the report of a training: ``python tools/report.py WORK_DIR`` makes WORK_DIR/report/report.md and report.html.

It holds model and recipe, the epoch table against zero-shot, curves, IoU and Dice histograms, example panels, runtime
and footprint. Curves and table come from what the training recorded; for histograms, examples and the zero-shot row the
best checkpoint is run over the validation images once, with its adapters and without.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.device import get_device

from crack_plugin.cli import add_cfg_options, config_file, existing_file, merge_options, readable_errors
from crack_plugin.report.build import WorkDirError, build_report, load_config


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not args.work_dir.is_dir():
        parser.error(f'{args.work_dir} is no folder')
    if args.examples < 0:
        parser.error(f'--examples {args.examples}: expected a number from 0 on')
    with readable_errors(parser):
        try:
            cfg = load_config(args.work_dir, args.config)
            merge_options(cfg, args.cfg_options)
            folder = build_report(
                args.work_dir,
                cfg,
                checkpoint=args.checkpoint,
                zero_shot=args.zero_shot,
                examples=args.examples,
                device=args.device,
                run_model=not args.no_evaluation,
            )
        except WorkDirError as error:
            parser.error(str(error))
    print(f'Wrote {folder / "report.md"} and {folder / "report.html"}')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='work directory of the training')
    parser.add_argument('--config', type=config_file, help='config file (default: the one in WORK_DIR)')
    parser.add_argument(
        '--checkpoint', type=existing_file, help='checkpoint file (default: the best in WORK_DIR, or the last)'
    )
    parser.add_argument(
        '--zero-shot',
        type=existing_file,
        metavar='RESULT.json',
        help='result of tools/test.py without training, for the first row of the table (default: run it now)',
    )
    parser.add_argument('--examples', type=int, default=2, metavar='N', help='images in each group (default: 2)')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument(
        '--no-evaluation',
        action='store_true',
        help='run no model: table and curves only, from what the training recorded',
    )
    add_cfg_options(parser, 'val_dataloader.dataset.data_root=DIR for data that has moved')
    return parser


if __name__ == '__main__':
    main()
