"""Processes on CPUs: what a launcher says becomes what torch reads."""

import datetime
from typing import Any

import pytest
import torch
from mmengine.config import Config

from crack_plugin.cpu_processes import distribute_on_cpu, launcher_variables
from crack_plugin.errors import ToolError

VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        # Set first, so that what a test leaves there is removed after it.
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    return monkeypatch


def test_openmpi(environment: pytest.MonkeyPatch) -> None:
    for name, value in {'RANK': '1', 'SIZE': '4'}.items():
        environment.setenv(f'OMPI_COMM_WORLD_{name}', value)
    environment.setenv('MASTER_ADDR', 'host')
    expected = {'RANK': '1', 'WORLD_SIZE': '4', 'MASTER_ADDR': 'host', 'MASTER_PORT': '29500'}
    assert launcher_variables('mpi') == expected


def test_slurm_asks_for_the_first_host(environment: pytest.MonkeyPatch, tmp_path: Any) -> None:
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho first\necho second of $3\n')
    scontrol.chmod(0o755)
    environment.setenv('PATH', str(tmp_path), prepend=':')
    for name, value in {'PROCID': '3', 'NTASKS': '4', 'LOCALID': '1', 'NODELIST': 'node[1-2]'}.items():
        environment.setenv(f'SLURM_{name}', value)
    expected = dict(zip(VARIABLES, ('3', '4', '1', 'first', '1234'), strict=True))
    assert launcher_variables('slurm', 1234) == expected
    environment.setenv('MASTER_ADDR', 'given')
    assert launcher_variables('slurm')['MASTER_ADDR'] == 'given'


@pytest.mark.parametrize(('launcher', 'missing'), [('pytorch', 'RANK'), ('mpi', 'OMPI_'), ('slurm', 'SLURM_')])
def test_process_that_the_launcher_has_not_started(launcher: str, missing: str) -> None:
    with pytest.raises(ToolError, match=f'--launcher {launcher}: the environment variable {missing}'):
        launcher_variables(launcher)


def test_group_and_wrapper_are_those_of_the_config(environment: pytest.MonkeyPatch) -> None:
    for name, value in {'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '1'}.items():
        environment.setenv(name, value)
    asked: dict[str, Any] = {}
    environment.setattr(torch.distributed, 'init_process_group', lambda **options: asked.update(options))
    cfg = Config({'launcher': 'pytorch', 'env_cfg': {'dist_cfg': {'backend': 'gloo', 'timeout': 60}}})
    distribute_on_cpu(cfg)
    assert asked == {'backend': 'gloo', 'timeout': datetime.timedelta(seconds=60)}
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.model_wrapper_cfg.type == 'MMDistributedDataParallel'


def test_backend_that_needs_gpus_is_refused() -> None:
    with pytest.raises(ToolError, match=r'env_cfg\.dist_cfg\.backend=gloo'):
        distribute_on_cpu(Config({'launcher': 'pytorch'}))
