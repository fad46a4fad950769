"""Closes the gaps between mmsegmentation 1.2.2, mmengine 0.10.7 and current torch and Python, and nothing else.

Each function does nothing where its gap does not exist: with full mmcv, an mmengine that torch can load from, or a
Python before 3.14.
"""

import importlib
import importlib.util
import pickle
import pkgutil
import sys
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from crack_plugin.errors import CrackPluginError, MissingPackageError
from crack_plugin.openmmlab import installed_distributions

MMCV_EXTENSION = 'mmcv._ext'
FULL_MMCV = {
    'mmcv-lite': 'pip uninstall mmcv-lite; pip install --no-build-isolation mmcv==2.1.0',
    'onedl-mmcv': 'pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir onedl-mmcv==2.3.6',
}
"""How to get the operators, by what is installed without them."""


class MissingOperatorError(CrackPluginError, RuntimeError):
    """A model uses an operator that only full mmcv has."""


class _MissingOps(ModuleType):
    """Stands in for the compiled ``mmcv._ext`` of full mmcv: every name is an operator that raises when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args: Any, **kwargs: Any) -> NoReturn:
            raise MissingOperatorError(
                f'mmcv operator {name!r} is compiled code that {_without_operators()} does not carry. A model that '
                f'uses it needs full mmcv: {FULL_MMCV[_without_operators()]}'
            )

        return missing_op


def _without_operators() -> str:
    """The distribution that mmcv was installed from."""
    return 'onedl-mmcv' if 'onedl-mmcv' in installed_distributions('mmcv') else 'mmcv-lite'


def allow_mmcv_lite() -> None:
    """Let ``mmseg`` import with mmcv-lite.

    mmseg imports ``mmcv.ops`` unconditionally, which wants the compiled ``mmcv._ext``. The stand-in is removed right
    after, because ``mmengine.utils.dl_utils.mmcv_full_available`` takes its presence for full mmcv.

    Raises:
        MissingPackageError: Neither mmcv nor mmcv-lite is installed.
    """
    if importlib.util.find_spec('mmcv') is None:
        raise MissingPackageError(
            'crack_plugin needs mmcv. Install it with `pip install mmcv-lite==2.1.0` (no compiler needed), or keep '
            'the full mmcv 2.1 of your OpenMMLab environment; beside onedl-mmsegmentation `pip install onedl-mmcv`.'
        )
    if importlib.util.find_spec(MMCV_EXTENSION) is not None or 'mmcv.ops' in sys.modules:
        return
    sys.modules[MMCV_EXTENSION] = _MissingOps(MMCV_EXTENSION)
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules[MMCV_EXTENSION]


def allow_python_314() -> None:
    """Give ``pkgutil`` back its ``find_loader``, which Python 3.14 removed.

    ``mmcv_full_available`` of mmengine 0.10.7, which every optimizer wants, and ``check_ops_exist`` of mmcv 2.1.0 ask
    it whether full mmcv is installed.
    """
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = _find_loader


def _find_loader(fullname: str) -> Any:
    """The loader of the module of this name; None if there is no such module."""
    spec = importlib.util.find_spec(fullname)
    return None if spec is None else spec.loader


def _history_statistic(owner: object, name: str) -> Any:
    """Resolve the one use that a pickled ``HistoryBuffer`` makes of ``getattr``: its own public methods by name."""
    if owner is not HistoryBuffer or name.startswith('_') or name not in vars(HistoryBuffer):
        raise pickle.UnpicklingError(f'a checkpoint may not look up {name!r} of {owner!r}')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` (``weights_only=True``, the default since 2.6) read the checkpoints mmengine writes.

    What is allowed are data containers and the look-up of a ``HistoryBuffer``'s statistics (in place of the
    ``getattr`` that mmengine pickles), so an untrusted file still cannot run code.
    """
    safe = torch.serialization.get_safe_globals()
    if HistoryBuffer in safe:
        return
    # Where numpy keeps these two depends on its version.
    reconstruct: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            reconstruct,
            scalar,
            # numpy 1 wrote the same two functions under this path
            (reconstruct, 'numpy.core.multiarray._reconstruct'),
            (scalar, 'numpy.core.multiarray.scalar'),
            (_history_statistic, 'builtins.getattr'),
            *(type(np.dtype(code)) for code in ('f4', 'f8', 'i4', 'i8', 'u1', 'b1')),
        ]
    )
