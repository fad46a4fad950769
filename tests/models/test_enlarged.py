"""Labels and logits that are computed where and when they are asked for, against those of the entire image."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from crack_plugin.models.enlarged import Enlarged, EnlargedData
from crack_plugin.models.logits import threshold_labels

SIZES = [(129, 129), (137, 513), (200, 257), (301, 170), (320, 768)]


def random_maps(detailed: bool, size: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(size[0])
    # Foreground here and there, as of cracks.
    maps = [4 * torch.randn(1, 1, 9, 7, generator=generator) - 4]
    # As a detail head corrects: at a resolution of its own, or the image's.
    finer = size if size == (200, 257) else (23, 19)
    return maps + [torch.randn(1, 1, *finer, generator=generator)] * detailed


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('detailed', [False, True])
def test_parts_are_bitwise_those_of_the_entire_image(detailed: bool, size: tuple[int, int]) -> None:
    maps = random_maps(detailed, size)
    enlarged = Enlarged(maps, size)
    assert enlarged.is_partial
    each = [F.interpolate(coarse, size=size, mode='bilinear', align_corners=False) for coarse in maps]
    expected = F.pad(sum(each[1:], start=each[0]), (0, 0, 0, 0, 1, 0))
    assert torch.equal(enlarged.whole(), expected)
    for threshold in (0.02, 0.5, 0.9):
        labels = threshold_labels(expected, threshold)
        assert torch.equal(enlarged.labels(threshold), labels)
        marked: list[torch.Tensor] = []
        assert torch.equal(enlarged.labels(threshold, torch.uint8, marked), labels.to(torch.uint8))
        # In whatever order: the logits of all that is marked.
        background, found = torch.cat([torch.zeros(2, 0), *marked], dim=1)
        assert not background.any()
        assert torch.equal(found.sort().values, expected[0, 1][labels[0] > 0].sort().values)


def test_a_threshold_that_a_logit_meets_exactly() -> None:
    """The logits of some pixels as thresholds: a difference in the last bit would show."""
    enlarged = Enlarged([torch.randn(1, 1, 12, 16, generator=torch.Generator().manual_seed(0))], (150, 300))
    logits = enlarged.whole()
    for logit in logits[0, 1].flatten()[::2999].double():
        threshold = float(logit.sigmoid())
        assert torch.equal(enlarged.labels(threshold), threshold_labels(logits, threshold))


@pytest.mark.parametrize('logit', [0.0, -0.0, 1e-30, -1e-30, 5e4, -5e4])
def test_labels_of_ties_and_extremes(logit: float) -> None:
    """A logit at the threshold is background; rounding must not decide for a part before it is interpolated."""
    for maps in (
        [torch.full((1, 1, 4, 5), logit)],
        [torch.full((1, 1, 4, 5), logit), torch.full((1, 1, 6, 6), -logit)],
    ):
        enlarged = Enlarged(maps, (131, 270))
        assert torch.equal(enlarged.labels(0.5), threshold_labels(enlarged.whole(), 0.5))
    step = torch.tensor([logit, -logit, logit]).expand(1, 1, 3, 3)
    enlarged = Enlarged([step], (170, 531))
    assert torch.equal(enlarged.labels(0.5), threshold_labels(enlarged.whole(), 0.5))


def test_a_single_cell_above_the_threshold_is_found_wherever_it_is() -> None:
    for row in range(6):
        for column in range(5):
            coarse = torch.full((1, 1, 6, 5), -9.0)
            coarse[0, 0, row, column] = 1
            enlarged = Enlarged([coarse], (390, 533))
            labels = threshold_labels(enlarged.whole(), 0.5)
            assert labels.any() and torch.equal(enlarged.labels(0.5), labels)


def test_what_is_enlarged_as_a_whole() -> None:
    """What is not finite, several classes, and what torch has another kernel for."""
    coarse = torch.zeros(1, 1, 4, 4)
    assert Enlarged([coarse], (130, 140)).is_partial
    assert not Enlarged([coarse], (128, 140)).is_partial
    assert not Enlarged([torch.zeros(1, 3, 4, 4)], (130, 140)).is_partial
    for value in (torch.nan, torch.inf):
        coarse[0, 0, 1, 2] = value
        assert not Enlarged([torch.zeros(1, 1, 4, 4), coarse], (130, 140)).is_partial


def test_data_is_computed_once_and_when_it_is_asked_for() -> None:
    enlarged = Enlarged(random_maps(True, (137, 131)), (137, 131))
    logits, labels = enlarged.whole()[0], enlarged.labels(0.5)

    def sample() -> SegDataSample:
        found: Any = SegDataSample()
        found.set_data({'seg_logits': EnlargedData(enlarged), 'pred_sem_seg': EnlargedData(enlarged, 0.5)})
        return found

    one = sample()
    assert 'data' in one.seg_logits and one.seg_logits.source is enlarged
    assert one.seg_logits.data is one.seg_logits.data
    assert torch.equal(one.seg_logits.data, logits) and torch.equal(one.pred_sem_seg.data, labels)
    assert one.seg_logits.source is None
    # Whoever changes it finds it changed.
    one.seg_logits.data.zero_()
    assert not one.seg_logits.data.any()
    one.pred_sem_seg.data = labels + 1
    assert torch.equal(one.pred_sem_seg.data, labels + 1)
    for other in (copy.deepcopy(sample()), pickle.loads(pickle.dumps(sample())), sample().clone(), sample().cpu()):
        assert torch.equal(other.seg_logits.data, logits) and torch.equal(other.pred_sem_seg.data, labels)
    as_dict = sample().to_dict()
    assert torch.equal(as_dict['seg_logits']['data'], logits) and torch.equal(as_dict['pred_sem_seg']['data'], labels)
    assert sample().seg_logits.shape == (137, 131) and sample().seg_logits[:5, 3:9].data.shape == (2, 5, 6)
    with pytest.raises(AttributeError, match='has no attribute'):
        _ = sample().seg_logits.scores


@torch.no_grad()
@pytest.mark.parametrize('head', [None, {}, {'max_pixels': 700}, {'size': 'square'}], ids=str)
@pytest.mark.parametrize('prompts', [('crack',), ('crack', 'rust')], ids=len)
def test_a_model_predicts_the_same(
    tiny_sam3: dict, monkeypatch: pytest.MonkeyPatch, head: dict | None, prompts: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    arguments = {'base': tiny_sam3, 'prompts': prompts, 'detail_head': head, 'threshold': 0.4}
    model = MODELS.build({**cfg.model, **arguments}).eval()
    if model.detail_head is not None:
        torch.nn.init.normal_(model.detail_head.correct.weight)

    def predict(**meta: Any) -> SegDataSample:
        image = torch.randint(0, 256, (3, 190, 175), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        sample = SegDataSample(metainfo={'img_shape': (190, 175), 'ori_shape': (190, 175), **meta})
        return model.test_step(pseudo_collate([{'inputs': image, 'data_samples': sample}]))[0]

    found, flipped = predict(), predict(flip=True, flip_direction='horizontal')
    assert isinstance(found.seg_logits, EnlargedData) is (len(prompts) == 1)
    assert not isinstance(flipped.seg_logits, EnlargedData)
    monkeypatch.setattr(Enlarged, 'is_partial', False)
    expected = predict()
    assert not isinstance(expected.seg_logits, EnlargedData)
    assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)
    assert found.pred_sem_seg.data.dtype == torch.int64
    assert torch.equal(found.seg_logits.data, expected.seg_logits.data)
    assert torch.equal(flipped.pred_sem_seg.data, expected.pred_sem_seg.data.flip(2))
