"""Where the host waits for the device in a training step: each time a GPU has done all it was given, and idles."""

import itertools
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils._python_dispatch import TorchDispatchMode

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.enlarged import Enlarged
from crack_plugin.models.strips import CPU_PIXELS, GPU_PIXELS, strips

# Operations whose result the host needs, or whose shape depends on values.
WAITING = {
    'aten::_local_scalar_dense',
    'aten::equal',
    'aten::is_nonzero',
    'aten::masked_select',
    'aten::nonzero',
    'aten::repeat_interleave',
    'aten::_unique2',
}
INDEXING = {'aten::index', 'aten::index_put', 'aten::index_put_'}

ALWAYS = {
    'foreground_loss.py': 1,  # are all labels classes?
    'non_finite_loss.py': 1,  # is the loss a number?
    'message_hub.py': 3,  # loss, Dice loss and train_iou, for the log
}
TEXT_ENCODER = {'masking_utils.py': 2}  # transformers: is there padding?
CLIPPED = {'optimizer_wrapper.py': 1}  # the gradient's norm, for the log and for the check that it is finite
NOT_CLIPPED = {'non_finite_loss.py': 1}  # is the gradient finite?
AMP = {'grad_scaler.py': 1}  # the scaler's own check of that


class HostWaits(TorchDispatchMode):
    """Counts the waits by the file that asked. Under the CPU every value is at hand, so that the code runs through."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        by_mask = name in INDEXING and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if (name in WAITING and (name != 'aten::repeat_interleave' or len(args) == 1)) or by_mask:
            self._note()
        return function(*args, **(kwargs or {}))

    def _note(self) -> None:
        files = [Path(frame.filename) for frame in traceback.extract_stack()[:-2]]
        # An optimizer's counts of steps lie on the CPU, wherever the weights are.
        if not any(file.parent.name == 'optim' and 'torch' in file.parts for file in files):
            of_torch = ('torch', 'amp') if any(file.name == 'grad_scaler.py' for file in files) else ()
            callers = [f for f in files if 'torch' not in f.parts or (of_torch and f.name == 'grad_scaler.py')]
            self.count[callers[-1].name] += 1


def waits_of_a_step(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of the second iteration, hooks and all."""
    cfg.train_cfg.max_epochs = 1
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    waits, run_iter, numbers = HostWaits(), EpochBasedTrainLoop.run_iter, itertools.count()

    def watched(self: EpochBasedTrainLoop, index: int, batch: Any) -> None:
        if next(numbers) == 1:
            with waits:
                run_iter(self, index, batch)
        else:
            run_iter(self, index, batch)

    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', watched)
    Runner.from_cfg(cfg).train()
    return waits.count


@pytest.mark.parametrize('adapted_text', [True, False])
def test_waits_of_a_training_step(tiny_config: Path, monkeypatch: pytest.MonkeyPatch, adapted_text: bool) -> None:
    cfg = Config.fromfile(tiny_config)
    if not adapted_text:
        cfg.model.lora.target_modules = r'vision_encoder.*\.(q_proj|v_proj)'
    expected = Counter(ALWAYS) + Counter(CLIPPED) + Counter(TEXT_ENCODER if adapted_text else {})
    assert waits_of_a_step(cfg, monkeypatch) == expected


def test_waits_of_a_training_step_without_clipping(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(tiny_config)
    cfg.optim_wrapper.clip_grad = None
    expected = Counter(ALWAYS) + Counter(NOT_CLIPPED) + Counter(TEXT_ENCODER)
    assert waits_of_a_step(cfg, monkeypatch) == expected


def test_waits_of_a_training_step_with_a_scaler(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, amp_on_cpu: dict[str, Any]
) -> None:
    cfg = Config.fromfile(tiny_config)
    cfg.merge_from_dict(amp_on_cpu)
    assert waits_of_a_step(cfg, monkeypatch) == Counter(ALWAYS) + Counter(TEXT_ENCODER) + Counter(CLIPPED) + Counter(
        AMP
    )


def test_a_prediction_waits_for_nothing(tiny_sam3: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with its result does."""
    # On a CPU alone it is asked whether logits are finite.
    monkeypatch.setattr(Enlarged, 'is_partial', False)
    targets = {'r': 2, 'target_modules': r'vision_encoder.*\.(q_proj|v_proj)'}
    model = SAM3TextLoRA(base=tiny_sam3, lora=targets).eval()
    waits = HostWaits()
    with torch.no_grad(), waits:
        model.test_step({'inputs': [torch.zeros(3, 300, 400, dtype=torch.uint8)], 'data_samples': None})
    assert not waits.count


def test_strips_of_a_gpu_are_larger() -> None:
    """Of 12 megapixels there are 3, where the cache of a CPU wants 188."""
    cut = {name: list(strips(3000, 4000, torch.device(name))) for name in ('cpu', 'cuda:1')}
    for name, pixels in (('cpu', CPU_PIXELS), ('cuda:1', GPU_PIXELS)):
        rows = [index for part in cut[name] for index in range(3000)[part]]
        assert rows == list(range(3000))
        assert all(len(range(3000)[part]) * 4000 <= pixels for part in cut[name])
    assert (len(cut['cpu']), len(cut['cuda:1'])) == (188, 3)
