"""Convert COCO segmentation (polygons or run lengths, holes included) to a YOLO dataset.

Its masks are those of pycocotools, pixel for pixel; where classes overlap, the one with the higher id is on top. Writes
OUT/SPLIT/labels/NAME.txt, links the images into OUT/SPLIT/images, and names the classes in OUT/data.yaml. Run it once
for each split, with the same OUT. Needs pycocotools (pip install pycocotools).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mmengine.utils import track_iter_progress
from pycocotools.coco import COCO

from crack_plugin.datasets.polygons import format_labels


class CocoError(ValueError):
    """A COCO file that cannot be converted as it stands. The message names file, fault and remedy."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    try:
        coco = _read_coco(args.annotations)
        class_ids = _class_ids(coco, args.annotations)
        names = [coco.cats[key]['name'] for key in class_ids]
        _check_names(names, args.out / 'data.yaml')
        images = _find_images(coco, args.images)
        _check_targets(images, args.out / args.split)
        print(f'{len(images)} images to {args.out / args.split}')
        for image_id, path in track_iter_progress(list(images.items())):
            label = _label(coco, image_id, class_ids, args.annotations)
            _write_sample(path, label, args.out / args.split)
    except CocoError as error:
        parser.exit(1, f'{parser.prog}: error: {error}\n')
    (args.out / 'data.yaml').write_text(yaml.safe_dump({'names': names}, allow_unicode=True), encoding='utf-8')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='the .json file')
    parser.add_argument('images', type=Path, help='folder that the file names in it are relative to')
    parser.add_argument('out', type=Path, help='folder of the dataset to write')
    parser.add_argument('--split', default='train', help='default: %(default)s')
    return parser


def _read_coco(path: Path) -> COCO:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CocoError(f'{path} cannot be read: {error.strerror}. Correct the path.') from error
    except ValueError as error:
        raise CocoError(f'{path} is no JSON: {error}. Export it again.') from error
    keys = ('images', 'annotations', 'categories')
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise CocoError(f'{path} has no {" and no ".join(missing)}: it is no COCO dataset. Export it again.')
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _class_ids(coco: COCO, source: Path) -> dict[int, int]:
    """YOLO id by category id, in the order of the latter.

    Roboflow's exports begin with a category that only groups the others; without annotations of its own it is no class.
    """
    used = {annotation['category_id'] for annotation in coco.anns.values()}
    unknown = sorted(used - coco.cats.keys())
    if unknown:
        raise CocoError(f'{source}: annotations have the categories {unknown}, which are not described. Add them.')
    parents = {
        category.get('supercategory')
        for category in coco.cats.values()
        if category.get('supercategory') != category['name']
    }
    classes = [key for key in sorted(coco.cats) if key in used or coco.cats[key]['name'] not in parents]
    return {key: class_id for class_id, key in enumerate(classes)}


def _check_names(names: list[str], data_yaml: Path) -> None:
    if data_yaml.exists() and yaml.safe_load(data_yaml.read_text(encoding='utf-8')).get('names') != names:
        raise CocoError(f'{data_yaml} has other names than {names}, from an earlier split. Use another folder.')


def _find_images(coco: COCO, folder: Path) -> dict[int, Path]:
    images = {image_id: folder / image['file_name'] for image_id, image in coco.imgs.items()}
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise CocoError(f'{len(missing)} of {len(images)} images do not exist, {missing[0]} for one. Correct {folder}.')
    stems: dict[str, Path] = {}
    for path in images.values():
        if path.stem in stems:
            raise CocoError(f'{stems[path.stem]} and {path} would share one label. Rename one of them.')
        stems[path.stem] = path
    return images


def _check_targets(images: Mapping[int, Path], folder: Path) -> None:
    existing = [path for path in images.values() if (folder / 'labels' / f'{path.stem}.txt').exists()]
    if existing:
        raise CocoError(f'{folder} has {len(existing)} of the labels already. Delete it, or use another folder.')


def _label(coco: COCO, image_id: int, class_ids: Mapping[int, int], source: Path) -> str:
    image = coco.imgs[image_id]
    shape = (image['height'], image['width'])
    masks: dict[int, np.ndarray] = {}
    for annotation in coco.imgToAnns[image_id]:
        class_id = class_ids[annotation['category_id']]
        masks[class_id] = masks.get(class_id, np.zeros(shape, bool)) | _mask(coco, annotation, shape, source)
    return ''.join(format_labels(mask, class_id) for class_id, mask in sorted(masks.items()))


def _mask(coco: COCO, annotation: dict[str, Any], shape: tuple[int, int], source: Path) -> np.ndarray:
    where = f'{source}: annotation {annotation["id"]}'
    if not annotation.get('segmentation'):
        raise CocoError(f'{where} is a box without a segmentation. Annotate it, or delete it.')
    if not _is_segmentation(annotation['segmentation']):
        raise CocoError(f'{where} has a segmentation that is neither polygons nor run lengths. Correct it.')
    mask = coco.annToMask(annotation).astype(bool)
    if mask.shape != shape:
        raise CocoError(f'{where} has a mask of {mask.shape} for an image of {shape} (height, width). Correct it.')
    return mask


def _is_segmentation(segmentation: Any) -> bool:
    """Whether pycocotools can read it: it raises bare exceptions, or none, for what it cannot."""
    if isinstance(segmentation, dict):
        counts, size = segmentation.get('counts'), segmentation.get('size')
        if not (isinstance(size, list) and len(size) == 2):
            return False
        if isinstance(counts, list):
            return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == size[0] * size[1]
        return isinstance(counts, str)
    return isinstance(segmentation, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(value, (int, float)) for value in polygon)
        for polygon in segmentation
    )


def _write_sample(image: Path, label: str, folder: Path) -> None:
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / 'images' / image.name).symlink_to(image.resolve())
    (folder / 'labels' / f'{image.stem}.txt').write_text(label, encoding='utf-8')


if __name__ == '__main__':
    main()
