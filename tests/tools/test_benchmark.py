"""`tools/benchmark.py`: models to one table, failures in their place, trainings that are not repeated."""

import csv
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS, TOOLS, load_script, run_tool
from mmengine.config import Config

from crack_plugin.comparison import runs, table
from crack_plugin.comparison.cost import Cost
from crack_plugin.comparison.measure import Measurement
from crack_plugin.comparison.runs import Run, RunError
from crack_plugin.evaluation.image_statistics import ImageStatistics

UNET = CONFIGS / 'benchmark' / 'unet_small.py'
TINY = CONFIGS / 'sam3_tiny_lora_crack.py'
ZERO_SHOT = CONFIGS / 'sam3_tiny_zeroshot_crack.py'

Main = Callable[..., int]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Main:
    """The tool, writing to ``tmp_path``/out and without pictures, which take images."""
    monkeypatch.syspath_prepend(TOOLS)
    main = runpy.run_path(str(TOOLS / 'benchmark.py'))['main']
    always = ['--out', str(tmp_path / 'out'), '--examples', '0', '--resamples', '20']
    return lambda *arguments: main([*map(str, arguments), *always])


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the processes, and the list of what they were asked for. UNet's score depends on its seed."""
    asked: list[str] = []

    def train(run: Run, tool: Path, on_progress: Callable) -> None:
        asked.append(f'train {run.title}')
        assert run.work_dir is not None
        run.work_dir.mkdir(parents=True, exist_ok=True)
        run.cfg.dump(run.work_dir / f'{run.name}.py')
        (run.work_dir / 'last_checkpoint').touch()
        if run.seed == 13:
            raise RunError('ended by SIGKILL')
        on_progress(1, True, '0.5')
        (run.work_dir / f'epoch_{run.cfg.train_cfg.max_epochs}.pth').touch()

    def measure(run: Run, device: str, shown: int, use: str) -> Measurement:
        asked.append(f'measure {run.title} on {run.cfg.test_dataloader.dataset.data_root}')
        return measurement(run.folder, found=50 + 10 * (run.seed or 0))

    monkeypatch.setattr(Run, 'train', train)
    monkeypatch.setattr(Run, 'measure', measure)
    return asked


def measurement(folder: Path, found: int, images: int = 4) -> Measurement:
    """Images with 100 pixels of crack, of which ``found`` are found; no false alarm."""
    areas = np.array([[900, found], [1000 - found, 100], [1000 - found, found], [900, 100]])
    statistics = ImageStatistics(
        areas=np.stack([areas] * images), centerline=np.ones((images, 1, 3)), centerline_dice=np.ones((images, 1))
    )
    cost = Cost(2_000_000, 1_000_000, 8.0, 0.5, 4.0, 600.0, 'process', (336, 336), 'cpu')
    return Measurement(cost, statistics, [f'/data/{i}.jpg' for i in range(images)], [], folder, 68)


def rows_under(markdown: str, heading: str) -> dict[str, list[str]]:
    """The table's cells by its first column."""
    section = markdown.split(f'## {heading}\n')[1].split('\n## ')[0]
    lines = [line for line in section.splitlines() if line.startswith('|')][2:]
    cells = [[cell.strip().replace('\\', '') for cell in line.strip('|').split('|')] for line in lines]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.slow
def test_from_nothing_to_the_table(tiny_config: Path, crack_folder: Path, tmp_path: Path) -> None:
    """Processes that train and measure, and one model that fails in between."""
    broken = tmp_path / 'broken.py'
    broken.write_text(f'_base_ = {str(UNET)!r}\nmodel = dict(decode_head=dict(in_channels=17))\n')
    zero_shot = tmp_path / 'zero_shot.py'
    zero_shot.write_text(f'_base_ = {str(tiny_config)!r}\nmodel = dict(lora=None)\n')
    options = ['--data-root', crack_folder, '--no-pretrained', '--epochs', '1', '--image-size', '112']
    options += ['--out', tmp_path / 'out']
    result = run_tool(TOOLS / 'benchmark.py', zero_shot, broken, UNET, '--train', *options)
    assert result.returncode == 1, result.stderr
    markdown = (tmp_path / 'out' / 'benchmark.md').read_text()
    scores, costs = rows_under(markdown, 'Scores'), rows_under(markdown, 'Cost')
    assert list(scores) == ['zero_shot', 'broken', 'unet_small']
    assert re.match(r'failed: RuntimeError: .*17.* \(see .*train\.log\)', scores['broken'][0])
    assert all(re.fullmatch(r'\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]', cell) for cell in scores['unet_small'])
    assert costs['unet_small'][:2] == ['4', '112 x 112']  # six images, of which four make a batch
    for file in ('benchmark.csv', 'benchmark.json', 'size_accuracy.png', 'contact_sheet.png'):
        assert (tmp_path / 'out' / file).stat().st_size > 0
    assert 'unet_small seed 42: training, epoch 1/1, loss ' in result.stderr
    assert 'broken seed 42 failed: RuntimeError' in result.stderr + result.stdout


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(crack_folder: Path, tmp_path: Path) -> None:
    options = ['--train', '--data-root', crack_folder, '--image-size', '32', '--epochs', '3', '--out', tmp_path / 'out']
    # Stopped after two epochs, by a hook that lets no more than those happen
    stop = tmp_path / 'stop_early.py'
    stop.write_text(
        'from mmengine.hooks import Hook\nfrom mmseg.registry import HOOKS\n\n\n@HOOKS.register_module()\n'
        'class StopEarly(Hook):\n    def before_train_epoch(self, runner):\n'
        "        if runner.epoch == 2:\n            raise RuntimeError('the power is out')\n"
    )
    early = 'custom_hooks=[dict(type="StopEarly")]'
    config = tmp_path / 'unet_small.py'
    for hooks, code in ((early, 1), ('', 0)):
        imports = "['crack_plugin', 'stop_early']" if hooks else "['crack_plugin']"
        config.write_text(f'_base_ = {str(UNET)!r}\n{hooks}\ncustom_imports = dict(imports={imports})\n')
        result = run_tool(TOOLS / 'benchmark.py', config, *options, PYTHONPATH=str(tmp_path))
        assert result.returncode == code, result.stderr + result.stdout
        if code:
            assert 'the power is out' in (tmp_path / 'out' / 'benchmark.md').read_text()
    log = (tmp_path / 'out' / 'rows' / 'unet_small' / 'seed_42' / 'train.log').read_text()
    assert 'Epoch(train) [3]' in log
    assert 'Epoch(train) [2]' not in log


@pytest.mark.slow
def test_a_model_that_fails_to_load_and_one_that_does_not(tiny_config: Path, tmp_path: Path) -> None:
    """Measured in processes: the shortest way from command to table."""
    zero_shot = tmp_path / 'zero_shot.py'
    zero_shot.write_text(f'_base_ = {str(tiny_config)!r}\nmodel = dict(lora=None)\n')
    (tmp_path / 'no.pth').write_text('no checkpoint')
    broken = f'{tiny_config}={tmp_path / "no.pth"}'
    main = load_script(TOOLS / 'benchmark.py').main
    assert main([broken, str(zero_shot), '--out', str(tmp_path / 'out'), '--resamples', '20']) == 1
    scores = rows_under((tmp_path / 'out' / 'benchmark.md').read_text(), 'Scores')
    assert list(scores) == ['tiny', 'zero_shot']
    assert re.match(r'failed: [\w.]+Error: .* \(see .*measure\.log\)', scores['tiny'][0])
    assert all(re.fullmatch(r'\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]', cell) for cell in scores['zero_shot'])
    assert (tmp_path / 'out' / 'contact_sheet.png').stat().st_size > 0


def test_seeds_are_one_row(benchmark: Main, processes: list[str], tmp_path: Path) -> None:
    assert benchmark(ZERO_SHOT, UNET, '--train', '--seeds', 1, 2) == 0
    assert [line.split(' on ')[0] for line in processes] == [
        'measure sam3_tiny_zeroshot_crack',
        'train unet_small seed 1',
        'measure unet_small seed 1',
        'train unet_small seed 2',
        'measure unet_small seed 2',
    ]
    scores = rows_under((tmp_path / 'out' / 'benchmark.md').read_text(), 'Scores')
    # IoU 0.6 and 0.7: the standard deviation with n - 1. All images are alike, so the intervals have no width.
    assert scores['unet_small'][1] == '0.650 ± 0.071 [0.65, 0.65]'
    assert scores['sam3_tiny_zeroshot_crack'][1] == '0.500 [0.50, 0.50]'
    assert scores['unet_small'][5] == '-'  # no ODS without probabilities
    with (tmp_path / 'out' / 'benchmark.csv').open() as file:
        line = list(csv.DictReader(file))[1]
    assert (line['model'], line['seeds'], float(line['IoU'])) == ('unet_small', '1 2', pytest.approx(0.65))
    assert float(line['IoU_spread']) == pytest.approx(np.std([0.6, 0.7], ddof=1), abs=1e-6)
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    assert [run['scores']['IoU'] for run in content['rows'][1]['runs']] == pytest.approx([0.6, 0.7])
    assert content['rows'][0]['runs'][0]['cost']['parameters'] == 2_000_000


def test_a_failure_stays_in_its_place(benchmark: Main, processes: list[str], tmp_path: Path) -> None:
    assert benchmark(UNET, ZERO_SHOT, '--train', '--seeds', 13) == 1
    markdown = (tmp_path / 'out' / 'benchmark.md').read_text()
    scores = rows_under(markdown, 'Scores')
    assert list(scores) == ['unet_small', 'sam3_tiny_zeroshot_crack']
    assert scores['unet_small'][0] == 'failed: ended by SIGKILL'
    assert rows_under(markdown, 'Failures')['unet_small'] == ['13', 'ended by SIGKILL']
    # one seed of two: the row is of the other, the failure is told
    assert benchmark(UNET, '--train', '--seeds', 13, 1) == 1
    markdown = (tmp_path / 'out' / 'benchmark.md').read_text()
    assert rows_under(markdown, 'Scores')['unet_small'][1] == '0.600 [0.60, 0.60]'
    assert rows_under(markdown, 'Failures')['unet_small'] == ['13', 'ended by SIGKILL']


def test_what_is_trained_is_not_trained_again(benchmark: Main, processes: list[str]) -> None:
    benchmark(UNET, '--train', '--seeds', 1)
    processes.clear()
    benchmark(UNET, '--train', '--seeds', 1, 2)
    assert [line.split(' on ')[0] for line in processes] == [
        'measure unet_small seed 1',
        'train unet_small seed 2',
        'measure unet_small seed 2',
    ]


def test_other_settings_do_not_pass_for_the_same_training(
    benchmark: Main, processes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    benchmark(UNET, '--train', '--seeds', 1)
    table_before = (tmp_path / 'out' / 'benchmark.md').read_text()
    processes.clear()
    with pytest.raises(SystemExit):
        benchmark(UNET, '--train', '--seeds', 1, '--epochs', 3)
    assert 'train_cfg.max_epochs: 6, now 3' in capsys.readouterr().err
    assert processes == []
    assert (tmp_path / 'out' / 'benchmark.md').read_text() == table_before
    # the test set is no part of the training
    assert benchmark(UNET, '--train', '--seeds', 1, '--test-data', 'elsewhere') == 0
    assert processes == ['measure unet_small seed 1 on elsewhere']


def test_folder_of_work_dirs(benchmark: Main, processes: list[str], tmp_path: Path) -> None:
    benchmark(UNET, '--train', '--seeds', 1, 2)
    cfg = Config.fromfile(ZERO_SHOT)
    (tmp_path / 'out' / 'trainings' / 'mine').mkdir()
    cfg.dump(tmp_path / 'out' / 'trainings' / 'mine' / 'config.py')
    (tmp_path / 'out' / 'trainings' / 'mine' / 'last_checkpoint').touch()
    processes.clear()
    assert benchmark(tmp_path / 'out' / 'trainings') == 0
    assert [line.split(' on ')[0] for line in processes] == [
        'measure mine',
        'measure unet_small seed 1',
        'measure unet_small seed 2',
    ]
    with pytest.raises(SystemExit):
        benchmark(tmp_path / 'out' / 'rows')


def test_models_scored_on_other_images_are_refused(
    benchmark: Main, processes: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(run: Run, *arguments: Any) -> Measurement:
        return measurement(run.folder, 50, images=4 if run.seed is None else 3)

    monkeypatch.setattr(Run, 'measure', measure)
    assert benchmark(ZERO_SHOT, UNET, '--train') == 1
    scores = rows_under((tmp_path / 'out' / 'benchmark.md').read_text(), 'Scores')
    assert 'scored on 3 images, not on the 4 of sam3_tiny_zeroshot_crack' in scores['unet_small'][0]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], 'nowhere.py is neither a config file'),
        ([UNET], 'comes without a checkpoint'),
        ([f'{UNET}=nowhere.pth'], 'checkpoint not found: nowhere.pth'),
        ([ZERO_SHOT, ZERO_SHOT], 'two models are called sam3_tiny_zeroshot_crack'),
        ([ZERO_SHOT, '--epochs', '0'], 'whole number from 1 on'),
        ([TOOLS / 'dist_train.sh'], 'dist_train.sh cannot be read: Only py/yml/yaml/json'),
    ],
)
def test_bad_command_lines(
    benchmark: Main, processes: list[str], arguments: list, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        benchmark(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert processes == []


def test_reasons_of_failures() -> None:
    traceback = (
        'Epoch(train) [1]\nTraceback (most recent call last):\n  File "x.py", line 1\n    f()\n'
        'RuntimeError: size mismatch:\n\tcopying a param\n\nclosing\n'
    )
    assert runs.failure_reason(traceback, 1) == 'RuntimeError: size mismatch: copying a param closing'
    assert runs.failure_reason('start\ntrain.py: error: no GPU\n', 1) == 'train.py: error: no GPU'
    assert runs.failure_reason('', 3) == 'exit code 3'
    assert runs.failure_reason('Killed', -9) == 'ended by SIGKILL (out of memory?)'
    assert len(runs.failure_reason('ValueError: ' + 'x' * 1000, 1)) < 450


def test_score_cells() -> None:
    assert str(table.Score(0.5254, None, 0.487, 0.561)) == '0.525 [0.49, 0.56]'
    assert str(table.Score(0.5254, 0.0104, 0.487, 0.561)) == '0.525 ± 0.010 [0.49, 0.56]'
