"""Checks that the model's prompts and the dataset's classes speak of the same things."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.errors import ConfigError
from crack_plugin.hooks.run_state import unwrap


@HOOKS.register_module()
class PromptCheckHook(Hook):
    """Stop before train, val or test if a prompted model's ``prompts`` do not match the dataset's classes.

    Models without ``prompts`` (MMSeg's own) pass.

    Raises:
        ConfigError: The numbers of prompts and of foreground classes differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Check against the training set."""
        self._check(runner.model, runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Check against the validation set."""
        self._check(runner.model, runner.val_loop.dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check against the test set."""
        self._check(runner.model, runner.test_loop.dataloader.dataset)

    @staticmethod
    def _check(model: Any, dataset: object) -> None:
        model = unwrap(model)
        if isinstance(model, BaseTTAModel):
            model = unwrap(model.module)
        prompts = getattr(model, 'prompts', None)
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        if prompts is None or classes is None:
            return
        if len(classes) != len(prompts) + 1:
            raise ConfigError(
                f'model.prompts names {len(prompts)} foreground classes {list(prompts)}, the dataset has '
                f'{len(classes) - 1}: {list(classes[1:])} (after {classes[0]!r}). Give one prompt per class, in the '
                "dataset's order, in model.prompts, or choose the classes with the dataset's `classes`."
            )
