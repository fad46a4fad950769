"""Upstream's OpenMMLab or the onedl forks: what is missing is named, and look-ups find the one that is there."""

import importlib.util
import warnings
from importlib import metadata
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

import crack_plugin
from crack_plugin import compat, openmmlab
from crack_plugin.errors import MissingPackageError


def pretend(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    """Only these distributions of OpenMMLab are installed."""

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return '1.0'

    monkeypatch.setattr(openmmlab, 'version', version)


def test_error_names_both_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *a: None if name in ('mmengine', 'mmseg') else find(name, *a)
    )
    expected = r"needs mmengine and mmseg, .*pip install 'crack_plugin\[lite\]'.*pip install 'crack_plugin\[onedl\]'"
    with pytest.raises(MissingPackageError, match=expected):
        openmmlab.require_openmmlab()


def test_one_stack_over_the_other_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 'mmengine', 'mmcv-lite', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation')
    with pytest.warns(UserWarning) as caught:
        openmmlab.require_openmmlab()
    named = [str(warning.message).partition(' are both')[0] for warning in caught]
    assert named == ['mmengine and onedl-mmengine', 'mmcv-lite and onedl-mmcv']


@pytest.mark.parametrize(
    'stack', [['mmengine', 'mmcv', 'mmsegmentation'], ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation']]
)
def test_one_stack_is_as_it_should_be(monkeypatch: pytest.MonkeyPatch, stack: list[str]) -> None:
    pretend(monkeypatch, *stack)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        openmmlab.require_openmmlab()


@pytest.mark.parametrize(
    ('installed', 'expected'),
    [
        (['mmsegmentation', 'mmdet'], ('mmsegmentation', 'mmdet')),
        (['onedl-mmsegmentation', 'onedl-mmdetection'], ('onedl-mmsegmentation', 'onedl-mmdetection')),
        (['onedl-mmsegmentation', 'mmdet'], ('onedl-mmsegmentation', 'mmdet')),
        # A checkout on PYTHONPATH: mmengine's own name stays.
        ([], ('mmsegmentation', 'mmdet')),
    ],
)
def test_configs_are_looked_up_in_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], expected: tuple[str, str]
) -> None:
    for module, upstream in (('mmseg', 'mmsegmentation'), ('mmdet', 'mmdet')):
        monkeypatch.setitem(MODULE2PACKAGE, module, upstream)
    pretend(monkeypatch, *installed)
    openmmlab.register_distributions()
    assert (MODULE2PACKAGE['mmseg'], MODULE2PACKAGE['mmdet']) == expected


def test_base_of_mmseg_is_found(tmp_path: Path) -> None:
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'mmseg::_base_/models/segformer_mit-b0.py'\n")
    assert Config.fromfile(config).model.backbone.type == 'MixVisionTransformer'


def test_nothing_of_openmmlab_is_imported_before_the_check() -> None:
    """Else a missing mmengine would end in Python's own error, which names neither stack."""
    source = Path(crack_plugin.__file__).read_text(encoding='utf-8')
    before = source[: source.index('openmmlab.require_openmmlab()')]
    assert 'mmengine' not in before and 'compat' not in before


@pytest.mark.parametrize(
    ('installed', 'command'),
    [('mmcv-lite', 'pip uninstall mmcv-lite'), ('onedl-mmcv', '--no-cache-dir onedl-mmcv==2.3.6')],
)
def test_missing_operator_is_had_from_the_same_stack(
    monkeypatch: pytest.MonkeyPatch, installed: str, command: str
) -> None:
    pretend(monkeypatch, installed)
    missing = compat._MissingOps('mmcv._ext')
    with pytest.raises(compat.MissingOperatorError, match=f'{installed} does not carry.*{command}'):
        missing.nms()
