"""The detail head: what it computes, and that it goes wherever the segmentor goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crack_plugin.errors import ConfigError
from crack_plugin.models import SAM3TextLoRA, detail_head
from crack_plugin.models.adapters import AdapterError
from crack_plugin.models.detail_head import DetailHead

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


def build(base: Any, head: dict | None, **arguments: Any) -> SAM3TextLoRA:
    torch.manual_seed(1)
    return MODELS.build({'type': 'SAM3TextLoRA', 'base': base, 'lora': LORA, 'detail_head': head, **arguments}).eval()


def awaken(head: nn.Module | None) -> DetailHead:
    """Give the last layer weights, so that the head corrects something."""
    assert isinstance(head, DetailHead)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        head.correct.weight.normal_(generator=generator)
        head.correct.bias.fill_(0.3)  # type: ignore[union-attr]
    return head


def predict(model: SAM3TextLoRA, images: Tensor, metas: list[dict] | None = None) -> Tensor:
    with torch.no_grad():
        return model.encode_decode(images, metas or [{}] * len(images))[:, 1:]


def whole_image(head: DetailHead, images: Tensor, embeddings: Tensor, coarse: Tensor) -> Tensor:
    """The head as its drawing says, on entire images and one prompt."""
    variance, mean = torch.var_mean(images, dim=(2, 3), correction=0, keepdim=True)
    images = (images - mean) / (variance + 1e-4).sqrt()
    maps = [head.project(embeddings), coarse / 8]
    if head.context is not None:
        maps[0] = head.context(images, torch.cat(maps, dim=1), classes=1)
    enlarged = [F.interpolate(each, size=images.shape[-2:], mode='bilinear') for each in maps]
    return head.correct(head.refine(torch.cat([head.image(images), *enlarged], dim=1)))


@pytest.mark.parametrize('head', [{}, {'size': 'square'}, {'levels': 3}])
def test_an_untrained_head_leaves_sam3s_logits(tiny_sam3: dict, head: dict) -> None:
    images = torch.randn(2, 3, 40, 70)
    plain = predict(build(tiny_sam3, None, prompts=['crack', 'joint']), images)
    assert torch.equal(predict(build(tiny_sam3, head, prompts=['crack', 'joint']), images), plain)


def test_parameters_of_the_head_for_the_tiny_sam3s_64_channels() -> None:
    assert sum(parameter.numel() for parameter in DetailHead(64).parameters()) == 23_281


@pytest.mark.parametrize(
    ('arguments', 'parameters', 'work'), [({}, 27_889, 43), ({'channels': 16, 'levels': 4}, 322_737, 40)]
)
def test_size_and_work_of_the_head_for_sam3s_256_channels(arguments: dict, parameters: int, work: int) -> None:
    """As docs/extend.md says, in kFLOP a pixel."""
    head = DetailHead(256, **arguments).to('meta')
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters
    shapes = (1, 3, 256, 256), (1, 256, 8, 8), (1, 1, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head(*(torch.empty(shape, device='meta') for shape in shapes))
    assert round(counter.get_total_flops() / 256**2 / 1000) == work


@pytest.mark.parametrize(('recompute', 'levels'), [(False, 0), (True, 0), (True, 3)])
def test_strips_compute_what_whole_images_do(monkeypatch: pytest.MonkeyPatch, recompute: bool, levels: int) -> None:
    """Values, and gradients of every weight and input."""
    head = awaken(DetailHead(8, channels=4, levels=levels).double())
    images, embeddings, coarse = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 37, 20), (2, 8, 5, 5), (2, 1, 5, 5))
    )
    inputs = [images, embeddings, coarse, *head.parameters()]
    monkeypatch.setattr(Tensor, 'float', Tensor.double)
    expected = whole_image(head, images, embeddings, coarse)
    wanted = torch.autograd.grad((expected**2).sum(), inputs)
    monkeypatch.setattr(detail_head, '_STRIP_PIXELS', 2 * 20 * 10)
    head.recompute = recompute
    correction = head(images, embeddings, coarse)
    torch.testing.assert_close(correction, expected)
    for own, reference in zip(torch.autograd.grad((correction**2).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(own, reference)


def test_exposure_and_contrast_of_a_photograph_do_not_matter() -> None:
    """Of what the head sees itself: a pale crack on asphalt has hardly a tenth of a dark one's contrast."""
    head = awaken(DetailHead(8, channels=4, levels=2))
    images, embeddings, coarse = torch.randn(1, 3, 37, 20), torch.randn(1, 8, 5, 5), torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(
        head(0.5 * images + 2, embeddings, coarse), head(images, embeddings, coarse), rtol=1e-3, atol=1e-3
    )
    assert head(torch.ones_like(images), embeddings, coarse).isfinite().all()


def test_levels_see_what_lies_further_away() -> None:
    """Without, a correction depends on 9 x 9 pixels around it; a U-Net of 4 levels sees more than 40."""
    reach = {}
    for levels in (0, 4):
        head = awaken(DetailHead(8, channels=4, levels=levels))
        images = torch.randn(1, 3, 201, 201, requires_grad=True)
        head(images, torch.randn(1, 8, 5, 5), torch.randn(1, 1, 5, 5))[0, 0, 100, 100].backward()
        assert images.grad is not None
        seen = images.grad[0, :, :, 100].abs().sum(dim=0)
        reach[levels] = int((seen > 1e-3 * seen.max()).sum())
    assert reach[0] == 9 and reach[4] > 40


@pytest.mark.parametrize('levels', [0, 3])
def test_each_prompt_is_corrected_by_itself(tiny_sam3: dict, levels: int) -> None:
    images = torch.randn(2, 3, 40, 70)
    both = build(tiny_sam3, {'levels': levels}, prompts=['crack', 'joint'])
    awaken(both.detail_head)
    together = predict(both, images)
    for index, prompt in enumerate(both.prompts):
        single = build(tiny_sam3, {'levels': levels}, prompts=[prompt])
        single.load_state_dict(both.state_dict())
        torch.testing.assert_close(predict(single, images)[:, 0], together[:, index], rtol=0, atol=2e-5)


@pytest.mark.parametrize('head', [{}, {'size': 'square'}, {'levels': 3}])
def test_no_image_depends_on_the_others_of_its_batch(tiny_sam3: dict, head: dict) -> None:
    model = build(tiny_sam3, head)
    awaken(model.detail_head)
    images = torch.randn(2, 3, 40, 70)
    padded = predict(model, images, [{'img_shape': (40, 70)}, {'img_shape': (30, 50)}])
    alone = predict(model, images[1:, :, :30, :50])
    torch.testing.assert_close(padded[1:, :, :30, :50], alone, rtol=0, atol=2e-5)
    assert not padded[1, :, 30:].any() and not padded[1, :, :, 50:].any()


def test_images_above_the_cap_are_reduced_for_the_head(tiny_sam3: dict) -> None:
    """40 x 80 pixels to 800 are 20 x 40; its correction is enlarged again."""
    model = build(tiny_sam3, {'max_pixels': 800})
    head = awaken(model.detail_head)
    seen = []
    head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    images = torch.randn(1, 3, 40, 80)
    corrected = predict(model, images)
    (reduced, correction), *others = seen
    assert not others
    torch.testing.assert_close(reduced, F.interpolate(images, size=(20, 40), mode='bilinear', antialias=True))
    nn.init.zeros_(head.correct.weight)
    nn.init.zeros_(head.correct.bias)  # type: ignore[arg-type]
    expected = predict(model, images) + F.interpolate(correction, size=(40, 80), mode='bilinear')
    torch.testing.assert_close(corrected, expected, rtol=0, atol=1e-5)


def test_windows_are_corrected_at_their_own_pixels(tiny_sam3: dict) -> None:
    slide = {'mode': 'slide', 'crop_size': (56, 56), 'stride': (56, 56)}
    model = build(tiny_sam3, {}, test_cfg=slide)
    awaken(model.detail_head)
    image = torch.randn(1, 3, 56, 112)
    with torch.no_grad():
        blended = model.slide_inference(image, [{}])[:, 1:]
    halves = torch.cat([predict(model, half) for half in image.split(56, dim=3)], dim=3)
    torch.testing.assert_close(blended, halves, rtol=0, atol=1e-5)


def test_the_head_trains_with_the_adapters_and_is_in_the_checkpoint(tiny_sam3: dict) -> None:
    model = build(tiny_sam3, {}).train()
    labels = (torch.rand(1, 1, 40, 70) > 0.5).long()
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels[0]), metainfo={'img_shape': (40, 70)})
    model.loss(torch.randn(1, 3, 40, 70), [sample])['loss_dice'].backward()
    head = model.detail_head
    assert isinstance(head, DetailHead)
    assert head.correct.weight.grad is not None and head.correct.weight.grad.abs().max() > 0
    state = model.state_dict()
    assert {f'detail_head.{name}' for name in head.state_dict()} == {name for name in state if 'sam3.' not in name}
    with pytest.raises(AdapterError, match='12 weights are missing'):
        model.load_state_dict({name: value for name, value in state.items() if 'detail_head' not in name})


def test_low_precision_changes_little(tiny_sam3: dict) -> None:
    images = torch.randn(1, 3, 40, 70)
    exact, low = build(tiny_sam3, {}), build(tiny_sam3, {}, dtype='bfloat16')
    for model in (exact, low):
        awaken(model.detail_head)
    difference = (predict(exact, images) - predict(low, images)).abs().max()
    assert 0 < difference < 0.1 * predict(exact, images).abs().max()


def test_recomputing_activations_gives_the_same_gradients(tiny_sam3: dict) -> None:
    gradients = []
    for parts in (False, True):
        model = build(tiny_sam3, {}, activation_checkpointing=parts).train()
        head = awaken(model.detail_head)
        assert head.recompute is parts
        model.foreground_logits(torch.ones(1, 3, 40, 70), [{}]).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.slow
def test_a_compiled_path_gives_the_head_the_same(tiny_sam3: dict) -> None:
    images = torch.randn(1, 3, 40, 70)
    plain, compiled = build(tiny_sam3, {}), build(tiny_sam3, {}, compile={'backend': 'eager'})
    for model in (plain, compiled):
        awaken(model.detail_head)
    torch.testing.assert_close(predict(compiled, images), predict(plain, images), rtol=0, atol=1e-5)


def test_the_head_is_saved_beside_the_adapter(tiny_sam3: dict, tmp_path: Path, log: list[str]) -> None:
    trained = build(tiny_sam3, {'channels': 6})
    awaken(trained.detail_head)
    trained.save_adapter(tmp_path)
    images = torch.randn(1, 3, 40, 70)
    again = build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    assert torch.equal(predict(again, images), predict(trained, images))
    with pytest.raises(AdapterError, match=r"Set model.detail_head=dict\(channels=6, size='image', max_pixels=1016064"):
        build(tiny_sam3, None, adapter=str(tmp_path))
    for other in ({'channels': 5}, {'channels': 6, 'levels': 1}):
        with pytest.raises(AdapterError, match='does not fit the model'):
            build(tiny_sam3, other, adapter=str(tmp_path))
    path = tmp_path / detail_head.HEAD_FILE
    weights = load_file(path)
    save_file({**weights, 'correct.bias': torch.tensor([torch.nan])}, path)
    with pytest.raises(AdapterError, match='NaN or infinite'):
        build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    save_file(weights, path)
    with pytest.raises(AdapterError, match='earlier version'):
        build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AdapterError, match='damaged or cut short'):
        build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    save_file({**weights, 'correct.weight': torch.zeros(3)}, path)
    with pytest.raises(AdapterError, match='does not fit the model'):
        build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    # Saved again without a head, the folder has none.
    build(tiny_sam3, None).save_adapter(tmp_path)
    assert not path.exists()
    fresh = build(tiny_sam3, {'channels': 6}, adapter=str(tmp_path))
    assert any('the detail head is as it starts' in line for line in log)
    assert isinstance(fresh.detail_head, DetailHead) and not fresh.detail_head.correct.weight.any()


def test_a_head_of_another_base_is_refused(tiny_sam3: dict, tmp_path: Path) -> None:
    build(tiny_sam3, {}).save_adapter(tmp_path)
    head = build(tiny_sam3, {}).detail_head
    assert isinstance(head, DetailHead)
    with pytest.raises(AdapterError, match='was trained on other base weights'):
        detail_head.load_head(head, tmp_path, 'f' * 64)


def test_a_head_starts_from_another_ones_weights(tiny_sam3: dict, tmp_path: Path) -> None:
    trained = build(tiny_sam3, {'channels': 6}, lora=None)
    awaken(trained.detail_head)
    path = tmp_path / detail_head.HEAD_FILE
    content = detail_head.head_file(trained.detail_head, trained.base_hash)
    assert content is not None
    path.write_bytes(content)
    images = torch.randn(1, 3, 40, 70)
    # Untrained adapters change nothing.
    again = build(tiny_sam3, {'channels': 6, 'weights': str(path)})
    torch.testing.assert_close(predict(again, images), predict(trained, images))
    with pytest.raises(AdapterError, match='was trained on other base weights'):
        build({**tiny_sam3, 'seed': 7}, {'channels': 6, 'weights': str(path)})


def test_without_adapters_only_the_head_trains(tiny_sam3: dict) -> None:
    model = build(tiny_sam3, {'channels': 6}, lora=None)
    assert {name.split('.')[0] for name, each in model.named_parameters() if each.requires_grad} == {'detail_head'}


def test_a_merged_folder_says_that_it_lacks_the_head(tiny_sam3: dict, tmp_path: Path, log: list[str]) -> None:
    trained = build(tiny_sam3, {})
    awaken(trained.detail_head)
    trained.save_pretrained(tmp_path / 'merged')
    assert any('without the detail head' in line for line in log)
    images = torch.randn(1, 3, 40, 70)
    before = predict(trained, images)
    trained.merge_adapter()
    torch.testing.assert_close(predict(trained, images), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        ({'channels': 0}, 'detail_head has channels=0'),
        ({'size': 336}, "choose 'image' or 'square'"),
        ({'max_pixels': 1e6}, 'detail_head has max_pixels=1000000.0'),
        ({'levels': 9}, 'detail_head has levels=9: give a whole number from 0 to 8'),
        ({'chanels': 24}, 'some of channels, size, max_pixels, levels, weights'),
        ({'weights': 'none.safetensors'}, 'no such file'),
        (True, 'give None, or a dict'),
    ],
)
def test_arguments_out_of_range_are_errors(tiny_sam3: dict, head: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_sam3, head)
