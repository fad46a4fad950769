"""A random base leaves the generators of random numbers alone, and a saved one is complete."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import FakeCuda

from crack_plugin.errors import CrackPluginError
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.base import load_base


def test_random_base_beside_several_gpus(tiny_sam3: dict, fake_cuda: FakeCuda) -> None:
    """The state of every GPU's generator comes back, and torch has nothing to warn of."""
    before = dict(fake_cuda.states)
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        load_base(tiny_sam3)
    assert fake_cuda.states == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_saved_over_other_files(tiny_sam3: dict, tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    model = SAM3TextLoRA(base=tiny_sam3)
    with pytest.raises(FileExistsError, match='is not empty') as caught:
        model.save_pretrained(tmp_path)
    assert isinstance(caught.value, CrackPluginError)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_processor_of_a_model_without_normalisation(tiny_sam3: dict, tmp_path: Path) -> None:
    """Mean 0 and deviation 1, in grey levels."""
    plain = {'type': 'SegDataPreProcessor', 'bgr_to_rgb': True, 'size_divisor': 1}
    SAM3TextLoRA(base=tiny_sam3, lora=None, data_preprocessor=plain).save_pretrained(tmp_path / 'saved')
    processor = json.loads((tmp_path / 'saved' / 'processor_config.json').read_text())['image_processor']
    assert (processor['do_normalize'], processor['do_rescale']) == (False, False)
    assert (processor['image_mean'], processor['image_std']) == ([0.0] * 3, [1.0] * 3)
    assert processor['mask_size'] == {'height': 16, 'width': 16}
