"""A base that cannot be had: one paragraph that says what to do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import run_tool

from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.sam3_semantic import BaseModelError

ASK_HUB = """
import crack_plugin
from crack_plugin.models import SAM3TextLoRA
try:
    SAM3TextLoRA(base='facebook/sam3')
except OSError as error:
    print(type(error).__name__, error)
"""


class Gated(BaseHTTPRequestHandler):
    """Answers as the hub does to who has not accepted the licence."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header('X-Error-Code', 'GatedRepo')
        self.send_header('X-Error-Message', 'Access to model facebook/sam3 is restricted.')
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def gated_hub() -> Iterator[str]:
    server = HTTPServer(('127.0.0.1', 0), Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def ask(endpoint: str, tmp_path: Path) -> str:
    result = run_tool(
        '-c', ASK_HUB, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE='0', HF_HUB_DISABLE_TELEMETRY='1'
    )
    assert result.stdout.strip(), result.stderr
    return result.stdout


def test_gated_hub(gated_hub: str, tmp_path: Path) -> None:
    message = ask(gated_hub, tmp_path)
    assert message.startswith('BaseModelError')
    assert 'https://huggingface.co/facebook/sam3' in message
    assert 'hf auth login' in message
    assert 'gated' in message


def test_no_network(tmp_path: Path) -> None:
    message = ask('http://127.0.0.1:9', tmp_path)
    assert message.startswith('BaseModelError')
    assert 'hf auth login' in message
    assert 'without network, copy the model folder' in message


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match='is no folder'):
        SAM3TextLoRA(base=str(tmp_path / 'absent'))


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match='could not be read as a SAM 3'):
        SAM3TextLoRA(base=str(tmp_path))


def test_model_cut_short(tiny_sam3: dict, tmp_path: Path) -> None:
    SAM3TextLoRA(base=tiny_sam3).save_pretrained(tmp_path / 'base')
    weights = tmp_path / 'base' / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match='could not be read as a SAM 3'):
        SAM3TextLoRA(base=str(tmp_path / 'base'))
