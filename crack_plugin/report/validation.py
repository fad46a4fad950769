"""Scores of a trained model on the validation images, and of the same model without training."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from mmseg.registry import METRICS
from torch.utils.data import DataLoader

from crack_plugin.evaluation import CrackMetric
from crack_plugin.inference import Step, predict
from crack_plugin.models import SAM3TextLoRA


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on the validation set.

    Attributes:
        metrics: Of the whole set, as ``CrackMetric`` returns them.
        per_image: One an image in the dataset's order, as ``CrackMetric.per_image``.
        has_crack: By image, whether its ground truth has foreground.
        seconds_per_image: What the model alone took.
        false_alarms: By image without any foreground, marked pixels per megapixel; NaN for the others.
    """

    metrics: Mapping[str, float]
    per_image: Sequence[Mapping[str, Any]]
    has_crack: Sequence[bool]
    seconds_per_image: float
    false_alarms: Sequence[float]


def validation_loader(cfg: Config) -> DataLoader:
    """The config's validation images, in the dataset's order."""
    settings = cfg.copy().val_dataloader
    settings.sampler = {'type': 'DefaultSampler', 'shuffle': False}
    return Runner.build_dataloader(settings)


def zero_shot_step(cfg: Config, model: Any, device: str) -> Step | None:
    """Prediction by the same base and prompts without what was trained.

    With LoRA the adapters are switched off during the step. After full fine-tuning the base is loaded again, which
    takes the memory of a second model.

    Args:
        cfg: Config of the training.
        model: The trained model.
        device: Where a second model goes.

    Returns:
        None for a model without a zero-shot state: one of MMSegmentation's own, or one without anything to train.
    """
    if not isinstance(model, SAM3TextLoRA):
        return None
    if hasattr(model.sam3, 'disable_adapter') and model.trainable == 'lora':

        def step(batch: Any) -> list:
            with model.sam3.disable_adapter():
                return model.val_step(batch)

        return step
    if model.trainable == 'all':
        from mmseg.apis import init_model

        untrained = cfg.copy()
        untrained.model.update(lora=None, adapter=None, trainable='lora')
        return init_model(untrained, device=device).val_step
    return None


def evaluate(steps: Mapping[str, Step], loader: DataLoader, cfg: Config) -> dict[str, Evaluation]:
    """Score several predictors on the same images, each image loaded once; a progress bar shows how long it takes.

    Args:
        steps: Predictor by name.
        loader: Of :func:`validation_loader`.
        cfg: Its ``val_evaluator`` is used if that is a ``CrackMetric``, and otherwise one with default settings.

    Returns:
        Evaluation by name.
    """
    evaluators = {name: Evaluator(_crack_metric(cfg)) for name in steps}
    seconds = dict.fromkeys(steps, 0.0)
    has_crack: list[bool] = []
    bar = ProgressBar(len(loader.dataset))  # type: ignore[arg-type]
    for batch in loader:
        for name, step in steps.items():
            start = time.perf_counter()
            samples = predict(step, batch, cfg)
            seconds[name] += time.perf_counter() - start
            evaluators[name].dataset_meta = loader.dataset.metainfo  # type: ignore[attr-defined]
            evaluators[name].process(samples, batch)
        has_crack += [bool(_foreground(sample.gt_sem_seg.data)) for sample in samples]
        bar.update(len(samples))
    print()
    evaluations = {}
    for name, evaluator in evaluators.items():
        metrics = evaluator.evaluate(len(has_crack))
        metric: Any = evaluator.metrics[0]
        # NaN if the image has any of the classes.
        false_alarms = metric.statistics.false_alarms.sum(axis=1).tolist()
        seconds_per_image = seconds[name] / len(has_crack)
        evaluations[name] = Evaluation(metrics, metric.per_image, has_crack, seconds_per_image, false_alarms)
    return evaluations


def _crack_metric(cfg: Config) -> CrackMetric:
    settings = cfg.get('val_evaluator')
    name = settings.get('type') if isinstance(settings, dict) else None
    metric = METRICS.get(name) if isinstance(name, str) else None
    if metric is None or not issubclass(metric, CrackMetric):
        return CrackMetric()
    return METRICS.build({**settings, 'output_dir': None, 'format_only': False})


def _foreground(labels: torch.Tensor) -> torch.Tensor:
    return ((labels > 0) & (labels != 255)).any()
