"""One evaluator for cracks: MMSegmentation's own results and the measures of the crack literature."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from crack_plugin.evaluation import measures
from crack_plugin.evaluation.image_statistics import PIXEL_MEASURES, ImageStatistics
from crack_plugin.evaluation.measures import MetricError
from crack_plugin.evaluation.val_loss import ImageLoss

IOU_METRICS = ('mIoU', 'mDice', 'mFscore')
"""What ``IoUMetric`` can compute."""


@dataclass(frozen=True)
class ImageResult:
    """What one image adds to the dataset's scores; K foreground classes.

    Attributes:
        img_path: The image's file, None for a sample that has none.
        areas: Pixels of (intersection, union, prediction, label) by class, each of shape (K + 1,): one entry of
            ``IoUMetric.results``.
        histograms: :func:`~crack_plugin.evaluation.measures.probability_histogram` by class, shape (K, 2, 100); None
            for a prediction without ``seg_logits``.
        centerline: :func:`~crack_plugin.evaluation.measures.centerline_counts` by class, shape (K, 3).
        centerline_dice: By class, shape (K,).
        losses: :class:`~crack_plugin.evaluation.val_loss.ImageLoss`'s values; empty without ``loss_decode``.
    """

    img_path: str | None
    areas: tuple[Tensor, Tensor, Tensor, Tensor]
    histograms: np.ndarray | None
    centerline: np.ndarray
    centerline_dice: np.ndarray
    losses: dict[str, float]


def _stack(results: Sequence[ImageResult]) -> ImageStatistics:
    histograms = [result.histograms for result in results if result.histograms is not None]
    return ImageStatistics(
        areas=np.stack([torch.stack(result.areas).numpy() for result in results]),
        centerline=np.stack([result.centerline for result in results]),
        centerline_dice=np.stack([result.centerline_dice for result in results]),
        histograms=np.stack(histograms) if len(histograms) == len(results) else None,
    )


def _class_map(data: Tensor) -> Tensor:
    """Drop the leading axis that ``PixelData`` puts before (H, W)."""
    return data.reshape(data.shape[-2:])


@METRICS.register_module()
class CrackMetric(IoUMetric):
    """All scores of a crack segmentor from one pass and one evaluator entry.

    It returns what :class:`mmseg.evaluation.IoUMetric` returns (``mIoU``, ``mAcc``, ...: percent, rounded to two
    digits, background included) and, for the foreground alone, as unrounded fractions in [0, 1]:

    - ``crack/IoU``, ``crack/Dice``, ``crack/Precision``, ``crack/Recall``: computed per image, then the plain mean over
      images. An empty prediction on an empty mask scores 1.
    - ``crack/dIoU``, ``crack/dDice``, ``crack/dPrecision``, ``crack/dRecall``: the same from the dataset's summed
      pixels. ``crack/dIoU`` is the crack row of MMSegmentation's class table.
    - ``crack/ODS``, ``crack/OIS``: F1 at the best of the thresholds 0.01 to 0.99, one for the dataset or one for each
      image.
    - ``crack/clIoU``, ``crack/clDice``: centerline scores; clIoU from the dataset's summed pixels, clDice per image.
    - ``crack/FalseAlarm``, ``crack/FalseAlarmPixels``: of the images without a class, the share in which a pixel is
      marked as it, and marked pixels per megapixel (which is no fraction). Left out if there is no such image.

    - ``val_loss``, if ``loss_decode`` is given: the training loss of the same forward, per image, then the mean.

    :mod:`crack_plugin.evaluation.measures` defines each. Select checkpoints with ``save_best='crack/IoU',
    rule='greater'``. Pixels labelled ``ignore_index`` are left out of every score.

    Class 0 is the background, every other class of the dataset a foreground class. With several, each score is
    computed class by class, ``crack/IoU`` is the mean over classes, and ``crack/IoU/<class>`` is there for each.

    Masks are ``pred_sem_seg``, so the model's own threshold acts. ODS and OIS take the foreground probability from
    ``seg_logits``: the softmax of one logit per class or, from a model with ``out_channels=1``, the probabilities that
    MMSegmentation stores there. If any prediction has no ``seg_logits`` these two keys are left out, with a warning.
    Under test-time augmentation stock ``SegTTAModel`` leaves the last augmentation's ``seg_logits`` in the sample, and
    ODS and OIS are that augmentation's; with ``SAM3TTAModel`` they are the merged prediction's.

    The log tells how many images have nothing of a class in their masks, on which the means over images then rest, and
    what ``crack/IoU`` is without them. If no image has anything of it, that is a warning.

    After an evaluation :attr:`per_image` holds each image's scores.

    Args:
        ignore_index (int): Label of the pixels left out. Defaults to 255.
        iou_metrics (Sequence[str] | str): Which of 'mIoU', 'mDice' and 'mFscore' to compute beside the crack scores.
            Defaults to ('mIoU', 'mFscore').
        tolerance (int): Of clIoU, in pixels. Defaults to 4.
        loss_decode (dict | list[dict], optional): The segmentor's ``loss_decode``, to compute ``val_loss`` as well (and
            ``val_<loss_name>`` of each, if several). Needs ``seg_logits`` with a channel for each class. Defaults to
            None.
        nan_to_num (int, optional): Stands for NaN in MMSegmentation's results. Defaults to None.
        beta (int): Weight of recall in MMSegmentation's F-score. Defaults to 1.
        collect_device (str): 'cpu' or 'gpu': where ranks exchange results. Defaults to 'cpu'.
        output_dir (str, optional): Where to write each ``pred_sem_seg`` as PNG. Defaults to None.
        format_only (bool): Only write the PNGs and score nothing, for images without ground truth. Defaults to False.
        prefix (str, optional): Put before every key as ``prefix/``. Defaults to None.
        keep_results (bool): Has no effect, as in ``IoUMetric``; ``tools/test.py --out`` passes it. Defaults to False.

    Attributes:
        per_image (list[dict]): One dict per image of the last evaluation, in the dataset's order, on rank 0 (empty on
            other ranks): 'img_path' and the fractions 'IoU', 'Dice', 'Precision' and 'Recall' (means over foreground
            classes).
        statistics (ImageStatistics, optional): What the scores of the last evaluation were computed from, on rank 0.

    Raises:
        MetricError: ``iou_metrics`` has an unknown name, ``tolerance`` is negative, or ``format_only`` is set without
            ``output_dir``. Later, naming the image: shapes, classes or logits that do not fit the dataset.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        iou_metrics: Sequence[str] | str = ('mIoU', 'mFscore'),
        tolerance: int = 4,
        loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        nan_to_num: int | None = None,
        beta: int = 1,
        collect_device: str = 'cpu',
        output_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = None,
        keep_results: bool = False,
    ) -> None:
        iou_metrics = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        if unknown := set(iou_metrics) - set(IOU_METRICS):
            raise MetricError(f'iou_metrics has {sorted(unknown)}; choose from {list(IOU_METRICS)}')
        if tolerance < 0:
            raise MetricError(f'tolerance is a distance in pixels, got {tolerance}')
        if format_only and not output_dir:
            raise MetricError('format_only=True writes predictions and nothing else: give output_dir as well')
        super().__init__(
            ignore_index=ignore_index,
            iou_metrics=iou_metrics,
            nan_to_num=nan_to_num,
            beta=beta,
            collect_device=collect_device,
            output_dir=output_dir,
            format_only=format_only,
            prefix=prefix,
        )
        self.tolerance = tolerance
        self.image_loss = ImageLoss(loss_decode, ignore_index) if loss_decode is not None else None
        self.per_image: list[dict[str, Any]] = []
        self.statistics: ImageStatistics | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score a batch, one :class:`ImageResult` an image into ``self.results``, and write its PNGs.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions as dicts: ``pred_sem_seg``, ``seg_logits`` and ``gt_sem_seg``
                with their 'data' of shape (1 or C, H, W).

        Raises:
            MetricError: A sample does not fit the dataset; the message names its image.
        """
        for sample in data_samples:
            try:
                if self.format_only:
                    super().process(data_batch, [sample])
                else:
                    self._check_sample(sample)
                    super().process(data_batch, [sample])
                    self.results.append(self._score(sample, areas=self.results.pop()))
            except ValueError as error:
                raise MetricError(f'{sample.get("img_path", "an image without img_path")}: {error}') from error

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Reduce the images' results to the dataset's scores and log them as tables.

        Fills :attr:`per_image` and :attr:`statistics`.

        Args:
            results (list[ImageResult]): One entry an image.

        Returns:
            dict[str, float]: Scores by key; empty with ``format_only``.

        Raises:
            MetricError: There is no result.
        """
        if self.format_only:
            return super().compute_metrics(results)
        if not results:
            raise MetricError('CrackMetric has nothing to score: the dataloader gave no image')
        metrics = super().compute_metrics([result.areas for result in results])

        self.statistics = _stack(results)
        scores = measures.overlap_scores(self.statistics.counts)
        self.per_image = [
            {'img_path': result.img_path} | {name: float(scores[name][i].mean()) for name in PIXEL_MEASURES}
            for i, result in enumerate(results)
        ]

        by_class = self.statistics.scores()
        self._log_thresholds(self.statistics, results)
        self._log_table(by_class)
        self._log_empty_masks(self.statistics, scores['IoU'])
        for name, values in (by_class | self.statistics.false_alarm_scores()).items():
            # The mean over the classes that have the score.
            if (defined := ~np.isnan(values)).any():
                metrics[f'crack/{name}'] = float(values[defined].mean())
            if len(self._foreground) > 1:
                pairs = zip(self._foreground, values, defined, strict=True)
                metrics |= {f'crack/{name}/{class_name}': float(value) for class_name, value, known in pairs if known}
        metrics |= {name: float(np.mean([result.losses[name] for result in results])) for name in results[0].losses}
        return metrics

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count pixels by class, as ``IoUMetric`` does with three float histograms.

        Those stop counting at 2 ** 24 pixels of a class and are refused by CUDA under
        ``torch.use_deterministic_algorithms``; whole numbers from one confusion matrix have neither limit, and are
        faster.

        Args:
            pred_label (Tensor): Predicted classes, shape (H, W).
            label (Tensor): True classes, shape (H, W).
            num_classes (int): Number of classes, background included.
            ignore_index (int): Label of the pixels left out.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor]: Pixels of intersection, union, prediction and label by class, each of
            shape (num_classes,), float64 on the CPU.
        """
        confusion = measures.confusion_matrix(pred_label, label, num_classes, ignore_index).cpu().double()
        intersection, predicted, true = confusion.diagonal().clone(), confusion.sum(dim=0), confusion.sum(dim=1)
        return intersection, predicted + true - intersection, predicted, true

    @property
    def _foreground(self) -> Sequence[str]:
        classes = (self.dataset_meta or {}).get('classes', ())
        if len(classes) < 2:
            raise MetricError(
                f'CrackMetric needs a background class and at least one more, but the dataset has {tuple(classes)}'
            )
        return classes[1:]

    def _check_sample(self, sample: dict) -> None:
        """Raise a ``MetricError`` for what ``IoUMetric`` would stumble over later."""
        if 'gt_sem_seg' not in sample:
            raise MetricError(
                'there is no gt_sem_seg to score against: load the labels in the test pipeline, or set '
                'format_only=True and output_dir to write predictions alone'
            )
        size = tuple(sample['gt_sem_seg']['data'].shape[-2:])
        for key in ('pred_sem_seg', 'seg_logits'):
            if key in sample and tuple(sample[key]['data'].shape[-2:]) != size:
                raise MetricError(
                    f'{key} has shape {tuple(sample[key]["data"].shape)}, its mask {size} (height, width): '
                    'labels are scored at the size of the image file (load them after any resizing)'
                )
        if self.image_loss is not None and 'seg_logits' not in sample:
            raise MetricError('there are no seg_logits to compute loss_decode of; take it out of CrackMetric')
        num_classes = 1 + len(self._foreground)
        channels = len(sample['seg_logits']['data']) if 'seg_logits' in sample else num_classes
        if channels != num_classes and (channels, num_classes) != (1, 2):
            raise MetricError(
                f'seg_logits has {channels} channels, but the dataset has {num_classes} classes; set num_classes '
                '(and out_channels) of the model to that number'
            )

    def _score(self, sample: dict, areas: tuple[Tensor, Tensor, Tensor, Tensor]) -> ImageResult:
        prediction, label = (_class_map(sample[key]['data']) for key in ('pred_sem_seg', 'gt_sem_seg'))
        label = label.to(prediction.device)
        valid = label != self.ignore_index
        classes = range(1, len(self._foreground) + 1)

        histograms, losses = None, {}
        if 'seg_logits' in sample:
            histograms = self._histograms(sample['seg_logits']['data'].to(prediction.device), label, valid)
            if self.image_loss is not None:
                losses = self.image_loss(sample['seg_logits']['data'], label)

        centerline, centerline_dice = [], []
        for c in classes:
            predicted, true = (((mask == c) & valid).cpu().numpy() for mask in (prediction, label))
            predicted_skeleton, true_skeleton = measures.skeleton(predicted), measures.skeleton(true)
            centerline.append(measures.centerline_counts(predicted_skeleton, true_skeleton, self.tolerance))
            centerline_dice.append(measures.centerline_dice(predicted, true, predicted_skeleton, true_skeleton))
        return ImageResult(
            sample.get('img_path'),
            areas,
            histograms,
            np.stack(centerline),
            np.array(centerline_dice, dtype=np.float64),
            losses,
        )

    def _histograms(self, logits: Tensor, label: Tensor, valid: Tensor) -> np.ndarray:
        """Histograms by class, shape (K, 2, 100), a few rows at a time."""
        classes = range(1, len(self._foreground) + 1)
        rows = max(1, measures.PART_PIXELS // label.shape[1]) if label.device.type == 'cpu' else len(label)
        total = np.zeros((len(classes), 2, len(measures.THRESHOLDS) + 1), np.int32)
        for some in zip(logits.split(rows, dim=1), label.split(rows), valid.split(rows), strict=True):
            probability = self._foreground_probability(some[0])
            for c in classes:
                total[c - 1] += measures.probability_histogram(probability[c - 1], some[1] == c, some[2])
        return total

    @staticmethod
    def _foreground_probability(logits: Tensor) -> Tensor:
        """Probability of each foreground class, shape (K, H, W), float32."""
        logits = logits.float()
        probability = logits if len(logits) == 1 else logits.softmax(dim=0)[1:]
        low, high = (bound.item() for bound in torch.aminmax(probability))
        if not (0 <= low <= high <= 1):
            raise MetricError(
                f'seg_logits give foreground probabilities from {low} to {high}. NaN: the model has diverged, or half '
                'precision overflowed. Outside [0, 1]: a one-channel seg_logits must be probabilities (after the '
                'sigmoid), as BaseSegmentor.postprocess_result stores them'
            )
        return probability

    def _log_thresholds(self, statistics: ImageStatistics, results: list[ImageResult]) -> None:
        """Tell the thresholds of ODS, or why there is none."""
        if statistics.histograms is None:
            without = sum(result.histograms is None for result in results)
            MMLogger.get_current_instance().warning(
                f'{without} of {len(results)} predictions have no seg_logits: crack/ODS and crack/OIS are left out'
            )
            return
        thresholds = [measures.ods_f1(images)[1] for images in np.moveaxis(statistics.histograms, 1, 0)]
        best = ', '.join(f'{name} {value:.2f}' for name, value in zip(self._foreground, thresholds, strict=True))
        print_log(f'threshold of the best F1 over the dataset (ODS): {best}', logger='current')

    def _log_table(self, by_class: dict[str, np.ndarray]) -> None:
        table = PrettyTable(['Class', *by_class])
        for i, name in enumerate(self._foreground):
            table.add_row([name, *(f'{values[i]:.4f}' for values in by_class.values())])
        if len(self._foreground) > 1:
            table.add_row(['mean', *(f'{values.mean():.4f}' for values in by_class.values())])
        print_log(f'crack scores (fractions):\n{table.get_string()}', logger='current')

    def _log_empty_masks(self, statistics: ImageStatistics, iou: np.ndarray) -> None:
        """Tell on how many images the means rest on masks without foreground; ``iou`` has the shape (N, K)."""
        empty = statistics.areas[:, 3, 1:] == 0
        for i, name in enumerate(self._foreground):
            count, total = int(empty[:, i].sum()), len(empty)
            if not count:
                continue
            text = (
                f'crack/IoU: {count} of {total} images have no {name}; in the means over images they count as 1 where '
                'none is predicted, as 0 elsewhere'
            )
            if count == total:
                print_log(f'{text}. The scores say nothing about {name}.', logger='current', level=logging.WARNING)
            else:
                rest = iou[~empty[:, i], i].mean()
                print_log(f'{text}. Over the other {total - count} images crack/IoU is {rest:.4f}', logger='current')
        scores, by_image = statistics.false_alarm_scores(), statistics.false_alarms
        for i, name in enumerate(self._foreground):
            free = by_image[~np.isnan(by_image[:, i]), i]
            if len(free):
                print_log(
                    f'false alarms: {name} is marked in {np.count_nonzero(free)} of {len(free)} images without it, '
                    f'{scores["FalseAlarmPixels"][i]:.1f} pixels per megapixel of them',
                    logger='current',
                )
