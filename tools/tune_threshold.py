"""Choose a model's threshold on the validation images: ``python tools/tune_threshold.py CONFIG CHECKPOINT``.

Takes the threshold of 0.01, 0.02, ... 0.99 with the best F1 of the dataset's summed pixels (``crack/ODS``), and writes
it into a copy of the checkpoint, CHECKPOINT_threshold.pth. Whatever loads the copy uses it: test.py, predict.py,
export.py, Predictor and MMSegmentation's own tools. A ``threshold`` in the config or on the command line has
precedence. Test images are refused.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from crack_plugin.cli import add_cfg_options, config_file, existing_file, merge_options, readable_errors
from crack_plugin.models.tuned_threshold import DEFAULT
from crack_plugin.prediction.threshold import default_output, search_threshold, use_split, write_tuned


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=config_file, help='config file the model was trained with')
    parser.add_argument('checkpoint', type=existing_file, help='checkpoint of a training; it is left as it is')
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write (default: CHECKPOINT_threshold.pth)')
    parser.add_argument('--split', help="split of the dataset to tune on (default: val_dataloader's); never test")
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    add_cfg_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = make_parser()
    args = parser.parse_args(argv)
    out = args.out or default_output(args.checkpoint)
    if out.exists() and out.samefile(args.checkpoint):
        parser.error(f'--out {out} is the checkpoint, which is left as it is. Name another file.')
    if out.exists() and not args.overwrite:
        parser.error(f'{out} exists. Name another file with --out, or pass --overwrite to replace it.')
    with readable_errors(parser):
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        if args.split:
            use_split(cfg, args.split)
        search = search_threshold(cfg, args.checkpoint, args.device)
        configured = cfg.model.get('threshold')
        print(search.table(DEFAULT if configured is None else configured))
        write_tuned(args.checkpoint, out, search)
    print(
        f'Threshold {search.threshold:.2f}: F1 {search.f1[search.index]:.4f} over {search.images} images. Wrote {out}'
    )
    if search.index in (0, len(search.f1) - 1):
        print('That is the end of the range: of these images the model tells crack from background badly.')
    if configured is not None:
        print(f'{args.config} sets model.threshold={configured}, which has precedence: remove it to use the tuned one.')


if __name__ == '__main__':
    main()
