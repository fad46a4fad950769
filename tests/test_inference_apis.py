"""MMSegmentation's own ways to predict give the logits of ``tools/test.py`` with our configs."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, TINY_SAM3, TOOLS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import HOOKS

from crack_plugin.prediction import Predictor


@HOOKS.register_module()
class KeepLogitsHook(Hook):
    """Keeps the ``seg_logits`` of a test run by image."""

    kept: dict[str, torch.Tensor] = {}

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.kept.update({sample.img_path: sample.seg_logits.data for sample in outputs})


@pytest.fixture(scope='module', params=['whole', 'slide'])
def case(
    request: pytest.FixtureRequest, crack_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """Config, checkpoint with adapters that do something, and the logits of ``tools/test.py`` by image."""
    folder = tmp_path_factory.mktemp('inference')
    config, checkpoint = folder / 'tiny.py', folder / 'weights.pth'
    test_cfg = {'whole': dict(mode='whole'), 'slide': dict(mode='slide', crop_size=(32, 32), stride=(24, 24))}
    config.write_text(
        f"""
_base_ = {str(CONFIGS / 'sam3_lora_crack.py')!r}
model = dict(base={{'_delete_': True, **{TINY_SAM3!r}}}, test_cfg={test_cfg[request.param]!r})
data_root = {str(crack_folder)!r}
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
custom_hooks = [dict(type='KeepLogitsHook')]
work_dir = {str(folder / 'work_dir')!r}
"""
    )
    torch.manual_seed(0)
    model = init_model(str(config), device='cpu')
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    meta = {'dataset_meta': {'classes': ('background', 'crack'), 'palette': [[0, 0, 0], [255, 0, 0]]}}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, checkpoint)

    KeepLogitsHook.kept.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        runpy.run_path(str(TOOLS / 'test.py'))['test']([str(config), str(checkpoint)])
    assert len(KeepLogitsHook.kept) == 3
    return config, checkpoint, dict(KeepLogitsHook.kept)


def test_adapters_matter(case: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    config, _, expected = case
    model = init_model(str(config), device='cpu')
    assert all(not torch.allclose(inference_model(model, path).seg_logits.data, expected[path]) for path in expected)


def test_inference_model(case: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    config, checkpoint, expected = case
    model = init_model(str(config), str(checkpoint), device='cpu')
    assert model.dataset_meta['classes'] == ('background', 'crack')
    for path, logits in expected.items():
        assert torch.equal(inference_model(model, path).seg_logits.data, logits)


def test_inferencer(case: tuple[Path, Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    config, checkpoint, expected = case
    inferencer = MMSegInferencer(model=str(config), weights=str(checkpoint), device='cpu')
    samples = inferencer(list(expected), return_datasamples=True)
    for sample, logits in zip(samples, expected.values(), strict=True):
        assert torch.equal(sample.seg_logits.data, logits)

    result = inferencer(list(expected), out_dir=str(tmp_path))
    for labels, logits in zip(result['predictions'], expected.values(), strict=True):
        assert (labels == logits.argmax(dim=0).numpy()).all()
    assert len(list((tmp_path / 'vis').iterdir())) == len(list((tmp_path / 'pred').iterdir())) == 3


def test_predictor(case: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    config, checkpoint, expected = case
    predictor = Predictor(config, checkpoint, device='cpu')
    for path, logits in expected.items():
        prediction = predictor(path)
        assert (prediction.labels == logits.argmax(dim=0).numpy()).all()
        probability = logits.softmax(dim=0)[1]
        assert prediction.labels.any()
        assert prediction.scores == [pytest.approx(probability[probability > 0.5].mean().item(), abs=1e-6)]
        assert torch.allclose(torch.from_numpy(prediction.probabilities[0]), probability, rtol=0, atol=1e-6)
