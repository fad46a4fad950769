"""`tools/compare_dates.py`: the table and the pictures of two dates, with given masks and predicted; refusals."""

import csv
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CONFIGS, TOOLS
from two_dates import Cracks, camera, masks, scale_at, seen, texture

SHAPE = (240, 320)
MOVED = camera(7, 0.95, (30.4, -12.6))
BEFORE: Cracks = {'widens': ([(80, 60), (90, 260)], 3.2), 'heals': ([(190, 60), (180, 230)], 4.2)}
AFTER: Cracks = {'widens': (BEFORE['widens'][0], 7.2), 'new': ([(130, 80), (145, 250)], 3.2)}


@pytest.fixture(scope='module')
def tool() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        return runpy.run_path(str(TOOLS / 'compare_dates.py'))


@pytest.fixture
def compare(tool: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Runs the tool on two photographs in a folder; the output folder."""
    labels = masks(BEFORE, AFTER, MOVED, SHAPE)
    photographs = texture(SHAPE), seen(texture(SHAPE), MOVED, SHAPE)
    for name, photograph, own in zip(('before', 'after'), photographs, labels, strict=True):
        image = photograph.copy()
        image[own > 0] = 30
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
        cv2.imwrite(str(tmp_path / f'{name}_mask.png'), 255 * own)

    def call(*options: object, before: str = 'before.png', after: str = 'after.png') -> Path:
        arguments = [tmp_path / before, tmp_path / after, '--out', tmp_path / 'out', '--device', 'cpu', *options]
        tool['main']([str(argument) for argument in arguments])
        return tmp_path / 'out'

    return call


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / 'changes.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def given(folder: Path) -> list[object]:
    return ['--masks', folder / 'before_mask.png', folder / 'after_mask.png']


def refusal(call: Callable[[], object], capsys: pytest.CaptureFixture[str], code: int) -> str:
    with pytest.raises(SystemExit) as info:
        call()
    assert info.value.code == code
    return capsys.readouterr().err


def test_table_and_pictures_of_given_masks(compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = compare(*given(tmp_path), '--mm-per-pixel', '0.5')
    rows = rows_of(out)
    assert [row['kind'] for row in rows] == ['new', 'gone', 'widened']
    new, gone, widened = rows
    scale = scale_at((0, 0), MOVED)
    assert float(new['length']) == pytest.approx(0.5 * scale * (np.hypot(15, 170) + 3.2), abs=0.5)
    assert float(gone['width_before']) == pytest.approx(0.5 * scale * 4.2, abs=0.5)
    assert float(widened['change']) == pytest.approx(0.5 * scale * 4, abs=0.5)
    assert {row['unit'] for row in rows} == {'mm'}
    assert [row['id'] for row in rows] == ['1', '2', '3']
    assert (new['crack_before'], gone['crack_after']) == ('', '')
    picture = cv2.imread(str(out / 'changes.jpg'))
    assert picture.shape[1] == SHAPE[1] and len(picture) > SHAPE[0]
    # BEFORE as AFTER sees it.
    files = (tmp_path / 'before.png', out / 'before_registered.jpg', tmp_path / 'after.png')
    before, moved, after = (cv2.imread(str(file), 0)[60:180, 100:220].ravel() for file in files)
    assert np.corrcoef(moved, after)[0, 1] > 0.5 > 1.5 * abs(np.corrcoef(before, after)[0, 1])
    text = capsys.readouterr().out
    assert 'widened: 1, ' in text and 'matching features agree' in text
    assert 'exists. Take another --out' in refusal(lambda: compare(*given(tmp_path)), capsys, 2)


def test_model_predicts_both_photographs(compare, tool: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    class Stand:
        """A predictor that finds the cracks where they are drawn: 30 in all channels."""

        class_names = ['crack']

        def __init__(self, cfg: Any, checkpoint: str | None, device: str) -> None:
            assert cfg.model.adapter == 'owner/name' and checkpoint is None and device == 'cpu'

        def __call__(self, image: Path) -> Any:
            self.labels = (cv2.imread(str(image)) == 30).all(axis=2).astype(np.uint8)
            self.labels = cv2.morphologyEx(self.labels, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
            return self

    monkeypatch.setitem(tool['main'].__globals__, 'Predictor', Stand)
    out = compare('--config', CONFIGS / 'sam3_tiny_lora_crack.py', '--adapter', 'owner/name')
    assert [row['kind'] for row in rows_of(out)] == ['new', 'gone', 'widened']
    assert cv2.imread(str(out / 'after_mask.png'), cv2.IMREAD_UNCHANGED).max() == 255


def test_refusals_name_the_file_and_leave_nothing(compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks_given = given(tmp_path)
    cv2.imwrite(str(tmp_path / 'blank.png'), np.full((*SHAPE, 3), 80, np.uint8))
    cv2.imwrite(str(tmp_path / 'other.png'), texture(SHAPE, seed=4))
    cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((10, 10), np.uint8))
    (tmp_path / 'damaged.png').write_bytes((tmp_path / 'after.png').read_bytes()[:200])
    for after, reason in (
        ('blank.png', 'blank.png has too little texture'),
        ('other.png', 'other.png cannot be registered: '),
        ('damaged.png', 'damaged.png cannot be decoded'),
    ):
        text = refusal(lambda after=after: compare(*masks_given, after=after), capsys, 1)
        assert reason in text
    text = refusal(lambda: compare('--masks', tmp_path / 'before_mask.png', tmp_path / 'small.png'), capsys, 1)
    assert 'after.png has 320 x 240 pixels, and its mask' in text and 'small.png 10 x 10' in text
    assert not (tmp_path / 'out').exists()
    # Two masks of one photograph.
    out = compare('--masks', masks_given[1], tmp_path / 'after_mask.png', after='before.png')
    assert {row['kind'] for row in rows_of(out)} >= {'new', 'gone'}
    (out / 'changes.csv').unlink()
    assert 'before_mask.png' in refusal(lambda: compare(*masks_given), capsys, 2)
    table = tmp_path / 'scales.csv'
    table.write_text('image,mm_per_pixel\nafter-2.png,0.5\n')
    text = refusal(lambda: compare(*masks_given, '--overwrite', '--mm-per-pixel', table), capsys, 1)
    assert 'after.png' in text and 'scales.csv' in text
    shutil.rmtree(out)
    for options, reason in (
        ([], 'give either --config'),
        ([*masks_given, '--config', CONFIGS / 'sam3_tiny_lora_crack.py'], 'give either --config'),
        ([*masks_given, '--adapter', 'owner/name'], '--masks needs none'),
        ([*masks_given, '--mm-per-pixel', '-1'], 'is no size of a pixel'),
    ):
        assert reason in refusal(lambda options=options: compare(*options), capsys, 2)
