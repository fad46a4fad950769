"""A test batch of images of several sizes gives what each image gives alone."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from conftest import CONFIGS
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

SIZES = [(40, 60), (64, 48), (40, 60), (90, 33)]
SLIDE = {'mode': 'slide', 'crop_size': (48, 48), 'stride': (32, 32), 'batch': 3}


def items(dtype: torch.dtype = torch.uint8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            'inputs': torch.randint(0, 256, (3, *size), generator=generator).to(dtype),
            'data_samples': SegDataSample(
                metainfo={'img_shape': size, 'ori_shape': (2 * size[0], size[1]), 'img_path': f'{index}.jpg'}
            ),
        }
        for index, size in enumerate(SIZES)
    ]


def build(tiny_sam3: dict, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model = {'type': 'SAM3TextLoRA', 'base': tiny_sam3, **arguments}
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    return MODELS.build({**cfg.model, **model}).eval()


def assert_same(together: list, alone: list) -> None:
    assert [sample.img_path for sample in together] == [sample.img_path for sample in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.seg_logits.shape == other.seg_logits.shape
        torch.testing.assert_close(one.seg_logits.data, other.seg_logits.data, rtol=0, atol=1e-5)
        assert (one.pred_sem_seg.data != other.pred_sem_seg.data).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize('test_cfg', [{'mode': 'whole'}, SLIDE], ids=['whole', 'slide'])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32], ids=['8-bit', 'float'])
@pytest.mark.parametrize('step', ['val_step', 'test_step'])
def test_is_what_each_image_gives_alone(tiny_sam3: dict, test_cfg: dict, dtype: torch.dtype, step: str) -> None:
    predict = getattr(build(tiny_sam3, test_cfg=test_cfg), step)
    alone = [predict(pseudo_collate([item]))[0] for item in items(dtype)]
    assert_same(predict(pseudo_collate(items(dtype))), alone)


@torch.no_grad()
@pytest.mark.parametrize('head', [None, {}, {'max_pixels': 700}, {'size': 'square'}], ids=str)
def test_entire_images_of_any_sizes_are_one_batch(
    tiny_sam3: dict, head: dict | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise what the normalised images give, where the network's batch is the same."""
    model = build(tiny_sam3, prompts=('crack', 'rust'), detail_head=head)
    if model.detail_head is not None:
        torch.nn.init.normal_(model.detail_head.correct.weight)
    batches = []
    whole = model._coarse_logits
    monkeypatch.setattr(model, '_coarse_logits', lambda squares: batches.append(len(squares)) or whole(squares))
    found = model.test_step(pseudo_collate(items()))
    assert batches == [len(SIZES)]
    monkeypatch.undo()
    for raw, normalised, together in zip(items(), items(torch.float32), found, strict=True):
        (alone,), (expected,) = (model.test_step(pseudo_collate([item])) for item in (raw, normalised))
        assert torch.equal(alone.seg_logits.data, expected.seg_logits.data)
        assert torch.equal(alone.pred_sem_seg.data, expected.pred_sem_seg.data)
        torch.testing.assert_close(together.seg_logits.data, expected.seg_logits.data, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_samples(tiny_sam3: dict) -> None:
    """As a caller that has nothing but pictures."""
    model = build(tiny_sam3)
    images = [item['inputs'] for item in items()]
    for one, image in zip(model.test_step({'inputs': images}), images, strict=True):
        alone = model.test_step({'inputs': [image]})[0]
        torch.testing.assert_close(one.seg_logits.data, alone.seg_logits.data, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('test_cfg', [{'mode': 'whole'}, SLIDE], ids=['whole', 'slide'])
def test_under_test_time_augmentation(tiny_sam3: dict, tmp_path: Path, test_cfg: dict) -> None:
    """Through the config's own pipeline, from files."""
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack.py')
    pipeline = Compose(list(cfg.tta_pipeline))
    pipeline.transforms[1].subroutines = [
        Compose([step for step in routine.transforms if type(step).__name__ != 'LoadYOLOPolygons'])
        for routine in pipeline.transforms[1].subroutines
    ]
    for item in items():
        name = str(tmp_path / item['data_samples'].img_path)
        cv2.imwrite(name.replace('.jpg', '.png'), item['inputs'].permute(1, 2, 0).numpy())
    tta = MODELS.build({'type': 'SAM3TTAModel', 'module': build(tiny_sam3, test_cfg=test_cfg)}).eval()

    def augmented() -> list[dict]:
        return [
            pipeline({'img_path': str(path), 'reduce_zero_label': False}) for path in sorted(tmp_path.glob('*.png'))
        ]

    alone = [tta.test_step(pseudo_collate([item]))[0] for item in augmented()]
    assert_same(tta.test_step(pseudo_collate(augmented())), alone)


def test_runner_tests_in_batches(tiny_config: Path, tmp_path: Path, crack_folder: Path) -> None:
    """Scores of a dataset of several sizes do not depend on the batch size."""
    folder = tmp_path / 'mixed'
    shutil.copytree(crack_folder, folder)
    first = sorted((folder / 'valid' / 'images').iterdir())[0]
    cv2.imwrite(str(first), cv2.imread(str(first))[:30])
    (folder / 'valid' / 'labels' / f'{first.stem}.txt').write_text('')
    scores = []
    for batch_size in (1, 3):
        cfg = Config.fromfile(tiny_config)
        cfg.merge_from_dict(
            {
                'test_dataloader.dataset.data_root': str(folder),
                'test_dataloader.batch_size': batch_size,
                'experiment_name': f'mixed_{batch_size}',
            }
        )
        scores.append({key: value for key, value in Runner.from_cfg(cfg).test().items() if 'time' not in key})
    assert scores[0]['crack/IoU'] > 0
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
