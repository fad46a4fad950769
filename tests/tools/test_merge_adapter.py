"""``tools/merge_adapter.py``: a folder that plain Hugging Face loads to the adapted model's outputs."""

from pathlib import Path

import torch
import torch.nn.functional as F
from conftest import TOOLS, run_tool
from mmengine.config import Config
from mmseg.registry import MODELS
from transformers import CLIPTokenizer
from transformers.models.sam3.modeling_sam3 import Sam3Model


def test_merged_folder_needs_neither_us_nor_peft(tiny_config: Path, tmp_path: Path) -> None:
    model = MODELS.build(Config.fromfile(tiny_config).model).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(std=0.1)
    model.save_adapter(tmp_path / 'adapter')
    result = run_tool(TOOLS / 'merge_adapter.py', tiny_config, tmp_path / 'merged', '--adapter', tmp_path / 'adapter')
    assert result.returncode == 0, result.stderr

    plain, report = Sam3Model.from_pretrained(str(tmp_path / 'merged'), output_loading_info=True)
    assert not report['missing_keys']
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path / 'merged'))
    tokens = tokenizer(['crack'], padding='max_length', max_length=32, return_tensors='pt')
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        merged = plain.eval()(pixel_values=images, **tokens).semantic_seg
        merged = F.interpolate(merged, size=(56, 56), mode='bilinear', align_corners=False)
        torch.testing.assert_close(model.encode_decode(images, [{}])[:, 1:], merged, atol=1e-5, rtol=0)

    again = run_tool(TOOLS / 'merge_adapter.py', tiny_config, tmp_path / 'merged', '--adapter', tmp_path / 'adapter')
    assert again.returncode == 1
    assert 'is not empty' in again.stderr
