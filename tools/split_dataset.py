"""Split a dataset that has no validation images: lists of files and a data.yaml in a new folder, nothing is copied.

All images made from one picture stay together: those of one Roboflow source name (NAME.rf.HASH.jpg), or with --group,
those whose names agree in what the pattern's parentheses match. A test split stays what it is. Of a dataset without
splits (images/, labels/ and classes.txt, or all in one folder) all images are divided. Use the new folder as data_root.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import add_annotations_argument, readable_errors
from crack_plugin.datasets.data_yaml import ALL, is_unsplit, read_data_yaml, split_sources
from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.splitting import group_images, split_groups, write_lists
from crack_plugin.datasets.yolo_layout import find_split


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not 0 < args.share < 1:
        parser.error(f'--share {args.share}: a share between 0 and 1 is needed')
    if (args.out / 'data.yaml').exists() and not args.overwrite:
        parser.error(f'{args.out / "data.yaml"} exists. Pass --overwrite to replace it and its lists.')
    with readable_errors(parser):
        data_yaml = read_data_yaml(args.data_root)
        split = args.split or (ALL if is_unsplit(data_yaml) else 'train')
        images = [image for image, _ in find_split(data_yaml, split, args.annotations, args.mask_suffix).pairs]
        test = split_sources(data_yaml, 'test') if split != 'test' else []
    try:
        groups = group_images(images, args.group)
        train, valid = split_groups(groups, args.share, args.seed)
    except DatasetError as error:
        parser.error(str(error))
    write_lists(args.out, train, valid, test, data_yaml.names)
    print(f'{len(images)} images of {len(groups)} pictures: {len(train)} train, {len(valid)} valid (seed {args.seed})')
    print(f'Wrote {args.out / "data.yaml"}, train.txt and valid.txt. Use data_root={str(args.out)!r}.')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_root', type=Path, help='folder of the dataset, or its yaml file')
    parser.add_argument('out', type=Path, help='folder for data.yaml, train.txt and valid.txt')
    parser.add_argument('--split', help='the split to divide (default: train; all images where there is no split)')
    add_annotations_argument(parser)
    parser.add_argument('--share', type=float, default=0.15, help='share for validation (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=42, help='default: %(default)s')
    parser.add_argument(
        '--group',
        type=_pattern,
        metavar='REGEX',
        help=r"what names of one group share, in parentheses: '(.+)_tile\d+' (default: Roboflow's source name)",
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a split that exists')
    return parser


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no regular expression: {error}') from error
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(f'{text!r} has {pattern.groups} pairs of parentheses, one is wanted')
    return pattern


if __name__ == '__main__':
    main()
