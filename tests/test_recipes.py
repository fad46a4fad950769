"""benchmarks/recipes.py: every part is a recipe that builds, and the table is of the right runs."""

from pathlib import Path

import pytest
from conftest import ROOT, load_script
from mmseg.registry import MODELS

RECIPES = load_script(ROOT / 'benchmarks' / 'recipes.py')


@pytest.mark.slow
@pytest.mark.parametrize('part', RECIPES.PARTS)
def test_every_part_builds_a_model_that_trains(crack_folder: Path, part: str) -> None:
    cfg = RECIPES.recipe_config(part, crack_folder, 336, 1400)
    model = MODELS.build(cfg.model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert cfg.param_scheduler[0].T_max == cfg.train_cfg.max_epochs > 1


def test_table_is_the_mean_and_deviation_over_seeds() -> None:
    def run(recipe: str, seed: int, iou: float) -> dict:
        scores = dict.fromkeys(RECIPES.COLUMNS, 0.5) | {'crack/IoU': iou}
        return {'data': 'roads', 'size': 336, 'images': 1400, 'recipe': recipe, 'seed': seed, 'scores': scores}

    table = RECIPES.table([run('lora', 1, 0.4), run('head', 1, 0.6), run('lora', 2, 0.5)])
    assert '| roads | 336 | 1400 | lora | 2 | 0.450 ± 0.071 | 0.500 ± 0.000 |' in table
    assert '| roads | 336 | 1400 | head | 1 | 0.600 |' in table


def test_parts_that_there_are_not_are_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        RECIPES.main(['--data', 'roads=folder', '--recipes', 'lora+heads'])
    assert "['heads']" in capsys.readouterr().err
