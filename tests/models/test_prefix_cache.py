"""The frozen bottom of the ViT, computed once for each picture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.prefix_cache import PrefixCache, PrefixCacheError

LORA = {'r': 2, 'lora_dropout': 0.0, 'target_modules': r'(.*\.layers\.1|detr_encoder|mask_decoder)\..*(q|k|v|o)_proj'}


def counting(calls: list[int]) -> Any:
    def compute(images: Tensor) -> Tensor:
        calls.append(len(images))
        return images.mean(dim=1) * 1.001

    return compute


def test_computed_once_and_the_same_ever_after(tmp_path: Path) -> None:
    images, calls = torch.randn(3, 3, 8, 8), []
    first = PrefixCache(tmp_path, 'a' * 64, limit=3)(images, counting(calls))
    again = PrefixCache(tmp_path, 'a' * 64, limit=3)(images.flip(0), counting(calls))
    assert calls == [3]
    assert torch.equal(again, first.flip(0))
    assert torch.equal(first, counting([])(images).to(torch.bfloat16))


def test_other_weights_lie_apart(tmp_path: Path) -> None:
    images, calls = torch.randn(1, 3, 8, 8), []
    for prefix_hash in ('a' * 64, 'b' * 64):
        PrefixCache(tmp_path, prefix_hash, limit=1)(images, counting(calls))
    assert calls == [1, 1]


def test_more_pictures_than_there_are(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, 'a' * 64, limit=2)
    cache(torch.randn(2, 3, 8, 8), counting([]))
    with pytest.raises(PrefixCacheError, match='3 different pictures of 2 images'):
        cache(torch.randn(1, 3, 8, 8), counting([]))
    assert len(cache) == 2


def test_datasets_share_a_folder(tmp_path: Path) -> None:
    for _ in range(3):
        PrefixCache(tmp_path, 'a' * 64, limit=2)(torch.randn(2, 3, 8, 8), counting([]))
    assert len(PrefixCache(tmp_path, 'a' * 64, limit=2)) == 6


def test_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('crack_plugin.models.prefix_cache.save_file', full)
    cache = PrefixCache(tmp_path, 'a' * 64, limit=2)
    with pytest.raises(PrefixCacheError, match='No space left on device'):
        cache(torch.randn(1, 3, 8, 8), counting([]))
    assert not list(cache.folder.iterdir())


def test_damaged_file_is_named(tmp_path: Path) -> None:
    images = torch.randn(1, 3, 8, 8)
    cache = PrefixCache(tmp_path, 'a' * 64, limit=1)
    cache(images, counting([]))
    (path,) = cache.folder.glob('*.safetensors')
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PrefixCacheError, match=rf'{path.name} is damaged .* Delete it'):
        cache(images, counting([]))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_cache_under_autocast(tiny_sam3: dict, tmp_path: Path, device: str, dtype: torch.dtype) -> None:
    """Hidden states of autocast are of its own; adapters learn from them as from those computed anew."""
    model = SAM3TextLoRA(base=tiny_sam3, lora=LORA).to(device).train()
    images = torch.randn(2, 3, 56, 56, device=device)

    def step() -> Tensor:
        model.zero_grad()
        with torch.autocast(device, dtype=dtype):
            result = model.encode_decode(images, [{}] * 2)
        result.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = step()
    cache = model.cache_prefix(tmp_path, limit=4)
    first, again = step(), step()
    assert len(cache) == 2
    assert torch.equal(first, again)
    assert (first - expected).norm() < 0.05 * expected.norm()
    # What was computed without autocast is another picture's.
    model.encode_decode(images, [{}] * 2)
    assert len(cache) == 4


def test_model_computes_frozen_layers_once(tiny_sam3: dict, tmp_path: Path, device: str) -> None:
    model = SAM3TextLoRA(base=tiny_sam3, lora=LORA, dtype='bfloat16').to(device).train()
    images = torch.randn(2, 3, 56, 56, device=device)
    expected = model.encode_decode(images, [{}] * 2)
    cache = model.cache_prefix(tmp_path, limit=2)
    runs: list[int] = []
    model.model.vision_encoder.backbone.layers[0].register_forward_hook(lambda *_: runs.append(1))
    for _ in range(3):
        # In bfloat16 nothing is lost on the way.
        assert torch.equal(model.encode_decode(images, [{}] * 2), expected)
    assert len(runs) == 1
    model.close_prefix_cache()
    assert torch.equal(model.encode_decode(images, [{}] * 2), expected)
    assert len(runs) == 2
    (side, _, width) = (4, 4, 32)
    assert model.prefix_bytes == 2 * side * side * width
    assert len(cache) == 2


def test_cache_knows_the_frozen_weights(tiny_sam3: dict, tmp_path: Path) -> None:
    folders = {
        SAM3TextLoRA(base={**tiny_sam3, 'seed': seed}, lora=LORA, dtype=dtype).cache_prefix(tmp_path, 1).folder
        for seed in (0, 1)
        for dtype in (None, 'bfloat16')
    }
    # The same weights, read in another way
    tiny_sam3['vision_config']['backbone_config']['global_attn_indexes'] = [0]
    folders.add(SAM3TextLoRA(base=tiny_sam3, lora=LORA).cache_prefix(tmp_path, 1).folder)
    assert len(folders) == 5


def test_layers_that_drop_out_are_not_frozen(tiny_sam3: dict, tmp_path: Path) -> None:
    """Kept on disk, one draw of dropout would hold for ever."""
    model = SAM3TextLoRA(base=tiny_sam3, lora={**LORA, 'lora_dropout': 0.5, 'target_modules': 'all-linear'})
    for layer in model.model.vision_encoder.backbone.layers:
        layer.requires_grad_(False)
    with pytest.raises(ValueError, match='nothing to cache'):
        model.train().cache_prefix(tmp_path, limit=1)


def test_nothing_to_cache(tiny_sam3: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='every layer of the ViT trains'):
        SAM3TextLoRA(base=tiny_sam3).cache_prefix(tmp_path, limit=1)


def test_windows_are_not_cached(tiny_sam3: dict, tmp_path: Path) -> None:
    windows = {'mode': 'slide', 'crop_size': (28, 28), 'stride': (28, 28)}
    with pytest.raises(ValueError, match='every window is a picture'):
        SAM3TextLoRA(base=tiny_sam3, lora=LORA, test_cfg=windows).cache_prefix(tmp_path, limit=1)


def test_thawed_layers_are_noticed(tiny_sam3: dict, tmp_path: Path) -> None:
    model = SAM3TextLoRA(base=tiny_sam3, lora=LORA)
    model.cache_prefix(tmp_path, limit=1)
    model.model.vision_encoder.backbone.layers[0].requires_grad_(True)
    with pytest.raises(ValueError, match='0 layers are frozen now'):
        model.train()
