from crack_plugin.evaluation import CrackMetric, measures  # first: it makes mmseg importable with mmcv-lite

# isort: split
import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.models.segmentors import BaseSegmentor, SegTTAModel
from mmseg.registry import METRICS
from mmseg.structures import SegDataSample
from PIL import Image

INTERFACE = {
    f'crack/{name}'
    for name in (
        *('IoU', 'Dice', 'Precision', 'Recall'),
        *('dIoU', 'dDice', 'dPrecision', 'dRecall'),
        *('ODS', 'OIS', 'clIoU', 'clDice'),
    )
}
META = {'classes': ('background', 'crack')}
SIZE = (24, 32)


def sample(logits: torch.Tensor, label: torch.Tensor, **metainfo: Any) -> SegDataSample:
    """A prediction as ``BaseSegmentor.postprocess_result`` leaves it, from logits (C, H, W) and labels (H, W)."""
    result = SegDataSample(
        gt_sem_seg=PixelData(data=label[None]), metainfo={'ori_shape': tuple(label.shape), 'img_path': 'a.jpg'}
    )
    model = SimpleNamespace(align_corners=False, decode_head=SimpleNamespace(threshold=0.3))
    BaseSegmentor.postprocess_result(model, logits[None], [result])
    result.set_metainfo(metainfo)
    return result


def random_samples(num_images: int, num_classes: int = 2, ignored: float = 0.1) -> list[SegDataSample]:
    """Predictions somewhat better than chance, crack on a tenth of the pixels, some pixels ignored."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(num_images):
        foreground = torch.rand(SIZE, generator=generator) < 0.1 * (i + 1)
        label = foreground * torch.randint(1, num_classes, SIZE, generator=generator)
        logits = torch.randn(num_classes, *SIZE, generator=generator)
        logits += 2 * torch.nn.functional.one_hot(label, num_classes).permute(2, 0, 1)
        label[torch.rand(SIZE, generator=generator) < ignored] = 255
        samples.append(sample(logits, label, img_path=f'images/{i}.jpg'))
    return samples


def score(
    samples: list[SegDataSample], classes: tuple[str, ...] = META['classes'], **kwargs: Any
) -> tuple[dict[str, float], CrackMetric]:
    metric = CrackMetric(**kwargs)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {'classes': classes}
    evaluator.process(samples)
    return evaluator.evaluate(len(samples)), metric


def overlaps(data_sample: SegDataSample, class_index: int = 1) -> dict[str, float]:
    """The reference's per-image scores, by its own formulas on masks."""
    label = data_sample.gt_sem_seg.data[0].numpy()
    p = data_sample.pred_sem_seg.data[0].numpy()[label != 255] == class_index
    g = label[label != 255] == class_index
    both = (p & g).sum()
    return {
        'IoU': (both + 1e-6) / ((p | g).sum() + 1e-6),
        'Dice': (2 * both + 1e-6) / (p.sum() + g.sum() + 1e-6),
        'Precision': (both + 1e-6) / (p.sum() + 1e-6),
        'Recall': (both + 1e-6) / (g.sum() + 1e-6),
    }


def mask_sample(predicted: torch.Tensor, true: torch.Tensor) -> SegDataSample:
    """A confident prediction of one mask for another."""
    foreground = 20.0 * (2 * predicted - 1)
    return sample(torch.stack([torch.zeros_like(foreground), foreground]), true.long())


def test_keys_are_the_interfaces_beside_mmsegs_own():
    metrics, _ = score(random_samples(2))
    assert {key for key in metrics if key.startswith('crack/')} == INTERFACE
    assert {'aAcc', 'mIoU', 'mAcc', 'mFscore', 'mPrecision', 'mRecall'} == set(metrics) - INTERFACE
    assert all(type(metrics[key]) is float for key in INTERFACE)
    json.dumps({key: metrics[key] for key in INTERFACE})


def test_mmsegs_own_results_are_iou_metrics():
    samples = random_samples(5, num_classes=3)
    classes = ('background', 'crack', 'spalling')
    options = {'iou_metrics': ['mIoU', 'mDice', 'mFscore'], 'beta': 2}
    stock = Evaluator(IoUMetric(**options))
    stock.dataset_meta = {'classes': classes}
    stock.process(samples)
    expected = stock.evaluate(len(samples))
    metrics, _ = score(samples, classes, **options)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=0.011)  # both rounded to 0.01
    assert set(expected) == {key for key in metrics if not key.startswith('crack/')}


def test_dataset_iou_is_iou_metrics_crack_row():
    samples = random_samples(5)
    areas = [
        IoUMetric.intersect_and_union(s.pred_sem_seg.data[0], s.gt_sem_seg.data[0], num_classes=2, ignore_index=255)
        for s in samples
    ]
    stock = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)), ['mIoU', 'mFscore'])
    metrics, _ = score(samples)
    for name, row in (('dIoU', 'IoU'), ('dDice', 'Fscore'), ('dPrecision', 'Precision'), ('dRecall', 'Recall')):
        assert metrics[f'crack/{name}'] == pytest.approx(float(stock[row][1]), abs=1e-6)


def test_areas_equal_iou_metrics_to_the_pixel():
    for data_sample in random_samples(3, num_classes=4):
        maps = data_sample.pred_sem_seg.data[0], data_sample.gt_sem_seg.data[0]
        ours, stock = (metric.intersect_and_union(*maps, 4, 255) for metric in (CrackMetric, IoUMetric))
        for area, expected in zip(ours, stock, strict=True):
            assert area.tolist() == expected.tolist()


def test_per_image_means_are_the_references():
    samples = random_samples(4)
    metrics, metric = score(samples)
    expected = [overlaps(data_sample) for data_sample in samples]
    for name in ('IoU', 'Dice', 'Precision', 'Recall'):
        assert metrics[f'crack/{name}'] == pytest.approx(np.mean([scores[name] for scores in expected]), abs=1e-9)
        assert [image[name] for image in metric.per_image] == pytest.approx([scores[name] for scores in expected])
    assert [image['img_path'] for image in metric.per_image] == [f'images/{i}.jpg' for i in range(4)]
    assert metrics['crack/IoU'] != pytest.approx(metrics['crack/dIoU'], abs=1e-3)


@pytest.mark.parametrize('name', sorted(INTERFACE))
def test_empty_and_full_masks(name):
    empty, full = torch.zeros(SIZE), torch.ones(SIZE)
    assert score([mask_sample(empty, empty)])[0][name] == 1
    assert score([mask_sample(full, full)])[0][name] == pytest.approx(1)
    missed, false = score([mask_sample(empty, full)])[0][name], score([mask_sample(full, empty)])[0][name]
    if 'Precision' in name:
        assert (missed, false) == (1, pytest.approx(0, abs=1e-6))
    elif 'Recall' in name:
        assert (missed, false) == (pytest.approx(0, abs=1e-6), 1)
    else:
        assert (missed, false) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_means_over_images_with_an_empty_one():
    """One perfect one-pixel crack, one empty image left empty, one missed crack."""
    pixel, empty = torch.zeros(SIZE), torch.zeros(SIZE)
    pixel[5, 6] = 1
    metrics, _ = score([mask_sample(pixel, pixel), mask_sample(empty, empty), mask_sample(empty, pixel)])
    assert metrics['crack/IoU'] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics['crack/Precision'] == pytest.approx(1)
    assert metrics['crack/dIoU'] == pytest.approx(1 / 2, abs=1e-6)
    assert metrics['crack/clDice'] == pytest.approx(2 / 3)
    assert metrics['crack/clIoU'] == pytest.approx(1 / 2, abs=1e-6)
    assert metrics['crack/OIS'] == pytest.approx(2 / 3, abs=1e-6)


def test_the_log_tells_how_much_of_the_mean_rests_on_empty_masks(log):
    """Half of the images have no crack; the one with a crack is half found: the mean of 0.75 hides an IoU of 0.5."""
    empty, line, half = torch.zeros(SIZE), torch.zeros(SIZE), torch.zeros(SIZE)
    line[5, 4:24] = half[5, 4:14] = 1
    metrics, _ = score([mask_sample(half, line), mask_sample(empty, empty)])
    assert metrics['crack/IoU'] == pytest.approx(0.75)
    (told,) = [message for message in log if 'have no crack' in message]
    assert told.startswith('crack/IoU: 1 of 2 images have no crack; in the means over images they count as 1 where')
    assert told.endswith('Over the other 1 images crack/IoU is 0.5000')


def test_false_alarms_on_images_without_crack(log):
    """Two images without crack, one of them marked; its ignored pixels are no pixels. Marks beside a crack are none."""
    line, empty, marked = torch.zeros(SIZE), torch.zeros(SIZE), torch.zeros(SIZE)
    line[5, 4:24] = marked[5, 4:14] = marked[8, :2] = 1
    ignored = mask_sample(marked, empty)
    ignored.gt_sem_seg.data[0, 8:] = 255
    metrics, metric = score([mask_sample(marked, line), mask_sample(empty, empty), ignored])
    height, width = SIZE
    assert metrics['crack/FalseAlarm'] == 1 / 2
    assert metrics['crack/FalseAlarmPixels'] == pytest.approx(1e6 * 10 / (height * width + 8 * width))
    np.testing.assert_allclose(metric.statistics.false_alarms[:, 0], [np.nan, 0, 1e6 * 10 / (8 * width)])
    assert type(metrics['crack/FalseAlarm']) is float
    (told,) = [message for message in log if message.startswith('false alarms')]
    assert 'crack is marked in 1 of 2 images without it' in told


def test_images_of_ignored_pixels_alone_are_no_images_without_crack():
    data_sample = mask_sample(torch.ones(SIZE), torch.zeros(SIZE))
    data_sample.gt_sem_seg.data.fill_(255)
    line = torch.zeros(SIZE)
    line[5, 4:24] = 1
    assert 'crack/FalseAlarm' not in score([data_sample, mask_sample(line, line)])[0]


def test_false_alarms_by_class_are_left_out_where_there_can_be_none():
    """Every image has spalling; one of three has no crack, and is marked as crack all over."""
    classes = ('background', 'crack', 'spalling')
    label = torch.full(SIZE, 2)
    label[:4] = 1
    logits = torch.zeros(3, *SIZE)
    logits[1] = 5
    samples = [sample(logits, label), sample(logits, label), sample(logits, torch.full(SIZE, 2))]
    metrics, _ = score(samples, classes)
    assert metrics['crack/FalseAlarm/crack'] == metrics['crack/FalseAlarm'] == 1
    assert metrics['crack/FalseAlarmPixels/crack'] == metrics['crack/FalseAlarmPixels'] == 1e6
    assert not {key for key in metrics if 'FalseAlarm' in key and key.endswith('spalling')}


def test_scores_of_empty_masks_alone_are_a_warning(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        metrics, _ = score([mask_sample(torch.zeros(SIZE), torch.zeros(SIZE))] * 6)
    finally:
        logger.removeHandler(caplog.handler)
    assert metrics['crack/IoU'] == 1
    (warning,) = {
        record.message for record in caplog.records if record.levelname == 'WARNING' and 'no crack' in record.message
    }
    assert '6 of 6 images have no crack' in warning
    assert 'say nothing about crack' in warning


def test_empty_masks_are_told_by_class_and_not_without_any(log):
    score(random_samples(3))
    assert not [message for message in log if 'images have no' in message]
    crack_alone = [sample(torch.randn(3, *SIZE), (torch.rand(SIZE) < 0.5).long()) for _ in range(4)]
    score(crack_alone, ('background', 'crack', 'spalling'))
    (told,) = [message for message in log if 'images have no' in message]
    assert '4 of 4 images have no spalling' in told


@pytest.mark.parametrize(('tolerance', 'shift', 'expected'), [(4, 3, 1), (4, 5, 0), (5, 5, 1)])
def test_tolerance(tolerance, shift, expected):
    true, predicted = torch.zeros(SIZE), torch.zeros(SIZE)
    true[10, 4:28] = predicted[10 + shift, 4:28] = 1
    metrics, _ = score([mask_sample(predicted, true)], tolerance=tolerance)
    assert metrics['crack/clIoU'] == pytest.approx(expected, abs=1e-6)
    assert metrics['crack/clDice'] == 0


def test_ignored_pixels_have_no_influence():
    samples = random_samples(3, ignored=0.3)
    changed = copy.deepcopy(samples)
    for data_sample in changed:
        ignored = data_sample.gt_sem_seg.data == 255
        data_sample.pred_sem_seg.data[ignored] = 1 - data_sample.pred_sem_seg.data[ignored]
        data_sample.seg_logits.data[:, ignored[0]] *= -3
    assert score(changed)[0] == score(samples)[0]


def test_ods_and_ois_come_from_the_logits_and_the_rest_from_the_mask():
    """The mask is empty (a high threshold), the logits are perfect at any threshold below 0.7."""
    crack = torch.zeros(SIZE)
    crack[3:6] = 1
    logit = torch.where(crack > 0, np.log(0.7 / 0.3), -5.0)
    data_sample = sample(torch.stack([torch.zeros(SIZE), logit]), crack.long())
    data_sample.pred_sem_seg.data.zero_()
    metrics, _ = score([data_sample])
    assert metrics['crack/ODS'] == metrics['crack/OIS'] == 1
    for name in ('IoU', 'Recall', 'dIoU', 'clIoU', 'clDice'):
        assert metrics[f'crack/{name}'] == pytest.approx(0, abs=1e-6)


def test_ods_and_ois_are_the_best_of_ninety_nine_thresholds():
    samples = random_samples(4)
    f1, counts = np.zeros((4, 99)), np.zeros((99, 3))
    for i, data_sample in enumerate(samples):
        valid = data_sample.gt_sem_seg.data[0] != 255
        p, g = data_sample.seg_logits.data.softmax(0)[1][valid], data_sample.gt_sem_seg.data[0][valid] == 1
        for k in range(99):
            predicted = p > torch.tensor((k + 1) / 100)
            tp, fp, fn = ((a & b).sum().item() for a, b in ((predicted, g), (predicted, ~g), (~predicted, g)))
            f1[i, k] = 2 * tp / (2 * tp + fp + fn)
            counts[k] += tp, fp, fn
    metrics, _ = score(samples)
    assert metrics['crack/OIS'] == pytest.approx(f1.max(axis=1).mean(), abs=1e-7)
    tp, fp, fn = counts.T
    assert metrics['crack/ODS'] == pytest.approx((2 * tp / (2 * tp + fp + fn)).max(), abs=1e-7)


def test_half_precision_logits_are_computed_in_float32():
    """Crack at p = 0.500225, the rest at 0.499775: only the threshold 0.5 parts them, and float16 rounds to 0.5."""
    crack = torch.zeros(SIZE)
    crack[3:6] = 1
    logits = torch.stack([torch.zeros(SIZE), 0.0009 * (2 * crack - 1)])
    data_sample = sample(logits, crack.long())
    data_sample.seg_logits.data = data_sample.seg_logits.data.half()
    metrics, _ = score([data_sample])
    assert metrics['crack/ODS'] == metrics['crack/OIS'] == metrics['crack/IoU'] == 1


def test_one_logit_models_give_the_same_scores_as_two_logits():
    """``out_channels=1``: MMSegmentation stores the sigmoid and a float mask (threshold 0.3 here)."""
    for data_sample in random_samples(2):
        label = data_sample.gt_sem_seg.data[0]
        logit = data_sample.seg_logits.data[1]
        one = sample(logit[None], label)
        assert one.seg_logits.data.shape == (1, *SIZE)
        assert one.pred_sem_seg.data.dtype == torch.float32
        two = sample(torch.stack([torch.zeros(SIZE), logit]), label)
        two.pred_sem_seg.data = (logit.sigmoid() > 0.3).long()[None]
        expected, _ = score([two])
        assert score([one])[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('channels', [1, 2])
def test_stock_test_time_augmentation(channels):
    """``SegTTAModel`` keeps the last augmentation's logits: masks are merged, ODS and OIS are the last one's."""
    torch.manual_seed(0)
    label = (torch.rand(SIZE) < 0.2).long()
    views = [sample(torch.randn(channels, *SIZE) + label, label) for _ in range(2)]
    last = copy.deepcopy(views[-1])
    model = SimpleNamespace(module=SimpleNamespace(out_channels=channels, decode_head=SimpleNamespace(threshold=0.3)))
    (merged,) = SegTTAModel.merge_preds(model, [views])
    metrics, _ = score([merged])
    assert metrics['crack/IoU'] == pytest.approx(overlaps(merged)['IoU'])
    assert metrics['crack/ODS'] == score([last])[0]['crack/ODS']


def test_several_classes_give_each_class_and_the_mean():
    samples = random_samples(3, num_classes=3)
    metrics, metric = score(samples, ('background', 'crack', 'spalling'))
    assert {key for key in metrics if key.startswith('crack/')} == INTERFACE | {
        f'{key}/{name}' for key in INTERFACE for name in ('crack', 'spalling')
    }
    for key in INTERFACE:
        assert metrics[key] == pytest.approx((metrics[f'{key}/crack'] + metrics[f'{key}/spalling']) / 2)
    for i, name in enumerate(('crack', 'spalling'), start=1):
        expected = np.mean([overlaps(data_sample, i)['IoU'] for data_sample in samples])
        assert metrics[f'crack/IoU/{name}'] == pytest.approx(expected)
        # A class against the rest, as a dataset of that class alone: its probability and its mask.
        alone = []
        for data_sample in samples:
            label = data_sample.gt_sem_seg.data[0]
            probability = data_sample.seg_logits.data.softmax(0)[i]
            alone.append(sample(probability.logit()[None], torch.where(label == 255, 255, (label == i).long())))
            alone[-1].pred_sem_seg.data = (data_sample.pred_sem_seg.data == i).long()
        for key, expected in score(alone)[0].items():
            if key in INTERFACE:
                assert metrics[f'{key}/{name}'] == pytest.approx(expected, abs=1e-6)
    both = [np.mean([overlaps(samples[0], i)['Dice'] for i in (1, 2)])]
    assert metric.per_image[0]['Dice'] == pytest.approx(both[0])


def test_predictions_without_logits_leave_ods_and_ois_out(caplog):
    samples = random_samples(3)
    expected, _ = score(samples)
    del samples[1].seg_logits
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        metrics, _ = score(samples)
    finally:
        logger.removeHandler(caplog.handler)
    assert metrics == {key: value for key, value in expected.items() if key not in ('crack/ODS', 'crack/OIS')}
    warnings = [record.message for record in caplog.records if 'seg_logits' in record.message]
    assert warnings == ['1 of 3 predictions have no seg_logits: crack/ODS and crack/OIS are left out']


def test_two_evaluations_of_one_metric_do_not_mix():
    metric = CrackMetric()
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = META
    for samples in (random_samples(4), random_samples(2)):
        evaluator.process(samples)
        metrics = evaluator.evaluate(len(samples))
        assert metrics == score(samples)[0]
        assert len(metric.per_image) == len(samples)


def test_padding_of_the_last_batches_is_dropped():
    """A distributed sampler repeats images until all ranks have as many; the evaluator knows the dataset's size."""
    samples = random_samples(3)
    metric = CrackMetric()
    metric.dataset_meta = META
    metric.process(None, [s.to_dict() for s in [*samples, samples[0]]])
    assert len(metric.results) == 4
    assert metric.evaluate(size=3) == score(samples)[0]
    assert len(metric.per_image) == 3


def test_prefix_goes_before_every_key():
    samples = random_samples(1)
    expected, _ = score(samples)
    assert score(samples, prefix='road')[0] == {f'road/{key}': value for key, value in expected.items()}


def test_output_dir_holds_the_predictions(tmp_path):
    """As ``tools/test.py --out`` sets it up."""
    samples = random_samples(2)
    config = {'type': 'CrackMetric', 'output_dir': str(tmp_path), 'keep_results': True}
    evaluator = Evaluator(METRICS.build(config))
    evaluator.dataset_meta = META
    evaluator.process(samples)
    assert evaluator.evaluate(2) == score(samples)[0]
    for i, data_sample in enumerate(samples):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f'{i}.png')), data_sample.pred_sem_seg.data[0])


def test_format_only_needs_no_ground_truth(tmp_path):
    (data_sample,) = random_samples(1)
    del data_sample.gt_sem_seg
    metrics, _ = score([data_sample], format_only=True, output_dir=str(tmp_path))
    assert metrics == {}
    assert [path.name for path in tmp_path.iterdir()] == ['0.png']


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'iou_metrics': ['mIou']}, 'mIou'),
        ({'tolerance': -1}, 'tolerance'),
        ({'format_only': True}, 'output_dir'),
    ],
)
def test_wrong_arguments_are_an_error_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CrackMetric(**kwargs)


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match='tolerence'):
        CrackMetric(tolerence=2)


def wrong_samples() -> dict[str, tuple[SegDataSample, tuple[str, ...]]]:
    samples = {name: random_samples(1)[0] for name in ('size', 'mask', 'label', 'channels', 'diverged', 'logit', 'one')}
    samples['size'].gt_sem_seg = PixelData(data=torch.zeros(1, 5, 6, dtype=torch.long))
    del samples['mask'].gt_sem_seg
    samples['label'].gt_sem_seg.data[0, 0, 0] = 2
    samples['diverged'].seg_logits.data[1, 3, 4] = torch.nan
    samples['logit'].seg_logits = PixelData(data=torch.full((1, *SIZE), 1.5))
    classes = dict.fromkeys(samples, META['classes'])
    classes['channels'] = ('background', 'crack', 'spalling')
    classes['one'] = ('crack',)
    return {name: (samples[name], classes[name]) for name in samples}


@pytest.mark.parametrize(
    ('case', 'message'),
    [
        ('size', r'shape \(1, 24, 32\), its mask \(5, 6\)'),
        ('mask', 'no gt_sem_seg'),
        ('label', 'class 2, but there are 2 classes'),
        ('channels', '2 channels, but the dataset has 3 classes'),
        ('diverged', 'diverged'),
        ('logit', 'must be probabilities'),
        ('one', 'needs a background class'),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_image(case, message):
    data_sample, classes = wrong_samples()[case]
    with pytest.raises(ValueError, match=rf'images/0\.jpg: .*{message}'):
        score([data_sample], classes)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match='no image'):
        score([])


class TinySegmentor(BaseModel):
    """A pixel-wise threshold on the image's first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(-0.5))

    def forward(
        self, inputs: list[torch.Tensor], data_samples: list[SegDataSample], mode: str = 'tensor'
    ) -> dict[str, torch.Tensor] | list[SegDataSample]:
        if mode == 'loss':
            return {'loss': (self.bias + 0.5) ** 2}
        for image, data_sample in zip(inputs, data_samples, strict=True):
            logit = image[0] + self.bias.detach()
            data_sample.seg_logits = PixelData(data=torch.stack([torch.zeros_like(logit), logit]))
            data_sample.pred_sem_seg = PixelData(data=(logit > 0).long()[None])
        return data_samples


class TinyDataset(torch.utils.data.Dataset):
    metainfo = META

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(index))
        label = (image[0] > 0.6).long()[None]
        return {
            'inputs': image,
            'data_samples': SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={'img_path': f'{index}.jpg'}),
        }


def test_save_best_by_crack_iou(tmp_path):
    loader = {'dataset': TinyDataset(), 'batch_size': 2, 'collate_fn': {'type': 'pseudo_collate'}}
    loader['sampler'] = {'type': 'DefaultSampler', 'shuffle': False}
    runner = Runner(
        model=TinySegmentor(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        val_cfg={},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        val_evaluator={'type': 'CrackMetric'},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'save_best': 'crack/IoU', 'rule': 'greater'}},
        default_scope='mmseg',
        experiment_name=tmp_path.name,
    )
    runner.train()
    assert any(isinstance(hook, CheckpointHook) for hook in runner.hooks)
    assert (tmp_path / 'best_crack_IoU_epoch_1.pth').is_file()
    (metric,) = runner.val_loop.evaluator.metrics
    assert [image['img_path'] for image in metric.per_image] == ['0.jpg', '1.jpg']
    logged = [json.loads(line) for path in tmp_path.rglob('scalars.json') for line in path.read_text().splitlines()]
    validation = next(line for line in logged if 'mIoU' in line)
    assert set(validation) >= INTERFACE
    assert validation['crack/IoU'] == pytest.approx(np.mean([image['IoU'] for image in metric.per_image]))


def evaluate_rank(rank: int, folder: str, collect_device: str) -> None:
    os.chdir(folder)  # mmengine collects through .dist_test in the working directory
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    samples = random_samples(5)
    evaluator = Evaluator(CrackMetric(collect_device=collect_device))
    evaluator.dataset_meta = META
    indices = list(DefaultSampler(samples, shuffle=False))
    assert len(indices) == 3  # 5 images on 2 ranks: one is repeated
    evaluator.process([samples[i] for i in indices])
    metrics = evaluator.evaluate(len(samples))
    paths = [image['img_path'] for image in evaluator.metrics[0].per_image]
    Path(f'{rank}.json').write_text(json.dumps([{key: float(value) for key, value in metrics.items()}, paths]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize('collect_device', ['cpu', 'gpu'])
def test_two_ranks_count_every_image_once(tmp_path, collect_device):
    torch.multiprocessing.spawn(evaluate_rank, (str(tmp_path), collect_device), nprocs=2)
    expected, _ = score(random_samples(5))
    (first, first_paths), (second, second_paths) = (json.loads((tmp_path / f'{r}.json').read_text()) for r in (0, 1))
    assert first == second == pytest.approx(expected)
    assert first_paths == [f'images/{i}.jpg' for i in range(5)]
    assert second_paths == []


@pytest.mark.parametrize('classes', [('background', 'crack'), ('background', 'crack', 'rust')])
def test_counting_in_parts_changes_nothing(monkeypatch, classes):
    """Probabilities on the thresholds themselves, ignored pixels and several classes among them."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(len(classes), *SIZE, generator=generator)
    label = torch.randint(0, len(classes), SIZE, generator=generator)
    label[3:5] = 255
    on_thresholds = torch.linspace(0.01, 0.99, 32)
    logits[:, 0] = torch.log(torch.stack([1 - on_thresholds] + (len(classes) - 1) * [on_thresholds]))
    (whole, first), probability = score([sample(logits, label)], classes), logits.softmax(0).numpy()
    monkeypatch.setattr(measures, 'PART_PIXELS', 70)
    parts, second = score([sample(logits, label)], classes)
    assert parts == whole
    np.testing.assert_array_equal(second.statistics.histograms, first.statistics.histograms)
    valid = label.numpy() != 255
    for c in range(1, len(classes)):
        exceeded = (probability[c][..., None] > measures.THRESHOLDS).sum(axis=-1)
        for row, chosen in enumerate((label.numpy() != c, label.numpy() == c)):
            expected = np.bincount(exceeded[valid & chosen], minlength=100)
            np.testing.assert_array_equal(first.statistics.histograms[0, c - 1, row], expected)
