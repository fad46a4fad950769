"""Crack datasets with YOLO polygon labels, and what feeds them to training."""

from crack_plugin.datasets.augmentation import SeededAlbu
from crack_plugin.datasets.cropping import CrackRandomCrop
from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.photographs import ImageError, LoadPhotograph
from crack_plugin.datasets.polygons import LabelError
from crack_plugin.datasets.sampler import ResumableSampler
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset

__all__ = [
    'CrackRandomCrop',
    'ImageError',
    'LabelError',
    'LoadPhotograph',
    'LoadYOLOPolygons',
    'ResumableSampler',
    'SeededAlbu',
    'YOLOCrackDataset',
]
