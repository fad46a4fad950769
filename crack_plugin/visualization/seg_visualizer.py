"""MMSegmentation's visualizer for pictures of any memory layout."""

from typing import Any

import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """``SegLocalVisualizer`` that also draws class names into transposed pictures.

    OpenCV writes into contiguous arrays only, and MMSegmentation's browse_dataset.py hands over a transposed one.
    """

    def _draw_sem_seg(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return super()._draw_sem_seg(np.ascontiguousarray(image), *args, **kwargs)
