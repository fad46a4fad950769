"""Makes a resumed training end in the weights of an uninterrupted one."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from crack_plugin.errors import ConfigError

# Not 'val...': mmengine would print it among the validation's results.
VALIDATED_ITER = 'last_validated_iter'


@HOOKS.register_module()
class ReproducibilityHook(Hook):
    """Tie every random choice of training to where it happens, instead of to what was drawn before.

    Before each iteration Python, NumPy and torch are seeded from (seed, rank, iteration), and before each sample is
    loaded from (seed, epoch, index). mmengine saves no random state, so this is what lets ``--resume`` repeat the
    work after the last checkpoint to the same weights, bitwise on CPU. It also mends stock workers, which restart from
    the same seed every epoch and draw the same augmentations.

    On resume, a checkpoint from the middle of an epoch goes on behind the samples it has seen (through
    ``ResumableSampler``), and a validation that was due at the checkpoint and is not recorded in it runs first.

    Samples are seeded under ``EpochBasedTrainLoop``; ``IterBasedTrainLoop`` replays its data from the start instead.
    """

    # Last, so that the missing validation meets hooks that have been set up by their own before_train.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Seed samples from now on, and catch up on a validation."""
        self._training = True
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        dataset = runner.train_dataloader.dataset
        self._fetch = _SeededFetch(dataset, runner.seed)
        # torch's loader takes a batch through this method where a dataset has it, in workers too.
        dataset.__getitems__ = self._fetch
        if self._validation_missing(runner):
            runner.logger.info(f'The validation after epoch {runner.epoch} is not in the checkpoint: it runs first')
            runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Announce the epoch to the workers and skip what the checkpoint has seen."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        self._fetch.epoch.fill_(runner.epoch)
        loader = runner.train_dataloader
        seen = runner.iter - runner.epoch * len(loader)
        if hasattr(loader.sampler, 'start'):
            loader.sampler.start = seen * loader.batch_sampler.batch_size
        elif seen:
            raise ConfigError(
                f'the checkpoint is from the middle of epoch {runner.epoch + 1} ({seen} of {len(loader)} iterations '
                f'done), and {type(loader.sampler).__name__} cannot start there. Set '
                "train_dataloader.sampler.type='ResumableSampler', or resume from a checkpoint at the end of an epoch."
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the model's own randomness (dropout)."""
        seed(runner.seed, runner.rank, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Record the validation, so that a checkpoint saved by it (a new best) says it has been done."""
        # Outside training, asking the runner for its iteration would build the training set.
        if self._training:
            runner.message_hub.update_info(VALIDATED_ITER, runner.iter)

    @staticmethod
    def _validation_missing(runner: Runner) -> bool:
        loop, epoch = runner.train_loop, runner.epoch
        if runner.val_loop is None or runner.iter == 0 or runner.iter != epoch * len(runner.train_dataloader):
            return False
        due = epoch >= loop.val_begin and (epoch % loop.val_interval == 0 or epoch == loop.max_epochs)
        return due and runner.message_hub.runtime_info.get(VALIDATED_ITER) != runner.iter


class _SeededFetch:
    """Loads the samples of a batch, each after seeding from (seed, epoch, index)."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # In shared memory, because persistent workers keep their copy of the dataset over epochs.
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __call__(self, indices: list[int]) -> list[Any]:
        samples = []
        for index in indices:
            seed(self.seed, int(self.epoch), int(index))
            samples.append(self.dataset[index])
        return samples


def seed(*key: int) -> None:
    """Seed Python, NumPy and torch from a tuple of whole numbers."""
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002 - mmcv's and mmseg's transforms draw from the global state
    torch.manual_seed(int(words[2]))
