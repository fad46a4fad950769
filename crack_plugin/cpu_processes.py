"""Several processes on CPUs, for clusters without GPUs and for tests."""

import datetime
import os
import subprocess

import torch
from mmengine.config import Config

from crack_plugin.errors import ToolError


def distribute_on_cpu(cfg: Config) -> None:
    """Connect this process with the others that ``cfg.launcher`` has started, and set ``cfg`` up for a CPU.

    MMEngine's own launchers choose a CUDA device, which fails where there is none. Its runner uses a process group that
    is there already.

    Raises:
        ToolError: The config names a backend that needs GPUs.
    """
    dist_cfg = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if dist_cfg.get('backend', 'nccl') == 'nccl':
        raise ToolError(
            'several processes talk through nccl in this config, which needs GPUs, and PyTorch finds none on this '
            'machine. For processes on the CPU add: --cfg-options env_cfg.dist_cfg.backend=gloo'
        )
    unused = cfg.get('find_unused_parameters', False)
    default = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False, 'find_unused_parameters': unused}
    # Without this MMEngine passes the number of a GPU.
    cfg.model_wrapper_cfg = {**cfg.get('model_wrapper_cfg', default), 'device_ids': None}
    if torch.distributed.is_initialized():
        return
    os.environ.update(launcher_variables(cfg.launcher, dist_cfg.pop('port', None)))
    dist_cfg.pop('init_backend', None)
    if 'timeout' in dist_cfg:
        dist_cfg['timeout'] = datetime.timedelta(seconds=dist_cfg['timeout'])
    torch.distributed.init_process_group(**dist_cfg)


def launcher_variables(launcher: str, port: int | None = None) -> dict[str, str]:
    """The environment variables that torch reads, from those that a launcher sets.

    Args:
        launcher: 'pytorch' (torchrun, which sets them itself), 'slurm' or 'mpi'.
        port: ``dist_cfg.port``, for Slurm.

    Raises:
        ToolError: The launcher has not started this process.
    """
    env = os.environ
    try:
        if launcher == 'mpi':
            return {
                'RANK': env['OMPI_COMM_WORLD_RANK'],
                'WORLD_SIZE': env['OMPI_COMM_WORLD_SIZE'],
                'MASTER_ADDR': env['MASTER_ADDR'],
                'MASTER_PORT': env.get('MASTER_PORT', '29500'),
            }
        if launcher == 'slurm':
            return {
                'RANK': env['SLURM_PROCID'],
                'WORLD_SIZE': env['SLURM_NTASKS'],
                'LOCAL_RANK': env.get('SLURM_LOCALID', '0'),
                'MASTER_ADDR': env.get('MASTER_ADDR') or _first_host(env['SLURM_NODELIST']),
                'MASTER_PORT': str(port or env.get('MASTER_PORT', '29500')),
            }
        return {name: env[name] for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')}
    except KeyError as error:
        raise ToolError(
            f'--launcher {launcher}: the environment variable {error.args[0]} is not set, so this process was not '
            'started by that launcher. Use torchrun (tools/dist_train.sh), srun or mpirun; or leave --launcher out.'
        ) from error


def _first_host(node_list: str) -> str:
    listed = subprocess.run(['scontrol', 'show', 'hostnames', node_list], capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]
