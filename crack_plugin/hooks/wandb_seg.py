"""Training as Weights & Biases shows it: curves, histograms, the best and the worst images."""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS, TRANSFORMS
from torch import Tensor

from crack_plugin.errors import ConfigError, MissingPackageError, UnsuitableModelError
from crack_plugin.files import write_atomically
from crack_plugin.hooks.adapter_checkpoint import checkpoint_weights
from crack_plugin.hooks.history import train_means, train_means_of_ranks
from crack_plugin.hooks.run_state import AFTER_CHECKPOINT_HOOK, best_scores, step_name, unwrap

RUN_ID = 'wandb_run_id'
PROGRESS = 'wandb_progress.json'
REMEMBERED_SECONDS = 60
COLUMNS = ('which', 'image', 'file', 'IoU', 'Dice', 'Precision', 'Recall')


@dataclass(frozen=True)
class Example:
    """A validation image to show, labels reduced to ``max_side``.

    Attributes:
        img_path: The image's file.
        iou: Mean over foreground classes.
        shape: (height, width) of the image.
        prediction: Labels, uint8.
        truth: Labels, uint8, 255 where ignored.
    """

    img_path: str
    iou: float
    shape: tuple[int, int]
    prediction: np.ndarray
    truth: np.ndarray


@HOOKS.register_module()
class WandbSegHook(Hook):
    """Log a training to Weights & Biases; needs ``CrackMetric`` as ``val_evaluator``, and the wandb package.

    ==========================================  ===========================================================
    key                                         value
    ==========================================  ===========================================================
    train/loss, train/iou, train/lr, ...        against 'iter': means over ``interval`` iterations of rank 0
    train_epoch/loss, train_epoch/iou, ...      against 'epoch': means over the epoch and all ranks
    val/loss, val/crack/IoU, val/mIoU, ...      against 'epoch': every validation metric
    val/IoU_histogram, val/Dice_histogram       against 'epoch': of the images' own scores, 20 bins on [0, 1]
    val/best, val/worst                         images with ground truth and prediction as masks
    val/examples                                the same as a table, with scores
    config, parameters.total, .trainable        the run's config
    ==========================================  ===========================================================

    Under ``IterBasedTrainLoop`` 'iter' takes the place of 'epoch'.

    It joins the run that is open already, such as ``WandbVisBackend``'s, and otherwise starts its own. ``WANDB_MODE``
    (online, offline, disabled) decides as always. Without an API key and without a terminal to ask for one, or without
    a network, the run is offline, which one line says; ``wandb sync`` uploads it later. If the network dies during the
    training, wandb keeps the data on disk and gives up ``finish_timeout`` seconds after its end.

    ``--resume`` continues the same run (offline: the same id in another folder), and iterations that are repeated are
    not logged twice. ``wandb_progress.json`` in the work dir says how far it got.

    Args:
        init_kwargs: Arguments of ``wandb.init``: project, entity, name, tags, mode, settings, ... They have no effect
            on a run that is open already.
        interval: Log training every so many iterations. Defaults to 10.
        num_examples: How many of the best images to show, and of the worst. Defaults to 4; 0 for none.
        max_side: Reduce the images shown to this many pixels on the longer side. Defaults to 1024.
        log_adapter: Upload the PEFT adapter as an artifact at each new best of ``CheckpointHook``. Defaults to False.

    Raises:
        ConfigError: An argument is out of its range; before training: no ``CrackMetric``.
        UnsuitableModelError: Before training: ``log_adapter`` for a model without ``save_adapter``.
        MissingPackageError: Before training: wandb is not installed.
    """

    # What is best is CheckpointHook's to decide.
    priority = AFTER_CHECKPOINT_HOOK

    def __init__(
        self,
        init_kwargs: Mapping[str, Any] | None = None,
        interval: int = 10,
        num_examples: int = 4,
        max_side: int = 1024,
        log_adapter: bool = False,
    ) -> None:
        if interval < 1 or num_examples < 0 or max_side < 1:
            raise ConfigError(
                f'WandbSegHook: interval={interval} and max_side={max_side} are at least 1, num_examples='
                f'{num_examples} at least 0'
            )
        self.init_kwargs = dict(init_kwargs or {})
        self.interval = interval
        self.num_examples = num_examples
        self.max_side = max_side
        self.log_adapter = log_adapter
        self._training = False
        self._metric: Any = None
        self._run: Any = None

    def before_train(self, runner: Runner) -> None:
        """Open or join the run."""
        self._training = True
        self._axis = 'epoch' if isinstance(runner.train_loop, EpochBasedTrainLoop) else 'iter'
        if runner.val_loop is not None:
            self._metric = self._crack_metric(runner)
        if self.log_adapter and not hasattr(unwrap(runner.model), 'save_adapter'):
            raise UnsuitableModelError(
                f'WandbSegHook: log_adapter=True, and {type(unwrap(runner.model)).__name__} has no save_adapter'
            )
        if is_main_process():
            self._open_run(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log training against 'iter'."""
        done = runner.iter + 1
        if self._run is not None and (done % self.interval == 0 or done == runner.max_iters):
            self._log('train', {'iter': done}, train_means(runner, self.interval))

    def after_train_epoch(self, runner: Runner) -> None:
        """Log training against 'epoch'."""
        if self._axis != 'epoch':
            return
        means = train_means_of_ranks(runner, len(runner.train_dataloader))
        if self._run is not None:
            self._log('train_epoch', {'epoch': runner.epoch + 1, 'iter': runner.iter}, means)

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the last validation's images."""
        self._best: list[Example] = []
        self._worst: list[Example] = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Keep an image if it is among the best or the worst so far."""
        if not (self._training and self.num_examples):
            return
        for sample in outputs:
            prediction, truth = (data.data.squeeze(0) for data in (sample.pred_sem_seg, sample.gt_sem_seg))
            iou = _mean_iou(prediction, truth, self._metric)
            better = len(self._best) < self.num_examples or iou > self._best[-1].iou
            worse = len(self._worst) < self.num_examples or iou < self._worst[-1].iou
            if better or worse:
                reduced = (_reduce(labels, self.max_side) for labels in (prediction, truth))
                example = Example(sample.img_path, iou, tuple(truth.shape), *reduced)
                self._best, self._worst = self._select([*self._best, *self._worst, example])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log a validation, in one row."""
        if not self._training:
            return
        gathered = all_gather_object([*self._best, *self._worst])
        if self._run is None:
            return
        row: dict[str, Any] = {name.removeprefix('val_'): value for name, value in (metrics or {}).items()}
        for name in ('IoU', 'Dice'):
            row[f'{name}_histogram'] = self._histogram([scores[name] for scores in self._metric.per_image])
        if self.num_examples:
            best, worst = self._select([example for examples in gathered for example in examples])
            row |= self._pictures(best, worst)
        self._log('val', {'epoch': runner.epoch, 'iter': runner.iter}, row)
        if self.log_adapter:
            self._upload_adapter(runner)

    def after_run(self, runner: Runner) -> None:
        """Close the run, if it is the hook's own."""
        if self._run is not None and not self._joined:
            self._run.finish()
        self._run = None

    def _open_run(self, runner: Runner) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise MissingPackageError('WandbSegHook needs wandb: pip install wandb, or take the hook out') from error
        self._wandb = wandb
        run_id = runner.message_hub.runtime_info.get(RUN_ID)
        self._joined = wandb.run is not None
        if self._joined:
            self._run = wandb.run
        else:
            arguments: dict[str, Any] = {
                'project': os.environ.get('WANDB_PROJECT', 'crack-segmentation'),
                'dir': os.environ.get('WANDB_DIR', runner.work_dir),
                'config': runner.cfg.to_dict(),
            }
            # A resumed run has its name.
            own = {'name': runner.experiment_name} if run_id is None else {'id': run_id, 'resume': 'allow'}
            self._run = self._init(arguments | own | self.init_kwargs, runner)
        if self._run.disabled:
            self._run = None
            return
        runner.message_hub.update_info(RUN_ID, self._run.id)
        self._progress_file = Path(runner.work_dir) / PROGRESS
        self._best_scores = best_scores(runner)

        model = unwrap(runner.model)
        counts = {
            'total': sum(parameter.numel() for parameter in model.parameters()),
            'trainable': sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        }
        self._run.config.update({'parameters': counts}, allow_val_change=True)
        self._run.define_metric('iter', hidden=True)
        self._run.define_metric('epoch', hidden=True)
        self._run.define_metric('train/*', step_metric='iter')
        self._run.define_metric('train_epoch/*', step_metric=self._axis)
        self._run.define_metric('val/*', step_metric=self._axis)
        self._continue_run(runner)

    def _init(self, arguments: dict[str, Any], runner: Runner) -> Any:
        wandb = self._wandb
        # wandb writes its file every 15 seconds, which is what a kill would lose.
        settings = {'init_timeout': 60, 'finish_timeout': 600, 'x_transaction_log_flush_interval': 1.0}
        settings |= dict(arguments.pop('settings', {}))
        try:
            return wandb.init(**arguments, settings=wandb.Settings(**settings))
        except wandb.errors.UsageError as error:
            # Other wrong uses are the user's to mend.
            if 'API key' not in str(error):
                raise
            reason = 'there is no API key and no terminal to ask for one'
        except wandb.errors.CommError as error:
            reason = f'it cannot start online ({str(error).splitlines()[0]})'
            # Its background process holds on to the run it could not open.
            wandb.teardown()
        runner.logger.warning(
            f'W&B: {reason}. The run is kept on disk (WANDB_MODE=offline); upload it with `wandb sync '
            f'{Path(arguments["dir"]) / "wandb"}/offline-run-*`'
        )
        arguments.pop('resume', None)
        return wandb.init(**{**arguments, 'mode': 'offline'}, settings=wandb.Settings(**settings))

    def _continue_run(self, runner: Runner) -> None:
        """Find out what a run before this resume has logged, and log what its death kept from arriving."""
        self._rows: list[dict[str, Any]] = []
        if not self._progress_file.is_file():
            return
        progress = json.loads(self._progress_file.read_text())
        if progress['id'] != self._run.id:
            return
        if self._run.offline:
            log = Path(progress['log'])
            written = log.stat().st_mtime if log.is_file() else math.inf
            arrived = [row for row in progress['rows'] if row['time'] < written]
        else:
            arrived = [row for row in progress['rows'] if row['step'] < self._run.step]
        self._rows = arrived
        reached = {'train': runner.iter, 'epoch': runner.epoch, 'iter': runner.iter}
        for row in progress['rows'][len(arrived) :]:
            # What comes after the checkpoint is repeated. Pictures and histograms of what came before are lost.
            if row['position'] <= reached['train' if row['section'] == 'train' else self._axis]:
                self._write(row['section'], row['position'], row['data'])
        if any(row['section'] == 'train' and row['position'] > runner.iter for row in arrived):
            runner.logger.info(
                f'W&B run {self._run.id} has later iterations than the checkpoint: those repeated are not logged again'
            )

    def _log(self, section: str, position: dict[str, int], values: Mapping[str, Any]) -> None:
        """Log one row, unless a run before this resume has logged it."""
        now = position['iter' if section == 'train' else self._axis]
        if not any(row['section'] == section and row['position'] >= now for row in self._rows):
            self._write(section, now, position | {f'{section}/{name}': value for name, value in values.items()})

    def _write(self, section: str, now: int, data: dict[str, Any]) -> None:
        if self._joined:
            # The other party counts steps by itself.
            step = self._run.step
            self._run.log(data)
        else:
            # An offline run starts at step 0 again; with steps of our own `wandb sync` can put the parts together.
            step = max([self._run.step, *(row['step'] + 1 for row in self._rows)])
            self._run.log(data, step=step, commit=True)
        numbers = {name: value for name, value in data.items() if isinstance(value, (int, float))}
        row = {'section': section, 'position': now, 'step': step, 'time': time.time(), 'data': numbers}
        # The last row of each section, and besides those that wandb may not have brought to their place yet.
        last = {old['section']: old['step'] for old in [*self._rows, row]}
        since = row['time'] - REMEMBERED_SECONDS
        self._rows = [old for old in [*self._rows, row] if old['time'] > since or old['step'] == last[old['section']]]
        progress = {'id': self._run.id, 'log': self._run.settings.sync_file, 'rows': self._rows}
        write_atomically(self._progress_file, json.dumps(progress).encode())

    def _histogram(self, values: Sequence[float]) -> Any:
        return self._wandb.Histogram(np_histogram=np.histogram(values, bins=20, range=(0, 1)))

    def _select(self, examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
        """The best, best first, and the worst, worst first; no image twice where ranks share one."""
        unique = {example.img_path: example for example in examples}
        ordered = sorted(unique.values(), key=lambda example: (example.iou, example.img_path))
        return ordered[::-1][: self.num_examples], ordered[: self.num_examples]

    def _pictures(self, best: Sequence[Example], worst: Sequence[Example]) -> dict[str, Any]:
        scores = {row['img_path']: row for row in self._metric.per_image}
        table = self._wandb.Table(columns=list(COLUMNS))
        panels: dict[str, Any] = {}
        for which, examples in (('best', best), ('worst', worst)):
            panels[which] = [self._picture(example) for example in examples]
            for example, picture in zip(examples, panels[which], strict=True):
                score = scores[example.img_path]
                table.add_data(which, picture, example.img_path, *(score[name] for name in COLUMNS[3:]))
        # The panels first: they put the files into the run's media folder, to which the table refers.
        return panels | {'examples': table}

    def _picture(self, example: Example) -> Any:
        # As the pipelines read it.
        load = TRANSFORMS.build({'type': 'LoadImageFromFile'})
        image = load({'img_path': example.img_path})['img'][..., ::-1]
        if image.shape[:2] != example.shape:
            raise ConfigError(
                f'{example.img_path} is {image.shape[:2]} pixels (height, width) on disk, and its prediction '
                f'{example.shape}: load labels after any resizing, or set num_examples=0 in WandbSegHook'
            )
        height, width = example.truth.shape
        classes = dict(enumerate(self._metric.dataset_meta['classes']))
        masks = {
            'ground truth': {
                'mask_data': example.truth,
                'class_labels': classes | {self._metric.ignore_index: 'ignored'},
            },
            'prediction': {'mask_data': example.prediction, 'class_labels': classes},
        }
        return self._wandb.Image(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA),
            masks=masks,
            caption=f'{Path(example.img_path).name}: IoU {example.iou:.3f}',
            file_type='jpg',
        )

    def _upload_adapter(self, runner: Runner) -> None:
        before, self._best_scores = self._best_scores, best_scores(runner)
        # Without CheckpointHook(save_best=...) there is no best: the last one counts.
        if self._best_scores and self._best_scores == before:
            return
        artifact = self._wandb.Artifact(f'adapter-{self._run.id}', type='model')
        with tempfile.TemporaryDirectory() as folder, checkpoint_weights(runner) as model:
            model.save_adapter(folder)
            artifact.add_dir(folder)
        self._run.log_artifact(artifact, aliases=['best' if self._best_scores else 'latest', step_name(runner)])

    @staticmethod
    def _crack_metric(runner: Runner) -> Any:
        for metric in runner.val_loop.evaluator.metrics:
            if hasattr(metric, 'per_image'):
                return metric
        raise ConfigError(
            "WandbSegHook shows the images' own scores, which CrackMetric computes: set "
            "val_evaluator=dict(type='CrackMetric')"
        )


def _mean_iou(prediction: Tensor, truth: Tensor, metric: Any) -> float:
    """Mean IoU over foreground classes, 1 where both are empty, of labels (H, W) without the ignored pixels."""
    truth = truth.to(prediction.device)
    valid = truth != metric.ignore_index
    ious = []
    for index in range(1, len(metric.dataset_meta['classes'])):
        predicted, actual = (prediction == index) & valid, truth == index
        both, either = (predicted & actual).sum().item(), (predicted | actual).sum().item()
        ious.append((both + 1e-6) / (either + 1e-6))
    return float(np.mean(ious))


def _reduce(labels: Tensor, max_side: int) -> np.ndarray:
    """Labels (H, W) as uint8 with at most ``max_side`` pixels on the longer side."""
    reduced = labels.cpu().numpy().astype(np.uint8)
    scale = max_side / max(labels.shape)
    if scale >= 1:
        return reduced
    height, width = (max(1, round(side * scale)) for side in labels.shape)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_NEAREST)
