"""Convert a folder of PNG masks (0/255 or 0/1) to YOLO polygon labels: OUT/MASK_NAME.txt.

Reading the labels back gives the masks pixel for pixel, holes included. An empty mask becomes an empty file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from crack_plugin.datasets.polygons import MAX_CLASSES, format_labels


class MaskError(ValueError):
    """A file that is no binary mask. The message names file and remedy."""


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
        except MaskError as error:
            parser.exit(1, f'\n{parser.prog}: error: {error}\n')
        _write_label(format_labels(mask, args.class_id), _label_path(path, args.out))


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """Read a PNG file as a mask.

    Args:
        path: A greyscale, two-level, palette or grey RGB image.
        threshold: Values above are foreground. None: only 0 and 1, or 0 and 255, may occur.

    Returns:
        Shape (H, W), bool.

    Raises:
        MaskError: The file is no such image, or has other values.
    """
    values = _read_values(path)
    if threshold is not None:
        return values > threshold
    levels = np.unique(values)
    if not (np.isin(levels, (0, 1)).all() or np.isin(levels, (0, 255)).all()):
        shown = ', '.join(map(str, levels[:8])) + (', ...' if len(levels) > 8 else '')
        raise MaskError(
            f'{path} has the values {shown}; a mask has 0 and 255, or 0 and 1. Pass --threshold, for instance 127, to '
            'take what is above as crack.'
        )
    return values > 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('masks', type=Path, help='folder of .png masks')
    parser.add_argument('out', type=Path, help='folder for the .txt labels')
    parser.add_argument('--class-id', type=int, default=0, help='class id of all polygons (default 0)')
    parser.add_argument('--threshold', type=int, help='for masks with grey values: what is above is foreground')
    parser.add_argument('--overwrite', action='store_true', help='replace labels that exist')
    return parser


def _read_values(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise MaskError(f'{path} cannot be read as an image: {error}. Export it again.') from error
    if image.mode == 'P' and (image.getpalette() or [])[:3] != [0, 0, 0]:
        raise MaskError(f'{path}: the first colour of its palette is not black. Save it as greyscale.')
    values = np.asarray(image)
    if image.mode == 'RGB' and (values == values[..., :1]).all():
        return values[..., 0]
    if values.ndim != 2:
        raise MaskError(f'{path} is a colour image (mode {image.mode}), not a mask. Save it as greyscale.')
    return values


def _label_path(mask: Path, out: Path) -> Path:
    return out / f'{mask.stem}.txt'


def _write_label(text: str, target: Path) -> None:
    # Written aside and moved, so that an interrupted run leaves no half label.
    unfinished = target.with_name(f'.{target.name}.tmp')
    unfinished.write_text(text, encoding='utf-8')
    unfinished.replace(target)


if __name__ == '__main__':
    main()
