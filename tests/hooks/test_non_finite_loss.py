"""A loss or a gradient that is no number does not reach the weights."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.hooks.non_finite_loss import NonFiniteLossError, NonFiniteLossHook
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.precision import PrecisionError


class Watch(Hook):
    """The weights before each iteration and after the last, and the images of each."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []
        self.images: list[list[str]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._note(runner)
        self.images.append([sample.img_path for sample in data_batch['data_samples']])

    def after_train(self, runner: Runner) -> None:
        self._note(runner)

    def moved(self) -> list[bool]:
        """By iteration: whether it changed anything."""
        steps = zip(self.weights[:-1], self.weights[1:], strict=True)
        return [not all(torch.equal(a, b) for a, b in zip(*step, strict=True)) for step in steps]

    def _note(self, runner: Runner) -> None:
        self.weights.append([p.detach().clone() for p in runner.model.parameters() if p.requires_grad])


def nan_loss(loss: Tensor) -> Tensor:
    return loss * float('nan')


def infinite_gradient(loss: Tensor) -> Tensor:
    """The same value; its gradient is that of the square root at 0."""
    return loss + (loss - loss.detach()).abs().sqrt()


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something to the loss of the nth iteration."""

    def at(iteration: int, how: Callable[[Tensor], Tensor]) -> None:
        loss, calls = SAM3TextLoRA.loss, []

        def spoilt(self: SAM3TextLoRA, *args: Any) -> dict[str, Tensor]:
            calls.append(None)
            losses = loss(self, *args)
            if len(calls) == iteration:
                losses['loss_dice'] = how(losses['loss_dice'])
            return losses

        monkeypatch.setattr(SAM3TextLoRA, 'loss', spoilt)

    return at


def make_runner(config: Path, **options: Any) -> tuple[Runner, Watch]:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'experiment_name': f'nan_{time.monotonic_ns()}', **options})
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner, watch = Runner.from_cfg(cfg), Watch()
    runner.register_hook(watch)
    return runner, watch


SKIP = {'default_hooks.non_finite_loss.on_nan': 'skip'}


@pytest.mark.parametrize(
    ('how', 'what'), [(nan_loss, 'the loss is nan'), (infinite_gradient, 'the gradient is not finite')]
)
def test_stop_names_iteration_and_images(
    tiny_config: Path, spoil: Callable[..., None], how: Callable[..., Tensor], what: str
) -> None:
    spoil(5, how)
    runner, watch = make_runner(tiny_config)
    with pytest.raises(NonFiniteLossError) as raised:
        runner.train()
    said = str(raised.value)
    assert said.startswith(f'iteration 5 (epoch 2): {what} for the batch {", ".join(watch.images[4])}.')
    assert '--resume' in said and 'default_hooks.non_finite_loss.on_nan=skip' in said
    trained = [parameter for parameter in runner.model.parameters() if parameter.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(trained, watch.weights[4], strict=True))


@pytest.mark.parametrize('how', [nan_loss, infinite_gradient])
def test_skip_leaves_the_step_out(tiny_config: Path, spoil: Callable[..., None], how: Callable[..., Tensor]) -> None:
    spoil(2, how)
    runner, watch = make_runner(tiny_config, **SKIP)
    runner.train()
    assert watch.moved() == [True, False, True, True, True, True]
    assert all(torch.isfinite(value).all() for value in watch.weights[-1])


@pytest.mark.parametrize(
    'clip',
    [None, pytest.param({'_delete_': True, 'type': 'value', 'clip_value': 1.0}, marks=pytest.mark.slow)],
    ids=['without clipping', 'by value'],
)
def test_infinite_gradient_is_found_however_it_is_clipped(
    tiny_config: Path, spoil: Callable[..., None], clip: dict[str, Any] | None
) -> None:
    spoil(2, infinite_gradient)
    runner, watch = make_runner(tiny_config, **SKIP, **{'optim_wrapper.clip_grad': clip})
    runner.train()
    assert watch.moved() == [True, False, True, True, True, True]


@pytest.mark.slow
def test_skip_keeps_accumulation_in_step(tiny_config: Path, spoil: Callable[..., None]) -> None:
    """Of pairs of iterations: a bad first one leaves the second's step, a bad second one none."""
    options = {**SKIP, 'optim_wrapper.accumulative_counts': 2}
    for bad, expected in ((3, [False, True, False, True, False, True]), (4, [False, True, False, False, False, True])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SAM3TextLoRA, 'loss', SAM3TextLoRA.loss)
            spoil(bad, nan_loss)
            runner, watch = make_runner(tiny_config, **options)
            runner.train()
        assert watch.moved() == expected


def test_infinite_gradients_of_fp16_are_the_scalers(
    tiny_config: Path, spoil: Callable[..., None], amp_on_cpu: dict[str, Any]
) -> None:
    spoil(2, infinite_gradient)
    runner, watch = make_runner(tiny_config, **amp_on_cpu)
    runner.train()
    assert watch.moved() == [True, False, True, True, True, True]
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**15


@pytest.mark.parametrize('on_nan', ['stop', pytest.param('skip', marks=pytest.mark.slow)])
def test_nan_loss_of_fp16_is_not(
    tiny_config: Path, spoil: Callable[..., None], amp_on_cpu: dict[str, Any], on_nan: str
) -> None:
    spoil(2, nan_loss)
    runner, watch = make_runner(tiny_config, **amp_on_cpu, **{'default_hooks.non_finite_loss.on_nan': on_nan})
    if on_nan == 'stop':
        with pytest.raises(NonFiniteLossError, match=r'iteration 2 \(epoch 1\): the loss is nan'):
            runner.train()
        return
    runner.train()
    assert watch.moved() == [True, False, True, True, True, True]
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**16


@pytest.mark.slow
def test_sound_training_is_not_changed(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, watch = make_runner(tiny_config)
    watched.train()
    monkeypatch.setattr(NonFiniteLossHook, 'before_train', lambda self, runner: None)
    plain, plain_watch = make_runner(tiny_config)
    plain.train()
    assert all(torch.equal(a, b) for a, b in zip(watch.weights[-1], plain_watch.weights[-1], strict=True))


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 'stop' or 'skip'"):
        NonFiniteLossHook('ignore')


LOW = {'model.dtype': 'float16', 'model.lora.lora_dropout': 0.0}


def test_float16_without_a_scaler_is_refused_before_the_first_step(tiny_config: Path) -> None:
    runner, watch = make_runner(tiny_config, **LOW)
    with pytest.raises(PrecisionError, match=r'--cfg-options .*optim_wrapper.type=AmpOptimWrapper'):
        runner.train()
    assert not watch.weights


def test_so_it_is_by_the_model_itself(tiny_sam3: dict) -> None:
    """Under a runner without our hooks."""
    model = SAM3TextLoRA(base=tiny_sam3, dtype='float16')
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with pytest.raises(PrecisionError, match='OptimWrapper'):
        model.train_step({}, OptimWrapper(torch.optim.SGD(trained, lr=0.1)))


def test_so_it_is_with_a_base_saved_in_float16(tiny_sam3: dict, tmp_path: Path) -> None:
    Sam3Model(Sam3Config(**tiny_sam3)).half().save_pretrained(tmp_path)
    model = SAM3TextLoRA(base=str(tmp_path))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with pytest.raises(PrecisionError, match='OptimWrapper'):
        model.train_step({}, OptimWrapper(torch.optim.SGD(trained, lr=0.1)))


def test_and_under_a_wrapper_with_a_train_step_of_its_own(tiny_sam3: dict) -> None:
    model = SAM3TextLoRA(base=tiny_sam3, dtype='float16')
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    runner = SimpleNamespace(
        model=torch.nn.DataParallel(model), optim_wrapper=OptimWrapper(torch.optim.SGD(trained, lr=0.1))
    )
    with pytest.raises(PrecisionError):
        NonFiniteLossHook().before_train(runner)


@pytest.mark.parametrize(
    ('loss_scale', 'accepted'), [('dynamic', True), (512.0, True), (1.0, False), ({'enabled': False}, False)]
)
def test_float16_with_a_scaler_that_scales(tiny_sam3: dict, amp_on_cpu: dict, loss_scale: Any, accepted: bool) -> None:
    model = SAM3TextLoRA(base=tiny_sam3, dtype='float16')
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = AmpOptimWrapper(loss_scale=loss_scale, optimizer=torch.optim.SGD(trained, lr=0.1))
    if accepted:
        model.check_optim_wrapper(wrapper)
    else:
        with pytest.raises(PrecisionError):
            model.check_optim_wrapper(wrapper)


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_other_precisions_need_no_scaler(tiny_sam3: dict, dtype: str | None) -> None:
    model = SAM3TextLoRA(base=tiny_sam3, dtype=dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.check_optim_wrapper(OptimWrapper(torch.optim.SGD(trained, lr=0.1)))
