"""Sliding windows: the grid, blending without seams, and memory; against MMSegmentation's own sliding."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crack_plugin.errors import ConfigError
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.sliding import at_scales, blend_weights, blend_windows, window_starts

SIZES = [(96, 56, 40), (56, 56, 56), (30, 56, 40), (57, 56, 1), (1000, 336, 224), (168, 56, 56)]


def slide_config(crop: Sequence[int], stride: Sequence[int], **more: Any) -> dict:
    return {'mode': 'slide', 'crop_size': tuple(crop), 'stride': tuple(stride), **more}


def blend(images: Tensor, predict, crop: Sequence[int], stride: Sequence[int], batch: int = 4) -> Tensor:
    canvas = torch.zeros(len(images), 1, *images.shape[-2:])
    blend_windows(images, predict, canvas, crop, stride, batch)
    return canvas


class StubSegmentor(EncoderDecoder):
    """MMSegmentation's sliding over a function of windows (N, C, h, w)."""

    def __init__(self, predict, crop: Sequence[int], stride: Sequence[int]) -> None:
        torch.nn.Module.__init__(self)
        self.test_cfg = type('Cfg', (), {'crop_size': crop, 'stride': stride})
        self.out_channels, self.predict_windows = 1, predict

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        return self.predict_windows(inputs)


@pytest.mark.parametrize(('length', 'window', 'stride'), SIZES)
def test_windows_lie_where_mmseg_has_them(length: int, window: int, stride: int) -> None:
    seen: list[int] = []
    positions = torch.arange(length, dtype=torch.float32).view(1, 1, 1, length)

    def note(windows: Tensor) -> Tensor:
        seen.append(int(windows[0, 0, 0, 0]))
        return windows

    StubSegmentor(note, (1, window), (1, stride)).slide_inference(positions, [{}])
    assert window_starts(length, window, stride) == seen


@pytest.mark.parametrize(('length', 'window', 'stride'), SIZES)
def test_weights_sum_to_one_everywhere(length: int, window: int, stride: int) -> None:
    total = torch.zeros(length)
    for start, weights in zip(
        window_starts(length, window, stride), blend_weights(length, window, stride), strict=True
    ):
        assert (weights > 0).all()
        total[start : start + len(weights)] += weights
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [(96, 120), (40, 130), (30, 20)])
def test_smooth_predictions_come_back_unchanged(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing='ij')
    images = torch.stack([torch.full(size, 3.0), y / 7 + torch.sin(x / 9)])[:, None]
    torch.testing.assert_close(blend(images, lambda windows: windows, (56, 50), (40, 31)), images, atol=1e-5, rtol=0)


def test_windows_that_disagree_leave_no_seam() -> None:
    """Each window shifts its logits by an amount of its own: plain averaging jumps where one ends."""
    image = torch.rand(1, 1, 200, 200)

    def disagree(windows: Tensor) -> Tensor:
        return torch.zeros_like(windows) + torch.sin(1e3 * windows[:, :, :1, :1])

    crop, stride = (60, 60), (40, 40)
    blended = blend(image, disagree, crop, stride)
    averaged = StubSegmentor(disagree, crop, stride).slide_inference(image, [{}])
    jumps = [(result.diff(dim=-1).abs().max() + result.diff(dim=-2).abs().max()) for result in (blended, averaged)]
    assert averaged.std() > 0.1
    assert jumps[0] < 0.25 * jumps[1]


def segmentor(base: dict, test_cfg: dict | None = None, prompts: Sequence[str] = ('crack',)) -> SAM3TextLoRA:
    return SAM3TextLoRA(base=base, prompts=prompts, lora=None, test_cfg=test_cfg).eval()


def raw_batch(*sizes: tuple[int, int], seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    metas = [{'img_shape': size, 'ori_shape': size} for size in sizes]
    return {'inputs': images, 'data_samples': [SegDataSample(metainfo=meta) for meta in metas]}


def logits_of(model: SAM3TextLoRA, batch: dict) -> Tensor:
    with torch.no_grad():
        return torch.stack([sample.seg_logits.data for sample in model.test_step(batch)])


@pytest.mark.parametrize('size', [(56, 56), (40, 50), (56, 30)])
def test_one_window_gives_the_logits_of_whole_mode(tiny_sam3: dict, size: tuple[int, int]) -> None:
    whole = logits_of(segmentor(tiny_sam3), raw_batch(size))
    slide = logits_of(segmentor(tiny_sam3, slide_config((56, 56), (40, 40))), raw_batch(size))
    assert torch.equal(slide, whole)
    assert whole[:, 1].std() > 0.01


def test_tiles_give_each_their_own_logits(tiny_sam3: dict) -> None:
    """Two images, two classes, tiles side by side."""
    prompts = ('crack', 'rust stain')
    batch = raw_batch((112, 168), (112, 168))
    slide = logits_of(segmentor(tiny_sam3, slide_config((56, 56), (56, 56), batch=5), prompts), batch)
    whole = segmentor(tiny_sam3, prompts=prompts)
    assert slide.shape == (2, 3, 112, 168)
    assert not slide[:, 0].any()
    for image, logits in zip(batch['inputs'], slide, strict=True):
        for top in (0, 56):
            for left in (0, 56, 112):
                tile = (slice(None), slice(top, top + 56), slice(left, left + 56))
                alone = {'inputs': [image[tile]], 'data_samples': raw_batch((56, 56))['data_samples']}
                torch.testing.assert_close(logits[tile], logits_of(whole, alone)[0], atol=1e-5, rtol=0)


def test_batch_and_normalised_input_change_nothing(tiny_sam3: dict) -> None:
    batch = raw_batch((90, 130))
    results = [
        logits_of(segmentor(tiny_sam3, slide_config((56, 56), (40, 40), batch=size)), batch) for size in (1, 4, 100)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)
    model = segmentor(tiny_sam3, slide_config((56, 56), (40, 40)))
    normalised = model.data_preprocessor(batch, training=False)['inputs']
    with torch.no_grad():
        assert torch.equal(model.inference(normalised, [{'ori_shape': (90, 130)}]), results[1])


def test_preprocessor_that_pads_is_left_to_do_so(tiny_sam3: dict) -> None:
    model = segmentor(tiny_sam3, slide_config((56, 56), (40, 40)))
    model.data_preprocessor.test_cfg = {'size_divisor': 56}
    assert logits_of(model, raw_batch((60, 70))).shape == (1, 2, 60, 70)


def test_windows_are_announced_in_batches(tiny_sam3: dict) -> None:
    model = segmentor(tiny_sam3, slide_config((56, 56), (40, 40), batch=4))
    announced = []
    model.window_progress = lambda batches: announced.extend(batches) or batches
    logits_of(model, raw_batch((96, 136)))
    assert [len(some) for some in announced] == [4, 2]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive, after each operation; keeps the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_bytes(model: SAM3TextLoRA, size: tuple[int, int]) -> int:
    batch = raw_batch(size)
    with torch.no_grad(), LiveBytes() as live:
        model.test_step(batch)
    return live.peak


def test_memory_grows_by_logits_and_labels_alone(tiny_sam3: dict) -> None:
    """Of tensors: 8 bytes a pixel of logits and 8 of labels, besides the image, which was there before."""
    model = segmentor(tiny_sam3, slide_config((256, 256), (192, 192)))
    small, large = (256 + 192, 256 + 192), (1024, 1216)
    pixels = large[0] * large[1] - small[0] * small[1]
    assert (peak_bytes(model, large) - peak_bytes(model, small)) / pixels < 17


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        ({'mode': 'slide', 'crop_size': (56, 56)}, 'stride=None'),
        ({'mode': 'slide', 'crop_size': 56, 'stride': (40, 40)}, 'crop_size=56'),
        (slide_config((56, 56), (57, 40)), 'leave pixels out'),
        (slide_config((56, 56), (40, 0)), 'stride'),
        (slide_config((56, 56), (40, 40), batch=0), 'batch=0'),
    ],
)
def test_impossible_windows_are_refused(tiny_sam3: dict, test_cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentor(tiny_sam3, test_cfg)


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical', 'diagonal'])
def test_logits_are_brought_back_to_the_file(tiny_sam3: dict, flip: str | None) -> None:
    """Against MMSegmentation's postprocessing: padding, flips, size."""
    model = segmentor(tiny_sam3)
    logits = torch.randn(1, 2, 40, 50)
    meta = {'ori_shape': (64, 80), 'padding_size': [2, 4, 1, 3], 'flip': flip is not None, 'flip_direction': flip}
    ours = model.postprocess_result(logits, [SegDataSample(metainfo=meta)])[0]
    if flip == 'diagonal':  # which MMSegmentation refuses
        meta, logits = {**meta, 'flip_direction': 'vertical', 'padding_size': [4, 2, 1, 3]}, logits.flip(-1)
    stock = EncoderDecoder.postprocess_result(model, logits, [SegDataSample(metainfo=meta)])[0]
    torch.testing.assert_close(ours.seg_logits.data, stock.seg_logits.data)
    assert torch.equal(ours.pred_sem_seg.data, stock.pred_sem_seg.data)
    assert isinstance(ours.pred_sem_seg, PixelData)


def test_scales_are_the_mean_of_the_image_and_of_windows() -> None:
    images = torch.rand(2, 3, 30, 45)
    # A model whose logits depend on where a pixel lies in what it sees
    predict = lambda x: x[:, :2] * torch.linspace(0, 1, x.shape[-1])  # noqa: E731
    windows = torch.zeros(2, 2, 30, 45)
    blend_windows(images, predict, windows, (20, 30), (14, 20))
    found = at_scales(images, predict, 2, (1, 1.5), batch=3)
    torch.testing.assert_close(found, (predict(images) + windows) / 2)
    torch.testing.assert_close(at_scales(images, predict, 2, (1,), batch=1), predict(images))


def test_a_model_with_scales_blends_what_it_finds_at_each(tiny_sam3: dict) -> None:
    torch.manual_seed(0)
    model = SAM3TextLoRA(base=tiny_sam3, test_cfg=slide_config((60, 60), (40, 40))).eval()
    images, metas = torch.rand(1, 3, 60, 60), [{}]
    with torch.no_grad():
        once = model.slide_inference(images, metas)
        model.test_cfg.scales = (1, 2)
        both = model.slide_inference(images, metas)
        model.test_cfg.update(crop_size=(30, 30), stride=(20, 20), scales=(1,))
        magnified = model.slide_inference(images, metas)
    torch.testing.assert_close(both, (once + magnified) / 2)
    assert (once - magnified).abs().max() > 1e-3


@pytest.mark.parametrize('scales', [(), (0.5,), ('1',), 1.5])
def test_scales_that_make_no_sense_are_refused(tiny_sam3: dict, scales) -> None:
    with pytest.raises(ConfigError, match='give numbers from 1 on'):
        SAM3TextLoRA(base=tiny_sam3, test_cfg=slide_config((60, 60), (40, 40), scales=scales))
