"""Test-time augmentation averages probabilities."""

import pytest
import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from crack_plugin.models import SAM3TextLoRA


@pytest.mark.parametrize('head', [None, {}])
def test_tta_model_merges_probabilities(tiny_sam3: dict, head: dict | None) -> None:
    module = SAM3TextLoRA(base=tiny_sam3, threshold=0.4, detail_head=head)
    if module.detail_head is not None:
        torch.nn.init.normal_(module.detail_head.correct.weight)
    model = MODELS.build({'type': 'SAM3TTAModel', 'module': module}).eval()
    image = torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8)
    shape = {'img_shape': (56, 56), 'ori_shape': (56, 56), 'img_path': 'a.jpg'}
    flips = [{'flip': False}, {'flip': True, 'flip_direction': 'horizontal'}]
    batch = {
        'inputs': [[image], [image.flip(-1)]],
        'data_samples': [[SegDataSample(metainfo={**shape, **flip})] for flip in flips],
    }
    with torch.no_grad():
        merged = model.test_step(batch)[0]
        separate = [
            model.module.test_step({'inputs': inputs, 'data_samples': data_samples})[0].seg_logits.data.softmax(0)
            for inputs, data_samples in zip(batch['inputs'], batch['data_samples'], strict=True)
        ]
    mean = torch.stack(separate).mean(0)
    torch.testing.assert_close(merged.seg_logits.data.softmax(0), mean, atol=1e-5, rtol=0)
    assert torch.equal(merged.pred_sem_seg.data[0], (mean[1] > 0.4).long())
