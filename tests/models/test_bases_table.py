"""The table of docs/bases.md: what works with which kind of base. Every cell is a test of its row and column."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import ROOT
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tiny_bases import KINDS, foreground_logits, with_trained_adapters
from torch import Tensor
from torch.nn.functional import interpolate

from crack_plugin.models import SAM3TextLoRA, adapters, export
from crack_plugin.models.base import load_base
from crack_plugin.models.tokenizer import clip_tokenizer

LORA = {'r': 2, 'lora_alpha': 4, 'lora_dropout': 0.0, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}


class Base(NamedTuple):
    """A base, the class that transformers loads it with, and our model of it with adapters that do something."""

    folder: Path
    plain: Any
    model: SAM3TextLoRA
    images: Tensor


@pytest.fixture(scope='module')
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    made: dict[str, Base] = {}

    def make(name: str) -> Base:
        if name not in made:
            write, plain = KINDS[name]
            folder = write(tmp_path_factory.mktemp('bases') / 'base')
            model = adapted(folder)
            images = torch.randn(1, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1))
            made[name] = Base(folder, plain, model, images)
        return made[name]

    return make


# Of the others, the tests beside this one hold most.
@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind != 'SAM3-LiteText')) for kind in KINDS])
def base(request: pytest.FixtureRequest, bases: Callable[[str], Base]) -> Base:
    kept = bases(request.param)
    return kept._replace(model=copy.deepcopy(kept.model))


def adapted(folder: Path, **arguments: Any) -> SAM3TextLoRA:
    return with_trained_adapters(SAM3TextLoRA(base=str(folder), lora=LORA, **arguments))


def plain_logits(model: Any, images: Tensor) -> Tensor:
    tokens = clip_tokenizer()(['crack'], padding='max_length', max_length=32, return_tensors='pt')
    with torch.no_grad():
        low = model.eval()(pixel_values=images, **tokens).semantic_seg
    return interpolate(low, size=images.shape[-2:], mode='bilinear', align_corners=False)


def loss(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    shape = (1, *images.shape[-2:])
    labels = (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.3).long()
    return model.loss(images, [SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={})])['loss_dice']


def assert_close(result: Tensor, expected: Tensor, tolerance: float) -> None:
    """As a share of the largest logit."""
    assert (result - expected).abs().max() <= tolerance * expected.abs().max()


def test_loads(base: Base) -> None:
    """As plain transformers loads it: the same class, and the same weights."""
    expected = base.plain.from_pretrained(str(base.folder))
    loaded, _ = load_base(str(base.folder))
    assert type(loaded) is type(expected)
    state = expected.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_logits(base: Base) -> None:
    expected = plain_logits(base.plain.from_pretrained(str(base.folder)), base.images)
    assert expected.std() > 0.01
    with base.model.sam3.disable_adapter():
        assert_close(foreground_logits(base.model, base.images), expected, 1e-6)
    assert (foreground_logits(base.model, base.images) - expected).abs().max() > 1e-3


def test_lora_trains(base: Base) -> None:
    """Every adapter with a path to the output moves, nothing else does, and the loss falls."""
    model = base.model.train()
    before = {name: value.clone() for name, value in model.sam3.state_dict().items()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all('lora_' in name for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(3):
        losses.append(loss(model, base.images))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[0]
    for name, value in model.sam3.state_dict().items():
        assert torch.equal(value, before[name]) != (f'sam3.{name}' in trained), name


def test_merge(base: Base, tmp_path: Path) -> None:
    """In memory, and as a folder that plain transformers loads."""
    model, expected = base.model, foreground_logits(base.model, base.images)
    model.merge_adapter()
    assert not adapters.has_adapter(model.sam3)
    assert_close(foreground_logits(model, base.images), expected, 1e-5)
    model.save_pretrained(tmp_path / 'merged')
    plain, report = base.plain.from_pretrained(str(tmp_path / 'merged'), output_loading_info=True)
    assert not report['missing_keys'] and not report['unexpected_keys']
    assert_close(plain_logits(plain, base.images), expected, 1e-5)


@pytest.mark.slow
def test_export(base: Base, tmp_path: Path) -> None:
    """``torch.export``; the file is run, and compared, before it gets its name."""
    expected, path = foreground_logits(base.model, base.images), tmp_path / 'model.pt2'
    assert export.export(base.model, path, 'pt2') < 1e-4
    with torch.no_grad():
        low = torch.export.load(path).module()(base.images)
    assert_close(interpolate(low, size=base.images.shape[-2:], mode='bilinear'), expected, 1e-4)


def test_low_memory(base: Base) -> None:
    """Frozen weights in bfloat16 and activations computed again: less is kept, every adapter learns about the same."""
    model = adapted(base.folder, dtype='bfloat16', activation_checkpointing=True).train()
    bytes_kept, gradients = step(model, base.images)
    full_bytes, exact = step(base.model.train(), base.images)
    assert bytes_kept < 0.5 * full_bytes
    assert gradients.keys() == exact.keys()
    assert all(gradient.dtype == torch.float32 and gradient.any() for gradient in gradients.values())
    difference = sum((gradients[name] - gradient).square().sum() for name, gradient in exact.items())
    assert difference < 0.1 * sum(gradient.square().sum() for gradient in exact.values())


def step(model: SAM3TextLoRA, images: Tensor) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the forward keeps for the backward besides the weights, and the gradients."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss(model, images)
    result.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), gradients


COLUMNS = {
    'loads': test_loads,
    'logits equal to plain transformers': test_logits,
    'LoRA trains': test_lora_trains,
    'merge': test_merge,
    'export': test_export,
    'low memory': test_low_memory,
}


def test_page_says_the_same() -> None:
    """Its table has these rows and columns, and in each cell the test that holds it."""
    page = (ROOT / 'docs' / 'bases.md').read_text()
    lines = page[page.index('| base | loads |') :].split('\n\n')[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in lines)
    assert head[1:] == list(COLUMNS)
    assert [row[0] for row in rows] == list(KINDS)
    for row in rows:
        assert row[1:] == [f'`{test.__name__}`' for test in COLUMNS.values()]
    for test in COLUMNS.values():
        assert 'base' in test.__annotations__, 'every test takes each base'
