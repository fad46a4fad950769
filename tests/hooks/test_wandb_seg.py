"""What W&B was told, read back from the files of offline runs. Each run is a process of its own, as wandb wants it."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from crack_plugin.hooks.wandb_seg import WandbSegHook

MAIN = """
import os
import sys
import time
from pathlib import Path
import crack_plugin
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner


class StopAt(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == stop:
            time.sleep(pause)
            # As a kill: nothing of Python's end is run.
            os._exit(9)


config, stop, resume, pause = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'resume', float(sys.argv[4])
cfg = Config.fromfile(config)
cfg.resume = resume
if 'RANK' in os.environ:
    # MMEngine's own start of a process group asks for CUDA.
    torch.distributed.init_process_group('gloo')
    cfg.launcher, cfg.model_wrapper_cfg = 'pytorch', dict(type='MMDistributedDataParallel', device_ids=None)
runner = Runner.from_cfg(cfg)
runner.register_hook(StopAt())
runner.train()
"""


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """No key anywhere, and all of wandb's own files inside ``tmp_path``."""
    home = tmp_path / 'home'
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith('WANDB_')}
    own = {name: str(tmp_path / name.lower()) for name in ('WANDB_DATA_DIR', 'WANDB_CACHE_DIR', 'WANDB_CONFIG_DIR')}
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {**kept, **own, 'HOME': str(home), 'NETRC': str(home / '.netrc'), 'PYTHONPATH': python_path, **variables}


def with_hook(tiny_config: Path, extra: str = '', **arguments: Any) -> Path:
    hook = {'type': 'WandbSegHook', 'interval': 1, 'num_examples': 1, **arguments}
    tiny_config.write_text(
        tiny_config.read_text()
        + f'custom_hooks = [{hook!r}]\nval_evaluator = dict(loss_decode=dict(type="ForegroundDiceLoss"))\n{extra}\n'
    )
    return tiny_config


def train(
    config: Path, tmp_path: Path, stop: int = 0, resume: bool = False, pause: float = 0.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-c', MAIN, str(config), str(stop), 'resume' if resume else 'fresh', str(pause)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(tmp_path, **variables),
        timeout=300,
    )


def records(path: Path) -> Iterator[Any]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB) behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, payload = path.read_bytes(), 7, b''
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack('<HB', data[position + 4 : position + 7])
        payload += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            payload = b''
            yield record


def values(items: Any) -> dict[str, Any]:
    """Values by key; those with a path of keys as dicts in dicts."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


class OfflineRun:
    """One folder of an offline run."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.glob('*.wandb')
        self.media = folder / 'files' / 'media'
        self.rows: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: list[Any] = []
        for record in records(path):
            kind = record.WhichOneof('record_type')
            if kind == 'run':
                self.id = record.run.run_id
                self._configure(record.run.config)
            elif kind == 'config':
                self._configure(record.config)
            elif kind == 'metric':
                name = record.metric.glob_name or record.metric.name
                self.axes[name] = record.metric.step_metric
            elif kind == 'history':
                self.rows.append(values(record.history.item))
            elif kind == 'artifact':
                self.artifacts.append(record.artifact)

    def _configure(self, config: Any) -> None:
        self.config |= values(config.update)

    def having(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if key in row]


def offline_runs(work_dir: Path) -> list[OfflineRun]:
    return [OfflineRun(folder) for folder in sorted((work_dir / 'wandb').glob('offline-run-*'))]


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """What LoggerHook wrote, over all starts."""
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_everything_is_logged_at_its_step(tiny_config: Path, tmp_path: Path, crack_folder: Path) -> None:
    # MMEngine's log averages whatever has 'loss' in its name over validations, unless told not to.
    log = "log_processor = dict(mean_pattern='^(?!val_).*(loss|time)')\ndefault_hooks = dict(logger=dict(interval=1))"
    config = with_hook(tiny_config, extra=log, log_adapter=True)
    finished = train(config, tmp_path, WANDB_MODE='offline')
    assert finished.returncode == 0, finished.stderr
    (run,) = offline_runs(tmp_path / 'work_dir')
    assert {name: run.axes[name] for name in ('train/*', 'train_epoch/*', 'val/*')} == {
        'train/*': 'iter',
        'train_epoch/*': 'epoch',
        'val/*': 'epoch',
    }
    assert [row['_step'] for row in run.rows] == list(range(len(run.rows)))

    local = scalars(tmp_path / 'work_dir')
    iterations = run.having('train/loss')
    assert [row['iter'] for row in iterations] == [1, 2, 3, 4, 5, 6]
    for key, name in (('train/lr', 'lr'),):
        expected = [row[name] for row in local if 'loss' in row]
        assert [row[key] for row in iterations] == pytest.approx(expected)
    losses = [row['train/loss'] for row in iterations]
    ious = [row['train/iou'] for row in iterations]

    epochs = run.having('train_epoch/loss')
    assert [row['epoch'] for row in epochs] == [1, 2]
    for index, row in enumerate(epochs):
        epoch = slice(3 * index, 3 * index + 3)
        assert row['train_epoch/loss'] == pytest.approx(sum(losses[epoch]) / 3, rel=1e-5)
        assert row['train_epoch/iou'] == pytest.approx(sum(ious[epoch]) / 3, rel=1e-5)
        assert row['train_epoch/lr'] == pytest.approx(iterations[3 * index]['train/lr'])

    validations = run.having('val/crack/IoU')
    assert [row['epoch'] for row in validations] == [1, 2]
    metrics = [row for row in local if 'crack/IoU' in row]
    for row, expected in zip(validations, metrics, strict=True):
        for name in ('IoU', 'Dice', 'Precision', 'Recall', 'dIoU', 'ODS', 'clIoU'):
            assert row[f'val/crack/{name}'] == pytest.approx(expected[f'crack/{name}'])
        assert row['val/mIoU'] == pytest.approx(expected['mIoU'])
        assert row['val/loss'] == pytest.approx(expected['val_loss'])
        assert not [key for key in row if key.startswith('val/val_')]
        for name in ('IoU', 'Dice'):
            histogram = row[f'val/{name}_histogram']
            assert histogram['_type'] == 'histogram'
            assert sum(histogram['values']) == 3
            assert (histogram['bins'][0], histogram['bins'][-1]) == (0, 1)

    assert run.config['parameters'] == {'total': 892642, 'trainable': 10752}
    assert run.config['model']['prompts'] == ['crack']
    assert [artifact.type for artifact in run.artifacts].count('model') >= 1
    check_pictures(run, validations[-1], crack_folder)


def check_pictures(run: OfflineRun, row: dict[str, Any], crack_folder: Path) -> None:
    """The pictures are in the media folder, their masks are the dataset's, and the table has their scores."""
    table = json.loads((run.media.parent / row['val/examples']['path']).read_text())
    assert table['columns'] == ['which', 'image', 'file', 'IoU', 'Dice', 'Precision', 'Recall']
    assert [line[0] for line in table['data']] == ['best', 'worst']
    best, worst = (dict(zip(table['columns'], line, strict=True)) for line in table['data'])
    assert best['IoU'] >= row['val/crack/IoU'] >= worst['IoU']
    for which, line in (('best', best), ('worst', worst)):
        panel = row[f'val/{which}']
        (name,) = panel['filenames']
        picture = Image.open(run.media.parent / name)
        original = crack_folder / 'valid' / 'images' / Path(line['file']).name
        assert picture.size == Image.open(original).size
        difference = np.array(picture).astype(int) - np.array(Image.open(original).convert('RGB'))
        assert np.abs(difference).mean() < 6
        (masks,) = panel['all_masks']
        truth, prediction = (
            np.array(Image.open(run.media.parent / masks[key]['path'])) for key in ('ground truth', 'prediction')
        )
        intersection, union = ((truth == 1) & (prediction == 1)).sum(), ((truth == 1) | (prediction == 1)).sum()
        assert intersection / union == pytest.approx(line['IoU'], abs=1e-6)


@pytest.mark.slow
def test_without_key_terminal_and_network_the_data_is_on_disk(tiny_config: Path, tmp_path: Path) -> None:
    finished = train(with_hook(tiny_config), tmp_path, WANDB_BASE_URL='http://127.0.0.1:9')
    assert finished.returncode == 0, finished.stderr
    printed = finished.stdout + finished.stderr
    assert 'Traceback' not in printed
    (line,) = {line for line in printed.splitlines() if 'no API key' in line}
    assert 'wandb sync' in line
    (run,) = offline_runs(tmp_path / 'work_dir')
    assert len(run.having('val/crack/IoU')) == 2
    assert list((run.media / 'images').rglob('*.jpg'))


@pytest.mark.slow
def test_with_a_key_and_without_network_the_data_is_on_disk(tiny_config: Path, tmp_path: Path) -> None:
    config = with_hook(tiny_config, init_kwargs={'settings': {'init_timeout': 2}})
    finished = train(config, tmp_path, WANDB_BASE_URL='http://127.0.0.1:9', WANDB_API_KEY='0' * 40)
    assert finished.returncode == 0, finished.stderr
    assert 'cannot start online' in finished.stdout + finished.stderr
    (run,) = offline_runs(tmp_path / 'work_dir')
    assert len(run.having('val/crack/IoU')) == 2


@pytest.mark.slow
@pytest.mark.parametrize('written', [True, False])
def test_killed_and_resumed_offline_run_goes_on(tiny_config: Path, tmp_path: Path, written: bool) -> None:
    """Killed in iteration 5 of 6, resumed from iteration 3: one id, two folders, nothing twice, backwards or lost.

    Whether wandb had written all rows to disk before the kill, or not the last ones.
    """
    settings = {'x_transaction_log_flush_interval': 0.5 if written else 1000}
    config = with_hook(tiny_config, init_kwargs={'settings': settings})
    killed = train(config, tmp_path, stop=5, pause=4 if written else 0, WANDB_MODE='offline')
    assert killed.returncode == 9, killed.stderr
    finished = train(config, tmp_path, resume=True, WANDB_MODE='offline')
    assert finished.returncode == 0, finished.stderr
    first, second = offline_runs(tmp_path / 'work_dir')
    assert first.id == second.id
    rows = first.rows + second.rows
    assert [row['_step'] for row in rows] == list(range(len(rows)))
    assert [row['iter'] for row in rows if 'train/loss' in row] == [1, 2, 3, 4, 5, 6]
    assert [row['epoch'] for row in rows if 'train_epoch/loss' in row] == [1, 2]
    assert [row['epoch'] for row in rows if 'val/crack/IoU' in row] == [1, 2]
    assert (len(first.having('train/loss')) == 5) == written
    assert ('those repeated are not logged again' in finished.stdout + finished.stderr) == written


@pytest.mark.slow
def test_shares_the_run_of_the_visualizer(tiny_config: Path, tmp_path: Path) -> None:
    backend = "vis_backends = [dict(type='LocalVisBackend'), dict(type='WandbVisBackend')]\n"
    config = with_hook(tiny_config, extra=f'{backend}visualizer = dict(vis_backends=vis_backends)')
    finished = train(config, tmp_path, WANDB_MODE='offline', WANDB_DIR=str(tmp_path / 'shared'))
    assert finished.returncode == 0, finished.stderr
    folders = [path for path in tmp_path.rglob('offline-run-*') if path.is_dir()]
    assert len(folders) == 1
    run = OfflineRun(folders[0])
    assert [row['iter'] for row in run.having('train/loss')] == [1, 2, 3, 4, 5, 6]
    assert [row['epoch'] for row in run.having('val/crack/IoU')] == [1, 2]
    # The backend's own rows have no prefix.
    assert len(run.having('crack/IoU')) == 2
    steps = [row['_step'] for row in run.rows]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_two_ranks_write_one_of_everything(tiny_config: Path, tmp_path: Path, crack_folder: Path) -> None:
    """Three images on two ranks: one of them is loaded twice."""
    hooks = ('HistoryHook', 'PredictionHook', 'AdapterCheckpointHook')
    config = with_hook(
        tiny_config,
        extra=f'default_hooks = dict({", ".join(f"{name}=dict(type={name!r})" for name in hooks)})',
        num_examples=2,
    )
    (tmp_path / 'main.py').write_text(MAIN)
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=29713']
    finished = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / 'main.py'), str(config), '0', 'fresh', '0'],
        capture_output=True,
        text=True,
        env=environment(tmp_path, WANDB_MODE='offline', OMP_NUM_THREADS='1'),
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    work_dir = tmp_path / 'work_dir'
    (run,) = offline_runs(work_dir)
    assert [row['epoch'] for row in run.having('val/crack/IoU')] == [1, 2]
    table = json.loads((run.media.parent / run.rows[-1]['val/examples']['path']).read_text())
    assert len({line[2] for line in table['data']}) == 3
    assert sum(run.rows[-1]['val/IoU_histogram']['values']) == 3
    images = sorted(path.stem for path in (crack_folder / 'valid' / 'images').iterdir())
    assert sorted(path.name for path in (work_dir / 'predictions' / 'epoch_2').iterdir()) == [
        f'{name}.png' for name in images
    ]
    assert {path.name for path in (work_dir / 'adapters').iterdir()} >= {'best', 'epoch_1', 'epoch_2'}
    rows = json.loads((work_dir / 'history.json').read_text())
    assert [row['iter'] for row in rows] == [2, 4]
    # Both have the mean over ranks, which differs from rank 0's own iterations.
    first = rows[0]['train_loss']
    assert first == pytest.approx(run.having('train_epoch/loss')[0]['train_epoch/loss'], rel=1e-6)
    own = [row['train/loss'] for row in run.having('train/loss')[:2]]
    assert first != pytest.approx(sum(own) / 2, rel=1e-6)


@pytest.mark.slow
def test_disabled_leaves_nothing(tiny_config: Path, tmp_path: Path) -> None:
    finished = train(with_hook(tiny_config), tmp_path, WANDB_MODE='disabled')
    assert finished.returncode == 0, finished.stderr
    assert not list(tmp_path.rglob('*.wandb'))
    assert not list(tmp_path.rglob('wandb_progress.json'))


def test_the_package_does_not_import_wandb() -> None:
    code = 'import sys, crack_plugin; print("wandb" in sys.modules)'
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    # The onedl forks print a line of their own when they are imported.
    assert printed.stdout.split()[-1:] == ['False']


class Metric:
    dataset_meta = {'classes': ('background', 'crack')}
    ignore_index = 255


def test_few_examples_are_held(tmp_path: Path) -> None:
    """The best and the worst of a hundred, reduced, whatever the order they come in."""
    hook = WandbSegHook(num_examples=2, max_side=10)
    hook._training, hook._metric = True, Metric
    hook.before_val_epoch(None)
    order = np.random.default_rng(0).permutation(100)
    truth = torch.ones(1, 20, 40, dtype=torch.long)
    for index in order:
        predicted = (torch.arange(800).reshape(1, 20, 40) < 8 * index).long()
        sample = SegDataSample(
            metainfo={'img_path': f'{index}.jpg'},
            pred_sem_seg=PixelData(data=predicted),
            gt_sem_seg=PixelData(data=truth),
        )
        hook.after_val_iter(None, 0, outputs=[sample])
        assert len(hook._best) <= 2 >= len(hook._worst)
    assert [example.img_path for example in hook._best] == ['99.jpg', '98.jpg']
    assert [example.img_path for example in hook._worst] == ['0.jpg', '1.jpg']
    assert [example.iou for example in hook._best] == pytest.approx([0.99, 0.98])
    assert hook._best[0].truth.shape == (5, 10)
    assert hook._best[0].truth.nbytes == 50


def test_ranks_that_share_an_image_show_it_once() -> None:
    hook = WandbSegHook(num_examples=3)
    hook._training, hook._metric = True, Metric
    hook.before_val_epoch(None)
    label = torch.ones(1, 4, 4, dtype=torch.long)
    sample = SegDataSample(
        metainfo={'img_path': 'a.jpg'}, pred_sem_seg=PixelData(data=label), gt_sem_seg=PixelData(data=label)
    )
    hook.after_val_iter(None, 0, outputs=[sample])
    best, worst = hook._select([*hook._best, *hook._best])
    assert [example.img_path for example in best] == [example.img_path for example in worst] == ['a.jpg']


@pytest.mark.parametrize('arguments', [{'interval': 0}, {'num_examples': -1}, {'max_side': 0}])
def test_arguments_out_of_range(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='WandbSegHook'):
        WandbSegHook(**arguments)


def test_another_metric_is_refused() -> None:
    class Evaluator:
        metrics = [object()]

    class Loop:
        evaluator = Evaluator

    class FakeRunner:
        train_loop = None
        val_loop = Loop

    with pytest.raises(ValueError, match='CrackMetric'):
        WandbSegHook().before_train(FakeRunner)
