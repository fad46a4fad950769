"""The transform that turns a YOLO label file into the ground-truth map MMSegmentation trains and scores on."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from crack_plugin.datasets.errors import DatasetError, DatasetNotFoundError
from crack_plugin.datasets.masks import read_mask
from crack_plugin.datasets.polygons import LabelError, parse_labels, rasterize


@TRANSFORMS.register_module()
class LoadYOLOPolygons(BaseTransform):
    """Rasterise the polygons of ``label_path`` into ``gt_seg_map``, in the place of ``LoadAnnotations``.

    A sample without ``label_path`` passes unchanged, so the same pipeline serves inference. The map has the size of
    the decoded image (EXIF orientation applied, as ``LoadImageFromFile`` does), before any later resize or flip;
    like ``LoadAnnotations``, the transform may therefore come after those in a test pipeline.

    Required Keys:

    - ori_shape: (H, W) of the decoded image, from ``LoadImageFromFile``
    - label_path (optional)
    - missing_label (optional): 'background' (default) or 'error', for a ``label_path`` that does not exist
    - annotations (optional): 'polygons' (default), or 'masks': ``label_path`` is an image, see ``read_mask``
    - mask_threshold (optional): levels of a mask above are foreground, see ``read_mask``
    - boxes (optional): 'error' (default), 'fill' or 'drop', see ``parse_labels``
    - outside (optional): 'error' (default) or 'clip', see ``parse_labels``
    - yolo_names (optional): class names by YOLO id. By default any id is taken
    - yolo_labels (optional): label to draw by YOLO id, None for a class left out. By default id i becomes i + 1
    - label_map (optional): label to label, applied last, as in ``LoadAnnotations``

    Added Keys:

    - gt_seg_map: uint8 of shape (H, W)
    - seg_fields: gains 'gt_seg_map'
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map`` to ``results``.

        Raises:
            LabelError: The label file cannot be read as it stands.
            DatasetNotFoundError: It does not exist, and ``missing_label`` is 'error'.
            DatasetError: No image has been loaded yet.
        """
        if 'label_path' not in results:
            return results
        if 'ori_shape' not in results:
            raise DatasetError(
                'LoadYOLOPolygons needs the size of the image (`ori_shape`): put LoadImageFromFile before it.'
            )
        shape = tuple(results['ori_shape'][:2])
        content = _read(results['label_path'], results.get('missing_label', 'background'))
        if results.get('annotations') == 'masks':
            gt_seg_map = _load_mask(results['label_path'], shape, results.get('mask_threshold'))
        else:
            polygons = parse_labels(
                content,
                shape,
                names=results.get('yolo_names'),
                boxes=results.get('boxes', 'error'),
                source=str(results['label_path']),
                outside=results.get('outside', 'error'),
            )
            gt_seg_map = rasterize(polygons, shape, results.get('yolo_labels'))
        if results.get('label_map'):
            loaded = gt_seg_map.copy()
            for old, new in results['label_map'].items():
                gt_seg_map[loaded == old] = new
        results['gt_seg_map'] = gt_seg_map
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def _load_mask(path: str, shape: tuple[int, ...], threshold: int | None) -> np.ndarray:
    if not Path(path).exists():  # it stands for background; otherwise _read would have raised
        return np.zeros(shape, np.uint8)
    mask = read_mask(Path(path), threshold).foreground
    if mask.shape != shape:
        height, width = mask.shape
        raise LabelError(
            f'{path} is a mask of {width} x {height} pixels for an image of {shape[1]} x {shape[0]}. Was the image '
            'turned or resized? Export the mask again at the size of the image.'
        )
    return mask.astype(np.uint8)


def _read(label_path: str, missing_label: str) -> bytes:
    try:
        return Path(label_path).read_bytes()
    except FileNotFoundError:
        if os.path.lexists(label_path):
            raise DatasetNotFoundError(
                f'label file {label_path} is a link that leads to no file. Restore what it links to, or delete it.'
            ) from None
        if missing_label == 'background':
            return b''
        raise DatasetNotFoundError(
            f"label file {label_path} does not exist, and missing_label='error' asks for one per image. Add the file "
            "(an empty one if nothing is to be seen), or set the dataset's missing_label='background'."
        ) from None
