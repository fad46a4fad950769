"""`tools/predict.py` in several processes: they divide the photographs, and end in one table."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TOOLS
from processes import finish, free_port, run, run_ranks, start

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(trained: dict[str, Path], images: Path) -> list[str | Path]:
    """Seven photographs of two sizes, and a file that cannot be read."""
    first = next(images.glob('a.*'))
    for number in range(4):
        shutil.copy(first, images / f'd{number}.jpg')
    (images / 'a0.jpg').write_text('no image')
    return [images, '--config', trained['config'], '--checkpoint', trained['checkpoint'], '--device', 'cpu']


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


def _stop_second_rank(after: int) -> None:
    """As in a power cut, in the middle of its share."""
    from crack_plugin.prediction import output

    written = []
    whole = output.write_one

    def stopping(*arguments: Any, **options: Any) -> Any:
        if os.environ['RANK'] == '1' and len(written) == after:
            os._exit(9)
        written.append(None)
        return whole(*arguments, **options)

    output.write_one = stopping


def test_two_processes_end_in_the_table_of_one(arguments: list, tmp_path: Path) -> None:
    one, two = tmp_path / 'one', tmp_path / 'two'
    run('predict', *arguments, '--out', one, '--measure', log=tmp_path / 'one.log', code=1)
    printed = run_ranks('predict', *arguments, '--out', two, '--measure', log=tmp_path / 'two.log', code=1)
    assert files_of(two) == files_of(one)
    # One of the two speaks.
    assert printed.count('1 files could not be read') == printed.count('a0.jpg') == 1
    assert printed.count(f'Results in {two}') == 1


def test_what_stopped_processes_have_done_is_kept(arguments: list, tmp_path: Path) -> None:
    one, two = tmp_path / 'one', tmp_path / 'two'
    run('predict', *arguments, '--out', one, log=tmp_path / 'one.log', code=1)
    where = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    command = [*arguments, '--out', two, '--launcher', 'pytorch', '--workers', '1']
    ranks = [
        start(
            'predict',
            *command,
            log=tmp_path / f'{rank}.log',
            prepare=_stop_second_rank,
            prepare_with=(2,),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **where,
        )
        for rank in range(2)
    ]
    finish(ranks[1], tmp_path / '1.log', code=9)
    ranks[0].join(30)
    ranks[0].kill()  # as torchrun does
    ranks[0].join()
    done = len(list((two / 'masks').rglob('*.png')))
    assert 2 <= done < 7
    # One process goes on where two stopped.
    printed = run('predict', *arguments, '--out', two, log=tmp_path / 'resumed.log', code=1)
    assert 'images or frames are done already and skipped' in printed
    assert files_of(two) == files_of(one)


def test_torchrun_and_slurm(arguments: list, images: Path, tmp_path: Path) -> None:
    """torchrun needs no --launcher."""
    (images / 'a0.jpg').unlink()
    outs = {name: tmp_path / name for name in ('one', 'torchrun', 'slurm')}
    run('predict', *arguments, '--out', outs['one'], log=tmp_path / 'one.log')
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc-per-node',
        '2',
        '--master-port',
        str(free_port()),
    ]
    command += [TOOLS / 'predict.py', *arguments, '--out', outs['torchrun']]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count('Results in') == 1
    common = {'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'n', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    logs = [tmp_path / f'slurm.{rank}' for rank in range(2)]
    slurm = [*arguments, '--out', outs['slurm'], '--launcher', 'slurm']
    tasks = [
        start('predict', *slurm, log=log, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **common)
        for rank, log in enumerate(logs)
    ]
    for task, log in zip(tasks, logs, strict=True):
        finish(task, log)
    assert files_of(outs['torchrun']) == files_of(outs['slurm']) == files_of(outs['one'])
