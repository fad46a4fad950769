"""SAM 3, told in plain words what to look for, inside MMSegmentation.

Importing this package registers its models, datasets, transforms, metrics and hooks into MMSegmentation's registries.
"""

from crack_plugin import compat

compat.allow_mmcv_lite()
compat.allow_mmengine_checkpoints()

from crack_plugin import datasets, evaluation, hooks, models  # noqa: E402
from crack_plugin.version import __version__  # noqa: E402

__all__ = ['__version__', 'datasets', 'evaluation', 'hooks', 'models']
