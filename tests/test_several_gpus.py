"""Two processes are one training: on CPUs through gloo, as GPUs do through nccl."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, RANDOM_PIPELINE, TOOLS
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmseg.registry import MODELS
from processes import finish, free_port, run, run_ranks, start

IN_ONE = ['--cfg-options', 'train_dataloader.batch_size=2']


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path) -> Path:
    """Three batches an epoch of two images in all, flipped at random; by SGD, because Adam blows rounding up."""
    path = tmp_path / 'several.py'
    path.write_text(
        f"""
_base_ = {str(tiny_config)!r}
model = dict(lora=dict(lora_dropout=0.0))
train_dataloader = dict(batch_size=1, dataset=dict(pipeline={RANDOM_PIPELINE!r}))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1.0))
"""
    )
    return path


def weights(work_dir: Path, name: str = 'epoch_2.pth') -> dict[str, torch.Tensor]:
    return torch.load(work_dir / name)['state_dict']


def history(work_dir: Path) -> list[dict[str, Any]]:
    return json.loads((work_dir / 'history.json').read_text())


def scores(work_dir: Path) -> dict[str, float]:
    (path,) = work_dir.glob('*/*.json')
    return {name: value for name, value in json.loads(path.read_text()).items() if 'time' not in name}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a training by two processes."""
    return tmp_path_factory.mktemp('together') / 'work_dir'


@pytest.fixture
def two(config: Path, together: Path, tmp_path: Path) -> Path:
    if not together.exists():
        printed = run_ranks('train', config, '--work-dir', together, log=tmp_path / 'two.log')
        assert 'find_unused_parameters=True' not in printed
    return together


def test_two_processes_train_to_the_weights_of_one(config: Path, two: Path, tmp_path: Path) -> None:
    one = tmp_path / 'one'
    run('train', config, '--work-dir', one, *IN_ONE, log=tmp_path / 'one.log')
    expected, start_values = weights(one), MODELS.build(Config.fromfile(config).model).state_dict()
    moved = max((value - start_values[name]).abs().max() for name, value in expected.items())
    assert moved > 0.01
    for name, value in weights(two).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6 * float(moved), rtol=0)
    for row, other in zip(history(two), history(one), strict=True):
        for key in ('epoch', 'iter', 'lr'):
            assert row[key] == other[key]
        assert row['train_loss'] == pytest.approx(other['train_loss'], rel=1e-6)


def test_two_processes_validate_as_one_tests(config: Path, two: Path, tmp_path: Path) -> None:
    """Three images on two ranks: one is there twice, and counted once."""
    run('test', config, two / 'epoch_2.pth', '--work-dir', tmp_path / 'one', log=tmp_path / 'one.log')
    row, expected = history(two)[-1], scores(tmp_path / 'one')
    assert {key: row[key] for key in expected} == expected
    assert len(expected) > 15
    assert pictures(two / 'predictions' / 'epoch_2') == pictures(tmp_path / 'one' / 'predictions' / 'test')


@pytest.mark.slow
def test_two_processes_test_as_one(config: Path, two: Path, tmp_path: Path) -> None:
    one, both = tmp_path / 'test_one', tmp_path / 'test_both'
    run('test', config, two / 'epoch_2.pth', '--work-dir', one, log=tmp_path / 'one.log')
    run_ranks('test', config, two / 'epoch_2.pth', '--work-dir', both, log=tmp_path / 'both.log')
    assert scores(both) == scores(one)
    assert len(pictures(both / 'predictions' / 'test')) == 3
    assert pictures(both / 'predictions' / 'test') == pictures(one / 'predictions' / 'test')


def _stop_rank_after(iteration: int) -> None:
    """Both ranks end at once, as in a power cut."""
    from mmengine.hooks import IterTimerHook

    after = IterTimerHook.after_train_iter

    def stop(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
        after(self, runner, *args, **kwargs)
        if runner.iter + 1 == iteration:
            os._exit(9)

    IterTimerHook.after_train_iter = stop


@pytest.mark.slow
def test_two_processes_resume_bitwise(config: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    # With dropout, each rank's own.
    dropout = tmp_path / 'dropout.py'
    dropout.write_text(f'_base_ = {str(config)!r}\nmodel = dict(lora=dict(lora_dropout=0.3))\n')
    run_ranks('train', dropout, '--work-dir', whole, log=tmp_path / 'whole.log')
    cut = {'prepare': _stop_rank_after, 'prepare_with': (5,)}
    run_ranks('train', dropout, '--work-dir', broken, log=tmp_path / 'cut.log', code=9, **cut)
    printed = run_ranks('train', dropout, '--work-dir', broken, '--resume', log=tmp_path / 'resumed.log')
    assert 'resumed epoch: 1, iter: 3' in printed
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(broken).items())


def _spoil_loss(iteration: int) -> None:
    """NaN on the second rank alone."""
    from crack_plugin.models import SAM3TextLoRA

    loss, calls = SAM3TextLoRA.loss, []

    def spoilt(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        calls.append(None)
        losses = loss(self, *args)
        if os.environ['RANK'] == '1' and len(calls) == iteration:
            losses['loss_dice'] = losses['loss_dice'] * float('nan')
        return losses

    SAM3TextLoRA.loss = spoilt


@pytest.mark.slow
def test_one_rank_with_a_nan_loss_stops_or_skips_on_all(config: Path, tmp_path: Path) -> None:
    spoil = {'prepare': _spoil_loss, 'prepare_with': (2,)}
    printed = run_ranks('train', config, '--work-dir', tmp_path / 'stop', log=tmp_path / 'stop.log', code=1, **spoil)
    # Both say it, and name the image of the one.
    said = re.findall(r'error: iteration 2 \(epoch 1\): the loss is nan for the batch (\S+)\. ', printed)
    assert len(said) == 2 and said[0] == said[1] and Path(said[0]).is_file()

    skipping = tmp_path / 'skipping.py'
    skipping.write_text(f"_base_ = {str(config)!r}\ndefault_hooks = dict(non_finite_loss=dict(on_nan='skip'))\n")
    printed = run_ranks('train', skipping, '--work-dir', tmp_path / 'skip', log=tmp_path / 'skip.log', **spoil)
    assert 'no step is taken' in printed
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / 'skip').values())


@pytest.fixture
def one_process_group() -> Any:
    torch.distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{free_port()}', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_only_what_trains_is_synchronised(tiny_config: Path, one_process_group: None) -> None:
    model = MODELS.build(Config.fromfile(tiny_config).model)
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    facts = wrapped._get_ddp_logging_data()
    assert facts['num_parameter_tensors'] == len(trained)
    assert facts['total_parameter_size_bytes'] == 4 * sum(trained) < 4 * sum(p.numel() for p in model.parameters()) / 10


def test_reference_synchronises_14_megabytes_a_step() -> None:
    config = Config.fromfile(CONFIGS / 'sam3_lora_crack.py').model
    with torch.device('meta'):
        model = MODELS.build({**config, 'base': {}})
    assert 4 * sum(p.numel() for p in model.parameters() if p.requires_grad) == 13_959_168


def test_nccl_without_gpus_names_the_option(config: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip('has GPUs')
    alone = {'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    printed = run('train', config, '--launcher', 'pytorch', log=tmp_path / 'log', code=1, **alone)
    assert 'env_cfg.dist_cfg.backend=gloo' in printed and 'Traceback' not in printed


@pytest.mark.slow
def test_slurm_starts_the_same_training(config: Path, tmp_path: Path) -> None:
    """Two tasks as srun starts them; a stand-in for scontrol says which host is the first."""
    scontrol = tmp_path / 'bin' / 'scontrol'
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho 127.0.0.1\n')
    scontrol.chmod(0o755)
    command = ['--launcher', 'slurm', '--cfg-options', 'env_cfg.dist_cfg.backend=gloo']
    common = {
        'PATH': f'{scontrol.parent}:{os.environ["PATH"]}',
        'SLURM_NTASKS': '2',
        'SLURM_NODELIST': 'node1',
        'MASTER_PORT': str(free_port()),
    }
    logs = [tmp_path / f'slurm.{rank}' for rank in range(2)]
    tasks = [
        start(
            'train',
            config,
            '--work-dir',
            tmp_path / 'slurm',
            *command,
            log=logs[rank],
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            **common,
        )
        for rank in range(2)
    ]
    for task, log in zip(tasks, logs, strict=True):
        finish(task, log)
    run_ranks('train', config, '--work-dir', tmp_path / 'torchrun', log=tmp_path / 'torchrun.log')
    expected = weights(tmp_path / 'torchrun')
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / 'slurm').items())


@pytest.mark.slow
def test_dist_scripts_train_and_test(config: Path, tmp_path: Path) -> None:
    environment = os.environ | {'PORT': str(free_port()), 'PYTHON': sys.executable, 'HF_HUB_OFFLINE': '1'}
    gloo = ['--cfg-options', 'env_cfg.dist_cfg.backend=gloo']

    def script(name: str, *arguments: str | Path) -> None:
        command = [TOOLS / name, *map(str, arguments), *gloo]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    script('dist_train.sh', config, '2', '--work-dir', tmp_path / 'scripts')
    script('dist_test.sh', config, tmp_path / 'scripts' / 'epoch_2.pth', '2', '--work-dir', tmp_path / 'tested')
    run('test', config, tmp_path / 'scripts' / 'epoch_2.pth', '--work-dir', tmp_path / 'one', log=tmp_path / 'log')
    assert scores(tmp_path / 'tested') == scores(tmp_path / 'one')
