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
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from crack_plugin.datasets.polygons import format_labels
from crack_plugin.datasets.yolo_layout import read_data_yaml

# What is read of each entry.
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    'images': {'id': (int, str), 'file_name': str, 'height': int, 'width': int},
    'categories': {'id': int, 'name': str},
    'annotations': {'id': (int, str), 'image_id': (int, str), 'category_id': int},
}


class CocoError(ValueError):
    """A COCO file that cannot be converted as it stands. The message names file, fault and remedy."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    # Of the pictures only the headers are read, which photographs of any size may have.
    Image.MAX_IMAGE_PIXELS = None
    try:
        coco = _read_coco(args.annotations)
        class_ids = _class_ids(coco, args.annotations)
        names = [coco.cats[key]['name'] for key in class_ids]
        _check_names(names, args.out / 'data.yaml')
        images = _find_images(coco, args.images)
        _check_targets(images, args.out / args.split)
        print(f'{len(images)} images to {args.out / args.split}')
        for image_id, path in track_iter_progress(list(images.items())):
            label = _label(coco, image_id, path, class_ids, args.annotations)
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
    missing = [key for key in _FIELDS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise CocoError(f'{path} has no {" and no ".join(missing)}: it is no COCO dataset. Export it again.')
    for key, fields in _FIELDS.items():
        _check_entries(content[key], key, fields, path)
    images = {image['id'] for image in content['images']}
    lost = [annotation['id'] for annotation in content['annotations'] if annotation['image_id'] not in images]
    if lost:
        raise CocoError(f'{path}: {len(lost)} annotations, {lost[0]} for one, belong to no image. Export it again.')
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _check_entries(entries: list[Any], key: str, fields: Mapping[str, type | tuple[type, ...]], path: Path) -> None:
    ids = set()
    for number, entry in enumerate(entries, start=1):
        faulty = [
            name for name, kind in fields.items() if not (isinstance(entry, dict) and isinstance(entry.get(name), kind))
        ]
        if faulty:
            raise CocoError(
                f'{path}: entry {number} of {key} has no proper {" and no proper ".join(faulty)}. Correct it.'
            )
        if entry['id'] in ids:
            raise CocoError(f'{path}: two entries of {key} have the id {entry["id"]}. Export it again.')
        ids.add(entry['id'])


def _class_ids(coco: COCO, source: Path) -> dict[int, int]:
    """YOLO id by category id, in the order of the latter.

    Roboflow's exports begin with a category that only groups the others; without annotations of its own it is no class.
    """
    used = {annotation['category_id'] for annotation in coco.anns.values()}
    unknown = sorted(used - coco.cats.keys())
    if unknown:
        raise CocoError(f'{source}: annotations have the categories {unknown}, which are not described. Add them.')
    parents = [
        category.get('supercategory')
        for category in coco.cats.values()
        if category.get('supercategory') != category['name']
    ]
    classes = [key for key in sorted(coco.cats) if key in used or coco.cats[key]['name'] not in parents]
    return {key: class_id for class_id, key in enumerate(classes)}


def _check_names(names: list[str], data_yaml: Path) -> None:
    if not names:
        raise CocoError('there is not one category in the file. Export it again.')
    if len(set(names)) < len(names):
        raise CocoError(f'two categories have one name: {names}. Rename one of them.')
    try:
        earlier = read_data_yaml(data_yaml).names if data_yaml.exists() else names
    except ValueError as error:
        raise CocoError(str(error)) from error
    if earlier != names:
        raise CocoError(f'{data_yaml} has other names than {names}, from an earlier split. Use another folder.')


def _find_images(coco: COCO, folder: Path) -> dict[int, Path]:
    images = {image_id: folder / image['file_name'] for image_id, image in coco.imgs.items()}
    if not images:
        raise CocoError('there is not one image in the file. Export it again.')
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


def _label(coco: COCO, image_id: int, path: Path, class_ids: Mapping[int, int], source: Path) -> str:
    image = coco.imgs[image_id]
    shape = (image['height'], image['width'])
    _check_size(path, shape, source)
    masks: dict[int, np.ndarray] = {}
    for annotation in coco.imgToAnns[image_id]:
        class_id = class_ids[annotation['category_id']]
        masks[class_id] = masks.get(class_id, np.zeros(shape, bool)) | _mask(coco, annotation, shape, source)
    return ''.join(format_labels(mask, class_id) for class_id, mask in sorted(masks.items()))


def _check_size(path: Path, shape: tuple[int, int], source: Path) -> None:
    """Raise ``CocoError`` unless an image file, EXIF orientation applied, has the given (H, W)."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            found = image.size if turned else image.size[::-1]
    except OSError as error:
        raise CocoError(f'image {path} cannot be read: {error}. Export it again.') from error
    if found != shape:
        raise CocoError(
            f'image {path} has {found[1]} x {found[0]} pixels, but {source} describes {shape[1]} x {shape[0]}. Was it '
            'turned or resized? Take the images that were annotated.'
        )


def _mask(coco: COCO, annotation: dict[str, Any], shape: tuple[int, int], source: Path) -> np.ndarray:
    where = f'{source}: annotation {annotation["id"]}'
    segmentation = annotation.get('segmentation')
    if not segmentation:
        raise CocoError(f'{where} is a box without a segmentation. Annotate it, or delete it.')
    if isinstance(segmentation, dict):
        if segmentation.get('size') != list(shape):
            raise CocoError(
                f'{where} has run lengths for {segmentation.get("size")}, its image has {list(shape)} (height, width). '
                'Correct it.'
            )
        if not _fill(segmentation.get('counts'), shape):
            raise CocoError(f'{where} has run lengths that do not fill its image. Correct it.')
    elif not _are_polygons(segmentation):
        raise CocoError(f'{where} has a segmentation that is neither polygons nor run lengths. Correct it.')
    elif _reach_outside(segmentation, shape):
        raise CocoError(f'{where} has a point more than one pixel outside its image of {shape} (height, width).')
    return coco.annToMask(annotation).astype(bool)


# pycocotools raises bare exceptions, or none, for what it cannot read.


def _are_polygons(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(value, (int, float)) for value in polygon)
        for polygon in segmentation
    )


def _reach_outside(polygons: list[list[float]], shape: tuple[int, int]) -> bool:
    """Whether a point is not a number, or more than one pixel outside."""
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    return not ((points >= -1) & (points <= (shape[1] + 1, shape[0] + 1))).all()


def _fill(counts: Any, shape: tuple[int, int]) -> bool:
    """Whether run lengths, a list or pycocotools' text, add up to the pixels of an image of the given (H, W)."""
    if isinstance(counts, list):
        return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == shape[0] * shape[1]
    if not isinstance(counts, str):
        return False
    try:
        mask = coco_mask.decode({'size': list(shape), 'counts': counts})
    except ValueError:
        return False
    # What too short a text leaves out, pycocotools fills with whatever the memory holds.
    return coco_mask.encode(mask)['counts'].decode() == counts


def _write_sample(image: Path, label: str, folder: Path) -> None:
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / 'images' / image.name).symlink_to(image.resolve())
    (folder / 'labels' / f'{image.stem}.txt').write_text(label, encoding='utf-8')


if __name__ == '__main__':
    main()
