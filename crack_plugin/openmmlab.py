"""The two OpenMMLab stacks: the upstream releases, and the maintained onedl forks, which fill the same module names."""

import importlib.util
import warnings
from importlib.metadata import PackageNotFoundError, version

from crack_plugin.errors import MissingPackageError

DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
}
"""What pip may have installed a module from: upstream first, then the fork."""

INSTALL = (
    "OpenMMLab's own releases: pip install 'crack_plugin[lite]'. Their maintained forks: "
    "pip install 'crack_plugin[onedl]'. One of them, never both in one environment"
)


def installed_distributions(module: str) -> list[str]:
    """The distributions of a module that are installed; more than one if one was installed over the other."""
    return [name for name in DISTRIBUTIONS[module] if _is_installed(name)]


def require_openmmlab() -> None:
    """Check that there is a stack; to be called before anything imports mmengine.

    Raises:
        MissingPackageError: mmengine or mmseg is missing. This package does not require them by itself, since that
            would lay one stack's files over the other's.
    """
    missing = [name for name in ('mmengine', 'mmseg') if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f'crack_plugin needs {" and ".join(missing)}, which it does not install by itself. {INSTALL}.'
        )
    for module in ('mmengine', 'mmcv', 'mmseg'):
        both = installed_distributions(module)
        if len(both) > 1:
            warnings.warn(
                f'{" and ".join(both)} are both installed, and fill the same folder {module}: what runs is a mixture. '
                f'Make a new environment with one of them. {INSTALL}.',
                stacklevel=2,
            )


def register_distributions() -> None:
    """Tell mmengine what ``mmseg::`` and ``mmdet::`` in configs are installed from, where that is a fork."""
    from mmengine.config.utils import MODULE2PACKAGE

    for module in ('mmseg', 'mmdet'):
        found = installed_distributions(module)
        if found and MODULE2PACKAGE.get(module) not in found:
            MODULE2PACKAGE[module] = found[0]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
