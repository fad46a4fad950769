"""Adapters from the Hugging Face hub: only their files, of the revision, checked as those in a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from safetensors.torch import load_file, save_file
from stand_in_hub import OWNER, StandInHub, stand_in_hub

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.lora_config import AdapterError
from crack_plugin.models.portable import PortableError, find

REPO = f'{OWNER}/cracks'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    with stand_in_hub() as server:
        server.use_here(monkeypatch, tmp_path / 'hf')
        yield server


def change(folder: Path, factor: float) -> dict[str, torch.Tensor]:
    """Give an adapter other weights; its metadata stay."""
    path = folder / 'adapter_model.safetensors'
    weights = {name: factor * torch.ones_like(value) for name, value in load_file(path).items()}
    save_file(weights, path, metadata={'format': 'pt'})
    return weights


def weights_of(model: SAM3TextLoRA) -> set[float]:
    return {parameter.mean().item() for name, parameter in model.named_parameters() if 'lora_' in name}


def test_revisions_and_only_its_files(hub: StandInHub, tiny_sam3: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / 'pushed'
    SAM3TextLoRA(base=tiny_sam3).save_adapter(folder)
    (folder / 'adapter_model.bin').write_bytes(b'not fetched')
    change(folder, 0.25)
    first = hub.add(REPO, folder)
    change(folder, 0.5)
    hub.add(REPO, folder)
    assert weights_of(SAM3TextLoRA(base=tiny_sam3, adapter=REPO)) == {0.5}
    assert weights_of(SAM3TextLoRA(base=tiny_sam3, adapter=f'{REPO}@{first}')) == {0.25}
    assert not list((tmp_path / 'hf').rglob('*.bin'))
    with pytest.raises(AdapterError, match="has no branch, tag or commit 'v9'"):
        SAM3TextLoRA(base=tiny_sam3, adapter=f'{REPO}@v9')
    with pytest.raises(PortableError, match=r'has an adapter, but no crack_plugin\.json'):
        find(REPO)


def test_the_same_checks_as_of_a_folder(
    hub: StandInHub, tiny_sam3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'pushed'
    SAM3TextLoRA(base={**tiny_sam3, 'seed': 7}).save_adapter(folder)
    hub.add(f'{OWNER}/other_base', folder)
    change(folder, float('nan'))
    hub.add(f'{OWNER}/nan', folder)
    (folder / 'adapter_model.safetensors').unlink()
    hub.add(f'{OWNER}/config_alone', folder)
    for name, said in (
        ('other_base', 'was trained on other base weights'),
        ('nan', 'NaN'),
        ('config_alone', 'has no adapter_model.safetensors'),
        ('nothing', 'Mind the spelling'),
    ):
        with pytest.raises(AdapterError, match=said):
            SAM3TextLoRA(base=tiny_sam3, adapter=f'{OWNER}/{name}')
    # A folder of the owner's name here: a path, unless a revision is given.
    (tmp_path / OWNER).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match="name its revision: 'someone/nan@main'"):
        SAM3TextLoRA(base=tiny_sam3, adapter=f'{OWNER}/nan')
    with pytest.raises(AdapterError, match='NaN'):
        SAM3TextLoRA(base=tiny_sam3, adapter=f'{OWNER}/nan@main')


def test_faults_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses, or a time that runs out, are no OSError."""

    def fail(*_: Any, **__: Any) -> None:
        raise HTTPError('403 Forbidden by the proxy')

    monkeypatch.setattr('crack_plugin.hub.snapshot_download', fail)
    with pytest.raises(AdapterError, match=r'could not be downloaded.*403 Forbidden by the proxy'):
        find(f'{REPO}@main')
