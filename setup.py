"""Build script: dependencies, and the `.mim` folder that makes configs and tools part of an installation.

OpenMMLab's `mim train PACKAGE CONFIG` and `_base_ = 'PACKAGE::CONFIG'` look for `PACKAGE/.mim/{configs,tools}`.
A wheel carries copies there, an editable installation links to the checkout.
"""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'crack_plugin'
# Lower bounds, here and below, are the oldest versions that the tests pass with, all at once: `make test-oldest`.
# albumentations brings opencv-python-headless, which fills the same folder as opencv-python: of the same version, both
# hold the same files but for the windows of cv2.imshow.
# The two OpenMMLab stacks fill the same folders (mmengine, mmcv, mmseg): no environment may have both, and so the core
# requires neither. mmcv is apart, see below: mmcv and mmcv-lite both provide the module `mmcv`.
OPENMMLAB = [
    'mmengine>=0.10.7,<0.11',
    'mmsegmentation>=1.2.2,<1.3',
    # mmengine imports pkg_resources, which setuptools 81 dropped.
    'setuptools>=70.0.0,<81',
]
ONEDL = ['onedl-mmengine>=0.10.12,<0.11', 'onedl-mmcv>=2.3.6,<2.4', 'onedl-mmsegmentation>=1.4.2,<1.5']
AUGMENTATION = ['albumentations>=2.0.5,<3', 'opencv-python-headless>=4.13.0.90']
COCO = ['pycocotools>=2.0.8']
GEO = ['rasterio>=1.4.0', 'pyogrio>=0.9.0', 'shapely>=2.1.0']
HEIF = ['pillow-heif>=1.8.1']
APP = ['starlette>=0.49.1', 'uvicorn>=0.35.0']
EXPORT = ['onnx>=1.18.0', 'onnxruntime>=1.22.0', 'onnxscript>=0.7.0']
# Tools with a command of their own, for who has no checkout: functions of `crack_plugin/__main__.py`.
CONSOLE_TOOLS = ('train', 'test', 'predict', 'report', 'check', 'app')
MIM_CONTENT = ('configs', 'tools', 'model-index.yml')


class build_py_with_mim(build_py):
    """``build_py`` that also fills ``crack_plugin/.mim``."""

    def run(self) -> None:
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / PACKAGE / '.mim'
        # What an earlier build left is stale.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_CONTENT:
            source, target = ROOT / name, mim / name
            if editable:
                try:
                    target.symlink_to(Path('..', '..', name))
                except OSError:
                    # Windows, but for administrators and its developer mode: a copy, as of the day of installation.
                    if os.name != 'nt':
                        raise
                    (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
            elif source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '.*_cache'))
            else:
                shutil.copy2(source, target)


setup(
    name=PACKAGE,
    version=runpy.run_path(str(ROOT / PACKAGE / 'version.py'))['__version__'],
    description='SAM 3 with LoRA for text-prompted crack segmentation, as a plugin for MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    # Whoever publishes it adds Source and Issues: the repository has no public address yet.
    project_urls={
        'SAM 3': 'https://huggingface.co/facebook/sam3',
        'MMSegmentation': 'https://github.com/open-mmlab/mmsegmentation',
    },
    keywords='crack segmentation, SAM 3, LoRA, MMSegmentation, structural inspection',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    include_package_data=True,
    zip_safe=False,
    cmdclass={'build_py': build_py_with_mim},
    entry_points={'console_scripts': [f'crack-{tool} = {PACKAGE}.__main__:{tool}' for tool in CONSOLE_TOOLS]},
    install_requires=[
        'torch>=2.8.0',
        'transformers>=5.17.0,<6',
        # Older ones know no `kasa_config`; before 0.20 they import the module that an adapter's `megatron_core` names.
        'peft>=0.21.0',
        'safetensors>=0.8.0',
        'wandb>=0.31.0',
        'numpy>=2.0.0',
        # Older ones leave WebP photographs unturned, whatever their EXIF says.
        'opencv-python>=4.13.0.90',
        'scikit-image>=0.24.0',
        'scipy>=1.13.0',
        'matplotlib>=3.9.0',
        # Older ones write no AVIF, which the tests hand over as a format that is not read.
        'pillow>=11.3.0',
        'prettytable>=3.12.0',
        'imagehash>=4.3.1',
        'tifffile>=2024.6.18',
        'tqdm>=4.66.3',
        # For the peak of memory on Windows; peft brings it everywhere.
        'psutil>=6.0.0',
        'pyyaml>=6.0.1',
        # mmsegmentation imports these two without declaring them.
        'ftfy>=6.2.0',
        'regex>=2025.10.22',
    ],
    extras_require={
        # OpenMMLab's own releases; leaves the installed mmcv alone.
        'openmmlab': OPENMMLAB,
        # The same for a new environment: needs no compiler.
        'lite': [*OPENMMLAB, 'mmcv-lite>=2.1.0,<2.2'],
        # The same for models that use mmcv's compiled operators.
        'full': [*OPENMMLAB, 'mmcv>=2.1.0,<2.2'],
        # The maintained forks of them.
        'onedl': ONEDL,
        # For tools/convert_coco_to_yolo.py.
        'coco': COCO,
        # For configs/sam3_lora_crack_aug.py.
        'aug': AUGMENTATION,
        # For georeferenced photographs, and cracks as GeoPackage.
        'geo': GEO,
        # For HEIC photographs, which are read wherever it is installed.
        'heif': HEIF,
        # For tools/app.py.
        'app': APP,
        # For the tests of its page in a browser.
        'browser': ['playwright>=1.65.0'],
        # For tools/export.py; onnxscript is what torch.onnx.export works with.
        'export': EXPORT,
        'dev': [
            *APP,
            *AUGMENTATION,
            *COCO,
            *EXPORT,
            *GEO,
            'hypothesis',
            'mypy',
            'pytest',
            'pytest-timeout',
            'pytest-xdist',
            'ruff',
        ],
        # For configs/benchmark/mask2former_r50.py.
        'mask2former': ['mmdet>=3.3.0,<3.4'],
    },
)
