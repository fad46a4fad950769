"""Split a dataset that has no validation images: lists of files and a data.yaml in a new folder, nothing is copied.

All images made from one picture stay together: those of one Roboflow source name (NAME.rf.HASH.jpg), or with --group,
those whose names agree in what the pattern's parentheses match. A test split stays what it is. Of a dataset without
splits (images/, labels/ and classes.txt, or all in one folder) all images are divided. Use the new folder as data_root.
"""

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from crack_plugin.cli import add_annotations_argument, readable_errors
from crack_plugin.datasets.data_yaml import ALL, is_unsplit, read_data_yaml, split_sources
from crack_plugin.datasets.names import source_name
from crack_plugin.datasets.yolo_layout import find_split


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not 0 < args.share < 1:
        parser.error(f'--share {args.share}: a share between 0 and 1 is wanted')
    if (args.out / 'data.yaml').exists() and not args.overwrite:
        parser.error(f'{args.out / "data.yaml"} exists. Pass --overwrite to replace it and its lists.')
    with readable_errors(parser):
        data_yaml = read_data_yaml(args.data_root)
        split = args.split or (ALL if is_unsplit(data_yaml) else 'train')
        images = [image for image, _ in find_split(data_yaml, split, args.annotations, args.mask_suffix).pairs]
        test = split_sources(data_yaml, 'test') if split != 'test' else []
    groups: dict[str, list[str]] = defaultdict(list)
    for image in images:
        groups[_group(parser, image, args.group)].append(image)
    if len(groups) < 2:
        parser.error(f'all {len(images)} images belong to one group, {next(iter(groups))!r}: nothing can be split off')
    train, valid = split_groups(groups, args.share, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, selected in (('train', train), ('valid', valid)):
        _write_list(selected, args.out / f'{name}.txt')
    content: dict[str, object] = {'train': 'train.txt', 'val': 'valid.txt'}
    if test:
        content['test'] = _relative(map(str, test), args.out)
    if data_yaml.names is not None:
        content['names'] = data_yaml.names
    (args.out / 'data.yaml').write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding='utf-8')
    print(f'{len(images)} images of {len(groups)} pictures: {len(train)} train, {len(valid)} valid (seed {args.seed})')
    print(f'Wrote {args.out / "data.yaml"}, train.txt and valid.txt. Use data_root={str(args.out)!r}.')


def split_groups(groups: Mapping[str, Sequence[str]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Take whole groups, in a random order, until a share of the images is reached.

    Args:
        groups: Images by name of their group, at least two groups.
        share: Wanted share of the images in the second part, in (0, 1).
        seed: The same groups and seed give the same parts, on every machine.

    Returns:
        The images of the first part and of the second, sorted; neither is empty.
    """
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    wanted = share * sum(map(len, groups.values()))
    held_out: list[str] = []
    for name in order[:-1]:
        # Stop where one group more would lead further away than one group less.
        if held_out and abs(len(held_out) + len(groups[name]) - wanted) > abs(len(held_out) - wanted):
            break
        held_out += groups[name]
    others = set(held_out)
    return sorted(image for group in groups.values() for image in group if image not in others), sorted(held_out)


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


def _group(parser: argparse.ArgumentParser, image: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return source_name(image)
    match = pattern.match(Path(image).name)
    if match is None:
        parser.error(f'--group {pattern.pattern!r} does not match the beginning of {Path(image).name}')
    return match[1]


def _write_list(images: Iterable[str], target: Path) -> None:
    lines = [image + '\n' for image in _relative(images, target.parent)]
    target.write_bytes(os.fsencode(''.join(lines)))


def _relative(paths: Iterable[str], folder: Path) -> list[str]:
    """Paths as seen from a folder, so that dataset and lists can move together."""
    start = os.path.realpath(folder)
    return [os.path.relpath(path, start) for path in paths]


if __name__ == '__main__':
    main()
