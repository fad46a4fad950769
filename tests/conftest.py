"""A tiny random SAM 3, small enough to run a step in milliseconds, a few pictures, and a config that joins them."""

import copy
import gc
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._utils import ExceptionWrapper

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.datasets.synthetic import write_dataset
from crack_plugin.visualization.seg_visualizer import ContiguousSegVisualizer

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'

TINY_SAM3: dict[str, Any] = {
    'vision_config': {
        'backbone_config': {
            'model_type': 'sam3_vit_model',
            'hidden_size': 32,
            'intermediate_size': 48,
            'num_hidden_layers': 2,
            'num_attention_heads': 2,
            'image_size': 56,
            'pretrain_image_size': 28,
            'patch_size': 14,
            'window_size': 2,
            'global_attn_indexes': [1],
        },
        'fpn_hidden_size': 16,
    },
    'text_config': {
        'model_type': 'clip_text_model',
        'vocab_size': 49408,
        'hidden_size': 16,
        'intermediate_size': 24,
        'projection_dim': 16,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'max_position_embeddings': 32,
        'hidden_act': 'gelu',
    },
    'geometry_encoder_config': {'hidden_size': 16, 'num_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 24},
    'detr_encoder_config': {'hidden_size': 16, 'num_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 24},
    'detr_decoder_config': {
        'hidden_size': 16,
        'num_layers': 1,
        'num_attention_heads': 2,
        'intermediate_size': 24,
        'num_queries': 4,
    },
    'mask_decoder_config': {'hidden_size': 16, 'num_attention_heads': 2},
    # Larger than SAM 3's own 0.02, or the logits of so few layers hardly depend on the picture.
    'initializer_range': 0.2,
}

TINY_LITE_TEXT: dict[str, Any] = {
    **TINY_SAM3,
    'model_type': 'sam3_lite_text',
    # RepMixer blocks first and last, as in the public S0, and its 77 positions: more than a prompt is padded to.
    'text_config': {
        'hidden_size': 16,
        'intermediate_size': 24,
        'projection_dim': 16,
        'num_hidden_layers': 3,
        'num_attention_heads': 2,
        'max_position_embeddings': 77,
        'layer_scale_init_value': 1.0,
    },
}
"""Overrides of ``Sam3LiteTextConfig``."""

RANDOM_PIPELINE = [
    {'type': 'LoadImageFromFile'},
    {'type': 'LoadYOLOPolygons'},
    {'type': 'RandomFlip', 'prob': 0.5},
    {'type': 'PhotoMetricDistortion'},
    {'type': 'PackSegInputs'},
]


class ScoreAs(Hook):
    """Gives each validation the score of its epoch, so that a test knows which is best."""

    priority = 'VERY_HIGH'

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        metrics['crack/IoU'] = self.scores[runner.epoch - 1]


def forget_visualizers() -> None:
    """mmengine keeps one visualizer of a name in a process, which goes on writing where its first run did."""
    for visualizer in ContiguousSegVisualizer.__mro__:
        if '_instance_dict' in vars(visualizer):
            visualizer._instance_dict.clear()


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections.

    mmengine collects whenever a dataset is opened, and would look through half a million objects of torch and
    transformers each time: 0.3 seconds.
    """
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_globals() -> None:
    """Runners leave default scope and visualizer behind; every test starts in MMSegmentation's scope, with none."""
    init_default_scope('mmseg')
    forget_visualizers()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The messages that go to mmengine's current logger."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def tiny_sam3() -> dict[str, Any]:
    """Overrides of ``Sam3Config`` for a random SAM 3 of 0.9 M parameters at 56 px."""
    return copy.deepcopy(TINY_SAM3)


@pytest.fixture
def tiny_lite_text() -> dict[str, Any]:
    """The same with the text encoder of SAM3-LiteText."""
    return copy.deepcopy(TINY_LITE_TEXT)


def tensor_on(device: str) -> torch.Tensor:
    """A tensor without values, on a device that need not be there."""
    # Where CUDA seems to be there, a fake tensor would start it.
    with patch.object(torch.cuda, 'is_available', return_value=False), FakeTensorMode():
        return torch.empty(1, device=device)


class FakeCuda:
    """Stands for ``torch.cuda`` of a machine with two GPUs: what is asked of which, and the state of each generator.

    Without an index a call is for the first GPU, as long as none is set.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.states = {0: torch.tensor(10), 1: torch.tensor(11)}

    def called(self, name: str) -> list[int]:
        """Indices of the GPUs of which ``name`` was called."""
        return [index for other, index in self.calls if other == name]

    def function(self, name: str, result: Any = None) -> Any:
        def call(device: Any = None) -> Any:
            self.calls.append((name, torch.device('cuda' if device is None else device).index or 0))
            return result

        return call

    def get_rng_state(self, device: int = 0) -> torch.Tensor:
        return self.states[device]

    def set_rng_state(self, state: torch.Tensor, device: int = 0) -> None:
        self.states[device] = state

    def manual_seed_all(self, seed: int) -> None:
        self.states = dict.fromkeys(self.states, torch.tensor(seed))


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """``torch.cuda`` that records instead of doing."""
    fake = FakeCuda()
    results = {
        'synchronize': None,
        'reset_peak_memory_stats': None,
        'max_memory_allocated': 5 * 2**20,
        'memory_allocated': 2**20,
        'get_device_name': 'Fake GPU',
    }
    for name, result in results.items():
        monkeypatch.setattr(torch.cuda, name, fake.function(name, result))
    for name in ('get_rng_state', 'set_rng_state', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    return fake


@pytest.fixture
def amp_on_cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of mmengine's wrapper with torch's scaler, which CPUs have as well."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    return {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU, and the GPU of a machine that has one: what a test asks of the one, it asks of the other."""
    if request.param == 'cuda':
        if not torch.cuda.is_available():
            pytest.skip('needs a CUDA GPU')
        # Or convolutions would round to 10 bits.
        monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    return request.param


@pytest.fixture(scope='session')
def crack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three validation pictures of 48 x 64 pixels, in Roboflow's layout."""
    folder = tmp_path_factory.mktemp('cracks') / 'export'
    write_dataset(folder, n_train=6, n_valid=3, size=(48, 64), negative_share=0.0)
    return folder


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_sam3: dict[str, Any], crack_folder: Path) -> Path:
    """The reference recipe on the tiny random model and data, in fp32 on the CPU, two epochs."""
    path = tmp_path / 'tiny.py'
    path.write_text(
        f"""
_base_ = {str(CONFIGS / 'sam3_lora_crack.py')!r}
model = dict(base={{'_delete_': True, **{tiny_sam3!r}}})
data_root = {str(crack_folder)!r}
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper')
train_cfg = dict(max_epochs=2)
work_dir = {str(tmp_path / 'work_dir')!r}
"""
    )
    return path


@pytest.fixture(scope='session')
def trained(crack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A config, and the same weights as checkpoint and as adapter folder."""
    folder = tmp_path_factory.mktemp('trained')
    config = folder / 'tiny.py'
    config.write_text(
        f"""
_base_ = {str(CONFIGS / 'sam3_lora_crack.py')!r}
model = dict(base={{'_delete_': True, **{TINY_SAM3!r}}})
data_root = {str(crack_folder)!r}
"""
    )
    from mmseg.apis import init_model  # makes mmseg importable: crack_plugin, above

    torch.manual_seed(0)
    model = init_model(str(config), device='cpu')
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    meta = {'dataset_meta': {'classes': ('background', 'crack'), 'palette': [[0, 0, 0], [255, 0, 0]]}}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, folder / 'weights.pth')
    model.save_adapter(folder / 'adapter')
    return {'config': config, 'checkpoint': folder / 'weights.pth', 'adapter': folder / 'adapter'}


@pytest.fixture
def images(crack_folder: Path, tmp_path: Path) -> Path:
    """A folder of three images, one in a subfolder."""
    folder = tmp_path / 'site'
    (folder / 'pier 2').mkdir(parents=True)
    sources = sorted((crack_folder / 'valid' / 'images').iterdir())
    for source, name in zip(sources, ('a', 'b', 'pier 2/c'), strict=True):
        shutil.copy(source, folder / f'{name}{source.suffix}')
    return folder


def run_tool(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script of ours or of an installed package, with what it prints."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, 'HF_HUB_OFFLINE': '1', **environment},
    )


def load_script(path: Path) -> ModuleType:
    """Import a script that is not part of the package."""
    spec = importlib.util.spec_from_file_location(f'script_{path.stem}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_in_worker(function: Callable[[], object]) -> None:
    """Call ``function`` as a DataLoader worker does, whose errors reach the main process as text."""
    try:
        function()
    except Exception:  # noqa: BLE001 - as torch does
        ExceptionWrapper(where='in DataLoader worker process 0').reraise()
