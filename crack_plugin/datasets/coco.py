"""COCO segmentation (https://cocodataset.org/#format-data) to YOLO labels, with the masks of pycocotools.

The format has many dialects. What can mean only one thing is taken: numbers as text or ``160.0``, a flat list or pairs
as a polygon, file names with backslashes or as URLs. What loses something is counted in the notes, and what cannot be
converted is collected as faults. Needs pycocotools.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from crack_plugin.datasets.conversion import (
    ConversionError,
    LabelledImage,
    Tally,
    agree_on_size,
    check_names,
    check_points,
    check_targets,
    clip_polygon,
    find_image,
    image_size,
    is_number,
    raise_faults,
    read_json,
    scale_mask,
    whole_number,
    write_split,
)
from crack_plugin.datasets.polygons import Boxes, Outside, check_boxes, check_outside, format_labels

_Key = int | str


class _Picture(NamedTuple):
    """An entry of ``images``.

    Attributes:
        name: Its file name, as it stands there.
        path: The file.
        told: (H, W) as annotated.
        found: (H, W) of the file.
    """

    name: str
    path: Path
    told: tuple[int, int]
    found: tuple[int, int]


class _Options(NamedTuple):
    boxes: Boxes
    outside: Outside


def convert_coco(
    annotations: Path,
    images: Path,
    out: Path,
    split: str = 'train',
    boxes: Boxes = 'error',
    outside: Outside = 'error',
    overwrite: bool = False,
) -> tuple[int, list[str]]:
    """Convert a COCO file to one split of a YOLO dataset.

    Args:
        annotations: The COCO file.
        images: The folder that its file names are relative to.
        out: Folder of the dataset.
        split: Name of the split.
        boxes: What to do with an annotation that is a box without a segmentation: 'error', 'fill' it as a rectangle,
            or 'drop' it.
        outside: What to do with points far outside an image: 'error', or 'clip' the shape at the edge.
        overwrite: Whether to replace labels that exist.

    Returns:
        The number of images, and a sentence on each kind of entry that was changed or left out.

    Raises:
        ConversionError: The file, or some of its entries, cannot be converted; nothing was written.
        DatasetError: ``boxes`` or ``outside`` is unknown, or the ``data.yaml`` of an earlier split cannot be read.
    """
    check_boxes(boxes)
    check_outside(outside)
    content = _read(annotations)
    faults, notes = Tally(), Tally()
    class_ids = _class_ids(content['categories'], content['annotations'], faults, notes)
    check_names(list(class_ids.names), out, faults)
    # Label Studio's names are relative to the .json, or to its server. CVAT's instances_train.json may go with
    # images/train.
    folders = [images, images / 'images', images / annotations.stem.rpartition('_')[2]]
    pictures = _find_pictures(content['images'], folders, faults, notes)
    by_image = _by_image(content, class_ids.by_category, faults, notes)
    by_file = _by_file(pictures, faults, notes)
    check_targets(list(by_file), out / split, overwrite, faults)
    samples = []
    for path, keys in tqdm(by_file.items(), desc='Drawing the masks', unit=' images', delay=2):
        masks: dict[int, np.ndarray] = {}
        for key in keys:
            for class_id, annotation, place in by_image[key]:
                mask = _mask(annotation, pictures[key], _Options(boxes, outside), place, faults, notes)
                if mask is not None:
                    masks[class_id] = mask | masks.get(class_id, False)
        label = ''.join(format_labels(mask, class_id) for class_id, mask in sorted(masks.items()))
        samples.append(LabelledImage(path, label))
    raise_faults(faults, annotations)
    write_split(samples, class_ids.names, out, split)
    return len(samples), notes.lines()


def _read(path: Path) -> dict[str, list[Any]]:
    content = read_json(path)
    keys = ('images', 'categories', 'annotations')
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ConversionError(f'{path} has no {" and no ".join(missing)}: it is no COCO dataset. Export it again.')
    if not content['images']:
        raise ConversionError(f'{path}: there is not one image in the file. Export it again.')
    return content


def _key(value: Any) -> _Key | None:
    """An id: '7' and 7.0 are the id 7; other text stands for itself."""
    number = whole_number(value)
    if number is None and isinstance(value, str):
        return value
    return number


class _Classes(NamedTuple):
    """Names by YOLO id, and YOLO id by category id."""

    names: list[str]
    by_category: dict[_Key, int]


def _class_ids(categories: Sequence[Any], annotations: Sequence[Any], faults: Tally, notes: Tally) -> _Classes:
    """The classes, in the order of the categories' ids. Categories of one name are one class.

    Roboflow's exports begin with a category that only groups the others, and may bear the name of one of them; without
    annotations of its own it is no class.
    """
    named: dict[_Key, tuple[str, Any]] = {}
    for number, category in enumerate(categories, start=1):
        key = _key(category.get('id')) if isinstance(category, dict) else None
        if key is None or not isinstance(category.get('name'), str):
            faults.add('categories without a proper id and name', f'entry {number}', 'Correct them.')
        elif named.get(key, (category['name'],))[0] != category['name']:
            faults.add('pairs of categories with one id', f'{key} is {named[key][0]!r} and {category["name"]!r}')
        else:
            named[key] = (category['name'], category.get('supercategory'))
    used = {_key(annotation.get('category_id')) for annotation in annotations if isinstance(annotation, dict)}
    order = sorted(named, key=lambda key: (isinstance(key, str), key))
    groups = {
        key
        for key in order
        if key not in used and any(named[key][0] == named[other][1] for other in order if other != key)
    }
    # If nothing at all is annotated, some of them are classes.
    classes = [key for key in order if key not in groups] or order
    names = list(dict.fromkeys(named[key][0] for key in classes))
    if len(names) < len(classes):
        shared = [name for name in names if sum(named[key][0] == name for key in classes) > 1]
        notes.add('names that several categories have, taken as one class', ', '.join(shared))
    return _Classes(names, {key: names.index(named[key][0]) for key in classes})


def _find_pictures(
    entries: Sequence[Any], folders: Sequence[Path], faults: Tally, notes: Tally
) -> dict[_Key, _Picture]:
    """The entries of ``images`` by id, without those that are at fault."""
    pictures: dict[_Key, _Picture] = {}
    seen: dict[_Key, tuple[Any, ...]] = {}
    for number, entry in enumerate(entries, start=1):
        entry = entry if isinstance(entry, dict) else {}
        key, name = _key(entry.get('id')), entry.get('file_name') or entry.get('coco_url')
        height, width = whole_number(entry.get('height')), whole_number(entry.get('width'))
        if key is None or not (isinstance(name, str) and height and width and min(height, width) > 0):
            proper = {'id': key is not None, 'file_name': isinstance(name, str), 'height': height, 'width': width}
            lacks = [field for field, good in proper.items() if not good or good < 0]
            faults.add(f'images without a proper {" and ".join(lacks)}', f'entry {number} of images', 'Correct them.')
            continue
        if key in seen:
            if seen[key] == (name, height, width):
                notes.add('images listed twice and taken once', str(name))
            else:
                faults.add(
                    'pairs of images with one id', f'{key} is {seen[key][0]} and {name}', 'Export the images again.'
                )
            continue
        seen[key] = (name, height, width)
        path = find_image(name, folders)
        if path is None:
            faults.add('images that do not exist', name, f'Correct {folders[0]}, or copy them there.')
            continue
        try:
            found = image_size(path)
        except ConversionError as error:
            faults.add('images that cannot be read', str(error).removesuffix('.'), 'Copy them again.')
            continue
        if agree_on_size((height, width), found, name, faults, notes):
            pictures[key] = _Picture(name, path, (height, width), found)
    return pictures


def _by_file(pictures: Mapping[_Key, _Picture], faults: Tally, notes: Tally) -> dict[Path, list[_Key]]:
    """The ids of each image file: several, if it is listed under each of them."""
    files: dict[Path, list[_Key]] = defaultdict(list)
    for key, picture in pictures.items():
        first = pictures[files[picture.path][0]] if picture.path in files else picture
        if first.name != picture.name:
            faults.add(
                'pairs of images for which there is one file',
                f'{first.name} and {picture.name} lead to {picture.path}',
                'Give the folder that the file names are relative to.',
            )
        elif first is not picture:
            notes.add('images listed under two ids, whose annotations were united', picture.name)
        files[picture.path].append(key)
    return files


_Annotations = list[tuple[int, dict[str, Any], str]]


def _by_image(
    content: Mapping[str, Sequence[Any]], class_ids: Mapping[_Key, int], faults: Tally, notes: Tally
) -> dict[_Key, _Annotations]:
    """YOLO id, entry and description of each annotation, by the id of its image."""
    images = {_key(entry.get('id')): entry.get('file_name') for entry in content['images'] if isinstance(entry, dict)}
    found: dict[_Key, _Annotations] = defaultdict(list)
    ids = set()
    for number, annotation in enumerate(content['annotations'], start=1):
        if not isinstance(annotation, dict):
            faults.add('annotations that are no {...}', f'entry {number} of annotations', 'Delete them.')
            continue
        annotation_id, image = _key(annotation.get('id')), _key(annotation.get('image_id'))
        place = f'entry {number} of annotations' if annotation_id is None else f'annotation {annotation_id}'
        if annotation_id is not None and annotation_id in ids:
            notes.add('annotations that have the id of another, and were all taken', place)
        ids.add(annotation_id)
        if image is None or image not in images:
            faults.add('annotations that belong to no image', place, 'Add the image, or delete them.')
            continue
        category = _key(annotation.get('category_id'))
        if category is None or category not in class_ids:
            faults.add(
                'annotations of a category that is not described',
                f'{place} ({annotation.get("category_id")})',
                'Add the category, or correct them.',
            )
            continue
        found[image].append((class_ids[category], annotation, f'{place} of {images[image]}'))
    return found


def _mask(
    annotation: Mapping[str, Any], picture: _Picture, options: _Options, place: str, faults: Tally, notes: Tally
) -> np.ndarray | None:
    """The mask of an annotation, (H, W) of the file, bool; None if it has none, or is at fault."""
    polygons, run_lengths = _parts(annotation.get('segmentation'))
    if polygons is None:
        faults.add('segmentations that are neither polygons nor run lengths', place, 'Draw them again, or delete them.')
        return None
    if not polygons and not run_lengths:
        corners = _box(annotation.get('bbox'), options.boxes, place, faults, notes)
        if corners is None:
            return None
        polygons = [corners]
    areas = [polygon for polygon in polygons if len(polygon) > 2]
    if len(areas) < len(polygons):
        rest = '' if areas or run_lengths else ', which had no other'
        notes.add('annotations with parts of fewer than three points, which were left out', f'{place}{rest}')
    good = [check_points(polygon, picture.told, options.outside, place, faults, notes) for polygon in areas]
    masks = [_decode(part, picture.told, place, faults) for part in run_lengths]
    if not all(good) or any(mask is None for mask in masks):
        return None
    scale = np.divide(picture.found, picture.told)[::-1]
    drawn = [_draw([polygon * scale for polygon in areas], picture.found)] if areas else []
    drawn += [scale_mask(mask, picture.found) for mask in masks if mask is not None]
    if not drawn:
        return None
    mask = np.logical_or.reduce(drawn)
    if not mask.any():
        notes.add('annotations too thin or too far outside to cover a pixel', place)
    return mask


def _parts(segmentation: Any) -> tuple[list[np.ndarray] | None, list[dict[str, Any]]]:
    """The polygons of a segmentation, shape (n, 2), and its run lengths. None for the polygons if it is neither."""
    if isinstance(segmentation, dict):
        return [], [segmentation] if segmentation else []
    if segmentation is None:
        return [], []
    if not isinstance(segmentation, list):
        return None, []
    if _is_flat(segmentation) or _is_pairs(segmentation):
        segmentation = [segmentation]
    polygons, run_lengths = [], []
    for part in segmentation:
        if isinstance(part, dict) and part:
            run_lengths.append(part)
        elif _is_pairs(part) or (_is_flat(part) and len(part) % 2 == 0):
            polygons.append(np.array(part, np.float64).reshape(-1, 2))
        elif part:
            return None, []
    return polygons, run_lengths


def _is_flat(part: Any) -> bool:
    """Whether a JSON value is ``[x1, y1, x2, y2, ...]``."""
    return isinstance(part, list) and bool(part) and all(map(is_number, part))


def _is_pairs(part: Any) -> bool:
    """Whether a JSON value is ``[[x1, y1], [x2, y2], ...]``, which a list of polygons of one point would not be."""
    return isinstance(part, list) and bool(part) and all(_is_flat(pair) and len(pair) == 2 for pair in part)


def _box(box: Any, boxes: Boxes, place: str, faults: Tally, notes: Tally) -> np.ndarray | None:
    """The corners of an annotation's box, shape (4, 2), if it is to be filled."""
    if boxes == 'error':
        faults.add(
            'annotations that are a box without a segmentation',
            place,
            '`--boxes drop` leaves them out, `--boxes fill` draws them as rectangles; or annotate or delete them.',
        )
        return None
    if boxes == 'drop':
        notes.add('annotations that are a box without a segmentation, which were left out', place)
        return None
    if not (_is_flat(box) and len(box) == 4 and min(box[2:]) >= 0):
        faults.add(
            'annotations with neither a segmentation nor a proper bbox',
            place,
            'Annotate or delete them: bbox is x y w h.',
        )
        return None
    notes.add('annotations that are a box without a segmentation, drawn as rectangles', place)
    x, y, width, height = box
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def _draw(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """What pycocotools fills for polygons of shape (n, 2), as a mask of the given (H, W), bool."""
    height, width = shape
    # pycocotools cuts at the edges itself, but takes memory for each pixel of an edge, however far outside.
    near = [clip_polygon(polygon, (-width, -height), (2 * width, 2 * height)) for polygon in polygons]
    cut = [polygon.ravel().tolist() for polygon in near if len(polygon)]
    if not cut:
        return np.zeros(shape, bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(cut, height, width))).astype(bool)


def _decode(part: Mapping[str, Any], shape: tuple[int, int], place: str, faults: Tally) -> np.ndarray | None:
    """The mask of run lengths, a list or pycocotools' text, that fill an image of the given (H, W)."""
    size = part.get('size')
    told = [whole_number(side) for side in size] if isinstance(size, list) else size
    if told != list(shape):
        faults.add(
            'annotations with run lengths of another size than their image',
            f'{place} ({size}, image {list(shape)}, both height and width)',
            'Export them again.',
        )
        return None
    counts = part.get('counts')
    mask = None
    if isinstance(counts, list):
        runs = [whole_number(count) for count in counts]
        lengths = [run for run in runs if run is not None and run >= 0]
        if len(lengths) == len(runs) and sum(lengths) == shape[0] * shape[1]:
            mask = coco_mask.decode(coco_mask.frPyObjects({'size': told, 'counts': lengths}, *shape))
    elif isinstance(counts, str):
        mask = _decode_text(counts, shape)
    if mask is None:
        faults.add('annotations with run lengths that do not fill their image', place, 'Export them again.')
        return None
    return mask.astype(bool)


def _decode_text(counts: str, shape: tuple[int, int]) -> np.ndarray | None:
    # pycocotools raises ValueError, or nothing, for what it cannot read.
    try:
        mask = coco_mask.decode({'size': list(shape), 'counts': counts})
    except ValueError:
        return None
    # What too short a text leaves out, pycocotools fills with whatever the memory holds.
    return mask if coco_mask.encode(mask)['counts'].decode() == counts else None
