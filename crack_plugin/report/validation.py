"""Runs a trained model over the validation images, once, for a report: scores by image, and example panels."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from mmengine.utils import ProgressBar
from mmseg.registry import METRICS
from torch.utils.data import DataLoader

from crack_plugin.datasets.photographs import read_photograph
from crack_plugin.evaluation import CrackMetric
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.report.training import BANDS, Band, example_file, pick_examples
from crack_plugin.visualization.panels import save_panel

Step = Callable[[Any], list]
"""Predicts a batch of a dataloader: a model's ``val_step``."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on the validation set.

    Attributes:
        metrics: Of the whole set, as ``CrackMetric`` returns them.
        per_image: One an image in the dataset's order, as ``CrackMetric.per_image``.
        has_crack: By image, whether its ground truth has foreground.
        seconds_per_image: What the model alone took.
    """

    metrics: Mapping[str, float]
    per_image: Sequence[Mapping[str, Any]]
    has_crack: Sequence[bool]
    seconds_per_image: float


@dataclass(frozen=True)
class Example:
    """One validation image shown in the report.

    Attributes:
        file: PNG file of its panel, relative to the report's folder.
        image: Name of the image file.
        iou: Its IoU.
        inside: Whether the IoU lies in the band the example stands for.
    """

    file: str
    image: str
    iou: float
    inside: bool


def validation_loader(cfg: Config) -> DataLoader:
    """The config's validation images, in the dataset's order."""
    settings = cfg.copy().val_dataloader
    settings.sampler = {'type': 'DefaultSampler', 'shuffle': False}
    return Runner.build_dataloader(settings)


def zero_shot_step(cfg: Config, model: Any, device: str) -> Step | None:
    """Prediction by the same base and prompts without what was trained.

    With LoRA the adapters are switched off for the time of the step. After full fine-tuning the base is loaded anew,
    which takes the memory of a second model.

    Args:
        cfg: Config of the training.
        model: The trained model.
        device: Where a second model goes.

    Returns:
        None for a model without zero-shot state: one of MMSegmentation's own, or one that had nothing to train.
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
    """Score several predictors on the same images, each image loaded once; a progress bar tells how long it takes.

    Args:
        steps: Predictor by name.
        loader: Of :func:`validation_loader`.
        cfg: Its ``val_evaluator`` is taken if that is a ``CrackMetric``, and otherwise one with default settings.

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
        per_image = evaluator.metrics[0].per_image  # type: ignore[attr-defined]
        evaluations[name] = Evaluation(metrics, per_image, has_crack, seconds[name] / len(has_crack))
    return evaluations


def draw_examples(
    evaluation: Evaluation, step: Step, dataset: Any, cfg: Config, folder: Path, count: int = 2
) -> dict[Band, list[Example]]:
    """Write the panels of best, good and challenging images to ``folder``/examples.

    Args:
        evaluation: Scores of ``step`` on ``dataset``.
        step: Predictor.
        dataset: The validation set.
        cfg: Config of the training.
        folder: Of the report. Panels of a former report are removed.
        count: Images for each band.

    Returns:
        What was drawn, by band.
    """
    target = folder / 'examples'
    target.mkdir(parents=True, exist_ok=True)
    for band in BANDS:
        for old in target.glob(f'{band.name}_example_*_iou_*.png'):
            old.unlink()
    ious = [scores['IoU'] for scores in evaluation.per_image]
    drawn: dict[Band, list[Example]] = {}
    for band, indices in pick_examples(ious, evaluation.has_crack, count).items():
        drawn[band] = []
        for rank, index in enumerate(indices, start=1):
            sample = predict(step, pseudo_collate([dataset[index]]), cfg)[0]
            maps = (sample.gt_sem_seg, sample.pred_sem_seg)
            truth, prediction = (labels.data.squeeze(0).cpu().numpy().astype(np.uint8) for labels in maps)
            image = read_photograph(sample.img_path)[..., ::-1]
            name = example_file(band, rank, ious[index])
            dice = evaluation.per_image[index]['Dice']
            save_panel(target / name, image, truth, prediction, f'IoU {ious[index]:.3f}   Dice {dice:.3f}')
            inside = band.distance(ious[index]) == 0
            drawn[band].append(Example(f'examples/{name}', Path(sample.img_path).name, ious[index], inside))
    return drawn


def predict(step: Step, batch: Any, cfg: Config) -> list:
    """Predict a batch in the config's test precision, as ``tools/predict.py`` does; returns when the device is done.

    Args:
        step: Predictor.
        batch: Of a dataloader.
        cfg: Config of the training; ``test_cfg.fp16`` is heeded.

    Returns:
        Data samples with ``pred_sem_seg`` and ``seg_logits``.
    """
    with torch.no_grad(), autocast(enabled=(cfg.get('test_cfg') or {}).get('fp16', False)):
        samples = step(batch)
    # Of a machine's GPUs, those that predicted.
    for device in {sample.pred_sem_seg.data.device for sample in samples}:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
    return samples


def _crack_metric(cfg: Config) -> CrackMetric:
    settings = cfg.get('val_evaluator')
    name = settings.get('type') if isinstance(settings, dict) else None
    metric = METRICS.get(name) if isinstance(name, str) else None
    if metric is None or not issubclass(metric, CrackMetric):
        return CrackMetric()
    return METRICS.build({**settings, 'output_dir': None, 'format_only': False})


def _foreground(labels: torch.Tensor) -> torch.Tensor:
    return ((labels > 0) & (labels != 255)).any()
