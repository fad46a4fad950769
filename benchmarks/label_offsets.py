"""How often the check of a dataset warns of labels beside their cracks: as they are, and moved on purpose.

``python benchmarks/label_offsets.py FOLDER``: a row for each way that the labels of all splits are moved. A
warning is right if the way it names leads back, to within 2 pixels.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from scipy import ndimage

from crack_plugin.cli import readable_errors
from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.alignment import Offset, find_offset

AS_THEY_ARE = (0, 0)
MOVES = (AS_THEY_ARE, (10, 0), (10, 10), (0, -25))
"""Right and down, in pixels."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='+', metavar='FOLDER', help='with splits train and valid')
    parser.add_argument('--annotations', choices=('polygons', 'masks'), default='masks', help='default: %(default)s')
    return parser


def warnings_of(samples: Sequence[Mapping[str, Any]], right: int, down: int) -> dict[str, Offset]:
    """What is found, by image, once every label is moved; what leaves the image is cut."""
    found = {
        sample['img_path']: find_offset(sample['img'], ndimage.shift(sample['gt_seg_map'] == 1, (down, right), order=0))
        for sample in samples
    }
    return {path: offset for path, offset in found.items() if offset is not None}


def leads_back(offset: Offset, right: int, down: int) -> bool:
    return bool(np.hypot(offset.right + right, offset.down + down) <= 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and what the warnings say of labels as they are."""
    parser = make_parser()
    args = parser.parse_args(argv)
    pipeline = [LoadImageFromFile(), LoadYOLOPolygons()]
    with readable_errors(parser):
        splits = [
            YOLOCrackDataset(folder, split, annotations=args.annotations, pipeline=pipeline)
            for folder in args.data
            for split in ('train', 'valid')
        ]
        samples = [sample for dataset in splits for sample in dataset if (sample['gt_seg_map'] == 1).any()]
    warned = {move: warnings_of(samples, *move) for move in MOVES}
    print(f'{len(samples)} images with cracks\n\n| moved right, down (px) | warned of | of them right |\n|---|---|---|')
    for (right, down), found in warned.items():
        back = sum(leads_back(offset, right, down) for offset in found.values())
        print(f'| {right}, {down} | {len(found)} ({len(found) / len(samples):.0%}) | {back} |')
    for path, offset in warned[AS_THEY_ARE].items():
        print(f'\n{path}: {offset}')


if __name__ == '__main__':
    main()
