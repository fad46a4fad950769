"""Predicted masks on disk, from the pass that scores them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.errors import ConfigError
from crack_plugin.files import write_atomically
from crack_plugin.hooks.run_state import AFTER_CHECKPOINT_HOOK, best_number, remove_older, step_name


@HOOKS.register_module()
class PredictionHook(Hook):
    """Write each validation's masks as 0/255 PNG, at the size they are scored at, without a second forward.

    ``predictions/epoch_3/<image>.png`` in the work dir (``iter_4000`` under ``IterBasedTrainLoop``, ``val`` for a
    validation outside training, ``test`` for a test), named after the image. Where two images of the dataset have the
    same name in different folders, the names keep those folders, and where even that is the same (``a.jpg`` beside
    ``a.png``) the suffix: ``a.jpg.png``. With several foreground classes there is a folder for each,
    ``predictions/epoch_3/<class>/<image>.png``.

    A file is written under a temporary name and moved, so a killed run leaves no half one.

    Args:
        max_keep_epochs: Keep the predictions of the last so many validations, and those of the best checkpoint besides.
            Defaults to -1: all.
        out_dir: Folder inside the work dir. Defaults to 'predictions'.

    Raises:
        ConfigError: ``max_keep_epochs`` is 0, or a dataset has no foreground class.
    """

    # Which epoch is the best must be known before old ones go.
    priority = AFTER_CHECKPOINT_HOOK

    def __init__(self, max_keep_epochs: int = -1, out_dir: str = 'predictions') -> None:
        if max_keep_epochs == 0:
            raise ConfigError('PredictionHook: max_keep_epochs is positive, or -1 for all')
        self.max_keep_epochs = max_keep_epochs
        self.out_dir = out_dir
        self._training = False
        self._dataset: Any = None

    def before_train(self, runner: Runner) -> None:
        """Name folders after epochs from now on."""
        self._training = True

    def before_val_epoch(self, runner: Runner) -> None:
        """Choose the folder."""
        name = step_name(runner) if self._training else 'val'
        self._open(runner, name, runner.val_loop.dataloader.dataset)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Write a batch."""
        self._write(outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Delete old predictions."""
        # Another rank may still write its last images.
        barrier()
        if self._training and is_main_process():
            remove_older(self._folder.parent, self._folder.name, self.max_keep_epochs, spared=best_number(runner))

    def before_test_epoch(self, runner: Runner) -> None:
        """Choose the folder."""
        self._open(runner, 'test', runner.test_loop.dataloader.dataset)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Write a batch."""
        self._write(outputs)

    def _open(self, runner: Runner, name: str, dataset: Any) -> None:
        self._folder = Path(runner.work_dir) / self.out_dir / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._classes = dataset.metainfo['classes'][1:]
        if not self._classes:
            raise ConfigError(
                f'PredictionHook needs a background class and at least one more; the dataset has '
                f'{tuple(dataset.metainfo["classes"])}'
            )
        if dataset is not self._dataset:
            self._dataset = dataset
            self._names = prediction_names([dataset.get_data_info(i)['img_path'] for i in range(len(dataset))])

    def _write(self, outputs: Sequence[Any]) -> None:
        for sample in outputs:
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            name = self._names[sample.img_path]
            for index, class_name in enumerate(self._classes, start=1):
                folder = self._folder / _file_name(class_name) if len(self._classes) > 1 else self._folder
                mask = (labels == index).astype(np.uint8) * 255
                write_atomically(folder / f'{name}.png', cv2.imencode('.png', mask)[1].tobytes())


def prediction_names(paths: Sequence[str]) -> dict[str, str]:
    """A name without suffix for each image, no two the same.

    Args:
        paths: Image files.

    Returns:
        By path: the stem; if stems repeat, the path below the folder that all images share, without suffix; if those
        repeat, with it.
    """
    unique = list(dict.fromkeys(paths))
    root = os.path.commonpath([PurePath(path).parent for path in unique]) if unique else ''
    below = [PurePath(os.path.relpath(path, root)) for path in unique]
    candidates = (
        [path.stem for path in below],
        [path.with_suffix('').as_posix() for path in below],
        [path.as_posix() for path in below],
    )
    distinct = next(names for names in candidates if len(set(names)) == len(names))
    return dict(zip(unique, distinct, strict=True))


def _file_name(class_name: str) -> str:
    return re.sub(r'[^\w .-]', '_', class_name)
