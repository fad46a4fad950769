"""A wheel carries configs and tools where mim and `_base_ = 'crack_plugin::...'` look for them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from distutils.core import run_setup
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import load_script
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from crack_plugin.datasets.synthetic import draw
from crack_plugin.openmmlab import DISTRIBUTIONS
from crack_plugin.version import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def requirements() -> list[Requirement]:
    """What ``setup.py`` asks for, extras included; of the development tools any version will do."""
    distribution = run_setup(str(ROOT / 'setup.py'), stop_after='init')
    texts = {*distribution.install_requires, *(text for some in distribution.extras_require.values() for text in some)}
    tools = {'hypothesis', 'mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff'}
    return [requirement for requirement in map(Requirement, sorted(texts)) if requirement.name not in tools]


def oldest(requirement: Requirement) -> str:
    """The oldest version that is allowed."""
    (bound,) = (specifier.version for specifier in requirement.specifier if specifier.operator == '>=')
    return bound


def test_tested_versions_are_allowed(requirements: list[Requirement]) -> None:
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    tested = dict(line.split('==') for line in lines if not line.startswith('#'))
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    for requirement in requirements:
        assert Version(oldest(requirement)) in requirement.specifier
        # mmcv-lite stands for mmcv
        if requirement.name != 'mmcv':
            assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), requirement


def test_installing_the_core_touches_no_openmmlab() -> None:
    """Of either stack: the one would be laid over the other."""
    distribution = run_setup(str(ROOT / 'setup.py'), stop_after='init')
    stacks = {name for names in DISTRIBUTIONS.values() for name in names}
    assert not stacks & {Requirement(text).name for text in distribution.install_requires}
    by_extra = {
        extra: {Requirement(text).name for text in texts} & stacks
        for extra, texts in distribution.extras_require.items()
    }
    assert by_extra['openmmlab'] == {'mmengine', 'mmsegmentation'}
    assert by_extra['onedl'] == {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'}
    assert not by_extra['dev']


def test_uv_and_pip_take_the_same_versions() -> None:
    text, constraints = (ROOT / 'pyproject.toml').read_text(), (ROOT / 'constraints.txt').read_text()
    pins = [line for line in constraints.splitlines() if not line.startswith('#')]
    taken = tomllib.loads(text)['tool']['uv']['constraint-dependencies']
    assert taken == pins, 'make pins'

    changed = load_script(ROOT / 'benchmarks' / 'pins.py').with_pins(text, f'# more\nnew==1.0\n{constraints}')
    assert tomllib.loads(changed)['tool']['uv']['constraint-dependencies'] == ['new==1.0', *pins]


def test_uv_sync_installs_what_make_install_does() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    (everything,) = map(Requirement, project['dependency-groups']['dev'])
    (extras,) = re.findall(r'^\textras=([\w,]+); ', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert everything.extras == set(extras.split(','))


def test_tested_versions_fit_together() -> None:
    """No extra needs another version than the one that all are tested with: pip would look for older packages."""
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    tested = {
        canonicalize_name(name): version for name, _, version in (line.partition('==') for line in lines) if version
    }
    differing = []
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata['Name'])
        if tested.get(name) != distribution.version:
            # Another version than the tested one is installed, and what that one needs is not known.
            continue
        for requirement in map(Requirement, distribution.requires or ()):
            version = tested.get(canonicalize_name(requirement.name))
            applies = requirement.marker is None or requirement.marker.evaluate({'extra': ''})
            if version and applies and not requirement.specifier.contains(version, prereleases=True):
                differing.append(f'{name} {distribution.version} needs {requirement}, tested is {version}')
    assert not differing


def test_pre_commit_runs_the_ruff_of_make_lint() -> None:
    (hooks,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert hooks['repo'].endswith('/ruff-pre-commit')
    assert f'ruff=={hooks["rev"].removeprefix("v")}' in (ROOT / 'constraints.txt').read_text().splitlines()
    # `make lint` checks the style and the formatting.
    assert {hook['id'] for hook in hooks['hooks']} == {'ruff-check', 'ruff-format'}


def test_workflow_runs_pythons_that_are_allowed() -> None:
    """The oldest and the newest of those that setup.py names."""
    distribution = run_setup(str(ROOT / 'setup.py'), stop_after='init')
    named = [text.rpartition(' ')[2] for text in distribution.get_classifiers() if re.search(r':: 3\.\d+$', text)]
    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'test.yml').read_text())
    assert workflow['jobs']['test']['strategy']['matrix']['python'] == [named[0], named[-1]]
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    allowed = SpecifierSet(project['requires-python'])
    assert all(version in allowed for version in named)


def test_cited_version_is_the_released_one() -> None:
    """Which CITATION.cff and the newest numbered heading of the changelog name."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    (newest, *_) = re.findall(r'^## (\d[\w.]*)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest == __version__


def test_oldest_versions_are_those_of_make_and_readme(requirements: list[Requirement]) -> None:
    matrix = load_script(ROOT / 'benchmarks' / 'matrix.py')
    assert matrix.constraints('oldest') == sorted({f'{item.name}=={oldest(item)}' for item in requirements})

    readme = (ROOT / 'README.md').read_text()
    wanted = readme[readme.index('Wanted are') : readme.index('; pip upgrades')]
    bounds = {item.name: oldest(item) for item in requirements}
    named = re.findall(r'([a-z-]+) (\d[\d.]*\d)', wanted)
    assert {'torch', 'transformers', 'peft', 'numpy', 'opencv-python', 'wandb', 'mmcv'} < dict(named).keys()
    for name, version in named:
        assert f'{bounds[name]}.'.startswith(f'{version}.'), name


@pytest.fixture(scope='module')
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it: sources -> sdist -> wheel -> folder, as a release goes."""
    sources = tmp_path_factory.mktemp('sources')
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy2(ROOT / name, sources)
    for name in ('crack_plugin', 'configs', 'tools'):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns('.mim', '__pycache__'))
    dist, folder = tmp_path_factory.mktemp('dist'), tmp_path_factory.mktemp('site')
    build_sdist = 'import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])'
    run([sys.executable, '-c', build_sdist, dist], cwd=sources)
    shutil.rmtree(sources)  # what comes now has the archive alone
    (sdist,) = dist.glob('crack_plugin-*.tar.gz')
    pip = [sys.executable, '-m', 'pip', '--quiet']
    offline = ['--no-deps', '--no-index']
    run([*pip, 'wheel', *offline, '--no-build-isolation', '--wheel-dir', dist, sdist], cwd=dist)
    (wheel,) = dist.glob('crack_plugin-*.whl')
    run([*pip, 'install', *offline, '--target', folder, wheel], cwd=dist)
    return folder


def run(command: list[str | Path], cwd: Path, **environment: str) -> str:
    """Run a command that has to succeed; what it prints."""
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_of(root: Path, folder: str) -> set[Path]:
    """All files below a folder, relative to ``root``, but for what Python compiled."""
    paths = [path for path in (root / folder).rglob('*') if path.is_file() and path.parent.name != '__pycache__']
    return {path.relative_to(root) for path in paths}


@pytest.mark.slow
def test_wheel_carries_every_config_and_tool(site_packages: Path) -> None:
    installed = site_packages / 'crack_plugin' / '.mim'
    for name in ('configs', 'tools'):
        assert files_of(installed, name) == files_of(ROOT, name)
    # With the embedded base, which the tiny config names
    assert (installed / 'configs' / 'sam3_tiny' / 'model.safetensors').is_file()
    assert (installed / 'model-index.yml').is_file()


@pytest.mark.slow
def test_config_builds_on_an_installed_one(site_packages: Path, tmp_path: Path) -> None:
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
    printed = run([sys.executable, '-c', code, config], cwd=tmp_path, PYTHONPATH=str(site_packages))
    installed = site_packages / 'crack_plugin' / '__init__.py'
    assert printed.splitlines()[-1] == f'{installed} 16 YOLOCrackDataset'


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    """A folder far from the checkout, with nothing but a photograph of a crack and its mask."""
    drawn = draw(np.random.default_rng(0), (336, 336))
    folder = tmp_path / 'empty'
    folder.mkdir()
    cv2.imwrite(str(folder / 'photo.png'), drawn.image)
    cv2.imwrite(str(folder / 'truth.png'), drawn.mask)
    return folder


def iou_with_truth(mask: np.ndarray, folder: Path) -> float:
    crack = cv2.imread(str(folder / 'truth.png'), cv2.IMREAD_UNCHANGED) > 0
    return (mask & crack).sum() / (mask | crack).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('command', 'config'),
    [
        ('crack_plugin/.mim/tools/predict.py', 'mine.py'),
        # The command for who has no checkout, and a config of the package by its name
        ('bin/crack-predict', 'sam3_tiny_lora_crack.py'),
    ],
)
def test_installed_package_predicts_in_an_empty_folder(
    site_packages: Path, empty_folder: Path, command: str, config: str
) -> None:
    """With the embedded base, which came along through every step."""
    (empty_folder / 'mine.py').write_text("_base_ = 'crack_plugin::_base_/../sam3_tiny_lora_crack.py'\n")
    options = ['photo.png', '--config', config, '--out', 'out', '--device', 'cpu']
    program = [sys.executable, site_packages / command]
    run([*program, *options], cwd=empty_folder, PYTHONPATH=str(site_packages), HF_HUB_OFFLINE='1')
    mask = cv2.imread(str(empty_folder / 'out' / 'masks' / 'photo.png'), cv2.IMREAD_UNCHANGED) > 0
    assert iou_with_truth(mask, empty_folder) > 0.3


@pytest.mark.slow
def test_installed_package_serves_its_page(site_packages: Path, empty_folder: Path) -> None:
    """By its command, with the tiny SAM 3 and all files that the browser asks for."""
    program = [sys.executable, str(site_packages / 'bin' / 'crack-app'), '--port', '0', '--device', 'cpu']
    environment = os.environ | {'PYTHONPATH': str(site_packages), 'HF_HUB_OFFLINE': '1', 'TMPDIR': str(empty_folder)}
    with subprocess.Popen(program, cwd=empty_folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            opened = next(line for line in process.stdout if line.startswith('Open http://'))
            address = opened.split()[1]
            for file in (ROOT / 'crack_plugin' / 'app' / 'static-files').iterdir():
                with urllib.request.urlopen(f'{address}/static/{file.name}') as answer:
                    assert answer.read() == file.read_bytes()
            with urllib.request.urlopen(address) as answer:
                assert b'<h1>Find cracks</h1>' in answer.read()
        finally:
            process.terminate()


@pytest.mark.slow
def test_installed_package_predicts_from_python(site_packages: Path, empty_folder: Path) -> None:
    """An installed config by its name, and its file where it was installed."""
    code = (
        'import sys\n'
        'import numpy as np\n'
        'from pathlib import Path\n'
        'from crack_plugin.prediction import Predictor, predictor\n'
        'installed = Path(predictor.__file__).parents[1]\n'
        "name = 'sam3_tiny_zeroshot_crack.py'\n"
        "configs = [f'crack_plugin::_base_/../{name}', installed / '.mim' / 'configs' / name]\n"
        "first, second = (Predictor(config, device='cpu')('photo.png') for config in configs)\n"
        'assert (first.labels == second.labels).all()\n'
        "np.savez('prediction.npz', labels=first.labels, probabilities=first.probabilities)\n"
        'print(installed, *first.class_names)\n'
    )
    environment = {'PYTHONPATH': str(site_packages), 'HF_HUB_OFFLINE': '1'}
    printed = run([sys.executable, '-c', code], cwd=empty_folder, **environment)
    assert printed.splitlines()[-1] == f'{site_packages / "crack_plugin"} crack'
    found = np.load(empty_folder / 'prediction.npz')
    assert (found['labels'].dtype, found['labels'].shape) == (np.uint8, (336, 336))
    assert (found['probabilities'].dtype, found['probabilities'].shape) == (np.float32, (1, 336, 336))
    np.testing.assert_array_equal(found['labels'] == 1, found['probabilities'][0] > 0.4)
    assert iou_with_truth(found['labels'] == 1, empty_folder) > 0.3
