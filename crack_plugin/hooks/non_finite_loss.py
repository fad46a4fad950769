"""Stops a training, or skips the step, before a loss that is NaN or infinite reaches the weights."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from crack_plugin.errors import ConfigError, CrackPluginError
from crack_plugin.hooks.run_state import unwrap


class NonFiniteLossError(CrackPluginError, RuntimeError):
    """Loss or gradient became NaN or infinite; the message names the iteration and the images."""


class _StepSkippedError(Exception):
    """Leaves the optimizer's step from its pre-hook; never reaches a user."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop, or leave the iteration out, when the loss or its gradient is NaN or infinite.

    The weights stay as they were: the loss is checked before the backward pass, the gradients before the optimizer's
    step. Gradients under ``AmpOptimWrapper`` are left to its scaler: there an infinite one now and then is how the
    scale is found. All ranks decide together, and the message has the images of all.

    With gradient accumulation 'skip' also drops what had been accumulated since the last step.

    Args:
        on_nan: 'stop' ends the training with an error; 'skip' leaves the step out, with a warning in the log.

    Raises:
        ConfigError: ``on_nan`` is neither.
        NonFiniteLossError: In training, with 'stop'.
        PrecisionError: Before training: the model's precision asks for a gradient scaler, and there is none.
    """

    def __init__(self, on_nan: str = 'stop') -> None:
        if on_nan not in ('stop', 'skip'):
            raise ConfigError(f"NonFiniteLossHook: on_nan={on_nan!r}: choose 'stop' or 'skip'")
        self.on_nan = on_nan
        self._batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Put the checks between the loss and the weights."""
        wrapper = runner.optim_wrapper
        # A model under DDP is not asked for its own train_step, which would check the same.
        model = unwrap(runner.model)
        if hasattr(model, 'check_optim_wrapper'):
            model.check_optim_wrapper(wrapper)
        if not isinstance(wrapper, OptimWrapper):
            runner.logger.warning(f'NonFiniteLossHook cannot watch the optimizers of an {type(wrapper).__name__}')
            return
        # The one place between loss and step that all models, wrapped or not, pass.
        wrapper.update_params = self._checked_update(runner, wrapper, wrapper.update_params)
        if isinstance(wrapper, AmpOptimWrapper):
            return
        options = wrapper.clip_grad_kwargs
        if options and wrapper.clip_func is clip_grad_norm_ and not options.get('error_if_nonfinite'):
            # Between clipping, which has just computed and logged the norm, and the step.
            wrapper.optimizer.register_step_pre_hook(lambda *_: self._check_logged_norm(runner, wrapper))
        else:
            wrapper.step = self._checked_step(runner, wrapper, wrapper.step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember the batch, for its images' names."""
        self._batch = data_batch

    def _checked_update(
        self, runner: Runner, wrapper: OptimWrapper, update: Callable[..., None]
    ) -> Callable[..., None]:
        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            bad = ~torch.isfinite(loss.detach()).all()
            anywhere = bad.to(torch.uint8)
            all_reduce(anywhere, op='max')
            if not anywhere.item():
                try:
                    update(loss, *args, **kwargs)
                except _StepSkippedError:
                    wrapper.zero_grad()
                return
            self._report(runner, f'the loss is {loss.item()}' if bad else None)
            # The iteration counts for the accumulation of gradients: a backward pass that reaches no weight.
            wrapper.backward(loss.new_zeros((), requires_grad=True))
            wrapper.zero_grad()

        return update_params

    def _check_logged_norm(self, runner: Runner, wrapper: OptimWrapper) -> None:
        logged = wrapper.message_hub.log_scalars.get(f'train/{wrapper.grad_name}')
        # None: no parameter has had a gradient yet.
        if logged is not None and not math.isfinite(logged.current()):
            self._report(runner, 'the gradient is not finite')
            raise _StepSkippedError

    def _checked_step(self, runner: Runner, wrapper: OptimWrapper, step: Callable[..., None]) -> Callable[..., None]:
        # With its attributes, by which MMEngine's schedulers count steps.
        @wraps(step)
        def checked_step(**kwargs: Any) -> None:
            gradients = [p.grad for group in wrapper.param_groups for p in group['params'] if p.grad is not None]
            # The same on all ranks: gradients have been averaged over them.
            if bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
                step(**kwargs)
            else:
                self._report(runner, 'the gradient is not finite')

        return checked_step

    def _report(self, runner: Runner, what: str | None) -> None:
        """Stop or warn; ``what`` is wrong on this rank, None if it is wrong on others."""
        found = [rank for rank in all_gather_object((what, _images(self._batch))) if rank[0] is not None]
        images = ', '.join(name for _, names in found for name in names) or 'unknown images'
        where = f'iteration {runner.iter + 1} (epoch {runner.epoch + 1}): {found[0][0]} for the batch {images}'
        if self.on_nan == 'stop':
            raise NonFiniteLossError(
                f'{where}. The weights are as before this iteration, and the saved checkpoints are sound. Look at the '
                'images and labels; lower optim_wrapper.optimizer.lr; or leave such batches out: '
                '--cfg-options default_hooks.non_finite_loss.on_nan=skip. Then go on with --resume.'
            )
        runner.logger.warning(f'{where}: no step is taken')


def _images(batch: Any) -> list[str]:
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    return [str(sample.img_path) for sample in samples if hasattr(sample, 'img_path')]
