"""benchmarks/recipes.py: every part is a recipe that builds, and the table is of the right runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIGS, ROOT, load_script
from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS

from crack_plugin.datasets.synthetic import write_dataset

RECIPES = load_script(ROOT / 'benchmarks' / 'recipes.py')


@pytest.mark.slow
@pytest.mark.parametrize('part', [*RECIPES.PARTS, 'full', 'lr=1e-3'])
def test_every_part_builds_a_model_that_trains(crack_folder: Path, part: str) -> None:
    cfg = RECIPES.recipe_config(part, crack_folder, 336, 1400, crack_folder)
    model = MODELS.build(cfg.model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert cfg.param_scheduler[0].T_max == cfg.train_cfg.max_epochs > 1


def test_parts_add_to_one_another(crack_folder: Path) -> None:
    cfg = RECIPES.recipe_config(
        'head+bce+cldice+norms+decoder+turns+crops+lr=3e-4', crack_folder, 336, 1400, crack_folder
    )
    losses = [loss['type'] for loss in cfg.model.loss_decode]
    assert losses == ['ForegroundDiceLoss', 'CrossEntropyLoss', 'CenterlineDiceLoss']
    assert {'layer_norm1', 'pixel_decoder'} <= set(cfg.model.lora.modules_to_save)
    kinds = [transform['type'] for transform in cfg.train_dataloader.dataset.pipeline]
    assert kinds == [
        'LoadImageFromFile',
        'LoadYOLOPolygons',
        'RandomFlip',
        'RandomFlip',
        'SeededAlbu',
        'SeededAlbu',
        'PackSegInputs',
    ]
    assert cfg.optim_wrapper.optimizer.lr == 3e-4 and cfg.model.detail_head == {}


def test_the_tiny_models_best_config_is_the_best_recipe(crack_folder: Path) -> None:
    recipe = RECIPES.recipe_config('context+bce', crack_folder, 336, 1400, crack_folder).model
    model = Config.fromfile(CONFIGS / 'sam3_tiny_lora_crack_best.py').model
    assert model.loss_decode == recipe.loss_decode
    assert recipe.detail_head == model.detail_head
    # Parts are compared on photographs that are seen once, as SAM 3 sees them; RECIPE+scales is the config as it is.
    assert recipe.test_cfg.scales == (1,)
    assert f'model.test_cfg.scales={list(model.test_cfg.scales)}'.replace(' ', '') == RECIPES.AT_SCALES
    full = Config.fromfile(CONFIGS / 'sam3_lora_crack_best.py')
    low = Config.fromfile(CONFIGS / 'sam3_lora_crack_best_lowmem.py')
    for each in (full, low):
        assert each.model.loss_decode == recipe.loss_decode and each.model.detail_head == model.detail_head
        # The head's own rate is that of the tiny model's recipe.
        rate = each.optim_wrapper.paramwise_cfg.custom_keys.detail_head.lr_mult * each.optim_wrapper.optimizer.lr
        assert rate == pytest.approx(
            Config.fromfile(CONFIGS / 'sam3_tiny_lora_crack_best.py').optim_wrapper.optimizer.lr
        )


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('sam3_*.py')), ids=lambda path: path.stem)
def test_cudnn_does_not_time_a_heads_convolutions_for_every_size(path: Path) -> None:
    cfg = Config.fromfile(path)
    assert cfg.env_cfg.cudnn_benchmark == (cfg.model.get('detail_head') is None)


@pytest.mark.parametrize('name', ['segformer_b0', 'unet'])
def test_other_models_see_the_same_square(crack_folder: Path, tmp_path: Path, name: str) -> None:
    cfg = RECIPES.recipe_config(f'{name}-pretrained-16000+lr=1e-3', crack_folder, 336, 1400, tmp_path)
    assert cfg.load_from == str(tmp_path / f'{name}-pretrained-16000.pth')
    assert cfg.model.backbone.init_cfg is None and cfg.optim_wrapper.paramwise_cfg is None
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (each for each in loader.dataset.pipeline if each['type'] == 'Resize')
        assert resize['scale'] == (336, 336)
    assert cfg.param_scheduler[-1].T_max == cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs


def test_others_are_pretrained_on_the_cracks_of_the_pictures_that_the_base_has_seen(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, 1, (48, 40), 'tiles', ('crack', 'joint'), negative_share=0)
    seen = RECIPES.pretraining_config('segformer_b0-pretrained-4', tmp_path, tmp_path).train_dataloader.dataset
    seen.pipeline = RECIPES.READ
    cracks = DATASETS.build(seen)
    all_classes = DATASETS.build({**seen, 'class_map': None, 'classes': ['crack', 'joint']})
    assert {label for sample in all_classes for label in np.unique(sample['gt_seg_map'])} == {0, 1, 2}
    for ours, both in zip(cracks, all_classes, strict=True):
        np.testing.assert_array_equal(ours['gt_seg_map'], both['gt_seg_map'] == 1)


def test_committed_results_are_those_of_the_page() -> None:
    table = RECIPES.table(json.loads((ROOT / 'benchmarks' / 'recipes.json').read_text()))
    page = (ROOT / 'docs' / 'recipes.md').read_text()
    for data, recipe, cells in (
        ('crackforest', 'lora', '0.502 ± 0.006 | 0.850 ± 0.008'),
        ('crackforest', 'head+bce', '0.534 ± 0.002 | 0.864 ± 0.003'),
        ('deepcrack', 'unet+lr=1e-3', '0.533 ± 0.018 | 0.423 ± 0.103'),
    ):
        assert f'| {data} | 336 | 1400 | {recipe} | 3 | {cells} |' in table and cells in page


def test_table_is_the_mean_and_deviation_over_seeds() -> None:
    def run(recipe: str, seed: int, iou: float) -> dict:
        scores = dict.fromkeys(RECIPES.COLUMNS, 0.5) | {'crack/IoU': iou}
        return {'data': 'roads', 'size': 336, 'images': 1400, 'recipe': recipe, 'seed': seed, 'scores': scores}

    table = RECIPES.table([run('lora', 1, 0.4), run('head', 1, 0.6), run('lora', 2, 0.5)])
    assert '| roads | 336 | 1400 | lora | 2 | 0.450 ± 0.071 | 0.500 ± 0.000 |' in table
    assert '| roads | 336 | 1400 | head | 1 | 0.600 |' in table


def test_scales_are_tried_on_what_is_trained_once(
    crack_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def run_tool(name: str, *arguments: str | Path) -> None:
        called.append((name, *map(str, arguments)))
        folder = Path(arguments[arguments.index('--work-dir') + 1])
        if name == 'train.py':
            (folder / 'last_checkpoint').write_text('last.pth')
            (folder / 'history.json').write_text(json.dumps([dict.fromkeys(RECIPES.COLUMNS, 0.5)]))
        else:
            (folder / 'day').mkdir(parents=True)
            (folder / 'day' / 'day.json').write_text(json.dumps(dict.fromkeys(RECIPES.COLUMNS, 0.6)))

    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(RECIPES, 'run_tool', run_tool)
    options = ['--results', str(tmp_path / 'results.json'), '--work-dir', str(tmp_path)]
    RECIPES.main(['--data', f'roads={crack_folder}', '--recipes', 'lora', 'lora+scales', *options])
    assert [call[0] for call in called] == ['train.py', 'test.py']
    assert called[1][2] == 'last.pth' and called[1][-1] == 'model.test_cfg.scales=[1,1.5]'
    printed = capsys.readouterr().out
    assert '| lora | 1 | 0.500 |' in printed and '| lora+scales | 1 | 0.600 |' in printed


def test_parts_that_there_are_not_are_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        RECIPES.main(['--data', 'roads=folder', '--recipes', 'lora+heads'])
    assert "['heads']" in capsys.readouterr().err


def test_results_of_the_present_weights_are_those_of_the_pages() -> None:
    table = RECIPES.table(json.loads((ROOT / 'benchmarks' / 'recipes_present_weights.json').read_text()))
    page = (ROOT / 'docs' / 'recipes.md').read_text()
    for data, recipe, seeds, cells in (
        ('crackforest', 'lora', 3, '0.500 ± 0.002 | 0.847 ± 0.007'),
        ('crackforest', 'lora+scales', 3, '0.536 ± 0.001 | 0.868 ± 0.002'),
        ('crackforest', 'context+bce', 3, '0.543 ± 0.001 | 0.862 ± 0.005'),
        ('crackforest', 'context+bce+scales', 3, '0.557 ± 0.001 | 0.886 ± 0.002'),
        ('deepcrack', 'context+bce+scales', 3, '0.663 ± 0.003 | 0.801 ± 0.007'),
        ('deepcrack', 'segformer_b0+lr=1e-3', 3, '0.540 ± 0.006 | 0.640 ± 0.017'),
        ('crackforest', 'segformer_b0-pretrained-24000+lr=1e-3', 3, '0.528 ± 0.001 | 0.891 ± 0.005'),
        ('deepcrack', 'segformer_b0-pretrained-24000+lr=1e-3', 3, '0.611 ± 0.004 | 0.758 ± 0.016'),
    ):
        assert f'| {data} | 336 | 1400 | {recipe} | {seeds} | {cells} |' in table and cells in page
    prose = ' '.join(page.split())
    for part, seeds, iou, cliou in (
        ('', 2, '0.448 ± 0.001', '0.800 ± 0.005'),
        ('+mlp', 1, '0.445', '0.793'),
        ('+crops', 1, '0.441', '0.790'),
        ('+decoder', 1, '0.430', '0.776'),
    ):
        assert f'(split of train) | 336 | 1400 | context+bce{part} | {seeds} | {iou} | {cliou} |' in table
        assert f'{iou} and {cliou}' in prose or f'{iou} IoU and {cliou} clIoU' in prose
    for rate, iou, cliou in (('3e-4', '0.418', '0.766'), ('1e-3', '0.433', '0.780')):
        assert f'| segformer_b0-pretrained-24000+lr={rate} | 1 | {iou} | {cliou} |' in table
        assert f'{iou} and {cliou}' in prose or f'{iou} IoU and {cliou} clIoU' in prose
    assert '| 0.500 | 0.600 | 0.765 | 0.847 |' in (ROOT / 'README.md').read_text()
