"""What former revisions wrote loads, resumes and predicts the same: see ``tests/data/make_compatibility.py``."""

import gzip
import importlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CONFIGS, TOOLS, load_script
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.models import EncoderDecoder
from safetensors.numpy import load_file

DATA = Path(__file__).parent / 'data'
VERSIONS = sorted(path.name for path in DATA.glob('v*'))
CONFIG = Path('my_bridge.py')
WORK_DIR = Path('work_dirs', 'my_bridge')
PHOTOGRAPHS = Path('data', 'valid', 'images')


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed folder of a revision; the working directory is a copy of it, as the user had it."""
    committed = DATA / request.param
    folder = shutil.copytree(committed, tmp_path / 'bridge')
    for packed in folder.rglob('*.gz'):
        packed.with_suffix('').write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    config = folder / CONFIG
    config.write_text(config.read_text().replace('../../../configs', str(CONFIGS)))
    monkeypatch.chdir(folder)
    return committed


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports one of the tools."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return lambda name: load_script(TOOLS / name)


def best_checkpoint() -> Path:
    (path,) = WORK_DIR.glob('best_crack_IoU_epoch_*.pth')
    return path


def assert_predicts_the_same(model: EncoderDecoder, old: Path) -> None:
    expected = np.load(old / 'expected.npz')['logits']
    actual = inference_model(model, str(min(PHOTOGRAPHS.iterdir()))).seg_logits.data.numpy()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def times(files: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in files.rglob('*') if path.is_file()}


@pytest.mark.parametrize('config', [CONFIG, WORK_DIR / CONFIG], ids=['as written', 'as dumped'])
def test_checkpoint_predicts_the_same(old: Path, config: Path) -> None:
    assert_predicts_the_same(init_model(str(config), str(best_checkpoint()), device='cpu'), old)


def test_adapter_predicts_the_same(old: Path) -> None:
    cfg = Config.fromfile(CONFIG)
    cfg.model.adapter = str(WORK_DIR / 'adapters' / 'best')
    assert_predicts_the_same(init_model(cfg, device='cpu'), old)


def test_merged_weights_predict_the_same(old: Path, tool: Callable[[str], Any]) -> None:
    tool('merge_adapter.py').main([str(CONFIG), 'merged', '--checkpoint', str(best_checkpoint())])
    cfg = Config.fromfile(CONFIG)
    cfg.model.update(base='merged', lora=None)
    assert_predicts_the_same(init_model(cfg, device='cpu'), old)


def test_training_resumes_to_the_same_end(old: Path, tool: Callable[[str], Any]) -> None:
    last = WORK_DIR / 'last_checkpoint'
    last.write_text(str(WORK_DIR / Path(last.read_text()).name))
    assert not (WORK_DIR / 'epoch_2.pth').exists()
    tool('train.py').train([str(CONFIG), '--resume', '--cfg-options', f'experiment_name=resumed_{time.monotonic_ns()}'])

    name = Path('adapters', 'epoch_2', 'adapter_model.safetensors')
    actual, expected = load_file(WORK_DIR / name), load_file(old / WORK_DIR / name)
    start = load_file(old / WORK_DIR / 'adapters' / 'epoch_1' / name.name)
    assert actual.keys() == expected.keys()
    assert max(np.abs(expected[key] - start[key]).max() for key in start) > 1e-3
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=1e-5, err_msg=key)

    rows, old_rows = (json.loads((folder / 'history.json').read_text()) for folder in (WORK_DIR, old / WORK_DIR))
    assert rows[0] == old_rows[0]
    assert [row['epoch'] for row in rows] == [1, 2]
    measured = {key: value for key, value in old_rows[1].items() if 'seconds' not in key and 'memory' not in key}
    assert {key: rows[1][key] for key in measured} == pytest.approx(measured, abs=1e-4)


def test_report_reads_the_work_dir(old: Path, tool: Callable[[str], Any]) -> None:
    tool('report.py').main([str(WORK_DIR), '--no-evaluation'])
    text = (WORK_DIR / 'report' / 'report.md').read_text()
    rows = json.loads((old / WORK_DIR / 'history.json').read_text())
    for row in rows:
        cells = [row[f'crack/{name}'] for name in ('IoU', 'Dice', 'Precision', 'Recall')]
        assert len(re.findall(r'\W+'.join(f'{100 * cell:.2f}%' for cell in cells), text)) == 1


def test_prediction_goes_on(old: Path, tool: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [PHOTOGRAPHS, '--config', CONFIG, '--checkpoint', best_checkpoint(), '--out', 'predicted']
    arguments += ['--device', 'cpu']
    predict = tool('predict.py').main
    before = times(Path('predicted/masks')) | times(Path('predicted/overlays'))
    predict([str(argument) for argument in arguments])
    assert '2 images or frames are done already' in capsys.readouterr().out
    assert times(Path('predicted/masks')) | times(Path('predicted/overlays')) == before

    # and what is not there yet comes out as it did then
    missing = min(Path('predicted/masks').iterdir())
    mask, table = cv2.imread(str(missing), cv2.IMREAD_UNCHANGED), Path('predicted/predictions.csv')
    assert 0 < np.count_nonzero(mask) < mask.size
    missing.unlink()
    predict([str(argument) for argument in arguments])
    np.testing.assert_array_equal(cv2.imread(str(missing), cv2.IMREAD_UNCHANGED), mask)
    assert table.read_text().splitlines()[0] == (old / table).read_text().splitlines()[0]
    assert [line.rsplit(',', 1)[0] for line in table.read_text().splitlines()] == [
        line.rsplit(',', 1)[0] for line in (old / table).read_text().splitlines()
    ]


def test_configs_find_the_names_they_refer_to(old: Path) -> None:
    names = json.loads((old / 'names.json').read_text())
    assert len(names['configs']) > 20
    assert [name for name in names['configs'] if not (CONFIGS / name).is_file()] == []
    registries = importlib.import_module('mmseg.registry')
    assert len(names['registered']) > 10
    for name in names['registered']:
        registry, _, key = name.partition('.')
        assert getattr(registries, registry).get(key) is not None, name
