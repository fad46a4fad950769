"""Exported files against the segmentor, prepared and resized as docs/deploy.md says."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_SAM3, TOOLS
from mmseg.apis import inference_model, init_model

from crack_plugin.models import SAM3TextLoRA, export

LORA = {'r': 2, 'lora_alpha': 4, 'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj']}
PROMPTS = ['crack', 'rust stain']


def adapted() -> SAM3TextLoRA:
    torch.manual_seed(1)
    model = SAM3TextLoRA(base=TINY_SAM3, lora=LORA, prompts=PROMPTS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope='module')
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip('onnxruntime')
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    assert export.export(adapted(), path, 'onnx') < 1e-4
    return path


def test_onnx_gives_the_logits_of_the_adapted_model(onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    model = adapted()
    for count in (1, 3):
        images = torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(['logits'], {'pixel_values': images.numpy()})
        assert logits.shape == (count, 2, 16, 16)
        resized = F.interpolate(torch.from_numpy(logits), size=(56, 56), mode='bilinear', align_corners=False)
        with torch.no_grad():
            expected = model.encode_decode(images, [{}] * count)[:, 1:]
        torch.testing.assert_close(resized, expected, atol=1e-4, rtol=0)
        assert expected.std() > 0.01
    assert [path.name for path in onnx_file.parent.iterdir()] == ['model.onnx']


def test_onnx_says_how_to_prepare_images(onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    said = json.loads(session.get_modelmeta().custom_metadata_map['crack_plugin'])
    assert said['prompts'] == PROMPTS
    assert (said['image_size'], said['mean'], said['std']) == (56, [127.5] * 3, [127.5] * 3)
    assert session.get_inputs()[0].shape == ['batch', 3, 56, 56]


def test_tool_writes_what_plain_torch_runs(tiny_config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """From a photograph to logits at its size, without this package but for the comparison."""
    model = init_model(str(tiny_config), device='cpu')
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    monkeypatch.syspath_prepend(TOOLS)
    tool = runpy.run_path(str(TOOLS / 'export.py'))
    out = tmp_path / 'deployed' / 'model.pt2'
    # As configs/sam3_lora_crack_lowmem.py has it
    options = ['--cfg-options', 'model.dtype=bfloat16', 'model.activation_checkpointing=True']
    tool['main']([str(tiny_config), str(out), '--checkpoint', str(tmp_path / 'weights.pth'), *options])
    assert f'Wrote {out}' in capsys.readouterr().out

    extra = {'crack_plugin': ''}
    module = torch.export.load(out, extra_files=extra).module()
    said = json.loads(extra['crack_plugin'])
    photograph = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'photograph.png'), photograph)
    pixels = torch.from_numpy(photograph[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    pixels = (pixels - torch.tensor(said['mean']).view(3, 1, 1)) / torch.tensor(said['std']).view(3, 1, 1)
    side = said['image_size']
    square = F.interpolate(pixels, size=(side, side), mode='bilinear', align_corners=False, antialias=True)
    with torch.no_grad():
        logits = F.interpolate(module(square), size=(90, 70), mode='bilinear', align_corners=False)
    expected = inference_model(model, str(tmp_path / 'photograph.png')).seg_logits.data[1:]
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=0)


def test_file_that_computes_something_else_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = tmp_path / 'model.pt2'
    former.write_bytes(b'former')
    monkeypatch.setattr(export, '_write_pt2', lambda module, images, path, description: path.touch())
    monkeypatch.setattr(export, '_run_pt2', lambda path, images: np.zeros((2, 2, 16, 16), np.float32))
    with pytest.raises(export.ExportError, match='differs from the model'):
        export.export(adapted(), former, 'pt2')
    assert former.read_bytes() == b'former'
    assert list(tmp_path.iterdir()) == [former]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'dtype': 'bfloat16'}, 'low precision'), ({'lora': None, 'trainable': 'all'}, "trainable='all'")],
)
def test_models_that_cannot_be_exported(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(export.ExportError, match=message):
        export.export(SAM3TextLoRA(base=TINY_SAM3, **arguments), tmp_path / 'model.pt2', 'pt2')


def test_tool_refuses_other_suffixes_and_models(tiny_config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    tool = runpy.run_path(str(TOOLS / 'export.py'))
    other = tmp_path / 'unet.py'
    other.write_text("model = dict(type='EncoderDecoder')")
    for config, name, message in ((tiny_config, 'model.pb', '.onnx or .pt2'), (other, 'model.pt2', 'EncoderDecoder')):
        with pytest.raises(SystemExit):
            tool['main']([str(config), str(tmp_path / name)])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_weights_beyond_the_limit_of_onnx_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    monkeypatch.setattr(export, 'ONNX_LIMIT', 0)
    export.export(adapted(), tmp_path / 'model.onnx', 'onnx')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model.onnx', 'model.onnx.data']
    onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'levels'), [('image', 0), ('image', 3), ('square', 0)])
def test_a_detail_head_is_exported_too(size: str, levels: int, tmp_path: Path) -> None:
    """With negative prompts, which have no part in the file; a photograph that is not square, and another size."""
    torch.manual_seed(1)
    head = {'size': size, 'max_pixels': 10_000 if size == 'image' else 500, 'levels': levels}
    model = SAM3TextLoRA(
        base=TINY_SAM3, lora=LORA, prompts=PROMPTS, detail_head=head, negative_prompts=['joint']
    ).eval()
    assert model.detail_head is not None
    torch.nn.init.normal_(model.detail_head.correct.weight)
    photograph = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        expected = model.encode_decode(photograph, [{}])[:, 1:]
    assert export.export(model, tmp_path / 'model.pt2', 'pt2') < 1e-4
    extra = {'crack_plugin': ''}
    module = torch.export.load(tmp_path / 'model.pt2', extra_files=extra).module()
    square = F.interpolate(photograph, size=(56, 56), mode='bilinear', align_corners=False, antialias=True)
    with torch.no_grad():
        logits = module(square, photograph) if 'max_pixels' in json.loads(extra['crack_plugin']) else module(square)
    assert logits.shape == ((1, 2, 61, 90) if size == 'image' else (1, 2, 56, 56))
    if size == 'square':
        # The file enlarges logits and correction to the square, and its user the sum to the photograph.
        with torch.no_grad():
            square_logits = model.encode_decode(square, [{}])[:, 1:]
        torch.testing.assert_close(logits, square_logits, atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
