"""Adapters in PEFT's format beside MMEngine's checkpoints."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.checkpoints import load_from_local
from crack_plugin.errors import ConfigError, UnsuitableModelError
from crack_plugin.files import LEFTOVER, write_atomically
from crack_plugin.hooks.run_state import AFTER_CHECKPOINT_HOOK, best_scores, remove_older, unwrap

RECORD = 'checkpoint.json'


@HOOKS.register_module()
class AdapterCheckpointHook(Hook):
    """Save PEFT adapter folders whenever ``CheckpointHook`` would save a checkpoint, and for its best one.

    ``adapters/epoch_3`` (``iter_4000`` with ``by_epoch=False``) and ``adapters/best`` (``adapters/best_<key>`` for each
    key, if ``CheckpointHook`` has several) in the work dir load with
    ``PeftModel.from_pretrained(Sam3Model.from_pretrained(base), folder)``. They hold the weights that the ``.pth`` of
    the same name holds (the averaged ones under ``EMAHook``). ``checkpoint.json`` in the best folder tells its epoch,
    iteration and score. What is best is ``CheckpointHook``'s decision (its ``save_best`` and ``rule``).

    Args:
        interval: Save every so many epochs (iterations). -1: only the last and the best. Defaults to 1.
        by_epoch: Count in epochs, or else in iterations. Defaults to True.
        max_keep_ckpts: Keep only the last so many of the numbered folders. Defaults to -1: all of them.
        save_last: Save the last epoch (iteration) whatever the interval. Defaults to True.
        save_best: Keep ``adapters/best`` up to date. Defaults to True.

    Raises:
        UnsuitableModelError: Before training: the model has no ``save_adapter``.
        ConfigError: ``interval`` or ``max_keep_ckpts`` is 0.
        AdapterError: Before training: the model has no adapters.
    """

    priority = AFTER_CHECKPOINT_HOOK

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: bool = True,
    ) -> None:
        if interval == 0 or max_keep_ckpts == 0:
            raise ConfigError('AdapterCheckpointHook: interval and max_keep_ckpts are positive, or -1')
        self.interval = interval
        self.by_epoch = by_epoch
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.save_best = save_best
        self._training = False
        self._scores: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Try to save now, rather than fail after an epoch, and make up for what a killed run did not save."""
        self._training = True
        if not is_main_process():
            return
        model = unwrap(runner.model)
        if not hasattr(model, 'save_adapter'):
            raise UnsuitableModelError(
                f'AdapterCheckpointHook saves adapters, and {type(model).__name__} has no save_adapter. Take the hook '
                "out of the config's default_hooks or custom_hooks, or train 'SAM3TextLoRA'."
            )
        self.folder = Path(runner.work_dir) / 'adapters'
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix='.trial-', suffix=LEFTOVER) as scratch:
            model.save_adapter(scratch)
        self._save_missing_numbered(runner)
        self._scores = best_scores(runner)
        if self.save_best:
            for key in self._scores:
                self._save_missing_best(runner, key)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save ``adapters/epoch_N``."""
        due = self.every_n_epochs(runner, self.interval) or (self.save_last and self.is_last_train_epoch(runner))
        if self.by_epoch and due:
            self._save_numbered(runner, f'epoch_{runner.epoch + 1}')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save ``adapters/iter_N``."""
        if self.by_epoch:
            return
        if self.every_n_train_iters(runner, self.interval) or (self.save_last and self.is_last_train_iter(runner)):
            self._save_numbered(runner, f'iter_{runner.iter + 1}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Save ``adapters/best`` if ``CheckpointHook`` has just found a new best."""
        if not (self._training and self.save_best and is_main_process()):
            return
        before, self._scores = self._scores, best_scores(runner)
        for key, score in self._scores.items():
            if before.get(key) != score:
                with checkpoint_weights(runner) as model:
                    self._save_best(model, key, self._record(runner, key, runner.epoch, runner.iter))

    def _save_numbered(self, runner: Runner, name: str) -> None:
        if not is_main_process():
            return
        with checkpoint_weights(runner) as model:
            model.save_adapter(self.folder / name)
        remove_older(self.folder, name, self.max_keep_ckpts)

    def _save_missing_numbered(self, runner: Runner) -> None:
        """Write the folder of the checkpoint that the training goes on from: a kill may have come between the two."""
        if self.by_epoch:
            done, last = runner.epoch, runner.epoch == runner.max_epochs
            due = runner.iter == done * len(runner.train_dataloader)
        else:
            done, last, due = runner.iter, runner.iter == runner.max_iters, True
        wanted = (self.interval > 0 and done % self.interval == 0) or (self.save_last and last)
        if runner.iter > 0 and due and wanted:
            self._save_numbered(runner, f'epoch_{done}' if self.by_epoch else f'iter_{done}')

    def _save_best(self, model: Any, key: str, record: dict[str, Any]) -> None:
        folder = self._best_folder(key)
        # The record comes last: where it is up to date, the weights are too.
        model.save_adapter(folder)
        write_atomically(folder / RECORD, json.dumps(record, indent=2).encode())

    def _save_missing_best(self, runner: Runner, key: str) -> None:
        """Write the best folder from the best checkpoint, if a kill came between the two, or the hook is new."""
        path = Path(runner.message_hub.get_info(key.replace('best_score', 'best_ckpt')))
        if not path.is_file():
            runner.logger.warning(f'{path} no longer exists: {self._best_folder(key)} is written at the next best')
            return
        checkpoint = load_from_local(str(path), 'cpu')
        record = self._record(runner, key, checkpoint['meta']['epoch'], checkpoint['meta']['iter'])
        written = self._best_folder(key) / RECORD
        if written.is_file() and json.loads(written.read_text()) == record:
            return
        model = unwrap(runner.model)
        # Changed in place: the dict carries the hash of the base that loading asks for.
        current = model.state_dict()
        for name, value in current.items():
            current[name] = value.clone()
        try:
            model.load_state_dict(checkpoint['state_dict'])
            self._save_best(model, key, record)
        finally:
            model.load_state_dict(current)

    def _best_folder(self, key: str) -> Path:
        return self.folder / key.replace('best_score', 'best').replace('/', '_')

    @staticmethod
    def _record(runner: Runner, key: str, epoch: int, iteration: int) -> dict[str, Any]:
        score = best_scores(runner)[key]
        return {'epoch': epoch, 'iter': iteration, 'score': score}


@contextmanager
def checkpoint_weights(runner: Runner) -> Iterator[Any]:
    """The bare model with the weights that a checkpoint saves: under ``EMAHook`` the averaged ones."""
    averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in averages:
        hook.before_val_epoch(runner)
    try:
        yield unwrap(runner.model)
    finally:
        for hook in averages:
            hook.after_val_epoch(runner)
