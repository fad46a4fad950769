"""Divide the images of a dataset into training and validation, and write the division as lists of files."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.datasets.names import source_name
from crack_plugin.files import write_atomically


def group_images(images: Iterable[str], pattern: re.Pattern[str] | None = None) -> dict[str, list[str]]:
    """Group images that have to stay together.

    Args:
        images: Paths of the images.
        pattern: What matches the beginning of an image's name, with one group in parentheses that names its group.
            None: the picture that the image was made from, see ``source_name``.

    Raises:
        DatasetError: The pattern does not match the name of an image.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for image in images:
        if pattern is None:
            groups[source_name(image)].append(image)
            continue
        match = pattern.match(Path(image).name)
        if match is None:
            raise DatasetError(f'--group {pattern.pattern!r} does not match the beginning of {Path(image).name}')
        groups[match[1]].append(image)
    return dict(groups)


def split_groups(groups: Mapping[str, Sequence[str]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Take whole groups, in a random order, until a share of the images is reached.

    Args:
        groups: Images by name of their group, at least two groups.
        share: Wanted share of the images in the second part, in (0, 1).
        seed: The same groups and seed give the same parts, on every machine.

    Returns:
        The images of the first part and of the second, sorted; neither is empty.

    Raises:
        DatasetError: There are fewer than two groups.
    """
    count = sum(map(len, groups.values()))
    if len(groups) < 2:
        raise DatasetError(
            f'all {count} images belong to one group, {next(iter(groups), "")!r}: nothing can be split off'
        )
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    wanted = share * count
    held_out: list[str] = []
    for name in order[:-1]:
        # Stop where one group more would lead further away than one group less.
        if held_out and abs(len(held_out) + len(groups[name]) - wanted) > abs(len(held_out) - wanted):
            break
        held_out += groups[name]
    others = set(held_out)
    return sorted(image for group in groups.values() for image in group if image not in others), sorted(held_out)


def write_lists(
    out: Path, train: Iterable[str], valid: Iterable[str], test: Sequence[Path], names: Sequence[str] | None
) -> None:
    """Write a dataset that consists of lists: ``train.txt``, ``valid.txt`` and ``data.yaml``.

    Args:
        out: The folder to write to.
        train: The images for training.
        valid: The images for validation.
        test: The folders and lists of the test split, if there is one.
        names: The class names, if they are known.
    """
    for name, images in (('train', train), ('valid', valid)):
        lines = [image + '\n' for image in _relative(images, out)]
        write_atomically(out / f'{name}.txt', os.fsencode(''.join(lines)))
    content: dict[str, object] = {'train': 'train.txt', 'val': 'valid.txt'}
    if test:
        content['test'] = _relative(map(str, test), out)
    if names is not None:
        content['names'] = list(names)
    write_atomically(out / 'data.yaml', yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode())


def _relative(paths: Iterable[str], folder: Path) -> list[str]:
    """Paths as seen from a folder, so that dataset and lists can move together."""
    start = os.path.realpath(folder)
    return [os.path.relpath(path, start) for path in paths]
