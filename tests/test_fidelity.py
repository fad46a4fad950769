"""Training and preprocessing against plain Hugging Face, PEFT and torch; the reference loop is in reference.py."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from conftest import ROOT, TINY_SAM3, load_script
from mmseg.utils.tokenizer import tokenize

from crack_plugin.models import SAM3TextLoRA

SIZE = TINY_SAM3['vision_config']['backbone_config']['image_size']
PER_EPOCH = 3
STEPS = 2 * PER_EPOCH


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where our training works."""
    return tmp_path_factory.mktemp('fidelity')


@pytest.fixture(scope='module')
def adapters() -> dict[str, torch.Tensor]:
    """What both trainings start from."""
    return reference.draw_adapters(TINY_SAM3)


@pytest.fixture(scope='module')
def traces(run: Path, adapters: dict[str, torch.Tensor]) -> tuple:
    """Two epochs of three images by our config and by the plain loop."""
    pictures = reference.draw_pictures(PER_EPOCH, SIZE, seed=1), reference.draw_pictures(4, SIZE, seed=2)
    ours = reference.our_training(TINY_SAM3, adapters, *pictures, run, epochs=2)
    return ours, reference.plain_training(TINY_SAM3, adapters, *pictures, epochs=2)


def test_losses_agree(traces: tuple) -> None:
    ours, theirs = traces
    assert len(ours.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)


@pytest.mark.parametrize('step', range(3))
def test_gradients_agree(traces: tuple, step: int) -> None:
    """Each adapter weight's, after clipping."""
    ours, theirs = (trace.gradients[step] for trace in traces)
    assert ours.keys() == theirs.keys()
    off = {name: reference.relative_difference(ours[name], theirs[name]) for name in theirs}
    assert {name: value for name, value in off.items() if value > 1e-5} == {}
    assert all(gradient.any() for gradient in theirs.values())


def test_gradients_are_clipped_where_the_reference_clips(traces: tuple) -> None:
    ours, theirs = traces
    norms = [torch.stack([g.norm() for g in step.values()]).norm().item() for step in ours.gradients]
    assert norms == pytest.approx([min(norm, 1.0) for norm in theirs.norms], rel=1e-5)
    assert max(theirs.norms) > 1 > min(theirs.norms)


def test_weights_agree(traces: tuple, adapters: dict[str, torch.Tensor]) -> None:
    """After 3 steps, and after 6, with a change of the learning rate between."""
    ours, theirs = traces
    for step in (2, 5):
        assert reference.worst_difference(ours.weights[step], theirs.weights[step]) <= 1e-5
    # Steps of 1e-4 on values of about 0.02: had only one side made them, a hundred times more would be off.
    moved = {n: reference.relative_difference(ours.weights[2][n], adapters[n]) for n in adapters if 'lora_B' in n}
    assert min(value for name, value in moved.items() if not reference.is_dead(name)) > 1e-3


def test_dead_adapters_get_no_gradient_and_stay(traces: tuple, adapters: dict[str, torch.Tensor]) -> None:
    dead = {name for name in adapters if reference.is_dead(name)}
    assert dead
    for trace in traces:
        assert all(gradients.keys() == adapters.keys() - dead for gradients in trace.gradients)
        assert all(torch.equal(trace.weights[-1][name], adapters[name]) for name in dead)


def test_learning_rates_agree_over_an_epoch_boundary(traces: tuple) -> None:
    ours, theirs = traces
    assert ours.learning_rates == pytest.approx(theirs.learning_rates, rel=1e-12)
    assert ours.learning_rates[PER_EPOCH - 1] == 1e-4 > ours.learning_rates[PER_EPOCH]


def test_validation_scores_and_the_best_epoch_agree(traces: tuple, run: Path) -> None:
    ours, theirs = traces
    for own, plain in zip(ours.scores, theirs.scores, strict=True):
        assert own == pytest.approx(plain, abs=1e-6)
        assert all(0 < score < 1 for score in own.values())
    ious = [scores['IoU'] for scores in theirs.scores]
    best = ious.index(max(ious)) + 1
    assert [path.name for path in (run / 'work_dir').glob('best_*')] == [f'best_crack_IoU_epoch_{best}.pth']


def test_predictions_on_disk_agree(traces: tuple) -> None:
    ours, theirs = traces
    assert len(ours.masks) == 4
    for own, plain in zip(ours.masks, theirs.masks, strict=True):
        assert {0, 255} == set(np.unique(plain))
        np.testing.assert_array_equal(own, plain)


@pytest.fixture(scope='module')
def model() -> SAM3TextLoRA:
    return SAM3TextLoRA(base=TINY_SAM3).eval()


@pytest.mark.parametrize('library', ['pillow', 'torch'])
@pytest.mark.parametrize('size', [(40, 30), (30, 170), (56, 56), (200, 170), (480, 640)])
def test_pixels_are_those_of_sam3s_processor(
    model: SAM3TextLoRA, tmp_path: Path, size: tuple[int, int], library: str
) -> None:
    """Order of the colours, stretching, antialias and normalisation, from the file to the ViT."""
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, _ = reference.our_prediction(model, image, tmp_path)
    resize = {'pillow': reference.resized_by_pillow, 'torch': reference.resized_by_torch}[library]
    difference = np.abs(reference.grey_levels(pixels) - resize(image, SIZE))
    # They round twice, to whole grey levels: half a level after each axis.
    assert difference.max() <= 1 + 1e-4
    assert difference.mean() < 0.4


@pytest.mark.parametrize('size', [(40, 30), (200, 170)])
def test_logits_at_the_masks_size_are_those_of_plain_hugging_face(tmp_path: Path, size: tuple[int, int]) -> None:
    plain = reference.plain_sam3(TINY_SAM3)
    plain.save_pretrained(tmp_path / 'base')
    image = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, ours = reference.our_prediction(SAM3TextLoRA(base=str(tmp_path / 'base')).eval(), image, tmp_path)
    with torch.no_grad():
        theirs = reference.plain_logits(plain, pixels, size)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_prompt_tokens_are_clips() -> None:
    """Against OpenAI's own tokenizer, which MMSegmentation carries and which pads with 0."""
    prompts = ['crack', 'spalling', 'rust stain']
    model = SAM3TextLoRA(base=TINY_SAM3, prompts=prompts)
    expected = tokenize(prompts, context_length=32)
    assert torch.equal(model.prompt_mask, expected != 0)
    assert torch.equal(model.prompt_ids * model.prompt_mask, expected.long())
    assert tuple(expected[0, :3].tolist()) == reference.PROMPT_IDS


def test_adapters_by_part_are_the_references() -> None:
    rows = {row.what: row for row in load_script(ROOT / 'benchmarks' / 'fidelity.py').count_parameters()}
    assert rows['by part'].theirs == rows['by part'].ours
    assert {row.difference for what, row in rows.items() if what != 'base'} == {'0 parameters'}
