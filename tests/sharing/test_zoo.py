"""The model zoo page: a row for each config, filled by command, again and again."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, ROOT, TOOLS, load_script

V0 = ROOT / 'tests' / 'data' / 'v0' / 'work_dirs' / 'my_bridge'


@pytest.fixture
def tool() -> Callable[..., None]:
    return load_script(TOOLS / 'model_zoo.py').main


def make_work_dir(folder: Path, name: str, iou: float, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / f'{name}.py').write_text(
        f'_base_ = {str(CONFIGS / "sam3_lora_crack.py")!r}\n'
        "train_dataloader = dict(dataset=dict(data_root='data/piers'))\n"
    )
    rows = [
        {'epoch': epoch, 'iter': epoch, 'train_seconds': 90.0, 'crack/IoU': score, 'crack/Dice': 0.6, **facts}
        for epoch, score in ((1, iou), (2, iou - 0.1))
    ]
    (folder / 'history.json').write_text(json.dumps(rows))
    return folder


def cells(page: Path, name: str) -> list[str]:
    (line,) = (line for line in page.read_text().splitlines() if line.startswith(f'| {name} |'))
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_rows_are_of_the_selected_epoch(tool: Callable[..., None], tmp_path: Path) -> None:
    facts = {'device': 'Fake GPU', 'parameters': 849_000_000, 'trained_parameters': 3_489_792}
    memory = {'peak_memory_mb': 5432.1, 'peak_memory_of': 'CUDA allocator'}
    work_dir = make_work_dir(tmp_path / 'a', 'fast_one', 0.5281, **facts, **memory)
    record = {'repo': 'someone/cracks', 'url': 'https://huggingface.co/someone/cracks', 'commit': 'a', 'public': True}
    (work_dir / 'hub.json').write_text(json.dumps(record))
    page = tmp_path / 'zoo.md'
    tool([str(work_dir), '--output', str(page)])
    assert cells(page, r'fast\_one') == [
        *(r'fast\_one', 'piers', 'Fake GPU', '5,432 MiB (CUDA allocator)', '1', '52.81%', '60.00%', '-', '-'),
        *('3.0 min', '849.0 M, 3.49 M', '[someone/cracks](https://huggingface.co/someone/cracks)'),
    ]


def test_rerun_replaces_rows_and_keeps_the_rest(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / 'zoo.md'
    first, second = (make_work_dir(tmp_path / name, name, 0.5) for name in ('a', 'b_c'))
    tool([str(first), str(second), '--output', str(page)])
    page.write_text(f'# Ours\n\n{page.read_text()}\nBelow.\n')
    shutil.rmtree(second)
    before = page.read_text()
    tool([str(make_work_dir(tmp_path / 'c', 'c', 0.7)), '--output', str(page)])
    assert '1 new rows, 0 replaced' in capsys.readouterr().out
    shutil.rmtree(first)
    tool([str(make_work_dir(first, 'a', 0.9)), '--output', str(page)])
    assert '0 new rows, 1 replaced' in capsys.readouterr().out
    after = page.read_text()
    assert after.startswith('# Ours\n') and after.endswith('\nBelow.\n')
    assert (cells(page, 'a')[5], cells(page, 'c')[5]) == ('90.00%', '70.00%')
    (kept,) = (line for line in before.splitlines() if line.startswith(r'| b\_c |'))
    assert kept in after.splitlines() and after.count('| Config |') == 1
    # The same again changes nothing.
    tool([str(first), '--output', str(page)])
    assert page.read_text() == after


def test_trainings_of_released_versions(tool: Callable[..., None], tmp_path: Path) -> None:
    """Their histories say neither GPU nor parameters: those of the adapter are counted in its file."""
    work_dir = tmp_path / 'my_bridge'
    shutil.copytree(V0, work_dir)
    for path in work_dir.glob('*.gz'):
        path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
    tool([str(work_dir), '--output', str(tmp_path / 'zoo.md')])
    row = cells(tmp_path / 'zoo.md', r'my\_bridge')
    history = json.loads((work_dir / 'history.json').read_text())
    assert row[2] == '-' and row[4] == '2' and row[5] == f'{100 * history[1]["crack/IoU"]:.2f}%'
    assert row[10].startswith('-, ') and row[11] == '-'


def test_pages_and_work_dirs_that_do_not_fit(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / 'notes.md'
    page.write_text('mine\n')
    work_dirs = [make_work_dir(tmp_path / name, 'same', 0.5) for name in ('a', 'b')]

    def said(*arguments: Path | str) -> str:
        with pytest.raises(SystemExit):
            tool([*map(str, arguments)])
        return capsys.readouterr().err

    assert 'has no table of this tool' in said(work_dirs[0], '--output', page) and page.read_text() == 'mine\n'
    assert 'are both of the config same' in said(*work_dirs, '--output', tmp_path / 'zoo.md')
    tool([str(work_dirs[0]), '--output', str(tmp_path / 'double.md')])
    double = (tmp_path / 'double.md').read_text()
    double += f'{double.splitlines()[-1]}\n'
    (tmp_path / 'double.md').write_text(double)
    assert 'several rows of same' in said(work_dirs[1], '--output', tmp_path / 'double.md')
    assert (tmp_path / 'double.md').read_text() == double
    (work_dirs[0] / 'hub.json').write_text('{}')
    assert 'push again' in said(work_dirs[0], '--output', tmp_path / 'zoo.md')
    (work_dirs[0] / 'history.json').unlink()
    assert 'neither history.json' in said(work_dirs[0], '--output', tmp_path / 'zoo.md')
    assert not (tmp_path / 'zoo.md').exists()
