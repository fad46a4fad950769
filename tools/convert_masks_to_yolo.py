"""Convert a folder of PNG masks (0/255 or 0/1) to YOLO polygon labels: OUT/MASK_NAME.txt.

Reading the labels back gives the masks pixel for pixel, holes included. An empty mask becomes an empty file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import track_iter_progress

from crack_plugin.datasets.masks import read_mask
from crack_plugin.datasets.polygons import MAX_CLASSES, LabelError, format_labels
from crack_plugin.files import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not 0 <= args.class_id < MAX_CLASSES:
        parser.error(f'--class-id {args.class_id}: ids from 0 to {MAX_CLASSES - 1} are possible')
    if not args.masks.is_dir():
        parser.error(f'{args.masks} is no folder')
    masks = sorted(path for path in args.masks.iterdir() if path.suffix.lower() == '.png' and path.name[0] != '.')
    if not masks:
        parser.error(f'no .png in {args.masks}')
    existing = [mask for mask in masks if _label_path(mask, args.out).exists()]
    if existing and not args.overwrite:
        first = _label_path(existing[0], args.out)
        parser.error(f'{len(existing)} of the labels exist, {first} for one. Pass --overwrite to replace them.')
    args.out.mkdir(parents=True, exist_ok=True)
    print(f'{len(masks)} labels to {args.out}')
    for path in track_iter_progress(masks):
        try:
            mask = read_mask(path, args.threshold)
        except LabelError as error:
            parser.exit(1, f'\n{parser.prog}: error: {error}\n')
        _write_label(format_labels(mask, args.class_id), _label_path(path, args.out))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('masks', type=Path, help='folder of .png masks')
    parser.add_argument('out', type=Path, help='folder for the .txt labels')
    parser.add_argument('--class-id', type=int, default=0, help='class id of all polygons (default 0)')
    parser.add_argument('--threshold', type=int, help='for masks with grey values: what is above is foreground')
    parser.add_argument('--overwrite', action='store_true', help='replace labels that exist')
    return parser


def _label_path(mask: Path, out: Path) -> Path:
    return out / f'{mask.stem}.txt'


def _write_label(text: str, target: Path) -> None:
    write_atomically(target, text.encode())


if __name__ == '__main__':
    main()
