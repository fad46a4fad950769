"""Predictions as annotations to be corrected: YOLO (also Ultralytics' of CVAT), COCO and Label Studio."""

import filecmp
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import yaml

from crack_plugin.datasets.mask_polygons import format_labels, mask_to_polygons
from crack_plugin.errors import CrackPluginError
from crack_plugin.files import link_or_copy, write_atomically
from crack_plugin.inspection.bands import Crack
from crack_plugin.inspection.outlines import shells_without_holes

LABELS = 'labels'
FORMATS = ('yolo', 'coco', 'labelstudio')
_SPLIT = 'train'
_COCO = Path('coco', 'annotations', 'instances_default.json')
_TASKS, _CONFIG = Path('labelstudio', 'tasks.json'), Path('labelstudio', 'config.xml')
_WRITTEN = '.written'
"""SHA-256 of the files of all photographs that were written: one that is not here was changed since."""


class PreannotationError(CrackPluginError, ValueError):
    """Annotations that cannot be written, or that would be lost."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """A photograph and what is predicted in it.

    Attributes:
        image: The file.
        name: Its path without suffix below the folder of the masks.
        labels: 0 for the background, from 1 the classes, shape (H, W), uint8.
        cracks: The same as cracks, with scores.
        uncertainty: Of the model, see :mod:`crack_plugin.inspection.uncertainty`.
    """

    image: Path
    name: str
    labels: np.ndarray
    cracks: Sequence[Crack]
    uncertainty: float

    @property
    def file_name(self) -> str:
        """Where its link is, below the folder of images."""
        return f'{self.name}{self.image.suffix}'


def write_preannotations(
    photographs: Iterable[Annotated], out: Path, formats: Sequence[str], class_names: Sequence[str], overwrite: bool
) -> list[str]:
    """Write annotations of each format into a folder of its own.

    Args:
        photographs: Each is needed only while it is written.
        out: Gets ``labels/yolo``, ``labels/coco`` and ``labels/labelstudio``.
        formats: Some of :data:`FORMATS`.
        class_names: Of the K classes.
        overwrite: Whether annotations that were changed since are replaced, and photographs that are not among these
            are no longer linked.

    Returns:
        A line for each format that says how to go on.

    Raises:
        PreannotationError: Annotations were changed or deleted since they were written; or the link of an image
            cannot be made.
    """
    folder = out / LABELS
    if not overwrite:
        _check_unchanged(folder, [*[_COCO] * ('coco' in formats), *[_TASKS, _CONFIG] * ('labelstudio' in formats)])
    links: set[Path] = set()
    coco = _Coco(class_names)
    tasks: list[tuple[Path, dict[str, Any]]] = []
    for photograph in photographs:
        if 'yolo' in formats:
            links.add(_write_yolo(photograph, folder / 'yolo', len(class_names), overwrite))
        if 'coco' in formats:
            _link(photograph.image, folder / 'coco' / 'images' / photograph.file_name)
            coco.add(photograph)
        if 'labelstudio' in formats:
            tasks.append((photograph.image.resolve(), _task(photograph, class_names)))
    lines = []
    if 'yolo' in formats:
        content = {'path': '.', 'train': f'{_SPLIT}.txt', 'names': dict(enumerate(class_names))}
        write_atomically(folder / 'yolo' / 'data.yaml', yaml.safe_dump(content, allow_unicode=True).encode())
        if overwrite:
            _drop_links(folder / 'yolo', links)
        _write_list(folder / 'yolo')
        lines.append(f'{folder / "yolo"}: correct labels/{_SPLIT}, divide it with tools/split_dataset.py, and train')
    if 'coco' in formats:
        _write(folder, _COCO, json.dumps(coco.content).encode())
        lines.append(f'{folder / _COCO}: COCO, for CVAT and Roboflow')
    if 'labelstudio' in formats and tasks:
        lines.append(_write_labelstudio(tasks, folder, class_names))
    return lines


def _check_unchanged(folder: Path, names: Iterable[Path]) -> None:
    """Refuse to go on where corrections would be lost."""
    written = _written(folder)
    for path in (folder / name for name in names):
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() not in written:
            raise PreannotationError(
                f'{path} was changed since it was written. Move it away, take another --out, or pass --overwrite to '
                'replace it.'
            )


def _written(folder: Path) -> list[str]:
    path = folder / _WRITTEN
    return path.read_text().split() if path.is_file() else []


def _write(folder: Path, name: Path, content: bytes) -> None:
    """Write what :func:`_check_unchanged` knows again."""
    digests = dict.fromkeys([*_written(folder), hashlib.sha256(content).hexdigest()])
    # First, so that whatever is stopped in between, the file is known.
    write_atomically(folder / _WRITTEN, ''.join(f'{digest}\n' for digest in digests).encode())
    write_atomically(folder / name, content)


def _write_yolo(photograph: Annotated, folder: Path, classes: int, overwrite: bool) -> Path:
    """Write a label and link its image; the link."""
    text = ''.join(format_labels(photograph.labels == label, label - 1) for label in range(1, classes + 1))
    path = folder / 'labels' / _SPLIT / f'{photograph.name}.txt'
    link = folder / 'images' / _SPLIT / photograph.file_name
    # An image without a label is background: whoever deletes a label says that there is none.
    former = path.read_text(encoding='utf-8') if path.is_file() else '' if os.path.lexists(link) else text
    if former != text and not overwrite:
        raise PreannotationError(
            f'{path} was {"changed" if path.is_file() else "deleted"} since it was written, or the model predicts '
            'something else now. Take another --out, or pass --overwrite to replace it.'
        )
    _check_there(photograph.image)
    write_atomically(path, text.encode())
    # Last: a run that is stopped in between would leave an image whose label looks deleted.
    _link(photograph.image, link)
    return link


def _drop_links(folder: Path, kept: set[Path]) -> None:
    """Take images that are no longer predicted out of the dataset; the labels stay, which may have been corrected."""
    for path in (folder / 'images' / _SPLIT).rglob('*'):
        if path.is_symlink() and path not in kept:
            path.unlink()


def _write_list(folder: Path) -> None:
    """``train.txt``, by which CVAT finds the images."""
    images = sorted(path for path in (folder / 'images' / _SPLIT).rglob('*') if not path.is_dir())
    text = ''.join(f'{path.relative_to(folder).as_posix()}\n' for path in images)
    write_atomically(folder / f'{_SPLIT}.txt', text.encode(errors='surrogateescape'))


def _check_there(image: Path) -> None:
    if not image.is_file():
        raise PreannotationError(f'{image} is not there any more, so that it cannot be labelled. Take another --out.')


def _link(image: Path, link: Path) -> None:
    _check_there(image)
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_file() and not link.is_symlink():
            # As an annotation tool exports it; anything else was not made here.
            if not filecmp.cmp(image, link, shallow=False):
                raise PreannotationError(
                    f'{link} is another picture than {image}. Move it away, or take another --out.'
                )
        elif link.resolve() != image.resolve():
            link.unlink(missing_ok=True)
            link_or_copy(image, link)
    except OSError as error:
        raise PreannotationError(f'{link} cannot be made: {error.strerror}. Make room, or correct the path.') from error


class _Coco:
    """A COCO file in the making."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.content: dict[str, list[dict[str, Any]]] = {
            'images': [],
            'categories': [{'id': number, 'name': name} for number, name in enumerate(class_names, start=1)],
            'annotations': [],
        }

    def add(self, photograph: Annotated) -> None:
        images, annotations = self.content['images'], self.content['annotations']
        height, width = photograph.labels.shape
        images.append({'id': len(images) + 1, 'file_name': photograph.file_name, 'width': width, 'height': height})
        for crack in photograph.cracks:
            top, left, bottom, right = crack.box
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': len(images),
                    'category_id': crack.label,
                    # Along the edges of the pixels, as COCO's tools draw polygons.
                    'segmentation': [ring[:-1].ravel().tolist() for ring in shells_without_holes(crack.runs)],
                    'bbox': [left, top, right - left, bottom - top],
                    'area': crack.area,
                    'iscrowd': 0,
                    'score': crack.score,
                }
            )


def _task(photograph: Annotated, class_names: Sequence[str]) -> dict[str, Any]:
    """A task of Label Studio; ``image`` is added once the folder is known that all images are in."""
    return {
        'data': {'uncertainty': photograph.uncertainty},
        'predictions': [
            {
                'model_version': 'crack_plugin',
                'score': 1 - photograph.uncertainty,
                'result': list(_regions(photograph, class_names)),
            }
        ],
    }


def _regions(photograph: Annotated, class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    height, width = photograph.labels.shape
    for number, crack in enumerate(photograph.cracks, start=1):
        # Through the centres of the pixels, as in YOLO labels: Label Studio's export of YOLO has the same mask.
        for part, polygon in enumerate(mask_to_polygons(crack.mask()), start=1):
            points = 100 * (polygon + np.array([crack.box.left, crack.box.top])) / (width, height)
            yield {
                'id': f'crack-{number}-{part}',
                'from_name': 'label',
                'to_name': 'image',
                'type': 'polygonlabels',
                'original_width': width,
                'original_height': height,
                'image_rotation': 0,
                'score': crack.score,
                'value': {
                    'points': points.tolist(),
                    'closed': True,
                    'polygonlabels': [class_names[crack.label - 1]],
                },
            }


def _write_labelstudio(tasks: list[tuple[Path, dict[str, Any]]], folder: Path, class_names: Sequence[str]) -> str:
    """Write ``tasks.json`` and ``config.xml``; a line on what Label Studio has to be told."""
    root = Path(os.path.commonpath([image.parent for image, _ in tasks]))
    for image, task in tasks:
        name = quote(os.fsencode(image.relative_to(root).as_posix()))
        task['data'] = {'image': f'/data/local-files/?d={name}', **task['data']}
    # Those that the model is least sure of come first.
    ordered = sorted((task for _, task in tasks), key=lambda task: -task['data']['uncertainty'])
    _write(folder, _TASKS, json.dumps(ordered).encode())
    labels = ''.join(f'\n    <Label value={quoteattr(name)}/>' for name in class_names)
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <PolygonLabels name="label" toName="image" strokeWidth="1">{labels}\n  </PolygonLabels>\n</View>\n'
    )
    _write(folder, _CONFIG, config.encode())
    return (
        f'{folder / _TASKS}: Label Studio, started with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true '
        f'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}'
    )
