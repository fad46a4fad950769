"""Scores and costs of one model."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, FakeCuda
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from crack_plugin.comparison import cost as costs
from crack_plugin.comparison import measure as measuring
from crack_plugin.comparison.cost import count_flop, measure_cost
from crack_plugin.comparison.measure import Measurement, build_model, measure
from crack_plugin.comparison.settings import Settings


def test_measures_what_a_test_measures(tiny_config: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(tiny_config)
    tested = Runner.from_cfg(cfg).test()
    measure(cfg, None, tmp_path, 'cpu', shown=2)
    measured = Measurement.read(tmp_path)
    scores = measured.statistics.summary()
    for name in ('IoU', 'Dice', 'Precision', 'Recall', 'dIoU', 'ODS', 'OIS', 'clIoU', 'clDice'):
        assert scores[name] == pytest.approx(tested[f'crack/{name}']), name
    assert 100 * scores['mIoU'] == pytest.approx(tested['mIoU'], abs=0.005)
    assert measured.images_seen is None
    assert measured.shown == [0, 2]
    assert [Path(image).name for image in measured.images] == sorted(Path(image).name for image in measured.images)
    assert measured.truth(0).shape == measured.prediction(0).shape == (48, 64)
    assert set(measured.truth(2).flat) == {0, 1}
    # the pictures are those that were scored
    intersection = ((measured.truth(2) == 1) & (measured.prediction(2) == 1)).sum()
    assert measured.statistics.areas[2, 0, 1] == intersection


def test_costs_of_a_stock_model(crack_folder: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'benchmark' / 'unet_small.py')
    cfg = Settings(data_root=str(crack_folder), image_size=64, pretrained=False).apply(cfg)
    measure(cfg, None, tmp_path / '64', 'cpu', shown=0)
    cost = Measurement.read(tmp_path / '64').cost
    assert cost.input_size == [64, 64]
    assert cost.parameters == cost.trainable > 1e6
    # four bytes a parameter, and batch normalisation's statistics
    assert 4 * cost.parameters < 1e6 * cost.weights_mb < 4.1 * cost.parameters
    assert cost.images_per_second > 0
    # Python and torch are in it
    assert cost.peak_memory_mb > 100
    cfg = Settings(image_size=128).apply(cfg)
    measure(cfg, None, tmp_path / '128', 'cpu', shown=0)
    assert Measurement.read(tmp_path / '128').cost.tflop == pytest.approx(4 * cost.tflop, rel=0.02)


def test_a_checkpoint_that_does_not_fit_is_refused(crack_folder: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'benchmark' / 'unet_small.py')
    cfg = Settings(data_root=str(crack_folder), image_size=64, pretrained=False).apply(cfg)
    torch.save({'state_dict': {'decode_head.conv_seg.weight': torch.zeros(2, 16, 1, 1)}}, tmp_path / 'other.pth')
    with pytest.raises(RuntimeError, match='missing keys in source state_dict'):
        measure(cfg, str(tmp_path / 'other.pth'), tmp_path, 'cpu', shown=0)


def test_every_kind_of_attention_is_counted() -> None:
    """Fused kernels of attention are not known to torch's counter on every device."""
    length, width = 10, 8
    attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True).eval()
    tokens = torch.rand(1, length, width)
    projections = 4 * 2 * length * width * width
    products = 2 * 2 * length * length * width
    with torch.no_grad():
        assert count_flop(lambda: attention(tokens, tokens, tokens, need_weights=False)) == projections + products
    heads = torch.rand(1, 2, length, width // 2)
    assert count_flop(lambda: F.scaled_dot_product_attention(heads, heads, heads)) == products


@pytest.mark.parametrize('target', ['blocks', pytest.param('path', marks=pytest.mark.slow)])
def test_compiled_models_have_the_operations_of_plain_ones(tiny_config: Path, tmp_path: Path, target: str) -> None:
    """``fullgraph=True`` raises where a counter looks on, and generated code shows a counter no operation."""
    cfg = Config.fromfile(tiny_config)
    measure(cfg, None, tmp_path / 'plain', 'cpu', shown=0)
    torch.compiler.reset()
    counter = CompileCounter()
    cfg.model.compile = {'target': target, 'backend': counter}
    measure(cfg, None, tmp_path / 'compiled', 'cpu', shown=0)
    torch.compiler.reset()
    plain, compiled = (Measurement.read(tmp_path / name).cost for name in ('plain', 'compiled'))
    assert compiled.tflop == plain.tflop > 0
    # What was timed ran compiled.
    assert counter.frame_count > 0


@pytest.mark.slow
def test_compiling_is_not_timed(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its memory the prediction's."""
    torch.compiler.reset()
    counter = CompileCounter()
    cfg = Config.fromfile(tiny_config)
    cfg.model.compile = {'backend': counter}
    model, _ = build_model(cfg, None, 'cpu')
    compiled = []
    monkeypatch.setattr(costs, 'reset_peak_memory', lambda device: compiled.append(counter.frame_count) or 'process')
    measure_cost(model, measuring._test_loader(cfg), cfg, 'cpu')
    torch.compiler.reset()
    assert compiled == [counter.frame_count] != [0]


def test_memory_is_that_of_the_device_asked_for(tiny_config: Path, fake_cuda: FakeCuda) -> None:
    cfg = Config.fromfile(tiny_config)
    model, _ = build_model(cfg, None, 'cpu')
    cost = measure_cost(model, measuring._test_loader(cfg), cfg, 'cuda:1')
    assert cost.peak_memory_mb == 5
    for name in ('reset_peak_memory_stats', 'max_memory_allocated', 'get_device_name'):
        assert fake_cuda.called(name) == [1], name
