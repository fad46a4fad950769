"""Mixed precision: mmengine's wrapper and torch's scaler, on the CPU and on a GPU."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from crack_plugin.hooks.history import read_history
from crack_plugin.models import SAM3TextLoRA


@pytest.fixture
def amp(device: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a training in mixed precision; on the CPU with the wrapper's check for a GPU taken out."""
    if device == 'cpu':
        monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
        monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    # Grows every second step, so that a step more or less shows in the state.
    scaler = {'init_scale': 2.0**10, 'growth_interval': 2}
    return {
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16',
        'optim_wrapper.loss_scale': scaler,
    }


class Overflow(Hook):
    """Makes a gradient of one iteration infinite, as fp16 does where the scale is too large; may stop the training."""

    def __init__(self, at: int, stop_before: int | None = None) -> None:
        self.at = at
        self.stop_before = stop_before
        self.handle: Any = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.stop_before:
            raise KeyboardInterrupt
        parameter = next(p for p in runner.model.parameters() if p.requires_grad)
        if runner.iter == self.at:
            self.handle = parameter.register_hook(lambda gradient: gradient + float('inf'))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.handle is not None:
            self.handle.remove()


def train(config: Path, work_dir: Path, hook: Hook | None = None, **options: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.randomness = {'seed': 1}
    cfg.merge_from_dict({'work_dir': str(work_dir), 'experiment_name': f'amp_{time.monotonic_ns()}', **options})
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    # Which is best is not known without validation.
    cfg.default_hooks.checkpoint.save_best = None
    runner = Runner.from_cfg(cfg)
    if hook is not None:
        runner.register_hook(hook)
    runner.train()
    return runner


def test_resume_takes_up_the_scaler(tiny_config: Path, tmp_path: Path, amp: dict[str, Any]) -> None:
    """With an overflow before the break: scale, growth and weights in the end are those of the whole training."""
    whole = train(tiny_config, tmp_path / 'whole', Overflow(at=1), **amp)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tmp_path / 'broken', Overflow(at=1, stop_before=3), **amp)
    saved = torch.load(tmp_path / 'broken' / 'epoch_1.pth', weights_only=False)
    states = [saved['optimizer']['loss_scaler']]
    resumed = train(tiny_config, tmp_path / 'broken', None, **amp, resume=True)
    states += [runner.optim_wrapper.loss_scaler.state_dict() for runner in (whole, resumed)]
    # Halved by the overflow of the second step, doubled by the third and fourth, and by the fifth and sixth.
    assert [(state['scale'], state['_growth_tracker']) for state in states] == [(2.0**9, 1), (2.0**11, 0), (2.0**11, 0)]
    assert states[1] == states[2] != states[0]
    own, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in expected.items())
    rows = [read_history(folder / 'history.json') for folder in (tmp_path / 'broken', tmp_path / 'whole')]
    assert rows[0][-1]['train_loss'] == rows[1][-1]['train_loss']


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_clipping_is_of_the_gradient_without_the_scale(
    tiny_sam3: dict, device: str, amp: dict[str, Any], dtype: torch.dtype
) -> None:
    """Of a scaled gradient nothing but noise would be left."""
    torch.manual_seed(0)
    model = SAM3TextLoRA(base=tiny_sam3, lora={'r': 2, 'target_modules': ['q_proj']}).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(p.shape, generator=generator).to(device) for p in trained]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    before = [p.detach().clone() for p in trained]
    wrapper = AmpOptimWrapper(
        dtype=dtype, loss_scale=2.0**12, optimizer=torch.optim.SGD(trained, lr=1.0), clip_grad={'max_norm': 0.5}
    )
    wrapper.update_params(sum((p * g).sum() for p, g in zip(trained, gradients, strict=True)))
    for parameter, old, gradient in zip(trained, before, gradients, strict=True):
        torch.testing.assert_close(old - parameter.detach(), gradient * 0.5 / norm, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('bad', [float('inf'), float('nan')])
def test_bad_gradients_cost_a_step_and_half_the_scale(device: str, amp: dict[str, Any], bad: float) -> None:
    layer = nn.Linear(2, 1).to(device)
    wrapper = AmpOptimWrapper(
        loss_scale={'init_scale': 2.0**10}, optimizer=torch.optim.AdamW(layer.parameters()), clip_grad={'max_norm': 1.0}
    )
    before = [p.detach().clone() for p in layer.parameters()]

    def loss(factor: float) -> Tensor:
        return (layer(torch.ones(1, 2, device=device)) * factor).sum()

    wrapper.update_params(loss(bad))
    assert all(torch.equal(p, old) for p, old in zip(layer.parameters(), before, strict=True))
    assert wrapper.loss_scaler.get_scale() == 2.0**9
    wrapper.update_params(loss(1.0))
    assert all((p != old).all() for p, old in zip(layer.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in layer.parameters())
