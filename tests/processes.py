"""The tools in processes of their own, forked from one that has imported everything: no start costs a test seconds."""

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from conftest import TOOLS, load_script

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['crack_plugin', 'mmengine.runner', 'mmseg.apis', 'wandb'])

LIMIT = 240
"""Seconds after which a process is taken to hang."""


def start(
    tool: str,
    *arguments: str | Path,
    log: Path,
    prepare: Callable[..., None] | None = None,
    prepare_with: tuple = (),
    **environment: str,
) -> BaseProcess:
    """Run ``tools/<tool>.py``.

    Args:
        tool: 'train', 'test' or 'predict'.
        *arguments: Its command line.
        log: File that gets what the process prints.
        prepare: Called in the process first, to break something there.
        prepare_with: Its arguments.
        **environment: Variables to set.
    """
    argv = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_run, args=(tool, argv, log, prepare, prepare_with, environment))
    process.start()
    return process


def finish(process: BaseProcess, log: Path, code: int = 0) -> str:
    """Wait for the process, hold its exit code against ``code``, and return what it printed."""
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
    printed = log.read_text()
    assert process.exitcode == code, printed[-3000:]
    return printed


def run(tool: str, *arguments: str | Path, log: Path, code: int = 0, **options: object) -> str:
    """:func:`start` and :func:`finish`."""
    return finish(start(tool, *arguments, log=log, **options), log, code)  # type: ignore[arg-type]


def run_ranks(tool: str, *arguments: str | Path, log: Path, code: int = 0, **options: object) -> str:
    """Run two processes that work together, as torchrun would start them; what both printed."""
    command = [*arguments, '--launcher', 'pytorch', '--cfg-options', 'env_cfg.dist_cfg.backend=gloo']
    where = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    logs = [log.with_suffix(f'.{rank}') for rank in range(2)]
    processes = [
        start(tool, *command, log=logs[rank], RANK=str(rank), LOCAL_RANK=str(rank), **where, **options)  # type: ignore[arg-type]
        for rank in range(2)
    ]
    return ''.join(finish(process, file, code) for process, file in zip(processes, logs, strict=True))


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def _run(
    tool: str,
    argv: list[str],
    log: Path,
    prepare: Callable[..., None] | None,
    prepare_with: tuple,
    environment: dict[str, str],
) -> None:
    # The processes of a test would otherwise share the terminal with pytest.
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    gc.freeze()  # as in conftest.py
    os.environ.update({'LOCAL_RANK': '0', 'HF_HUB_OFFLINE': '1', **environment})
    sys.path.insert(0, str(TOOLS))
    if prepare is not None:
        prepare(*prepare_with)
    script = load_script(TOOLS / f'{tool}.py')
    (vars(script).get(tool) or script.main)(argv)
