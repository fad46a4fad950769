"""Augmentation by albumentations that a seed repeats."""

import random
from importlib.metadata import distributions
from typing import Any

import numpy as np
from mmseg.datasets.transforms import Albu
from mmseg.registry import TRANSFORMS

from crack_plugin.errors import MissingPackageError


@TRANSFORMS.register_module()
class SeededAlbu(Albu):
    """MMSegmentation's ``Albu``, tied to NumPy's seed and to the size of the image.

    albumentations 2 draws from generators of its own, which no seed of a training reaches, and of which all workers
    begin with the same copy. Here each sample gives them a state drawn from NumPy's global one, so that
    ``ReproducibilityHook`` and ``randomness=dict(seed=...)`` hold for them as for other transforms. ``Albu`` also
    leaves ``img_shape`` as it was when albumentations crops or resizes.

    Args:
        transforms: As in ``Albu``: names and arguments of albumentations' transforms, which get the image in RGB.
        keymap: As in ``Albu``.
        update_pad_shape: As in ``Albu``.

    Modified Keys:

    - img, gt_seg_map (or what ``keymap`` names)
    - img_shape: (H, W) of the new image

    Raises:
        MissingPackageError: albumentations 2 is not installed.
    """

    def __init__(
        self, transforms: list[dict], keymap: dict[str, str] | None = None, update_pad_shape: bool = False
    ) -> None:
        if not _has_albumentations_2():
            raise MissingPackageError(
                f'SeededAlbu needs albumentations 2, which is not installed: {_install_command()}. Or take SeededAlbu '
                'out of the pipeline.'
            )
        super().__init__(transforms, keymap, update_pad_shape)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Apply the transforms, with random choices that follow from NumPy's global state."""
        first, second = np.random.randint(2**32, size=2, dtype=np.uint64).tolist()  # noqa: NPY002 - what gets seeded
        self.aug.set_random_state(np.random.default_rng(first), random.Random(second))
        results = super().transform(results)
        results['img_shape'] = results['img'].shape[:2]
        return results


def _has_albumentations_2() -> bool:
    try:
        from albumentations import Compose
    except ImportError:
        return False
    return hasattr(Compose, 'set_random_state')


def _install_command() -> str:
    """What installs albumentations and leaves cv2 as it is.

    albumentations asks for opencv-python-headless, which fills the same folder as opencv-python.
    """
    opencv = next((found.version for found in distributions(name='opencv-python')), None)
    return "pip install 'albumentations>=2,<3'" + (f' opencv-python-headless=={opencv}' if opencv else '')
