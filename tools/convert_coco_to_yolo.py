"""Convert COCO segmentation (polygons or run lengths, holes included) to a YOLO dataset.

Its masks are those of pycocotools, pixel for pixel; where classes overlap, the one with the higher id is on top. Writes
OUT/SPLIT/labels/NAME.txt, links the images into OUT/SPLIT/images, and names the classes in OUT/data.yaml. Run it once
for each split, with the same OUT. All entries are checked first: if some cannot be converted, each kind of fault is
named, and nothing is written. Needs pycocotools (pip install pycocotools).
"""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from crack_plugin.cli import add_conversion_arguments, readable_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='the .json file')
    parser.add_argument('images', type=Path, help='folder that the file names in it are relative to')
    add_conversion_arguments(parser)
    args = parser.parse_args(argv)
    if find_spec('pycocotools') is None:
        parser.error('it needs pycocotools: pip install pycocotools')
    from crack_plugin.datasets.coco import convert_coco

    with readable_errors(parser):
        count, notes = convert_coco(**vars(args))
    print(*notes, f'{count} images to {args.out / args.split}', sep='\n')


if __name__ == '__main__':
    main()
