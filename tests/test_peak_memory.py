"""The peak of a process begins anew after a reset, where the system can do that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crack_plugin import peak_memory
from crack_plugin.peak_memory import CUDA_ALLOCATOR, PROCESS, WHOLE_PROCESS, reset_peak_memory

MIB = 2**20


def test_allocation_is_seen_and_forgotten() -> None:
    reset_peak_memory('cpu')
    before = peak_memory.peak_memory('cpu')
    np.ones(200 * MIB, np.uint8)
    with_array = peak_memory.peak_memory('cpu')
    assert with_array > before + 150
    if reset_peak_memory('cpu') == PROCESS:
        assert peak_memory.peak_memory(torch.device('cpu')) < with_array - 150


@pytest.mark.parametrize('status', [None, 'VmRSS: 1 kB\n'], ids=['no file', 'no line'])
def test_system_without_a_mark_that_can_be_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    if status is not None:
        (tmp_path / 'status').write_text(status)
    monkeypatch.setattr(peak_memory, '_STATUS', tmp_path / 'status')
    assert reset_peak_memory('cpu') == WHOLE_PROCESS
    assert 50 < peak_memory.peak_memory('cpu') < 100_000


def test_reset_that_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'status').write_text('VmHWM:\t    2048 kB\n')
    monkeypatch.setattr(peak_memory, '_STATUS', tmp_path / 'status')
    monkeypatch.setattr(peak_memory, '_CLEAR', tmp_path)
    assert reset_peak_memory('cpu') == WHOLE_PROCESS
    assert peak_memory.peak_memory('cpu') == 2.0


def test_of_a_gpu_it_is_the_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', asked.append)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda device: asked.append(device) or 3 * MIB)
    assert reset_peak_memory('cuda:1') == CUDA_ALLOCATOR
    assert peak_memory.peak_memory('cuda:1') == 3.0
    assert asked == [torch.device('cuda:1')] * 2
