"""``docs/quickstart.ipynb`` runs from top to bottom, on a CPU with the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from conftest import ROOT

NOTEBOOK = ROOT / 'docs' / 'quickstart.ipynb'
BASH = '%%bash\n'


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    return [cell for cell in cells if cell['cell_type'] == 'code']


def test_notebook_holds_no_outputs_and_installs_first() -> None:
    first, *others = code_cells()
    assert first['metadata']['tags'] == ['install']
    assert all(not cell['outputs'] and cell['execution_count'] is None for cell in (first, *others))
    # What this file runs: bash, or plain Python.
    assert not any('%' in ''.join(cell['source']).removeprefix(BASH) for cell in others)


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    environment = {
        **os.environ,
        'PATH': path,
        'PYTHONPATH': str(ROOT),
        'HF_HUB_OFFLINE': '1',
        'CUDA_VISIBLE_DEVICES': '',
    }
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells()[1:], start=2):
        source = ''.join(cell['source'])
        if source.startswith(BASH):
            command = ['bash', '-e', '-c', source.removeprefix(BASH)]
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f'cell {number}: {result.stdout[-2000:]}{result.stderr[-2000:]}'
        else:
            exec(compile(source, f'{NOTEBOOK}, cell {number}', 'exec'), names)
    assert [row['epoch'] for row in names['history']] == list(range(1, 7))
    # Better than painting everything or nothing.
    assert max(row['crack/IoU'] for row in names['history']) > 0.2
    assert names['prediction'].labels.shape == (336, 336)
    masks = sorted(Path('predictions', 'masks').glob('*.png'))
    assert len(masks) == 8
    assert cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED).shape == (336, 336)
    assert Path('work_dirs', 'cracks', 'report', 'report.html').is_file()
