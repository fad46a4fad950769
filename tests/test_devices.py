"""Which GPU is asked: that of the model or of the command, not the first. A fake one stands for two of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, FakeCuda, load_script, tensor_on
from mmengine.config import Config

from crack_plugin.hooks.history import HistoryHook
from crack_plugin.hooks.prefix_cache import _own_randomness
from crack_plugin.hooks.reproducibility import seed
from crack_plugin.inference import predict


@pytest.mark.parametrize(('device', 'waited_for'), [('cuda:1', [1]), ('cpu', [])])
def test_predict_waits_for_the_device_that_predicted(fake_cuda: FakeCuda, device: str, waited_for: list[int]) -> None:
    sample = SimpleNamespace(pred_sem_seg=SimpleNamespace(data=tensor_on(device)))
    assert predict(lambda batch: [sample, sample], None, Config()) == [sample, sample]
    assert fake_cuda.called('synchronize') == waited_for


@pytest.mark.parametrize(('validation', 'test'), [(True, False), (False, True)])
def test_predict_follows_the_precision_of_tests(validation: bool, test: bool) -> None:
    cfg = Config({'val_cfg': {'fp16': validation}, 'test_cfg': {'fp16': test}})
    seen = []
    predict(lambda batch: seen.append(torch.is_autocast_enabled('cpu')) or [], None, cfg)
    assert seen == [test]


def test_history_reads_the_peak_of_the_models_gpu(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    runner = SimpleNamespace(
        model=SimpleNamespace(parameters=lambda: iter([tensor_on('cuda:1')])),
        work_dir=str(tmp_path),
        train_loop=None,
        iter=0,
        message_hub=SimpleNamespace(runtime_info={}, update_info=lambda *_: None),
    )
    hook = HistoryHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert hook._memory() == {'peak_memory_mb': 5.0, 'peak_memory_of': 'CUDA allocator'}
    assert set(fake_cuda.called('max_memory_allocated')) == {1}
    assert fake_cuda.called('reset_peak_memory_stats') == [1]


def test_probing_a_pipeline_leaves_every_generator_as_it_was(fake_cuda: FakeCuda) -> None:
    before = dict(fake_cuda.states)
    with _own_randomness():
        seed(1, 2)
        assert fake_cuda.states.keys() == before.keys()
        assert all(fake_cuda.states[index] != state for index, state in before.items())
    assert fake_cuda.states == before


def test_benchmarks_measure_the_device_asked_for(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    steps = load_script(ROOT / 'benchmarks' / 'steps.py')
    work = steps.Work('nothing', lambda: None, torch.nn.Identity())
    steps.time_alternately([work], rounds=2, warmup=1, device='cuda:1')
    assert work.peak == 4 * 2**20
    steps.print_machine('cuda:1')
    assert {index for _, index in fake_cuda.calls} == {1}
    assert {name for name, _ in fake_cuda.calls} == {
        'synchronize', 'reset_peak_memory_stats', 'max_memory_allocated', 'memory_allocated', 'get_device_name'
    }  # fmt: skip
