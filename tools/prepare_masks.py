"""Rasterise the YOLO polygons of a dataset into 0/255 PNG masks, one an image: OUT/SPLIT/IMAGE_NAME.png.

All foreground classes are drawn as 255.

Training does not need them (labels are rasterised on the fly); other programs do, and a mask can be looked at.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.utils import track_iter_progress

from crack_plugin.cli import add_dataset_arguments, dataset_options, readable_errors, selected_splits
from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.files import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        datasets = {split: _load_split(args, split) for split in selected_splits(args)}
        targets = {split: _targets(dataset, args.out / split) for split, dataset in datasets.items()}
        _check_targets(parser, [pair for pairs in targets.values() for pair in pairs], args.overwrite)
        for split, dataset in datasets.items():
            print(f'{split}: {len(dataset)} masks to {args.out / split}')
            for i in track_iter_progress((range(len(dataset)), len(dataset))):
                _write_mask(dataset[i]['gt_seg_map'], targets[split][i][1])


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_arguments(parser)
    parser.add_argument('out', type=Path, help='folder to write to')
    parser.add_argument('--overwrite', action='store_true', help='replace masks that exist')
    return parser


def _load_split(args: argparse.Namespace, split: str) -> YOLOCrackDataset:
    pipeline = [LoadImageFromFile(), LoadYOLOPolygons()]
    return YOLOCrackDataset(args.data_root, split, pipeline=pipeline, **dataset_options(args))


def _targets(dataset: YOLOCrackDataset, folder: Path) -> list[tuple[Path, Path]]:
    """Each image and its mask, which keeps the image's place below the folder all images are in."""
    images = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    common = Path(os.path.commonpath([image.parent for image in images]))
    return [(image, folder / image.relative_to(common).with_suffix('.png')) for image in images]


def _check_targets(parser: argparse.ArgumentParser, pairs: Sequence[tuple[Path, Path]], overwrite: bool) -> None:
    images: dict[Path, Path] = {}
    for image, target in pairs:
        if target in images:
            parser.error(f'{images[target]} and {image} would both become {target}. Rename one of them.')
        images[target] = image
    existing = [target for target in images if target.exists()]
    if existing and not overwrite:
        parser.error(f'{len(existing)} of the masks exist, {existing[0]} for one. Pass --overwrite to replace them.')


def _write_mask(label_map: cv2.typing.MatLike, target: Path) -> None:
    encoded = cv2.imencode('.png', (label_map > 0).astype('uint8') * 255)[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, encoded.tobytes())


if __name__ == '__main__':
    main()
