"""A wheel carries configs and tools where mim and `_base_ = 'crack_plugin::...'` look for them."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def site_packages(tmp_path_factory):
    """A folder with the package as pip would install it, built from a copy of the sources."""
    sources = tmp_path_factory.mktemp('sources')
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy2(ROOT / name, sources)
    for name in ('crack_plugin', 'configs', 'tools'):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns('.mim', '__pycache__'))
    folder = tmp_path_factory.mktemp('site')
    options = ['--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', folder]
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', *options, sources], check=True)
    (wheel,) = folder.glob('crack_plugin-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


@pytest.mark.slow
def test_wheel_carries_every_config_and_tool(site_packages):
    for name in ('configs', 'tools'):
        files = [path for path in (ROOT / name).rglob('*') if path.is_file() and '__pycache__' not in path.parts]
        expected = {path.relative_to(ROOT) for path in files}
        installed = site_packages / 'crack_plugin' / '.mim'
        assert {path.relative_to(installed) for path in (installed / name).rglob('*') if path.is_file()} == expected
    # With the embedded base, which the tiny config names
    assert Path('configs/sam3_tiny/model.safetensors') in {path.relative_to(installed) for path in installed.rglob('*')}
    assert (site_packages / 'crack_plugin' / '.mim' / 'model-index.yml').is_file()


@pytest.mark.slow
def test_config_builds_on_an_installed_one(site_packages, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'crack_plugin::_base_/../sam3_lora_crack.py'\nmodel = dict(lora=dict(r=16))\n")
    code = (
        'import crack_plugin, sys\n'
        'from mmengine.config import Config\n'
        'from mmengine.registry import VISUALIZERS\n'
        'from mmseg.registry import DATASETS\n'
        'cfg = Config.fromfile(sys.argv[1])\n'
        'cfg.train_dataloader.dataset.update(lazy_init=True, pipeline=[])\n'
        'VISUALIZERS.build(cfg.visualizer)\n'
        'print(crack_plugin.__file__, cfg.model.lora.r, type(DATASETS.build(cfg.train_dataloader.dataset)).__name__)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, config],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(site_packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    installed = site_packages / 'crack_plugin' / '__init__.py'
    assert result.stdout.splitlines()[-1] == f'{installed} 16 YOLOCrackDataset'
