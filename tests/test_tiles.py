"""`configs/sam3_lora_crack_tiles.py`: trained on crops, tested in windows, with flips and scales."""

import importlib.util
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS, TINY_SAM3, TOOLS
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import init_model


@pytest.fixture
def config(crack_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / 'tiles.py'
    path.write_text(
        f"""
_base_ = {str(CONFIGS / 'sam3_lora_crack_tiles.py')!r}
model = dict(
    base={{'_delete_': True, **{TINY_SAM3!r}}},
    prompts=['crack'],
    lora=dict(lora_dropout=0.0),
    test_cfg=dict(crop_size=(32, 32), stride=(24, 24)),
)
data_root = {str(crack_folder)!r}
train_pipeline = _base_.train_pipeline
train_pipeline[2].crop_size = (32, 32)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs=1)
work_dir = {str(tmp_path / 'work_dir')!r}
"""
    )
    return path


def test_crops_train_and_windows_score(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.from_cfg(Config.fromfile(config))
    shapes: set[tuple[int, ...]] = set()
    foreground_logits = runner.model.foreground_logits

    def noted(inputs, metas, negative=None):
        shapes.add((*inputs.shape, runner.model.training))
        return foreground_logits(inputs, metas, negative)

    monkeypatch.setattr(runner.model, 'foreground_logits', noted)
    runner.train()
    # Pictures of 48 x 64 have two by three windows, two in a forward
    assert shapes == {(1, 3, 32, 32, True), (2, 3, 32, 32, False)}


def test_tta_averages_flips_and_scales_at_the_files_size(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = init_model(str(config), device='cpu')
    cfg = Config.fromfile(config)
    cfg.tta_model.module = cfg.model
    cfg.model, cfg.test_dataloader.dataset.pipeline = cfg.tta_model, cfg.tta_pipeline
    runner = Runner.from_cfg(cfg)
    runner.model.module.load_state_dict(model.state_dict())
    batch = next(iter(runner.test_dataloader))
    assert len(batch['inputs']) == 6
    with torch.no_grad():
        (sample,) = runner.model.eval().test_step(batch)
        image = cv2.imread(sample.img_path)
        total = torch.zeros(2, 48, 64)
        for scale in (0.75, 1.0, 1.25):
            size = (int(64 * scale + 0.5), int(48 * scale + 0.5))
            resized = cv2.resize(image, size)[..., ::-1].copy()
            pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 127.5 - 1
            for flipped in (False, True):
                logits = model.inference(pixels.flip(-1) if flipped else pixels, [{'ori_shape': (48, 64)}])
                logits = logits.flip(-1) if flipped else logits
                total += F.interpolate(logits, size=(48, 64), mode='bilinear')[0].softmax(dim=0)
    torch.testing.assert_close(sample.seg_logits.data.exp(), total / 6, atol=1e-5, rtol=0)
    assert (total / 6)[1].std() > 0.003
    assert sample.gt_sem_seg.data.shape == (1, 48, 64)


def test_tta_through_the_tool(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')
    spec = importlib.util.spec_from_file_location('test_tool', TOOLS / 'test.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    plain, tta = (tool.test([str(config), *extra]) for extra in ([], ['--tta']))
    assert plain['crack/OIS'] != tta['crack/OIS']
