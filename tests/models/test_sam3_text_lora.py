"""The segmentor against plain Hugging Face, and as a citizen of MMSegmentation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.tokenizer import clip_tokenizer

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


def build(base: Any, **arguments: Any) -> SAM3TextLoRA:
    torch.manual_seed(1)
    return MODELS.build({'type': 'SAM3TextLoRA', 'base': base, 'lora': LORA, **arguments})


def plain_sam3(overrides: dict) -> Sam3Model:
    """The model that ``base=dict(...)`` stands for, by Hugging Face alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sam3Model(Sam3Config(**overrides)).eval()


def plain_logits(model: Sam3Model, pixel_values: Tensor, prompt: str) -> Tensor:
    tokens = clip_tokenizer()([prompt], padding='max_length', max_length=32, return_tensors='pt')
    ids, mask = tokens.input_ids, tokens.attention_mask
    count = len(pixel_values)
    with torch.no_grad():
        return model(
            pixel_values=pixel_values, input_ids=ids.expand(count, -1), attention_mask=mask.expand(count, -1)
        ).semantic_seg


def samples(labels: Tensor, shapes: list[tuple[int, int]] | None = None) -> list[SegDataSample]:
    shapes = shapes or [tuple(label.shape) for label in labels]
    return [
        SegDataSample(gt_sem_seg=PixelData(data=label[None]), metainfo={'img_shape': shape, 'ori_shape': shape})
        for label, shape in zip(labels, shapes, strict=True)
    ]


@pytest.mark.parametrize('lora', [LORA, None], ids=['fresh adapters', 'no adapters'])
def test_logits_equal_those_of_plain_hugging_face(tiny_sam3: dict, device: str, lora: dict | None) -> None:
    """Plain Hugging Face on the CPU."""
    model = build(tiny_sam3, prompts=['crack', 'rust stain'], lora=lora).eval().to(device)
    images = torch.randn(2, 3, 56, 56)
    plain = plain_sam3(tiny_sam3)
    expected = torch.cat([plain_logits(plain, images, prompt) for prompt in ('crack', 'rust stain')], dim=1)
    expected = F.interpolate(expected, size=(56, 56), mode='bilinear', align_corners=False)
    with torch.no_grad():
        logits = model.encode_decode(images.to(device), [{}, {}]).cpu()
    assert logits.shape == (2, 3, 56, 56)
    assert not logits[:, 0].any()
    torch.testing.assert_close(logits[:, 1:], expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01  # a constant would be equal for any picture


def test_prompts_matter(tiny_sam3: dict) -> None:
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        crack, rust = (build(tiny_sam3, prompts=[p]).eval().encode_decode(images, [{}]) for p in ('crack', 'rust'))
    assert (crack - rust).abs().max() > 1e-4


@pytest.mark.parametrize('size', [(40, 64), (91, 30), (200, 200)])
def test_any_size_is_stretched_and_stretched_back(tiny_sam3: dict, size: tuple[int, int]) -> None:
    model = build(tiny_sam3).eval()
    images = torch.randn(1, 3, *size)
    square = F.interpolate(images, size=(56, 56), mode='bilinear', align_corners=False, antialias=True)
    expected = F.interpolate(plain_logits(plain_sam3(tiny_sam3), square, 'crack'), size=size, mode='bilinear')
    with torch.no_grad():
        torch.testing.assert_close(model.encode_decode(images, [{}])[:, 1:], expected, atol=1e-5, rtol=0)


def test_batch_mates_do_not_matter(tiny_sam3: dict) -> None:
    """Unequal training images are padded by the preprocessor; each image's loss is what it is alone."""
    model = build(tiny_sam3).eval()
    images = [
        torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8),
        torch.randint(0, 256, (3, 64, 30), dtype=torch.uint8),
    ]
    labels = [torch.randint(0, 2, (40, 50)), torch.randint(0, 2, (64, 30))]

    def loss(indices: list[int]) -> Tensor:
        batch = {
            'inputs': [images[i] for i in indices],
            'data_samples': [samples(labels[i][None])[0] for i in indices],
        }
        return model(**model.data_preprocessor(batch, training=True), mode='loss')['loss_dice']

    with torch.no_grad():
        torch.testing.assert_close(loss([0, 1]), (loss([0]) + loss([1])) / 2, atol=1e-6, rtol=0)


def test_dead_adapters_are_fixed_and_the_others_learn(tiny_sam3: dict, device: str) -> None:
    model = build(tiny_sam3).to(device)
    truth = samples(torch.randint(0, 2, (1, 56, 56), device=device))
    losses = model.loss(torch.randn(1, 3, 56, 56, device=device), truth)
    losses['loss_dice'].backward()
    for name, parameter in model.named_parameters():
        dead = any(part in name for part in ('detr_decoder', 'geometry_encoder'))
        trains = 'lora_' in name and not dead
        assert parameter.requires_grad == trains, name
        assert (parameter.grad is not None) == trains, name


def test_full_training_gives_every_trainable_weight_a_gradient(tiny_sam3: dict, device: str) -> None:
    model = build(tiny_sam3, lora=None, trainable='all').to(device)
    truth = samples(torch.randint(0, 2, (1, 56, 56), device=device))
    model.loss(torch.randn(1, 3, 56, 56, device=device), truth)['loss_dice'].backward()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert all(dict(model.named_parameters())[name].grad is not None for name in names)
    assert set(model.state_dict()) >= set(names)


def test_reference_recipe_counts() -> None:
    """Numbers of the reference: 3,883,008 adapter parameters, 393,216 of them without a path to the output."""
    with torch.device('meta'):
        model = SAM3TextLoRA(base={})
    adapters = sum(p.numel() for name, p in model.named_parameters() if 'lora_' in name)
    assert adapters == sum(value.numel() for value in model.state_dict().values()) == 3_883_008
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3_489_792


def test_training_mode_wakes_only_the_adapters_dropout(tiny_sam3: dict) -> None:
    model = build(tiny_sam3, lora={**LORA, 'lora_dropout': 0.5}).train()
    awake = {name: module for name, module in model.sam3.named_modules() if module.training}
    assert awake
    # A layer with LoRA has no dropout of its own.
    assert all('lora_dropout' in name or isinstance(module, LoraLayer) for name, module in awake.items())
    assert not any(module.training for module in model.eval().modules())


def test_init_weights_leaves_fresh_adapters_alone(tiny_sam3: dict) -> None:
    model = build(tiny_sam3)
    before = {name: value.clone() for name, value in model.sam3.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.sam3.state_dict().items())


def test_frozen_prompt_is_encoded_once_and_its_encoder_freed(tiny_sam3: dict) -> None:
    targets = {**LORA, 'target_modules': r'.*vision_encoder.*\.(q_proj|v_proj)'}
    model = build(tiny_sam3, lora=targets).eval()
    assert model.prompt_features.shape == (1, 32, 16)
    assert not any('text' in name or 'detr_decoder' in name for name, _ in model.named_parameters())
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        whole = build(tiny_sam3).eval().encode_decode(images, [{}])
        torch.testing.assert_close(model.encode_decode(images, [{}]), whole, atol=1e-6, rtol=0)


def test_dict_base_is_built_from_its_own_seed(tiny_sam3: dict) -> None:
    torch.manual_seed(5)
    first = SAM3TextLoRA(base=tiny_sam3)
    state = torch.random.get_rng_state()
    second = SAM3TextLoRA(base=tiny_sam3)
    other = SAM3TextLoRA(base={**tiny_sam3, 'seed': 1})
    assert first.base_hash == second.base_hash != other.base_hash
    assert not torch.equal(state, torch.random.get_rng_state())  # the adapters did draw from the runner's


def test_slide_mode_covers_the_image(tiny_sam3: dict) -> None:
    model = build(tiny_sam3, test_cfg={'mode': 'slide', 'crop_size': (56, 56), 'stride': (40, 40)}).eval()
    images = torch.randn(1, 3, 96, 120)
    with torch.no_grad():
        result = model.predict(images, samples(torch.zeros(1, 96, 120)))[0]
        corner = model.encode_decode(images[..., :56, :56], [{}])
    assert result.seg_logits.data.shape == (2, 96, 120)
    torch.testing.assert_close(result.seg_logits.data[:, :40, :40], corner[0, :, :40, :40], atol=1e-5, rtol=0)


def test_image_size_changes_no_weight(tiny_sam3: dict) -> None:
    small, large = build(tiny_sam3), build(tiny_sam3, image_size=112)
    assert small.base_hash == large.base_hash
    with torch.no_grad():
        assert large.eval().encode_decode(torch.randn(1, 3, 60, 60), [{}]).shape == (1, 2, 60, 60)


def test_threshold_acts_on_labels_alone(tiny_sam3: dict) -> None:
    images = torch.randn(1, 3, 56, 56)
    low, high = (build(tiny_sam3, threshold=t).eval() for t in (0.3, 0.7))
    with torch.no_grad():
        first, second = (model.predict(images, samples(torch.zeros(1, 56, 56)))[0] for model in (low, high))
    torch.testing.assert_close(first.seg_logits.data, second.seg_logits.data)
    probability = first.seg_logits.data[1].sigmoid()
    assert torch.equal(first.pred_sem_seg.data[0], (probability > 0.3).long())
    assert torch.equal(second.pred_sem_seg.data[0], (probability > 0.7).long())


def test_losses_of_one_name_add_up(tiny_sam3: dict) -> None:
    stock = [{'type': 'CrossEntropyLoss', 'loss_weight': weight} for weight in (1.0, 3.0)]
    images, truth = torch.randn(1, 3, 56, 56), samples(torch.randint(0, 2, (1, 56, 56)))
    with torch.no_grad():
        both = build(tiny_sam3, loss_decode=stock).eval().loss(images, truth)
        one = build(tiny_sam3, loss_decode=stock[0]).eval().loss(images, truth)
    torch.testing.assert_close(both['loss_ce'], 4 * one['loss_ce'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'prompts': []}, 'one per foreground class'),
        ({'prompts': 'crack'}, 'list of texts'),
        ({'prompts': ['crack ' * 40]}, '32'),
        ({'trainable': 'head'}, "'lora' or 'all'"),
        ({'threshold': 1.0}, 'between 0 and 1'),
        ({'image_size': 60}, 'multiple of 28'),
        ({'pretrained': 'x.pth'}, 'base and adapter'),
        ({'lora': {**LORA, 'target_modules': ['nothing']}}, 'match nothing'),
        ({'lora': {**LORA, 'rank': 3}}, 'refused by PEFT'),
    ],
)
def test_wrong_arguments_are_named(tiny_sam3: dict, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny_sam3, **arguments)
