"""How often the check of a dataset warns of labels beside their cracks: as they are, and moved on purpose.

``python benchmarks/label_offsets.py --data NAME=FOLDER``: a row for each way that the labels of all splits are moved. A
warning is right if the way it names leads back, to within 2 pixels.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile

from crack_plugin.cli import readable_errors
from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.alignment import Offset, find_offset

MOVES = ((0, 0), (10, 0), (10, 10), (0, -25))
"""Right and down, in pixels."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='+', required=True, metavar='NAME=FOLDER', help='with splits train and valid')
    parser.add_argument('--annotations', choices=('polygons', 'masks'), default='masks', help='default: %(default)s')
    return parser


def moved(mask: np.ndarray, right: int, down: int) -> np.ndarray:
    """The mask at another place, cut at the border."""
    size = mask.shape[::-1]
    return cv2.warpAffine(mask.astype(np.uint8), np.array([[1.0, 0.0, right], [0.0, 1.0, down]]), size) > 0


def leads_back(offset: Offset, right: int, down: int) -> bool:
    return bool(np.hypot(offset.right + right, offset.down + down) <= 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and what the warnings say of labels as they are."""
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        samples = [
            sample
            for each in args.data
            for split in ('train', 'valid')
            for sample in YOLOCrackDataset(
                each.partition('=')[2],
                split,
                annotations=args.annotations,
                pipeline=[LoadImageFromFile(), LoadYOLOPolygons()],
            )
        ]
    pairs = [(sample['img'], sample['gt_seg_map'] == 1, Path(sample['img_path'])) for sample in samples]
    pairs = [pair for pair in pairs if pair[1].any()]
    print(f'{len(pairs)} images with cracks\n\n| moved right, down (px) | warned of | of them right |\n|---|---|---|')
    for move in MOVES:
        found = [(path, find_offset(image, moved(mask, *move))) for image, mask, path in pairs]
        warned = [(path, offset) for path, offset in found if offset is not None]
        right = sum(leads_back(offset, *move) for _, offset in warned)
        print(f'| {move[0]}, {move[1]} | {len(warned)} ({len(warned) / len(pairs):.0%}) | {right} |')
        if move == (0, 0):
            as_they_are = warned
    for path, offset in as_they_are:
        print(f'\n{path.name}: {offset}')


if __name__ == '__main__':
    main()
