"""SAM 3, told in plain words what to look for, inside MMSegmentation.

Importing this package registers its models, datasets, transforms, metrics and hooks into MMSegmentation's registries.
"""

import os

from crack_plugin import mps, openmmlab

mps.allow_fallback()

openmmlab.require_openmmlab()

from crack_plugin import compat  # noqa: E402 - needs mmengine

compat.allow_python_314()
compat.allow_mmcv_lite()
compat.allow_mmengine_checkpoints()
# mmseg imports albumentations wherever it is installed, and that asks PyPI for a newer version in every process.
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from crack_plugin import checkpoints, dataloaders, datasets, evaluation, hooks, models  # noqa: E402
from crack_plugin.version import __version__  # noqa: E402
from crack_plugin.visualization import seg_visualizer  # noqa: E402, F401 - registers

checkpoints.register_loaders()
dataloaders.register_dataloaders()
openmmlab.register_distributions()
# Lets configs say `_base_ = 'crack_plugin::...'`. A module, not the distribution: so mmengine finds a checkout as well.
MODULE2PACKAGE.setdefault('crack_plugin', 'crack_plugin.version')

__all__ = ['__version__', 'checkpoints', 'datasets', 'evaluation', 'hooks', 'models']
