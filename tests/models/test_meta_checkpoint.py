"""Meta's own checkpoints: every name and shape of the original implementation, and where its numbers go.

``tests/data/meta_sam3_names.txt.gz`` lists names, types and shapes of the state dict of Meta's video model, which its
loader wants ``sam3.pt`` to have, all of them; ``benchmarks/meta_checkpoint.py --names`` wrote it from Meta's package.
"""

import copy
import errno
import json
import pickle
import shlex
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_SAM3, load_script
from tiny_bases import META_VISION as VISION
from tiny_bases import meta_state_dict, published_names
from torch import Tensor, nn
from transformers import Sam3Config
from transformers.models.clip.modeling_clip import CLIPAttention
from transformers.models.sam3.modeling_sam3 import Sam3Attention, Sam3Model

from crack_plugin.checkpoints import CheckpointError
from crack_plugin.models import meta_checkpoint
from crack_plugin.models.base import BaseModelError, FolderNotEmptyError, load_base
from crack_plugin.models.meta_checkpoint import MetaCheckpointError, convert, convert_file, read


@pytest.fixture(scope='module')
def published() -> dict[str, Tensor]:
    """Meta's state dict without its numbers."""
    return published_names()


@pytest.fixture(scope='module')
def wanted() -> dict[str, tuple[int, ...]]:
    with torch.device('meta'):
        model = Sam3Model(Sam3Config())
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def without_prefix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the image model has it, which Meta's trainer writes."""
    kept = {name: value for name, value in state_dict.items() if name.startswith('detector.')}
    return {name.removeprefix('detector.'): value for name, value in kept.items()}


def as_3_1(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three pyramids of three levels instead of two of four, as in Meta's public code for SAM 3.1."""
    left = (f'{VISION}convs.3.', f'{VISION}sam2_convs.', 'tracker.')
    found = {name: value for name, value in state_dict.items() if not name.startswith(left)}
    for name in [name for name in found if name.startswith(f'{VISION}convs.')]:
        for neck in ('interactive_convs', 'propagation_convs'):
            found[name.replace('vision_backbone.convs', f'vision_backbone.{neck}')] = found[name]
    return found


def test_every_name_of_the_original_is_known(published: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    assert len(published) == 1465
    weights, left_out, zeroed = convert(published)
    assert shapes(weights) == wanted
    assert list(weights) == list(wanted)
    assert not zeroed
    assert all(value.dtype == torch.float32 for value in weights.values())
    # What the image model computes with, and Sam3Model does not have: rotary positions, click and point parts.
    assert sum(not name.startswith('tracker.') for name in left_out) == 32 + 22 + 6
    assert {name for name in published if name.startswith('tracker.')} <= set(left_out)


def test_the_image_model_of_a_training(published: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    assert shapes(convert(without_prefix(published)).weights) == wanted


def test_the_detector_of_3_1(published: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    given = as_3_1(published)
    # As many as public code counts in sam3.1_multiplex.pt.
    assert len(given) == 1166
    weights, left_out, zeroed = convert(given)
    assert shapes(weights) == wanted
    level = 'vision_encoder.neck.fpn_layers.3'
    assert zeroed == [f'{level}.{proj}.{kind}' for proj in ('proj1', 'proj2') for kind in ('bias', 'weight')]
    assert not any(weights[name].any() for name in zeroed)
    assert sum('interactive_convs' in name or 'propagation_convs' in name for name in left_out) == 36
    # Rotary positions in two real parts, as its public code has them by default.
    rotary = [name for name in given if name.endswith('freqs_cis')]
    parts = {f'{name}_{part}': given[name].real for name in rotary for part in ('real', 'imag')}
    assert shapes(convert({**{n: v for n, v in given.items() if n not in rotary}, **parts}).weights) == wanted


def test_no_output_depends_on_the_level_that_3_1_lacks() -> None:
    model, _ = load_base(TINY_SAM3)
    side = model.config.vision_config.backbone_config.image_size
    inputs = {'pixel_values': torch.randn(1, 3, side, side), 'input_ids': torch.tensor([[49406, 1000, 49407]])}
    with torch.no_grad():
        before = model(**inputs)
        for parameter in model.vision_encoder.neck.fpn_layers[3].parameters():
            parameter.add_(1)
        after = model(**inputs)
    for name in ('semantic_seg', 'pred_masks', 'pred_logits', 'pred_boxes', 'presence_logits'):
        assert torch.equal(before[name], after[name]), name


def renamed(module: nn.Module, name: str) -> dict[str, Tensor]:
    """What becomes of a plain torch module that the original has under ``name``."""
    found = {}
    for parameter, value in module.state_dict().items():
        pattern, numbers = meta_checkpoint._pattern(f'{name}.{parameter}')
        for new, part in meta_checkpoint._PARAMETERS[pattern](value).items():
            found[meta_checkpoint._with_numbers(new, numbers).rpartition('attn.')[2]] = part
    return found


def test_attention_of_the_detector_gives_what_torch_gives() -> None:
    """The original's is ``nn.MultiheadAttention``."""
    config = Sam3Config().detr_encoder_config
    original, ours = nn.MultiheadAttention(256, 8, batch_first=True), Sam3Attention(config)
    nn.init.normal_(original.in_proj_bias)
    ours.load_state_dict(renamed(original, 'transformer.encoder.layers.3.cross_attn_image'))
    query, key, value = torch.randn(2, 5, 256), torch.randn(2, 7, 256), torch.randn(2, 7, 256)
    torch.testing.assert_close(ours.eval()(query, key, value)[0], original.eval()(query, key, value)[0])


def test_attention_of_the_text_encoder_gives_what_torch_gives() -> None:
    config = Sam3Config().text_config
    config._attn_implementation = 'sdpa'
    original, ours = nn.MultiheadAttention(1024, 16, batch_first=True), CLIPAttention(config)
    nn.init.normal_(original.in_proj_bias)
    ours.load_state_dict(renamed(original, 'backbone.language_backbone.encoder.transformer.resblocks.11.attn'))
    hidden = torch.randn(2, 6, 1024)
    expected = original.eval()(hidden, hidden, hidden)[0]
    torch.testing.assert_close(ours.eval()(hidden)[0], expected, rtol=1e-4, atol=1e-5)


def test_queries_keys_and_values_of_the_vit_are_stacked() -> None:
    fused = torch.arange(9.0)[:, None]
    rule = meta_checkpoint._PARAMETERS['backbone.vision_backbone.trunk.blocks.#.attn.qkv.weight']
    parts = {name.split('.')[-2]: part.flatten().tolist() for name, part in rule(fused).items()}
    assert parts == {'q_proj': [0, 1, 2], 'k_proj': [3, 4, 5], 'v_proj': [6, 7, 8]}


def test_the_class_position_is_dropped_and_the_projection_transposed(published: dict[str, Tensor]) -> None:
    given = dict(published)
    positions, projection = torch.randn(1, 577, 1024), torch.randn(1024, 512)
    given[f'{VISION}trunk.pos_embed'] = positions
    given['detector.backbone.language_backbone.encoder.text_projection'] = projection
    weights = convert(given).weights
    assert torch.equal(weights['vision_encoder.backbone.embeddings.position_embeddings'], positions[:, 1:])
    features = torch.randn(3, 1024)
    linear = nn.functional.linear(features, weights['text_encoder.text_projection.weight'])
    torch.testing.assert_close(linear, features @ projection, rtol=1e-4, atol=1e-4)


def test_half_precision_becomes_single(published: dict[str, Tensor]) -> None:
    given = {n: value.half() if value.is_floating_point() else value for n, value in published.items()}
    given['detector.transformer.decoder.norm.bias'] = torch.linspace(-1, 1, 256).half()
    bias = convert(given).weights['detr_decoder.output_layer_norm.bias']
    assert bias.dtype == torch.float32
    assert torch.equal(bias, torch.linspace(-1, 1, 256).half().float())


def test_unknown_names_are_all_listed(published: dict[str, Tensor]) -> None:
    new = ['detector.transformer.decoder.layers.0.gate', 'detector.backbone.extra.weight', 'adapter.weight']
    with pytest.raises(MetaCheckpointError, match='3 tensors that are not known') as caught:
        convert({**published, **{name: torch.zeros(1) for name in new}}, 'my.pt')
    assert all(name in str(caught.value) for name in ('my.pt', *new))


def test_missing_names_are_told(published: dict[str, Tensor]) -> None:
    given = {name: value for name, value in published.items() if '.trunk.blocks.7.attn.qkv.' not in name}
    with pytest.raises(MetaCheckpointError, match=r'6 weights are missing.*layers\.7\.attention\.k_proj\.bias'):
        convert(given)
    # Of SAM 3 the coarsest level is wanted, though nothing depends on it: a file without is cut.
    given = {name: value for name, value in published.items() if not name.startswith(f'{VISION}convs.3.')}
    with pytest.raises(MetaCheckpointError, match=r'4 weights are missing.*fpn_layers\.3'):
        convert(given)


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        (f'{VISION}trunk.blocks.0.mlp.fc1.weight', torch.zeros(4096, 1024), r'\(4096, 1024\).*\(4736, 1024\)'),
        (f'{VISION}trunk.blocks.7.attn.freqs_cis', torch.zeros(2304, 32), r'\(2304, 32\).*5184 positions.*1008'),
        (f'{VISION}trunk.blocks.0.attn.qkv.weight', torch.zeros(2, 1024), r'attn\.qkv\.weight'),
        (f'{VISION}trunk.pos_embed', torch.zeros(577), 'pos_embed'),
        (f'{VISION}trunk.blocks.7.attn.freqs_cis', torch.zeros(()), '5184 positions'),
        ('detector.transformer.decoder.norm.bias', torch.zeros(()), 'norm.bias is a single number'),
        ('detector.transformer.decoder.norm.bias', torch.zeros(256, dtype=torch.int8), 'int8'),
    ],
)
def test_other_sizes_are_refused(published: dict[str, Tensor], name: str, value: Tensor, said: str) -> None:
    assert name in published
    with pytest.raises(MetaCheckpointError, match=f'of another model than sam3.pt: .*{said}'):
        convert({**published, name: value})


def test_hugging_face_names_need_no_conversion(wanted: dict[str, tuple[int, ...]]) -> None:
    given = {name: torch.empty(shape, device='meta') for name, shape in wanted.items()}
    assert not meta_checkpoint.is_meta_checkpoint(given)
    with pytest.raises(MetaCheckpointError, match='needs no conversion'):
        convert(given)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / 'sam3.pt'
    with pytest.raises(MetaCheckpointError, match='does not exist'):
        read(path)
    path.write_text('<html>Access denied</html>')
    with pytest.raises(CheckpointError, match=r'sam3\.pt is damaged.*huggingface\.co/facebook/sam3'):
        read(path)
    torch.save({'detector.a': torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match='damaged'):
        read(path)
    torch.save({'model': 'none'}, path)
    with pytest.raises(MetaCheckpointError, match='holds no state dict'):
        read(path)
    for legacy in (False, True):
        torch.save({'model': {'a': torch.arange(3)}, 'epoch': 2}, path, _use_new_zipfile_serialization=not legacy)
        assert torch.equal(read(path)['a'], torch.arange(3))


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path('ran'),)


@pytest.mark.parametrize('legacy', [False, True])
def test_a_file_that_would_run_code_is_refused(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'model': Payload()}, 'bad.pt', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"would run code.*Nothing of it was run.*sam3\.pt.*\['model'\]"):
        read('bad.pt')
    Path('worse.pt').write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        read('worse.pt')
    assert not Path('ran').exists()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A small model as the original would save it, for what is about files; published is then its size."""
    return meta_state_dict(monkeypatch)


def test_the_tool_writes_what_transformers_and_base_load(
    tiny: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(tiny, tmp_path / 'sam3.pt')
    folder = tmp_path / 'new' / 'converted'
    load_script(ROOT / 'tools' / 'convert_checkpoint.py').main([str(tmp_path / 'sam3.pt'), str(folder)])
    said = capsys.readouterr().out
    assert 'Left out 1 tensors' in said
    assert 'tracker' in said
    assert f'model.base={folder}' in said
    assert {path.name for path in folder.iterdir()} >= {
        'config.json',
        'model.safetensors',
        'tokenizer.json',
        'processor_config.json',
    }
    assert [path.name for path in folder.parent.iterdir()] == ['converted']
    processor = json.loads((folder / 'processor_config.json').read_text())['image_processor']
    assert (processor['image_mean'], processor['image_std']) == ([0.5] * 3, [0.5] * 3)

    expected = load_base(copy.deepcopy(TINY_SAM3))[0]
    loaded, _ = load_base(str(folder))
    plain = Sam3Model.from_pretrained(folder).eval()
    side = expected.config.vision_config.backbone_config.image_size
    inputs = {'pixel_values': torch.randn(1, 3, side, side), 'input_ids': torch.tensor([[49406, 1000, 49407]])}
    with torch.no_grad():
        outputs = [model(**inputs).semantic_seg for model in (expected, loaded, plain)]
    assert torch.equal(outputs[1], outputs[0])
    assert torch.equal(outputs[2], outputs[0])


@pytest.mark.parametrize('base', ['my models/sam3.pt', 'my models'])
def test_base_says_how_to_convert_a_file(
    base: str, tiny: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'my models').mkdir()
    torch.save(tiny, tmp_path / 'my models' / 'sam3.pt')
    with pytest.raises(BaseModelError, match="Meta's own format") as caught:
        load_base(str(tmp_path / base))
    python, tool, *arguments = shlex.split(str(caught.value).split('`')[1])
    assert python == 'python'
    monkeypatch.chdir(tmp_path)
    load_script(ROOT / tool).main(arguments)
    loaded, _ = load_base(arguments[-1])
    weight = tiny['detector.segmentation_head.semantic_seg_head.weight']
    assert torch.equal(loaded.mask_decoder.semantic_projection.weight, weight)


def test_the_tool_tells_what_3_1_lacks(tiny: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({'model': as_3_1(tiny)}, tmp_path / 'sam3.1_multiplex.pt')
    tool = load_script(ROOT / 'tools' / 'convert_checkpoint.py')
    tool.main([str(tmp_path / 'sam3.1_multiplex.pt'), str(tmp_path / 'out')])
    assert 'Set to zero' in (said := capsys.readouterr().out)
    assert 'fpn_layers.3.proj1.weight' in said
    assert load_base(str(tmp_path / 'out'))[0].vision_encoder.neck.fpn_layers[3].proj1.weight.abs().max() == 0


def test_a_full_folder_is_left_alone(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / 'sam3.pt')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('mine')
    for taken in ('full', 'full/mine.txt'):
        with pytest.raises(FolderNotEmptyError, match=r'Remove it, or save under|Name a new or empty folder'):
            convert_file(tmp_path / 'sam3.pt', tmp_path / taken)
    assert (tmp_path / 'full' / 'mine.txt').read_text() == 'mine'
    (tmp_path / 'empty').mkdir()
    convert_file(tmp_path / 'sam3.pt', tmp_path / 'empty')
    assert (tmp_path / 'empty' / 'model.safetensors').is_file()


def test_nothing_is_written_of_what_is_refused(
    tiny: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.save({**tiny, 'detector.new': torch.zeros(1)}, tmp_path / 'sam3.pt')
    tool = load_script(ROOT / 'tools' / 'convert_checkpoint.py')
    with pytest.raises(SystemExit) as stop:
        tool.main([str(tmp_path / 'sam3.pt'), str(tmp_path / 'out')])
    assert stop.value.code == 1
    assert 'not known here: detector.new.' in capsys.readouterr().err

    # A full disk in the middle of writing.
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    torch.save(tiny, tmp_path / 'sam3.pt')
    monkeypatch.setattr(Sam3Model, 'save_pretrained', full)
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / 'sam3.pt'), str(tmp_path / 'out')])
    assert [path.name for path in tmp_path.iterdir()] == ['sam3.pt']
