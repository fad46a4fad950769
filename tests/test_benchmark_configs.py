"""configs/benchmark: every model trains a step on our data, and is scored by our metric as by MMSegmentation's."""

import copy
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, MODELS

from crack_plugin.comparison.settings import Settings
from crack_plugin.evaluation import CrackMetric

BENCHMARK = sorted((CONFIGS / 'benchmark').glob('*.py'))
NAMES = [path.stem for path in BENCHMARK]
# Seconds and gigabytes even at 64 pixels.
HEAVY = {'unet', 'deeplabv3plus_r50', 'pspnet_r50', 'segformer_b5', 'upernet_swin_t', 'mask2former_r50'}
needs_mmdet = pytest.mark.skipif(find_spec('mmdet') is None, reason='mmdet is not installed')
MARKS = {name: [pytest.mark.slow] for name in HEAVY}
MARKS['mask2former_r50'].append(needs_mmdet)
every_model = pytest.mark.parametrize('name', [pytest.param(name, marks=MARKS.get(name, [])) for name in NAMES])


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / 'benchmark' / f'{name}.py', import_custom_modules=False)


def test_all_the_models_are_there() -> None:
    wanted = HEAVY | {'segformer_b0', 'pidnet_s', 'ddrnet_23_slim', 'segnext_t', 'unet_small'}
    assert set(NAMES) == wanted


@pytest.mark.parametrize('name', NAMES)
def test_every_head_has_two_classes(name: str) -> None:
    model = load(name).model
    heads = [head for key, head in model.items() if key.endswith('_head')]
    assert heads
    assert all(head.num_classes == 2 for head in heads)
    weights = [loss.get('class_weight') for head in heads for loss in listed(head.get('loss_decode'))]
    assert weights == [None] * len(weights)
    if name == 'mask2former_r50':
        assert len(model.decode_head.loss_cls.class_weight) == 3


@pytest.mark.parametrize('name', NAMES)
def test_models_share_all_but_the_model(name: str) -> None:
    """Fairness: data, augmentation, schedule and metric are those of the shared base."""
    base = Config.fromfile(CONFIGS / '_base_' / 'benchmark.py', import_custom_modules=False)
    cfg = load(name)
    for key in ('test_dataloader', 'val_dataloader', 'test_evaluator', 'param_scheduler', 'train_cfg', 'default_hooks'):
        assert cfg[key] == base[key], key
    # PIDNet has one step more: edges, made of the labels
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.dataset.pipeline = [step for step in loader.dataset.pipeline if step.type != 'GenerateEdge']
    assert loader == base.train_dataloader
    assert cfg.test_evaluator.type == 'CrackMetric'
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'


@pytest.mark.parametrize('name', NAMES)
def test_pretrained_by_default_and_a_flag_against_it(name: str) -> None:
    cfg = load(name)
    if name.startswith('unet'):  # MMSegmentation has no weights for it
        assert cfg.model.backbone.get('init_cfg') is None
    else:
        assert re.match(r'(https|open-mmlab|torchvision)://', cfg.model.backbone.init_cfg.checkpoint)
        assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    by_flag = Settings(pretrained=False).apply(cfg)
    by_hand = copy.deepcopy(cfg)
    by_hand.merge_from_dict({'model.backbone.init_cfg': None, 'optim_wrapper.paramwise_cfg': None})
    assert '://' not in str(by_flag.model)
    assert without_nothing(by_flag.model) == without_nothing(by_hand.model)
    assert not (by_flag.optim_wrapper.get('paramwise_cfg') or {}).get('custom_keys')


@every_model
def test_trains_a_step_and_scores_like_stock_iou(name: str, crack_folder: Path) -> None:
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / 'benchmark' / f'{name}.py')  # with custom imports: mmdet
    # 128: the smallest that leaves the deepest stage of every model more than a point
    cfg = Settings(data_root=str(crack_folder), image_size=128, pretrained=False).apply(cfg)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()

    train_set = DATASETS.build(cfg.train_dataloader.dataset)
    batch = pseudo_collate([train_set[0], train_set[1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model.decode_head.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    model.train()
    loss, parts = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert any(key.endswith('loss_dice') for key in parts) or name in ('pidnet_s', 'ddrnet_23_slim')
    after = model.decode_head.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())

    model.eval()
    valid_set = DATASETS.build(cfg.test_dataloader.dataset)
    ours, stock = CrackMetric(), IoUMetric()
    ours.dataset_meta = stock.dataset_meta = valid_set.metainfo
    for index in range(len(valid_set)):
        sample = predicted_half_and_half(model, pseudo_collate([valid_set[index]]))
        assert sample['pred_sem_seg']['data'].shape[-2:] == sample['ori_shape'] == (48, 64)
        ours.process({}, [sample])
        stock.process({}, [sample])
    areas = [sum(parts) for parts in zip(*stock.results, strict=True)]
    stock_iou = IoUMetric.total_area_to_metrics(*areas, metrics=['mIoU'])['IoU']
    scores = ours.evaluate(len(valid_set))
    assert 0 < stock_iou[1] < 1
    assert scores['crack/dIoU'] == pytest.approx(stock_iou[1], abs=1e-6)
    assert ours.statistics is not None
    assert ours.statistics.summary()['mIoU'] == pytest.approx(stock_iou.mean(), abs=1e-6)


def predicted_half_and_half(model: Any, batch: Any) -> dict[str, Any]:
    """The model's prediction, cut at the median: one that has hardly trained may see one class everywhere."""
    with torch.no_grad():
        (sample,) = model.test_step(batch)
    background, crack = sample.seg_logits.data
    margin = crack - background
    sample.pred_sem_seg.data = (margin > margin.median()).long()[None]
    return sample.to_dict()


def listed(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def without_nothing(value: Any) -> Any:
    """A config without entries that are None: what stock models take them for."""
    if isinstance(value, dict):
        return {key: without_nothing(inner) for key, inner in value.items() if inner is not None}
    return value


def test_missing_mmdet_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    monkeypatch.delitem(sys.modules, 'crack_plugin.comparison.mask2former', raising=False)
    with pytest.raises(RuntimeError, match=r"pip install 'mmdet>=3.3,<3.4'"):
        Config.fromfile(CONFIGS / 'benchmark' / 'mask2former_r50.py')


@pytest.mark.parametrize('module', ['crack_plugin.benchmark.mask2former', 'crack_plugin.comparison.mask2former'])
def test_configs_saved_by_version_0_1_find_mask2former(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without mmdet they are told what is missing; with it (an empty one here) they load."""
    saved = tmp_path / 'saved.py'
    saved.write_text(
        f"custom_imports = dict(imports=['crack_plugin', '{module}'])\nmodel = dict(type='EncoderDecoder')\n"
    )
    for name in ('crack_plugin.benchmark.mask2former', 'crack_plugin.comparison.mask2former'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    # What `from crack_plugin.comparison import mask2former` finds before it looks for a file.
    monkeypatch.delattr('crack_plugin.comparison.mask2former', raising=False)
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    with pytest.raises(RuntimeError, match=r"pip install 'mmdet>=3.3,<3.4'"):
        Config.fromfile(saved)
    monkeypatch.setitem(sys.modules, 'mmdet', ModuleType('mmdet'))
    monkeypatch.setitem(sys.modules, 'mmdet.models', ModuleType('mmdet.models'))
    assert Config.fromfile(saved).model.type == 'EncoderDecoder'
    assert module in sys.modules
