"""One small base of every kind that ``base`` takes, as a folder: the rows of the table in docs/bases.md."""

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY_LITE_TEXT, TINY_SAM3
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Sam3Config, Sam3LiteTextConfig
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from crack_plugin.models import SAM3TextLoRA, meta_checkpoint
from crack_plugin.models.base import load_base

META_NAMES = ROOT / 'tests' / 'data' / 'meta_sam3_names.txt.gz'
META_VISION = 'detector.backbone.vision_backbone.'


def published_names() -> dict[str, Tensor]:
    """Meta's state dict without its numbers."""
    found = {}
    for line in gzip.decompress(META_NAMES.read_bytes()).decode().splitlines():
        name, dtype, shape = line.split(' ', 2)
        found[name] = torch.empty(json.loads(shape), dtype=getattr(torch, dtype), device='meta')
    return found


def meta_state_dict(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A small model as the original would save it; published is then its size, as long as ``monkeypatch`` lasts."""
    config = Sam3Config(**copy.deepcopy(TINY_SAM3))
    monkeypatch.setattr(meta_checkpoint, 'Sam3Config', lambda: copy.deepcopy(config))
    own = load_base(copy.deepcopy(TINY_SAM3))[0].state_dict()
    found = {'tracker.maskmem_tpos_enc': torch.zeros(7, 1, 1, 64)}
    for name in published_names():
        pattern, numbers = meta_checkpoint._pattern(name.removeprefix('detector.'))
        rule = meta_checkpoint._PARAMETERS.get(name.removeprefix('detector.')) or meta_checkpoint._PARAMETERS.get(
            pattern
        )
        parts = rule(torch.zeros(3, 3, 3)) if rule else {}
        parts = {new: own.get(meta_checkpoint._with_numbers(new, numbers)) for new in parts}
        if parts and all(part is not None for part in parts.values()):
            found[name] = torch.cat(list(parts.values()))
    positions = f'{META_VISION}trunk.pos_embed'
    found[positions] = nn.functional.pad(found[positions], (0, 0, 1, 0))
    projection = 'detector.backbone.language_backbone.encoder.text_projection'
    found[projection] = found[projection].T.contiguous()
    return found


def _plain(overrides: dict[str, Any], model_class: Any, config_class: Any) -> Any:
    overrides = {name: value for name, value in copy.deepcopy(overrides).items() if name != 'model_type'}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config_class(**overrides))


def _write_sam3(folder: Path) -> Path:
    _plain(TINY_SAM3, Sam3Model, Sam3Config).save_pretrained(folder)
    return folder


def _write_video(folder: Path) -> Path:
    """As the hub's facebook/sam3: a video model's configuration, the image model's under ``detector_``."""
    _write_sam3(folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({'model_type': 'sam3_video', 'detector_config': config}))
    weights = {f'detector_model.{name}': value for name, value in load_file(folder / 'model.safetensors').items()}
    weights['tracker_model.no_memory_embedding'] = torch.zeros(1)
    save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})
    return folder


def _write_meta(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        torch.save(meta_state_dict(patch), folder.with_suffix('.pt'))
        meta_checkpoint.convert_file(folder.with_suffix('.pt'), folder)
    return folder


def _write_lite_text(folder: Path) -> Path:
    """With statistics as after a training."""
    model = _plain(TINY_LITE_TEXT, Sam3LiteTextModel, Sam3LiteTextConfig)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2, generator=generator)
            nn.init.normal_(module.weight, mean=1, std=0.2, generator=generator)
            module.num_batches_tracked.fill_(100)
    model.save_pretrained(folder)
    return folder


def with_trained_adapters(model: SAM3TextLoRA) -> SAM3TextLoRA:
    """Give the adapters values, as after training."""
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_' in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def foreground_logits(model: SAM3TextLoRA, images: Tensor) -> Tensor:
    """Logits (N, K, H, W) of the prompts."""
    with torch.no_grad():
        return model.encode_decode(images, [{}] * len(images))[:, 1:]


KINDS: dict[str, tuple[Callable[[Path], Path], Any]] = {
    'SAM 3': (_write_sam3, Sam3Model),
    "SAM 3 video checkpoint's detector": (_write_video, Sam3Model),
    'Meta sam3.pt, converted': (_write_meta, Sam3Model),
    'SAM3-LiteText': (_write_lite_text, Sam3LiteTextModel),
    'tiny SAM 3': (lambda folder: CONFIGS / 'sam3_tiny', Sam3Model),
}
"""By its name in the table: what writes such a base into a folder and returns it, and its class in transformers."""
