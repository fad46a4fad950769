"""Crack datasets with YOLO polygon labels, and what feeds them to training."""

from crack_plugin.datasets.augmentation import SeededAlbu
from crack_plugin.datasets.cropping import CrackRandomCrop
from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.polygons import LabelError
from crack_plugin.datasets.sampler import ResumableSampler
from crack_plugin.datasets.yolo_crack import ImageError, YOLOCrackDataset

__all__ = [
    'CrackRandomCrop',
    'ImageError',
    'LabelError',
    'LoadYOLOPolygons',
    'ResumableSampler',
    'SeededAlbu',
    'YOLOCrackDataset',
]
