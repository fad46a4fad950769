"""The threshold with the best F1 over validation images, and checkpoints that carry it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from mmseg.apis import init_model
from mmseg.registry import DATASETS
from prettytable import PrettyTable
from torch import Tensor

from crack_plugin.checkpoints import TUNED, load_from_local
from crack_plugin.datasets.data_yaml import read_data_yaml, split_sources
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.datasets.yolo_layout import find_split
from crack_plugin.errors import CrackPluginError
from crack_plugin.evaluation import measures
from crack_plugin.files import write_atomically
from crack_plugin.inference import predict
from crack_plugin.losses import IGNORE_INDEX
from crack_plugin.models.strips import strips
from crack_plugin.models.tuned_threshold import DEFAULT, put_threshold
from crack_plugin.prediction.predictor import has_prompts

_TEST = ('test', 'testing')


class ThresholdError(CrackPluginError, ValueError):
    """A threshold cannot be chosen from these images, or written to this file."""


@dataclass(frozen=True)
class ThresholdSearch:
    """Scores at every threshold.

    Attributes:
        f1: F1 of the dataset's summed pixels at each of ``measures.THRESHOLDS``, mean over the classes that occur,
            shape (99,).
        iou: IoU likewise.
        images: How many were predicted.
        split: Name of the split they are of; empty if it has none.
    """

    f1: np.ndarray
    iou: np.ndarray
    images: int
    split: str

    @property
    def index(self) -> int:
        """That of the best F1, the lowest of equals, as :func:`~crack_plugin.evaluation.measures.ods_f1` has it."""
        return int(self.f1.argmax())

    @property
    def threshold(self) -> float:
        """The one to take."""
        return _value(self.index)

    def table(self, former: float = DEFAULT) -> str:
        """F1 and IoU at steps of 0.05, at the best threshold, and at the one that would be used without it."""
        shown = {round(100 * value) - 1 for value in (former, self.threshold)}
        table = PrettyTable(['threshold', 'F1', 'IoU', ''])
        for i in sorted(shown & set(range(99)) | set(range(4, 99, 5))):
            remark = 'best' if i == self.index else 'former' if i == round(100 * former) - 1 else ''
            table.add_row([f'{_value(i):.2f}', f'{self.f1[i]:.4f}', f'{self.iou[i]:.4f}', remark])
        return table.get_string()


def search_threshold(cfg: Config, checkpoint: Path, device: str) -> ThresholdSearch:
    """Predict the validation images, and score them at every threshold.

    Args:
        cfg: Config of a ``SAM3TextLoRA``; ``val_dataloader`` is what it is tuned on.
        checkpoint: Its weights.
        device: Where to predict.

    Raises:
        ThresholdError: The model has no threshold, the images are test images, or have nothing of any class; or logits
            are not finite.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if not has_prompts(cfg):
        raise ThresholdError(f'{cfg.model.type} has no threshold that a checkpoint could carry: SAM3TextLoRA has.')
    if not cfg.get('val_dataloader'):
        raise ThresholdError(f'{cfg.filename} has no val_dataloader, whose images the threshold is chosen by: add one.')
    check_split(cfg)
    settings = cfg.copy().val_dataloader
    settings.sampler = {'type': 'DefaultSampler', 'shuffle': False}
    loader = Runner.build_dataloader(settings)
    check_images(cfg, loader.dataset)
    model = init_model(cfg.copy(), str(checkpoint), device=device)
    histograms = []
    bar = ProgressBar(len(loader.dataset))  # type: ignore[arg-type]
    for batch in loader:
        for sample in predict(model.val_step, batch, cfg):
            # NaN, if there is one.
            if not sample.seg_logits.data.amax().isfinite():
                raise ThresholdError(
                    f'the logits of {sample.metainfo.get("img_path", "an image")} are not finite: the training of '
                    f'{checkpoint} diverged, or the precision is too low (model.dtype, test_cfg.fp16).'
                )
            histograms.append(label_histograms(sample.seg_logits.data, sample.gt_sem_seg.data.squeeze(0)))
            bar.update()
    print()
    stacked = np.stack(histograms)
    occurs = stacked[:, :, 1].any(axis=(0, 2))
    if not occurs.any():
        raise ThresholdError(
            f'none of the {len(stacked)} validation images has anything to be found, so every threshold that marks '
            'nothing is best. Take a split with cracks: --split NAME.'
        )
    scores = measures.scores_by_threshold(stacked[:, occurs])
    split = str(cfg.val_dataloader.dataset.get('split', ''))
    return ThresholdSearch(scores['Dice'].mean(axis=0), scores['IoU'].mean(axis=0), len(stacked), split)


def label_histograms(logits: Tensor, label: Tensor) -> np.ndarray:
    """Histograms by class from which :func:`~crack_plugin.evaluation.measures.counts_by_threshold` has label maps'
    pixels.

    Of several classes a pixel is labelled with the likeliest, where 1 - p(background) exceeds the threshold.

    Args:
        logits: Shape (K + 1, H, W), channel 0 the background.
        label: True classes, shape (H, W), 255 where ignored.

    Returns:
        Shape (K, 2, 100), int64.
    """
    classes, height, width = len(logits) - 1, *label.shape
    label = label.to(logits.device)
    total = np.zeros((classes, 2, len(measures.THRESHOLDS) + 1), np.int64)
    for rows in strips(height, classes * width, logits.device):
        probability, true = logits[:, rows].float().softmax(dim=0)[1:], label[rows]
        foreground, chosen = probability.sum(dim=0), probability.argmax(dim=0)
        for c in range(classes):
            own = torch.where(chosen == c, foreground, 0)
            total[c] += measures.probability_histogram(own, true == c + 1, true != IGNORE_INDEX)
    return total


def use_split(cfg: Config, split: str) -> None:
    """Let the ``val_dataloader`` read another split of its dataset, and a ``test_dataloader`` that is the same with it.

    Raises:
        ThresholdError: Its dataset has no ``split``.
    """
    loaders = [cfg.val_dataloader]
    if cfg.get('test_dataloader') and _named(cfg.test_dataloader) == _named(cfg.val_dataloader):
        loaders.append(cfg.test_dataloader)
    for loader in loaders:
        if 'split' not in loader.dataset:
            raise ThresholdError(
                f'--split: the val_dataloader of {cfg.filename} has no dataset.split. Change its dataset instead.'
            )
        loader.dataset.split = split


def check_split(cfg: Config) -> None:
    """Refuse validation images that the config itself calls test images.

    Raises:
        ThresholdError: They are.
    """
    for dataset in _datasets(cfg.val_dataloader.dataset):
        named = [dataset.get('split'), dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
        paths = [PurePath(name) for name in named if isinstance(name, str)]
        parts = [part for path in paths for part in (*path.parts, path.stem)]
        if found := [part for part in parts if part.casefold() in _TEST]:
            raise ThresholdError(
                f'val_dataloader reads the test split ({found[0]!r}). A threshold that is chosen on test images makes '
                'their scores too good. Choose it on a validation split: --split val; tools/split_dataset.py makes one.'
            )


def check_images(cfg: Config, dataset: Any) -> None:
    """Refuse validation images that are test images under another name.

    Raises:
        ThresholdError: Some are in the ``test`` split of a YOLO dataset of the config, or in its ``test_dataloader``,
            where that is another dataset than the ``val_dataloader``'s.
    """
    images = _images(dataset)
    tests: dict[str, set[Path]] = {}
    for config in _datasets(cfg.val_dataloader.dataset):
        kind = config.get('type')
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(kind, type) and issubclass(kind, YOLOCrackDataset)):
            continue
        data_yaml = read_data_yaml(Path(config['data_root']))
        if split_sources(data_yaml, 'test'):
            options = config.get('annotations', 'polygons'), config.get('mask_suffix', '')
            pairs = find_split(data_yaml, 'test', *options).pairs
            tests[f'the test split of {data_yaml.root}'] = {Path(image).resolve() for image, _ in pairs}
    if cfg.get('test_dataloader') and _named(cfg.test_dataloader) != _named(cfg.val_dataloader):
        tests['test_dataloader'] = _images(Runner.build_dataloader(cfg.copy().test_dataloader).dataset)
    for name, others in tests.items():
        if shared := sorted(images & others):
            raise ThresholdError(
                f'{len(shared)} of {len(images)} validation images are in {name} as well, such as {shared[0]}. A '
                'threshold that is chosen on test images makes their scores too good. Choose it on other images '
                '(--split NAME; tools/split_dataset.py makes a split), or, if these are no test images, remove that '
                'entry.'
            )


def default_output(checkpoint: Path) -> Path:
    """Where the copy of a checkpoint with a tuned threshold goes unless told otherwise."""
    return checkpoint.with_name(f'{checkpoint.stem}{TUNED}{checkpoint.suffix}')


def write_tuned(checkpoint: Path, out: Path, search: ThresholdSearch) -> None:
    """Write a copy of a checkpoint that sets the threshold of a model that it is loaded into.

    ``meta['threshold']`` says what it was chosen by, and the config's text in ``meta['cfg']`` gets it, too.

    Args:
        checkpoint: File of a training.
        out: The copy.
        search: What the threshold was chosen by.

    Raises:
        CheckpointError: ``checkpoint`` cannot be read.
        ThresholdError: It holds no weights beside what is said of them.
        SaveError: ``out`` cannot be written.
    """
    content = load_from_local(str(checkpoint), 'cpu')
    if not isinstance(content, dict) or 'state_dict' not in content:
        raise ThresholdError(
            f'{checkpoint} has no state_dict: give a checkpoint of a training (best_*.pth, epoch_*.pth).'
        )
    content['state_dict'] = put_threshold(content['state_dict'], search.threshold)
    meta = content.setdefault('meta', {})
    meta['threshold'] = {
        'value': search.threshold,
        'f1': float(search.f1[search.index]),
        'images': search.images,
        'split': search.split,
    }
    if isinstance(meta.get('cfg'), str):
        # Text that MMEngine reads as a config file; it is not run here.
        meta['cfg'] = f"{meta['cfg'].rstrip()}\nmodel['threshold'] = {search.threshold}\n"
    write_atomically(out, lambda path: torch.save(content, path), durable=True)


def _value(index: int) -> float:
    return round(float(measures.THRESHOLDS[index]), 2)


def _datasets(config: Any) -> Iterator[Mapping[str, Any]]:
    """The datasets in a dataset's config, those that it wraps included."""
    if isinstance(config, Mapping):
        yield config
        config = [value for key, value in config.items() if key in ('dataset', 'datasets')]
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from _datasets(value)


def _named(dataloader: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What says which images a data loader reads."""
    keys = ('data_root', 'split', 'ann_file', 'data_prefix', 'indices')
    return [{key: each.get(key) for key in keys} for each in _datasets(dataloader['dataset'])]


def _images(dataset: Any) -> set[Path]:
    return {Path(dataset.get_data_info(index)['img_path']).resolve() for index in range(len(dataset))}
