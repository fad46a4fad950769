"""The command line of ``tools/app.py``."""

import sys

import cv2
import numpy as np
import pytest
from conftest import TOOLS, load_script

app = load_script(TOOLS / 'app.py')


def test_other_machines_are_let_in_with_a_token_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        app.main(['--host', '0.0.0.0'])
    assert (ending.value.code, 'give a --token of 16 characters' in capsys.readouterr().err) == (2, True)


def test_missing_package_is_named_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    with pytest.raises(SystemExit) as ending:
        app.main([])
    assert (ending.value.code, 'pip install "crack_plugin[app]"' in capsys.readouterr().err) == (1, True)


def test_examples_are_the_same_each_time() -> None:
    ((name, content),) = app.draw_examples(1).items()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert (name, image.shape) == ('concrete-1.png', (672, 896, 3))
    assert app.draw_examples(1)[name] == content
    assert app.draw_examples(0) == {}
