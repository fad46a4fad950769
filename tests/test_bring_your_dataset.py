"""Every command of `docs/bring_your_dataset.md`, on a miniature of each export."""

import json
import re
import runpy
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.polygons import format_labels

pytest.importorskip('pycocotools')
from pycocotools import mask as coco_mask

ROOT = Path(__file__).parents[1]
SHAPE = (96, 128)
SPLITS = {'train': 4, 'valid': 2, 'test': 2}


def sections() -> dict[str, list[str]]:
    """The commands under each heading of the page."""
    page = (ROOT / 'docs/bring_your_dataset.md').read_text()
    found = {}
    for part in page.split('\n## ')[1:]:
        blocks = re.findall(r'```bash\n(.+?)```', part, re.DOTALL)
        found[part.partition('\n')[0]] = ''.join(blocks).splitlines()
    return found


def crack(seed: int) -> tuple[Image.Image, np.ndarray]:
    """A picture unlike the others, and its mask."""
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(90, 220, (6, 8, 3), np.uint8), SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
    mask = np.zeros(SHAPE, np.uint8)
    points = np.stack([np.linspace(8, 119, 5), rng.integers(10, 86, 5)], axis=1).astype(np.int32)
    cv2.polylines(mask, [points], isClosed=False, color=1, thickness=3)
    picture[mask > 0] = 30
    return Image.fromarray(picture), mask


class Pictures:
    """Numbered pictures and their masks by name."""

    def __init__(self) -> None:
        self.masks: dict[str, np.ndarray] = {}

    def save(self, folder: Path, name: str) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        picture, mask = crack(len(self.masks))
        picture.save(folder / f'{name}.jpg')
        self.masks[name] = mask
        return mask

    def of(self, splits: dict[str, int]) -> Iterator[tuple[str, str]]:
        """Split and name of some pictures."""
        for split, count in splits.items():
            for i in range(count):
                yield split, f'{split}-{i}'


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    return [line[:, 0] for line in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]]


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask * 255).save(path, quality=90)


def coco(entries: list[tuple[str, np.ndarray]], categories: list[dict[str, Any]]) -> str:
    """The text of a COCO file with one annotation an image, of the last category."""
    content: dict[str, list[Any]] = {'images': [], 'annotations': [], 'categories': categories}
    for i, (name, mask) in enumerate(entries):
        content['images'].append({'id': i, 'file_name': name, 'height': SHAPE[0], 'width': SHAPE[1]})
        x, y, width, height = cv2.boundingRect(mask)
        annotation = {'id': i, 'image_id': i, 'category_id': categories[-1]['id'], 'iscrowd': 0}
        annotation['bbox'] = [x, y, width, height]
        polygons = [points.astype(float).ravel().tolist() for points in outlines(mask)]
        annotation['segmentation'] = polygons
        # What they cover is a little less than the mask they were drawn around.
        mask[:] = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SHAPE)))
        content['annotations'].append(annotation)
    return json.dumps(content)


def roboflow_yolo(data: Path, pictures: Pictures) -> None:
    for split, name in pictures.of(SPLITS):
        mask = pictures.save(data / f'cracks/{split}/images', f'{name}_jpg.rf.{name}')
        write_text(data / f'cracks/{split}/labels/{name}_jpg.rf.{name}.txt', format_labels(mask))
    content = {
        'train': '../train/images',
        'val': '../valid/images',
        'test': '../test/images',
        'nc': 1,
        'names': ['crack'],
    }
    write_text(data / 'cracks/data.yaml', yaml.safe_dump(content))


def roboflow_coco(data: Path, pictures: Pictures) -> None:
    root = {'id': 0, 'name': 'crack', 'supercategory': 'none'}
    for split, count in SPLITS.items():
        names = [f'{name}_jpg.rf.{name}' for _, name in pictures.of({split: count})]
        entries = [(f'{name}.jpg', pictures.save(data / 'roboflow' / split, name)) for name in names]
        text = coco(entries, [root, {'id': 1, 'name': 'crack', 'supercategory': 'crack'}])
        write_text(data / f'roboflow/{split}/_annotations.coco.json', text)


def label_studio_yolo(data: Path, pictures: Pictures) -> None:
    for _, name in pictures.of({'train': 6}):
        mask = pictures.save(data / 'label_studio/images', f'3f{name}')
        write_text(data / f'label_studio/labels/3f{name}.txt', format_labels(mask))
    write_text(data / 'label_studio/classes.txt', 'crack\n')
    write_text(data / 'label_studio/notes.json', '{"categories": [{"id": 0, "name": "crack"}]}')


def label_studio_coco(data: Path, pictures: Pictures) -> None:
    folder = data / 'label_studio/images'
    windows = '..\\..\\label-studio\\media\\upload\\4\\{}.jpg'
    spellings = ['images/{}.jpg', 'images\\{}.jpg', 'images\\1/{}.jpg', windows] * 2
    entries = [(spellings[i].format(f'3f{i}'), pictures.save(folder, f'3f{i}')) for i in range(8)]
    write_text(data / 'label_studio/result.json', coco(entries, [{'id': 0, 'name': 'crack'}]))


def cvat_coco(data: Path, pictures: Pictures) -> None:
    entries = [(f'{name}.jpg', pictures.save(data / 'cvat/images/default', name)) for _, name in pictures.of({'a': 6})]
    text = coco(entries, [{'id': 1, 'name': 'crack', 'supercategory': ''}])
    write_text(data / 'cvat/annotations/instances_default.json', text)


def cvat_yolo(data: Path, pictures: Pictures) -> None:
    lines = []
    for _, name in pictures.of({'a': 6}):
        mask = pictures.save(data / 'cvat/images/train', name)
        write_text(data / f'cvat/labels/train/{name}.txt', format_labels(mask))
        lines.append(f'images/train/{name}.jpg\n')
    write_text(data / 'cvat/train.txt', ''.join(lines))
    write_text(data / 'cvat/data.yaml', 'names:\n  0: crack\npath: .\ntrain: train.txt\n')


def cvat_masks(data: Path, pictures: Pictures) -> None:
    for _, name in pictures.of({'a': 6}):
        mask = pictures.save(data / 'cvat/JPEGImages', name)
        palette = np.array([(0, 0, 0), (250, 50, 83)], np.uint8)
        (data / 'cvat/SegmentationClass').mkdir(exist_ok=True)
        Image.fromarray(palette[mask]).save(data / f'cvat/SegmentationClass/{name}.png')
    write_text(data / 'cvat/labelmap.txt', 'background:0,0,0::\ncrack:250,50,83::\n')


def labelme(data: Path, pictures: Pictures) -> None:
    folder = data / 'labelme'
    for _, name in pictures.of({'a': 6}):
        mask = pictures.save(folder, name)
        shapes = [
            {'label': 'crack', 'points': p.tolist(), 'shape_type': 'polygon', 'flags': {}} for p in outlines(mask)
        ]
        content = {'version': '5.5.0', 'shapes': shapes, 'imagePath': f'{name}.jpg', 'imageData': None}
        write_text(folder / f'{name}.json', json.dumps(content | {'imageHeight': SHAPE[0], 'imageWidth': SHAPE[1]}))
    crack(99)[0].save(folder / 'clean.jpg')
    pictures.masks['clean'] = np.zeros(SHAPE, np.uint8)


def deepcrack(data: Path, pictures: Pictures) -> None:
    for split, name in pictures.of({'train': 6, 'test': 2}):
        mask = pictures.save(data / f'DeepCrack/{split}_img', name)
        write_mask(data / f'DeepCrack/{split}_lab/{name}.png', mask)


def crack500(kind: str, suffix: str) -> Callable[[Path, Pictures], None]:
    def write(data: Path, pictures: Pictures) -> None:
        for split, name in pictures.of({'train': 4, 'val': 2, 'test': 2}):
            folder = data / f'CRACK500/{split}{kind}/{split}{kind}'
            mask = pictures.save(folder, name)
            write_mask(folder / f'{name}{suffix}.png', mask)

    return write


def khanhha(data: Path, pictures: Pictures) -> None:
    for split, name in pictures.of({'train': 6, 'test': 2}):
        folder = data / 'crack_segmentation_dataset' / split
        mask = pictures.save(folder / 'images', name)
        write_mask(folder / f'masks/{name}.jpg', mask)
        mask[:] = np.asarray(Image.open(folder / f'masks/{name}.jpg')) > 127


EXPORTS: dict[str, Callable[[Path, Pictures], None]] = {
    'Roboflow, YOLO': roboflow_yolo,
    'Roboflow, COCO': roboflow_coco,
    'Label Studio, YOLO': label_studio_yolo,
    'Label Studio, COCO': label_studio_coco,
    'CVAT, COCO': cvat_coco,
    'CVAT, YOLO': cvat_yolo,
    'CVAT, masks': cvat_masks,
    'LabelMe': labelme,
    'DeepCrack': deepcrack,
    'Crack500, crops': crack500('crop', ''),
    'Crack500, whole photographs': crack500('data', '_mask'),
    "khanhha's collection": khanhha,
}


def test_each_section_has_a_miniature():
    assert list(sections()) == list(EXPORTS)


def run_command(line: str) -> None:
    words = shlex.split(line)
    if words[0] != 'python':
        subprocess.run(['bash', '-c', line], check=True)
        return
    # Processes would take longer to start than these few images to read.
    words += ['--workers', '0'] if words[1].endswith('check_dataset.py') else []
    main = runpy.run_path(str(ROOT / words[1]))['main']
    try:
        main(words[2:])
    except SystemExit as stop:
        assert not stop.code, line


@pytest.mark.parametrize('section', EXPORTS)
def test_commands_of_the_page(tmp_path, monkeypatch, section):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    monkeypatch.chdir(tmp_path)
    pictures = Pictures()
    EXPORTS[section](tmp_path / 'data', pictures)
    for line in sections()[section]:
        run_command(line)
    read = {}
    for split in ('train', 'valid', 'test'):
        if split == 'test' and not any('test' in name for name in pictures.masks):
            continue
        pipeline = [LoadImageFromFile(), LoadYOLOPolygons()]
        dataset = YOLOCrackDataset('data/cracks', split, pipeline=pipeline, serialize_data=False)
        read |= {Path(sample['img_path']).stem: sample['gt_seg_map'] for sample in dataset}
    assert read.keys() == pictures.masks.keys()
    for name, mask in pictures.masks.items():
        np.testing.assert_array_equal(read[name], mask, err_msg=name)
