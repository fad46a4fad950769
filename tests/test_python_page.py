"""Every example of `docs/python.md` runs, on miniature photographs and a tiny random SAM 3 with adapters."""

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from mmseg.apis import inference_model, init_model
from transformers import Sam3Model

from crack_plugin.evaluation.geometry import measure_cracks
from crack_plugin.prediction import Prediction, Predictor

PAGE = ROOT / 'docs' / 'python.md'


def examples() -> list[tuple[int, str]]:
    """The Python blocks of the page, each with the number of its first line."""
    text = PAGE.read_text(encoding='utf-8')
    found = re.finditer(r'^```python\n(.+?)^```', text, re.DOTALL | re.MULTILINE)
    return [(text.count('\n', 0, match.start(1)), match[1]) for match in found]


@pytest.fixture
def names(trained: dict[str, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What all examples, run one after the other, define; where they run is the current folder from here on."""
    for folder in ('configs', 'work_dirs/my_bridge/adapters'):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(trained['config'], tmp_path / 'configs' / 'my_bridge.py')
    shutil.copy(trained['checkpoint'], tmp_path / 'best.pth')
    shutil.copytree(trained['adapter'], tmp_path / 'work_dirs' / 'my_bridge' / 'adapters' / 'best')
    images.rename(tmp_path / 'photos')
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for line, example in examples():
        # Errors name the page and its line.
        exec(compile('\n' * line + example, str(PAGE), 'exec'), namespace)
    return namespace


def test_examples_run_and_do_what_they_say(names: dict[str, Any], trained: dict[str, Path]) -> None:
    model = init_model(str(trained['config']), str(trained['checkpoint']), device='cpu')
    paths = sorted(Path('photos').glob('*.jpg'))
    labels = [inference_model(model, str(path)).pred_sem_seg.data[0].numpy() for path in paths]
    assert names['areas'] == {path.name: (own == 1).sum() for path, own in zip(paths, labels, strict=True)}
    np.testing.assert_array_equal(cv2.imread('mask.png', cv2.IMREAD_UNCHANGED), 255 * labels[0])
    assert names['cracks'] == measure_cracks(labels[0] == 1) == measure_cracks(labels[0].astype(np.uint8))
    assert names['careful'].model.threshold == 0.4
    assert names['careful'].model.test_cfg.mode == 'slide'
    assert names['tiny'].class_names == ['crack']
    assert names['two_classes'].class_names == ['thin crack', 'spalling']
    assert 0 < names['mean'] <= names['largest']
    assert not names['small'].has_adapters

    # What was saved predicts as what it was saved from.
    again = Predictor(trained['config'], adapter='adapter', device='cpu')(paths[0])
    np.testing.assert_array_equal(again.labels, labels[0])
    assert Sam3Model.from_pretrained('merged').config.model_type == 'sam3'
    assert list(Path('out', 'pred').iterdir())


def test_page_has_all_that_is_public() -> None:
    text = PAGE.read_text(encoding='utf-8')
    methods = {name for name in vars(Predictor) if not name.startswith('_')} - {'has_adapters', 'precision'}
    fields = set(Prediction.__dataclass_fields__) - {'logits', 'image'} | {'probabilities', 'scores'}
    assert [name for name in (methods | fields) if not re.search(rf'\.{name}\b', text)] == []
