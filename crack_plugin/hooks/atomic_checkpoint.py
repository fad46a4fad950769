"""Checkpoints of which one is complete at any moment."""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.checkpoints import CheckpointError, newest_first
from crack_plugin.files import write_atomically

OUTDATED = 'outdated_ckpts'


@register_backend('whole_files')
class AtomicFileBackend(LocalBackend):
    """MMEngine's local files, written under a temporary name and moved."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, see :func:`crack_plugin.files.write_atomically`."""
        write_atomically(Path(filepath), obj, durable=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with its arguments and file names, that never loses a checkpoint to a fault.

    A checkpoint and ``last_checkpoint`` are written under a temporary name and moved. What they replace (the former
    best, all but the last ``max_keep_ckpts``) is deleted after that, where the stock hook deletes first; so there must
    be room for one checkpoint more. ``out_dir`` on a remote file system keeps that backend's way of writing.

    Raises:
        CheckpointError: Before training: ``resume`` is set, and there are checkpoints, but no ``last_checkpoint`` to
            say which counts. (Stock MMEngine starts from scratch, over them.)
        SaveError: A checkpoint could not be written. The former ones are there.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    _training = False
    _outdated: list[str]

    def before_train(self, runner: Runner) -> None:
        """Set up, and delete what a killed run had replaced but not yet deleted."""
        self._training = True
        folder = str(self.out_dir or runner.work_dir)
        if self.backend_args is None and self.file_client_args is None and '://' not in folder:
            self.backend_args = {'backend': 'whole_files'}
        if self.out_dir is None:
            _find_best_in(runner)
        super().before_train(runner)
        if runner.cfg.get('resume') and runner.iter == 0:
            _refuse_to_start_over(Path(runner.work_dir))
        # So that a best found by a validation that was missing gets into the checkpoint, as it would have been.
        if runner.iter > 0:
            self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        # A killed run's checkpoint says what was to be deleted after it.
        self._outdated = list(runner.message_hub.runtime_info.get(OUTDATED, []))
        runner.message_hub.update_info(OUTDATED, self._outdated)
        self.file_backend = _Postponing(self.file_backend, self._outdated)
        self._remove_outdated(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt.encode(), durable=True)
        self._remove_outdated(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        # A validation outside training has nothing to save. (The stock hook fails there.)
        if not self._training:
            return
        super()._save_best_checkpoint(runner, metrics)
        # Without a numbered checkpoint so far, the best was the only one to save.
        self._remove_outdated(runner)

    def _remove_outdated(self, runner: Runner) -> None:
        info = runner.message_hub.runtime_info
        # A repeated epoch may have written a file anew under the name that it replaces.
        current = {Path(value).name for key, value in info.items() if key.startswith(('best_ckpt', 'last_ckpt'))}
        if is_main_process():
            for name in set(self._outdated) - current:
                self.file_backend.remove_now(self.file_backend.join_path(self.out_dir, name))
        self._outdated.clear()


class _Postponing:
    """A file backend that notes the names of the files it is told to remove, and keeps them for now."""

    def __init__(self, backend: Any, noted: list[str]) -> None:
        self._backend = backend
        self._noted = noted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        # By name: in a work dir that was copied, the former best is still the original's.
        self._noted.append(Path(path).name)

    rmtree = remove

    def remove_now(self, path: str) -> None:
        if self._backend.isfile(path):
            self._backend.remove(path)
        elif self._backend.isdir(path):
            # DeepSpeed's checkpoints are folders.
            self._backend.rmtree(path)


def _find_best_in(runner: Runner) -> None:
    """Where the work dir was moved or copied, use the best checkpoint that was moved with it."""
    for key, path in list(runner.message_hub.runtime_info.items()):
        here = Path(runner.work_dir, Path(path).name) if key.startswith('best_ckpt') else None
        if here is not None and here.is_file():
            runner.message_hub.update_info(key, str(here))


def _refuse_to_start_over(work_dir: Path) -> None:
    found = newest_first(work_dir)
    if found:
        raise CheckpointError(
            f'there is no last_checkpoint in {work_dir} to resume from, but there are checkpoints, which a training '
            f'from scratch would replace. Resume from the last: --resume --cfg-options load_from={found[0]}; or start '
            'in another --work-dir.'
        )
