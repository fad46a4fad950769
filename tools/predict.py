"""Predict masks, overlays and a table of crack areas: ``python tools/predict.py IMAGES --config CONFIG --out OUT``.

IMAGES are image files, folders (with their subfolders), quoted patterns such as 'site/**/*.jpg', or videos, of which
every frame is predicted. For each image OUT/masks gets a PNG (0/255; with several classes a label map, 0 for the
background; of an image too large for memory a GeoTIFF), OUT/overlays a JPEG, and OUT/predictions.csv a row per class.
With --measure, OUT/measurements.csv has length, width, orientation and density of the cracks as well. With --cracks,
--vector, --severity or --width-profile, OUT/cracks.csv has a row per crack, and with --report, OUT/report.html shows
them; --labels writes labels to correct.

An interrupted run goes on where it stopped when the same command is given again. A file that cannot be read does not
stop the others: all such files are listed at the end, and the exit code is 1. Pictures of formats that are not read
(.heic, .gif, raw files) and videos in folders are among them; files that are no pictures are not.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from torch.distributed import is_torchelastic_launched

from crack_plugin import cli
from crack_plugin.inspection.scale import ScaleError
from crack_plugin.inspection.severity import SeverityError
from crack_plugin.models import adapters, portable
from crack_plugin.prediction import Predictor
from crack_plugin.prediction.cracks import make_all
from crack_plugin.prediction.measurements import measure_all, summaries
from crack_plugin.prediction.options import add_result_arguments, wanted_of
from crack_plugin.prediction.output import check_names, merge_adapters, predict_all, rows_done
from crack_plugin.prediction.pipeline import WORKERS
from crack_plugin.prediction.raster_output import mark_rasters
from crack_plugin.prediction.settings import (
    OptionError,
    OutputError,
    apply_options,
    check_settings,
    prediction_settings,
    seen_as,
    write_settings,
)
from crack_plugin.prediction.sources import SourceError, find_sources, unread_line


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    with cli.readable_errors(parser):
        cli.join_processes(args.launcher)
        try:
            unread = _run(parser, args)
        except (OptionError, OutputError, ScaleError, SeverityError, SourceError) as error:
            parser.error(str(error))
    if is_main_process():
        print(f'Results in {args.out}')
    if unread:
        parser.exit(1, f'{parser.prog}: error: {unread}\n' if is_main_process() else None)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str | None:
    """Predict, and make what is wanted of the masks; which files could not be read, if any."""
    wanted = wanted_of(args)
    cfg = _load_config(parser, args)
    settings = prediction_settings(cfg, args.checkpoint, args.adapter, args.merge)
    sources, unread = find_sources(args.images, args.out)
    lines, first = [unread_line(suffix, files) for suffix, files in unread.items()], is_main_process()
    if first and lines:
        print('\n'.join(lines))
    if not args.overwrite:
        check_settings(args.out, settings)
    predictor = Predictor(cfg, args.checkpoint, device=args.device, prompts=args.prompt)
    if first:
        print(seen_as(cfg))
    sources = mark_rasters(sources, predictor.windows, wanted.probabilities)
    done = rows_done(args.out, len(predictor.class_names), args.overwrite)
    check_names(sources, done)
    wanted.check(sources, done)
    merged = merge_adapters(predictor, sources) if args.merge else None
    if first and merged:
        print(merged)
    if first:
        write_settings(args.out, settings)
    made = wanted.records, wanted.probabilities
    failures = predict_all(sources, predictor, args.out, done, args.workers, args.batch_size, *made)
    if wanted.measure and first:
        print('\n'.join(summaries(measure_all(args.out, predictor.class_names, wanted.scales))))
    if wanted.records and first:
        makes = args.out, predictor.class_names, wanted, args.overwrite, predictor.threshold, [*failures, *lines]
        print('\n'.join(make_all(*makes)))
    count = len(failures) + sum(map(len, unread.values()))
    return '\n  '.join([f'{count} files could not be read, the others are done:', *failures, *lines]) if count else None


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='+', help='image files, folders, quoted patterns, videos')
    parser.add_argument(
        '--config', type=cli.config_file, help="config file; may be left out with a pushed --adapter's own"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument('--checkpoint', type=cli.local_checkpoint, help='checkpoint file (.pth)')
    weights.add_argument('--adapter', metavar='DIR_OR_HUB_ID', help=cli.ADAPTER_HELP)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write to')
    parser.add_argument(
        '--prompt', nargs='+', metavar='TEXT', help="prompts in place of the config's, one for each class; quote blanks"
    )
    parser.add_argument(
        '--threshold', type=float, help="foreground is what is more probable (default: the config's or checkpoint's)"
    )
    parser.add_argument(
        '--slide',
        type=int,
        nargs=2,
        metavar=('CROP', 'STRIDE'),
        help='predict in square windows of CROP pixels, one every STRIDE pixels, for large images',
    )
    add_result_arguments(parser)
    parser.add_argument(
        '--merge', action='store_true', help='merge low-precision adapters, and print what that changes'
    )
    parser.add_argument(
        '--workers', type=cli.whole_number(0), default=WORKERS, metavar='N', help='threads for the files'
    )
    parser.add_argument('--batch-size', type=cli.whole_number(1), default=1, metavar='N', help='images in one forward')
    cli.add_launcher(parser, 'pytorch' if is_torchelastic_launched() else 'none')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--overwrite', action='store_true', help='predict everything again and begin a new table')
    cli.add_cfg_options(parser)
    return parser


def _load_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """The config with all options applied."""
    if args.config is None and args.adapter is None:
        parser.error('--config is needed, or an --adapter that tools/push_to_hub.py wrote')
    if args.adapter is not None:
        folder = adapters.fetch(args.adapter) if args.config else portable.find(args.adapter)
        args.adapter = str(folder)
    cfg = Config.fromfile(args.config) if args.config else portable.read_config(folder)
    cli.merge_options(cfg, args.cfg_options)
    given = {'prompts': args.prompt, 'threshold': args.threshold, 'adapter': args.adapter}
    apply_options(cfg, given, args.merge, args.slide)
    return cfg


if __name__ == '__main__':
    main()
