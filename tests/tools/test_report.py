"""`tools/report.py`: from a work directory to the pages."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CONFIGS, TINY_SAM3, TOOLS
from mmengine.config import Config
from mmengine.runner import Runner
from pages import Page

from crack_plugin.report.build import WorkDirError, build_report
from crack_plugin.report.history import load_history


def scores(iou: float) -> dict[str, float]:
    return {'crack/IoU': iou, 'crack/Dice': 0.7, 'crack/Precision': 0.8, 'crack/Recall': 0.9}


@pytest.fixture(scope='module')
def trained(crack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and work directory of a training of two epochs."""
    folder = tmp_path_factory.mktemp('training')
    config = folder / 'tiny.py'
    config.write_text(
        f"""
_base_ = {str(CONFIGS / 'sam3_lora_crack.py')!r}
model = dict(base={{'_delete_': True, **{TINY_SAM3!r}}})
data_root = {str(crack_folder)!r}
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs=2)
val_evaluator = dict(loss_decode=dict(type='ForegroundDiceLoss'))
default_hooks = dict(history=dict(type='HistoryHook'))
work_dir = {str(folder / 'work_dir')!r}
"""
    )
    Runner.from_cfg(Config.fromfile(config)).train()
    return config, folder / 'work_dir'


@pytest.fixture(scope='module')
def report() -> Callable[..., None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        main = runpy.run_path(str(TOOLS / 'report.py'))['main']
    return lambda *arguments: main([*map(str, arguments), '--device', 'cpu'])


def test_log_tells_what_the_history_file_tells(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, work_dir = trained
    shutil.copytree(work_dir, tmp_path, dirs_exist_ok=True)
    rows, axis = load_history(work_dir)
    (tmp_path / 'history.json').unlink()
    from_log, log_axis = load_history(tmp_path)
    assert axis == log_axis == 'epoch'
    for row, logged in zip(rows, from_log, strict=True):
        # MMEngine smooths losses over iterations, has train_iou of single ones, and no exact time.
        smoothed = {'train_loss', 'val_loss', 'train_iou', 'train_seconds'}
        assert smoothed <= logged.keys()
        shared = set(row) & set(logged) - smoothed
        assert {'epoch', 'lr', 'crack/IoU', 'crack/Dice'} <= shared
        assert logged['train_loss'] == pytest.approx(row['train_loss'], abs=0.05)
        assert logged['train_iou'] == pytest.approx(row['train_iou'], abs=0.1)
        assert {key: logged[key] for key in shared} == pytest.approx({key: row[key] for key in shared})


def table_under(markdown: str, heading: str) -> list[list[str]]:
    """Rows of the first table after a heading, header first."""
    lines = markdown[markdown.index(f'# {heading}\n') :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('|'))
    table = []
    for line in lines[start:]:
        if not line.startswith('|'):
            break
        table.append([cell.strip().strip('*') for cell in line.strip('|').split('|')])
    return [table[0], *table[2:]]


def percent(value: float) -> str:
    return f'{100 * value:.2f}%'


def test_report_of_a_training(trained: tuple[Path, Path], report: Callable[..., None]) -> None:
    config, work_dir = trained
    stale = work_dir / 'report' / 'examples' / 'best_example_1_iou_0.999.png'
    stale.parent.mkdir(parents=True)
    stale.touch()
    report(work_dir)
    markdown = (work_dir / 'report' / 'report.md').read_text()

    # the epoch table, its zero-shot row against a test of the model without adapters
    cfg = Config.fromfile(config)
    cfg.model.lora = None
    cfg.work_dir, cfg.experiment_name = str(work_dir.parent / 'zero_shot'), 'zero_shot'
    zero_shot = Runner.from_cfg(cfg).test()
    rows, _ = load_history(work_dir)
    keys = ['crack/IoU', 'crack/Dice', 'crack/Precision', 'crack/Recall']
    ious = [row['crack/IoU'] for row in rows]
    names = [f'{epoch} (Best)' if ious[epoch - 1] == max(ious) else str(epoch) for epoch in (1, 2)]
    assert table_under(markdown, 'Results') == [
        ['Epoch', 'mIoU', 'Dice', 'Precision', 'Recall', 'mIoU Improvement'],
        ['Baseline (Zero-shot)', *(percent(zero_shot[key]) for key in keys), '-'],
        *(
            [name, *(percent(row[key]) for key in keys), f'{100 * (row["crack/IoU"] - zero_shot["crack/IoU"]):+.2f} pp']
            for name, row in zip(names, rows, strict=True)
        ),
    ]
    anew = {
        name: value for name, _, value in table_under(markdown, 'All scores of the best checkpoint, evaluated anew')
    }
    assert anew['IoU'] == percent(max(ious))

    # facts
    assert table_under(markdown, 'Dataset')[1:] == [['train', '6', anew_path(cfg)], ['valid', '3', anew_path(cfg)]]
    recipe = dict(table_under(markdown, 'Model and recipe'))
    best = 1 + ious.index(max(ious))
    assert recipe['Checkpoint'] == rf'best\_crack\_IoU\_epoch\_{best}.pth (after epoch {best}, iteration {3 * best})'
    assert recipe['Prompts'] == "'crack'"
    assert recipe['Parameters'] == '892,642'
    assert recipe['Trainable parameters'] == '10,752 (1.20%)'
    assert recipe['Adapter parameters'] == '15,872 (1.78%)'
    runtime = dict(table_under(markdown, 'Runtime and footprint'))
    assert runtime['Training time'].endswith(' s')
    assert runtime['Validation time'].endswith(' s')
    assert re.fullmatch(r'[\d,]+ MiB \((process|CUDA allocator)\)', runtime['Peak memory'])
    assert runtime['Adapter on disk'] == '0.1 MB'

    # examples and plots, in the folder and in the page
    assert not stale.exists()
    examples = sorted(stale.parent.iterdir())
    assert {file.name.split('_example_')[0] for file in examples} == {'best', 'good'}
    assert len(examples) == 3
    page = Page((work_dir / 'report' / 'report.html').read_text())
    assert page.links == []
    assert len(page.pictures) == 2 + len(examples)
    on_disk = {file.read_bytes() for file in (work_dir / 'report').rglob('*.png')}
    assert set(page.pictures) == on_disk
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), 1).std() > 1 for data in page.pictures)
    assert 'Baseline (Zero-shot)' in page.texts


def anew_path(cfg: Config) -> str:
    return cfg.val_dataloader.dataset.data_root.replace('_', r'\_')


def test_zero_shot_row_from_a_test_result(
    trained: tuple[Path, Path], report: Callable[..., None], tmp_path: Path, capsys
) -> None:
    _, work_dir = trained
    result = tmp_path / 'result.json'
    result.write_text(json.dumps(scores(0.3855) | {'mIoU': 60.0}))
    report(work_dir, '--zero-shot', result, '--examples', '1')
    markdown = (work_dir / 'report' / 'report.md').read_text()
    row = ['Baseline (Zero-shot)', '38.55%', '70.00%', '80.00%', '90.00%', '-']
    assert table_under(markdown, 'Results')[1] == row
    assert len(list((work_dir / 'report' / 'examples').iterdir())) == 3

    result.write_text(json.dumps({'mIoU': 60.0}))
    with pytest.raises(SystemExit):
        report(work_dir, '--zero-shot', result)
    assert 'has no crack/IoU' in capsys.readouterr().err


def test_what_is_left_out_is_said(trained: tuple[Path, Path], report: Callable[..., None], tmp_path: Path) -> None:
    _, work_dir = trained
    page = work_dir / 'report' / 'report.html'
    report(work_dir, '--no-evaluation')
    assert 'The zero-shot row is missing: the report was made with --no-evaluation' in Page(page.read_text()).texts
    report(work_dir, '--cfg-options', f'model.base={tmp_path / "nowhere"}')
    texts = Page(page.read_text()).texts
    assert any(text.startswith('The zero-shot row is missing: the model could not be loaded') for text in texts)
    assert len(Page(page.read_text()).pictures) == 1


def test_configs_and_checkpoints_are_not_guessed(
    trained: tuple[Path, Path], report: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = trained
    (tmp_path / 'history.json').write_text('[{"epoch": 1, "iter": 10}]')
    for expected in ('has none', 'has a.py, b.py'):
        with pytest.raises(SystemExit):
            report(tmp_path)
        assert expected in capsys.readouterr().err
        for name in ('a.py', 'b.py'):
            (tmp_path / name).write_bytes(config.read_bytes())
    with pytest.raises(SystemExit):
        report(tmp_path, '--config', tmp_path / 'a.py')
    assert 'holds no checkpoint' in capsys.readouterr().err


def test_a_folder_without_training_is_told_as_such(
    report: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        report(tmp_path)
    assert 'holds no training' in capsys.readouterr().err


def test_a_report_from_python(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """As the tool makes it, without the checkout's tools."""
    _, work_dir = trained
    shutil.copytree(work_dir, tmp_path / 'copy', ignore=shutil.ignore_patterns('report'))
    folder = build_report(tmp_path / 'copy', device='cpu', run_model=False)
    assert folder == tmp_path / 'copy' / 'report'
    epochs = [row[0].removesuffix(' (Best)') for row in table_under((folder / 'report.md').read_text(), 'Results')[1:]]
    assert epochs == ['1', '2']
    (tmp_path / 'copy' / 'second.py').touch()
    with pytest.raises(WorkDirError, match='should hold one config file'):
        build_report(tmp_path / 'copy')
