"""The validation loss is the training's, from the logits that are scored."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from crack_plugin.evaluation import CrackMetric

LOSSES = [
    {'type': 'ForegroundDiceLoss', 'loss_weight': 0.5},
    {'type': 'CrossEntropyLoss', 'loss_weight': 3.0},
]


def evaluate(samples: list[SegDataSample], **kwargs: object) -> dict[str, float]:
    evaluator = Evaluator(CrackMetric(**kwargs))
    evaluator.dataset_meta = {'classes': ('background', 'crack')}
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def test_is_the_models_own_loss_in_evaluation_mode(tiny_config, tiny_sam3):
    """Image by image, though the model segments them as one batch; the last has ignored pixels."""
    cfg = Config.fromfile(tiny_config)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = MODELS.build({**cfg.model, 'base': tiny_sam3, 'loss_decode': LOSSES}).eval()
    batch = pseudo_collate([dataset[index] for index in range(len(dataset))])
    batch['data_samples'][-1].gt_sem_seg.data[..., :20] = 255

    with torch.no_grad():
        expected = []
        for image, data_sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            data = model.data_preprocessor({'inputs': [image], 'data_samples': [data_sample]}, training=True)
            expected.append(model(**data, mode='loss'))
        metrics = evaluate(model.val_step(batch), loss_decode=LOSSES)

    for name in ('loss_dice', 'loss_ce'):
        mean = torch.stack([losses[name] for losses in expected]).mean().item()
        assert metrics[f'val_{name}'] == pytest.approx(mean, abs=1e-6)
    assert metrics['val_loss'] == pytest.approx(metrics['val_loss_dice'] + metrics['val_loss_ce'])


def test_one_loss_has_one_key():
    logits = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 2.0)])
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.ones(1, 8, 8, dtype=torch.long)),
        pred_sem_seg=PixelData(data=torch.ones(1, 8, 8, dtype=torch.long)),
        seg_logits=PixelData(data=logits),
    )
    metrics = evaluate([sample], loss_decode={'type': 'ForegroundDiceLoss'})
    area, p = 64, torch.sigmoid(torch.tensor(2.0)).item()
    assert metrics['val_loss'] == pytest.approx(1 - (2 * area * p + 1) / (area * p + area + 1), abs=1e-6)
    assert not {key for key in metrics if key.startswith('val_')} - {'val_loss'}
    assert 'val_loss' not in evaluate([sample])


def test_probabilities_and_missing_logits_are_refused():
    label = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.long))
    one = SegDataSample(gt_sem_seg=label, pred_sem_seg=label, seg_logits=PixelData(data=torch.full((1, 4, 4), 0.4)))
    with pytest.raises(ValueError, match='out_channels=2'):
        evaluate([one], loss_decode=LOSSES)
    with pytest.raises(ValueError, match='no seg_logits'):
        evaluate([SegDataSample(gt_sem_seg=label, pred_sem_seg=label)], loss_decode=LOSSES)
    with pytest.raises(ValueError, match=r'loss_decode=\[\]: give'):
        CrackMetric(loss_decode=[])
