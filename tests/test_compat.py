"""The gaps of the stack: mmcv-lite without operators, checkpoints that torch >= 2.6 refuses, Python 3.14."""

import importlib.util
import os
import pickle
import pkgutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_tool
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.utils.dl_utils import mmcv_full_available
from mmseg.registry import METRICS, MODELS

from crack_plugin import compat
from crack_plugin.openmmlab import installed_distributions

lite = pytest.mark.skipif(importlib.util.find_spec('mmcv._ext') is not None, reason='full mmcv has its operators')


@lite
def test_mmseg_imports_with_mmcv_lite_and_nobody_takes_it_for_full_mmcv() -> None:
    assert 'mmcv._ext' not in sys.modules
    assert not mmcv_full_available()
    # mmseg's own models are there, ours beside them
    assert {'UNet', 'MixVisionTransformer', 'PIDNet', 'SAM3TextLoRA', 'ForegroundDiceLoss'} <= set(MODELS.module_dict)
    assert 'CrackMetric' in METRICS


@lite
def test_missing_operator_says_what_to_install() -> None:
    from mmcv.ops import sigmoid_focal_loss

    with pytest.raises(RuntimeError, match=r'full mmcv: pip (uninstall mmcv-lite|install .* onedl-mmcv)'):
        sigmoid_focal_loss(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long), 2.0, 0.25, None, 'mean')


def test_without_any_mmcv_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'mmcv' else find(name, *a))
    with pytest.raises(ImportError, match=r'pip install mmcv-lite==2\.1\.0.*pip install onedl-mmcv'):
        compat.allow_mmcv_lite()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('hidden', 'advice'), [('mmcv', 'pip install mmcv-lite==2.1.0'), ('mmseg', "pip install 'crack_plugin[onedl]'")]
)
def test_importing_without_a_part_of_openmmlab_ends_with_that_error(hidden: str, advice: str) -> None:
    """In a fresh process whose import system hides it."""
    hide = (
        'import importlib.util as u; find = u.find_spec\n'
        f"u.find_spec = lambda name, *a: None if name == '{hidden}' else find(name, *a)\n"
        'import crack_plugin'
    )
    result = run_tool('-c', hide)
    assert result.returncode != 0
    assert advice in result.stderr


def test_full_mmcv_is_found_or_missed_without_find_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Python 3.14."""
    there = mmcv_full_available()
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    if installed_distributions('mmengine') == ['mmengine']:  # onedl-mmengine asks importlib
        with pytest.raises(AttributeError, match='find_loader'):
            mmcv_full_available()
    compat.allow_python_314()
    assert mmcv_full_available() == check_ops_exist() == there
    loader = pkgutil.find_loader('mmcv')
    assert loader is not None and loader.is_package('mmcv')
    assert pkgutil.find_loader('mmcv_that_is_nowhere') is None


def test_mmengine_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    hub = MessageHub('compat')
    for value in (1.0, 3.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('best_score', np.float64(0.5))
    hub.update_info('flags', np.array([True, False]))
    torch.save({'message_hub': hub.state_dict(), 'state_dict': {'w': torch.ones(2)}}, tmp_path / 'x.pth')
    loaded = torch.load(tmp_path / 'x.pth', weights_only=True)
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.mean() == 2.0
    assert loaded['message_hub']['runtime_info']['best_score'] == 0.5


class Reduced:
    """Unpickles to a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize(
    'payload',
    [
        Reduced(os.system, 'true'),
        Reduced(getattr, HistoryBuffer, '__init__'),
        Reduced(getattr, dict, 'fromkeys'),
        Reduced(eval, '1'),
    ],
    ids=['os.system', 'private attribute', 'attribute of another type', 'eval'],
)
def test_malicious_checkpoint_is_refused(payload: Reduced, tmp_path: Path) -> None:
    torch.save({'state_dict': payload}, tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'evil.pth')


def test_nothing_is_done_twice() -> None:
    before = list(torch.serialization.get_safe_globals())
    find_loader = pkgutil.find_loader
    compat.allow_python_314()
    assert pkgutil.find_loader is find_loader
    compat.allow_mmengine_checkpoints()
    compat.allow_mmcv_lite()
    assert torch.serialization.get_safe_globals() == before
