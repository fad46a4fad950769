"""``tools/merge_adapter.py``: a folder that plain Hugging Face loads to the adapted model's outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TOOLS, load_script
from mmengine.config import Config
from mmseg.registry import MODELS
from transformers import CLIPTokenizer
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.models import SAM3TextLoRA


def test_merged_folder_needs_neither_us_nor_peft(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = MODELS.build(Config.fromfile(tiny_config).model).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    model.save_adapter(tmp_path / 'adapter')
    merge = load_script(TOOLS / 'merge_adapter.py').main
    command = [str(tiny_config), str(tmp_path / 'merged'), '--adapter', str(tmp_path / 'adapter')]
    merge(command)

    plain, report = Sam3Model.from_pretrained(str(tmp_path / 'merged'), output_loading_info=True)
    assert not report['missing_keys']
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path / 'merged'))
    tokens = tokenizer(['crack'], padding='max_length', max_length=32, return_tensors='pt')
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        merged = plain.eval()(pixel_values=images, **tokens).semantic_seg
        merged = F.interpolate(merged, size=(56, 56), mode='bilinear', align_corners=False)
        torch.testing.assert_close(model.encode_decode(images, [{}])[:, 1:], merged, atol=1e-5, rtol=0)

    # What Sam3Processor.save_pretrained writes for images of 56 pixels, with SAM 3's own means.
    processor = json.loads((tmp_path / 'merged' / 'processor_config.json').read_text())
    assert processor.pop('image_processor') == {
        'do_convert_rgb': True,
        'do_normalize': True,
        'do_rescale': True,
        'do_resize': True,
        'image_mean': [0.5, 0.5, 0.5],
        'image_processor_type': 'Sam3ImageProcessor',
        'image_std': [0.5, 0.5, 0.5],
        'mask_size': {'height': 16, 'width': 16},
        'resample': 2,
        'rescale_factor': 1 / 255,
        'size': {'height': 56, 'width': 56},
    }
    assert processor == {'point_pad_value': -10, 'processor_class': 'Sam3Processor', 'target_size': 56}

    with pytest.raises(SystemExit) as stop:
        merge(command)
    assert stop.value.code == 1
    assert 'is not empty' in capsys.readouterr().err


def test_merged_folder_loads_as_a_processor(tiny_sam3: dict, tmp_path: Path) -> None:
    """Where torchvision, which transformers wants for it, is installed: it prepares what our pipeline does."""
    pytest.importorskip('torchvision')
    from transformers.models.sam3.processing_sam3 import Sam3Processor

    model = SAM3TextLoRA(base=tiny_sam3, lora=None)
    model.save_pretrained(tmp_path / 'merged')
    processor = Sam3Processor.from_pretrained(str(tmp_path / 'merged'))
    picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    prepared = processor(images=picture, text='crack', return_tensors='pt')
    bgr = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)
    expected = model.data_preprocessor({'inputs': [bgr]}, training=False)['inputs']
    torch.testing.assert_close(prepared['pixel_values'], expected, atol=1e-5, rtol=0)
    assert prepared['input_ids'].tolist() == model.prompt_ids.tolist()
    processor.save_pretrained(str(tmp_path / 'again'))
    first, again = (json.loads((tmp_path / n / 'processor_config.json').read_text()) for n in ('merged', 'again'))
    assert again == first
