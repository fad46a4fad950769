"""`tools/report.py` and what it is made of: history, table, examples, panels, Markdown and HTML."""

import base64
import json
import re
import runpy
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CONFIGS, TINY_SAM3, TOOLS
from mmengine.config import Config
from mmengine.runner import Runner

from crack_plugin.report import training
from crack_plugin.visualization import document, panels
from crack_plugin.visualization.document import Heading, Picture, Table, Text


def write_log(work_dir: Path, start: str, *rows: dict[str, Any], end: str = '') -> None:
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows) + end)


def train_row(step: int, loss: float, epoch: int | None = None, **more: float) -> dict[str, Any]:
    position = {'iter': step, 'step': step} | ({} if epoch is None else {'epoch': epoch})
    return {'lr': 1e-4 * step, 'loss': loss, 'train_iou': loss / 10, 'time': 0.5, **more, **position}


def val_row(step: int, iou: float) -> dict[str, Any]:
    return {'crack/IoU': iou, 'mIoU': 50.0, 'time': 3.0, 'data_time': 1.0, 'step': step}


def test_history_from_the_log(tmp_path: Path) -> None:
    first = [train_row(10, 3.0, 1, memory=700), train_row(20, 5.0, 1, memory=900), val_row(1, 0.25)]
    write_log(tmp_path, '20260101_000000', *first, train_row(30, 9.0, 2), end='{"loss": 7')
    # resumed after epoch 1, on the next day
    write_log(tmp_path, '20260102_000000', train_row(30, 1.0, 2), train_row(40, 2.0, 2), val_row(2, 0.5))
    rows, axis = training.load_history(tmp_path)
    assert axis == 'epoch'
    assert rows == [
        {'epoch': 1, 'train_loss': 4.0, 'train_iou': 0.4, 'lr': 2e-3, 'train_seconds': 10.0, 'peak_memory_mb': 900}
        | {'crack/IoU': 0.25, 'mIoU': 50.0},
        {'epoch': 2, 'train_loss': 1.5, 'train_iou': pytest.approx(0.15), 'lr': 4e-3, 'train_seconds': 10.0}
        | {'crack/IoU': 0.5, 'mIoU': 50.0},
    ]


@pytest.mark.parametrize('steps', [(10, 20), (0, 0)], ids=['log_metric_by_epoch=False', 'default'])
def test_history_of_a_loop_that_counts_iterations(tmp_path: Path, steps: tuple[int, int]) -> None:
    first = [train_row(5, 3.0), train_row(10, 1.0), val_row(steps[0], 0.1)]
    write_log(tmp_path, '20260101_000000', *first, train_row(15, 2.0), train_row(20, 4.0), val_row(steps[1], 0.2))
    rows, axis = training.load_history(tmp_path)
    assert axis == 'iter'
    assert [(row['iter'], row['train_loss'], row['crack/IoU']) for row in rows] == [(10, 2.0, 0.1), (20, 3.0, 0.2)]


def test_history_file_comes_before_the_log(tmp_path: Path) -> None:
    write_log(tmp_path, '20260101_000000', train_row(10, 3.0, 1))
    rows = [{'epoch': 1, 'iter': 10, 'train_loss': 2.0, 'crack/IoU': None}]
    (tmp_path / 'history.json').write_text(json.dumps(rows))
    assert training.load_history(tmp_path) == (rows, 'epoch')
    (tmp_path / 'history.json').write_text(json.dumps([row | {'epoch': 0} for row in rows]))
    assert training.load_history(tmp_path)[1] == 'iter'


def test_history_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'history\.json'):
        training.load_history(tmp_path)
    (tmp_path / 'history.json').write_text('[{"epoch": 1,')
    with pytest.raises(ValueError, match=r'history\.json is damaged'):
        training.load_history(tmp_path)


def scores(iou: float) -> dict[str, float]:
    return {'crack/IoU': iou, 'crack/Dice': 0.7, 'crack/Precision': 0.8, 'crack/Recall': 0.9}


def test_epoch_table_is_the_technical_report_s() -> None:
    """Figures of its baseline and of its epochs 1 and 6."""
    rows = [{'epoch': 1, **scores(0.5572)}, {'epoch': 2, 'train_loss': 1.0}, {'epoch': 6, **scores(0.6399)}]
    best = training.best_row(rows, 'crack/IoU')
    assert best == 2
    header, lines, strong = training.epoch_table(rows, 'epoch', best, scores(0.3855))
    assert header == ['Epoch', 'mIoU', 'Dice', 'Precision', 'Recall', 'mIoU Improvement']
    assert lines == [
        ['Baseline (Zero-shot)', '38.55%', '70.00%', '80.00%', '90.00%', '-'],
        ['1', '55.72%', '70.00%', '80.00%', '90.00%', '+17.17 pp'],
        ['2', '-', '-', '-', '-', '-'],
        ['6 (Best)', '63.99%', '70.00%', '80.00%', '90.00%', '+25.44 pp'],
    ]
    assert strong == 3

    _, lines, strong = training.epoch_table(rows, 'epoch', best, None)
    assert (lines[0][0], lines[2][-1], strong) == ('1', '-', 2)


def test_best_row_follows_the_rule() -> None:
    rows = [{'val_loss': 0.5}, {'val_loss': 0.2}, {'val_loss': None}, {'val_loss': 0.2}]
    assert training.best_row(rows, 'val_loss', 'less') == 1
    assert training.best_row(rows, 'val_loss') == 0
    assert training.best_row(rows, 'crack/IoU') is None


def test_examples_come_from_their_bands() -> None:
    ious = [1.0, 0.93, 0.92, 0.80, 0.79, 0.75, 0.71, 0.58, 0.57, 0.40]
    has_crack = [False] + [True] * 9
    picked = {band.name: indices for band, indices in training.pick_examples(ious, has_crack).items()}
    assert picked == {'best': [1, 2], 'good': [3, 6], 'challenging': [7, 8]}


def test_examples_nearest_to_their_bands() -> None:
    ious = [0.3, 0.69, 0.9, 0.75, 0.1]
    picked = {band.name: indices for band, indices in training.pick_examples(ious, [True] * 5).items()}
    assert picked == {'best': [2, 3], 'good': [1, 0], 'challenging': [4]}


def test_difference() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 2, 255]])
    prediction = np.array([[0, 1, 1, 0, 2, 1, 1]])
    found, false_alarm, missed = panels.FOUND, panels.FALSE_ALARM, panels.MISSED
    assert panels.difference(prediction, truth).tolist() == [[0, false_alarm, found, missed, found, missed, 0]]


class Page(HTMLParser):
    """What a page holds: texts by tag, pictures, and anything that would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ('href', 'src', 'data', 'srcset'):
                kind, _, data = (value or '').partition('base64,')
                if kind == 'data:image/png;':
                    self.pictures.append(base64.b64decode(data, validate=True))
                else:
                    self.links.append(value or '')

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def test_pages_escape_what_they_are_told(tmp_path: Path) -> None:
    nasty = '<img src=x onerror=alert(1)>|"a"&`b`_c_*d*[e](f).jpg'
    cv2.imwrite(str(tmp_path / 'p (1).png'), np.zeros((2, 3), np.uint8))
    blocks: list[document.Block] = [Heading(nasty, 1), Text(nasty, note=True), Table([nasty], [[nasty]], strong=0)]
    blocks.append(Picture('p (1).png', nasty))
    page = Page(document.to_html(blocks, tmp_path))
    assert page.tags.count('img') == 1
    assert page.texts.count(nasty) == 6  # title, heading, note, two cells, caption
    assert page.links == []
    assert page.pictures == [(tmp_path / 'p (1).png').read_bytes()]

    markdown = document.to_markdown(blocks)
    assert '](<p (1).png>)' in markdown
    assert '<img' not in markdown.replace(r'\<', '')
    assert markdown.splitlines()[4] == r'| \<img src=x onerror=alert(1)\>\|"a"&\`b\`\_c\_\*d\*\[e\](f).jpg |'


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
    rows, axis = training.load_history(work_dir)
    (tmp_path / 'history.json').unlink()
    from_log, log_axis = training.load_history(tmp_path)
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
    rows, _ = training.load_history(work_dir)
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
    write_log(tmp_path, '20260101_000000', train_row(10, 3.0, 1))
    for expected in ('has none', 'has a.py, b.py'):
        with pytest.raises(SystemExit):
            report(tmp_path)
        assert expected in capsys.readouterr().err
        for name in ('a.py', 'b.py'):
            (tmp_path / name).write_bytes(config.read_bytes())
    with pytest.raises(SystemExit):
        report(tmp_path, '--config', tmp_path / 'a.py')
    assert 'holds no checkpoint' in capsys.readouterr().err
