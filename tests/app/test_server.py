"""What the server answers, and whom it answers."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from starlette.testclient import TestClient

from crack_plugin.app.jobs import Worker
from crack_plugin.app.limits import AppError, Limits
from crack_plugin.app.models import Models
from crack_plugin.app.server import STATIC, Parts, make_app
from crack_plugin.app.sessions import Sessions
from crack_plugin.app.token import LOOPBACK, check_token
from crack_plugin.app.training import Trainer

TOKEN = 'a token of many letters'
LIMITS = Limits(upload_bytes=20_000, sessions=3, pixels=10_000, free_bytes=0)


def picture(shape: tuple[int, int] = (40, 60)) -> bytes:
    """A PNG of a few bytes."""
    return cv2.imencode('.png', np.full((*shape, 3), 90, np.uint8))[1].tobytes()


@pytest.fixture
def parts(trained: dict[str, Path], tmp_path: Path) -> Parts:
    """Of the tiny random SAM 3 with an adapter."""
    config = Config.fromfile(trained['config'])
    models = Models(config, None, str(trained['adapter']), tmp_path / 'trainings', 'cpu')
    worker = Worker(models)
    tool = tmp_path / 'no_tool.py'
    trainer = Trainer(tool, config, tmp_path / 'trainings', LIMITS)
    sessions = Sessions(LIMITS, worker.forget)
    return Parts(sessions, models, worker, trainer, tmp_path / 'datasets', {'example.png': picture()})


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    """A browser on this machine."""
    with TestClient(make_app(parts, hosts=LOOPBACK), base_url='http://127.0.0.1:7860') as client:
        yield client


class User:
    """A session in a browser."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.root = f'/sessions/{client.post("/sessions").json()["key"]}'

    def upload(self, name: str = 'a.png', content: bytes | None = None) -> Any:
        content = picture() if content is None else content
        return self.client.post(f'{self.root}/photographs', params={'name': name}, content=content)

    def state(self) -> dict[str, Any]:
        return self.client.get(self.root).json()

    def predict(self, **changed: Any) -> Any:
        body = {'prompt': 'crack', 'weights': 'given', 'window': None, 'step': None, **changed}
        return self.client.post(f'{self.root}/predict', json=body)

    def wait(self) -> dict[str, Any]:
        while (state := self.state())['job']['state'] in ('waiting', 'running'):
            time.sleep(0.02)
        return state

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f'{self.root}{path}', params=query)


def test_photographs_go_through_all_that_the_page_asks(client: TestClient, parts: Parts) -> None:
    user = User(client)
    assert user.upload().status_code == 201
    assert user.predict(before='zero-shot', window=40, step=20).status_code == 202
    state = user.wait()
    assert (state['job']['state'], state['job']['fraction']) == ('done', 1)
    (photograph,) = state['photographs']
    assert photograph['predicted']['now'] == {'weights': 'given', 'prompt': 'crack', 'window': 40, 'step': 20}
    assert photograph['predicted']['before']['weights'] == 'zero-shot'

    own = f'/photographs/{photograph["id"]}'
    shown = cv2.imdecode(np.frombuffer(user.get(f'{own}/picture').content, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (40, 60, 3)
    probability = np.frombuffer(user.get(f'{own}/maps/now').content, np.uint8).reshape(40, 60)
    np.testing.assert_array_equal(probability, parts.sessions.get(user.root[10:]).photograph(1).probability())
    assert user.get(f'{own}/maps/before').content != probability.tobytes()

    corrections = np.full((40, 60), 2, np.uint8)
    corrections[10:14, 5:35] = 1
    put = client.put(f'{user.root}{own}/corrections', content=corrections.tobytes())
    assert put.json()['is_corrected'] is True
    assert user.get(f'{own}/corrections').content == corrections.tobytes()

    scale = client.post(f'{user.root}{own}/scale', json={'points': [[0, 0], [30, 40]], 'length': 25})
    assert scale.json() == {'mm_per_pixel': 0.5}
    (crack,) = user.get(f'{own}/cracks', threshold=0.5, severity='bre251').json()['cracks']
    assert (crack['unit'], crack['severity'], crack['box']) == ('mm', '2 slight', [5, 10, 35, 14])
    widths = user.get(f'{own}/widths', threshold=0.5)
    assert float(widths.headers['X-Largest']) == pytest.approx(crack['max_width'], abs=0.01)
    assert np.count_nonzero(np.frombuffer(widths.content, np.uint8)) == 120

    mask = user.get(f'{own}/files/mask.png', threshold=0.5)
    assert mask.headers['Content-Disposition'] == 'attachment; filename="a_mask.png"'
    assert np.count_nonzero(cv2.imdecode(np.frombuffer(mask.content, np.uint8), -1)) == 120
    assert 'a.png,masks/a.png' in user.get('/results/cracks.csv', threshold=0.5, severity='bre251').text

    saved = client.post(f'{user.root}/dataset', json={'dataset': 'mine', 'threshold': 0.5})
    assert (parts.datasets / 'mine' / 'masks' / 'a.png').is_file(), saved.json()
    assert client.delete(f'{user.root}{own}').status_code == 204
    assert user.state()['photographs'] == []


def test_what_cannot_be_done_is_told_in_words(client: TestClient) -> None:
    user = User(client)
    own = f'{user.root}/photographs/1'
    assert 'no photograph to look at' in user.predict().json()['error']
    assert user.upload('a.png', b'broken').json()['error'].startswith('image a.png cannot be decoded')
    assert 'is no photograph' in user.upload('a.exe').json()['error']
    too_large = user.upload('b.png', bytes(20_001))
    assert (too_large.status_code, 'b.png is larger than the' in too_large.json()['error']) == (413, True)
    # Without a length that is announced.
    endless = user.upload('b.png', (bytes(5000) for _ in range(9)))  # type: ignore[arg-type]
    assert endless.status_code == 413
    assert '10,000' not in user.upload('c.png', picture((200, 100))).json()['error']
    assert user.state()['photographs'] == []
    user.upload()
    number = user.state()['photographs'][0]['id']
    own = f'{user.root}/photographs/{number}'
    for request, status, told in (
        (user.predict(prompt='crack ' * 40), 400, 'SAM 3 reads 32'),
        (user.predict(weights='none'), 404, 'Choose others'),
        (user.predict(window='a'), 400, 'window is no whole number'),
        (user.predict(photographs=[99]), 404, 'not there any more'),
        (client.get(f'{own}/maps/now'), 404, 'Find cracks'),
        (client.get(f'{own}/cracks'), 400, "threshold is ''"),
        (client.get(f'{own}/files/passwd', params={'threshold': 0.5}), 404, 'there are mask.png'),
        (client.put(f'{own}/corrections', content=bytes(3)), 400, '3 pixels, the photograph has 2400'),
        (client.put(f'{own}/corrections', content=bytes(2401)), 413, 'more than the 2,400 bytes'),
        (client.post(f'{own}/scale', content=b'{'), 400, 'no JSON'),
        (client.post(f'{own}/scale', json={'points': 'ab', 'length': 1}), 400, 'pairs of numbers'),
        (client.post(f'{own}/scale', json={'mm_per_pixel': -1}), 400, 'above 0'),
        (client.post(f'{user.root}/dataset', json={'dataset': '../x', 'threshold': 0.5}), 400, 'no name for a folder'),
        (client.post(f'{user.root}/dataset', json={'dataset': 'x', 'threshold': 0.5}), 400, 'nothing was corrected'),
        (
            client.post(
                f'{user.root}/train', json={'dataset': 'x', 'prompt': 'crack', 'weights': 'given', 'epochs': 2}
            ),
            400,
            'Save corrections',
        ),
        (client.get('/sessions/unknown'), 404, 'Load the page again'),
        (client.get('/nowhere'), 404, 'Not Found'),
    ):
        assert (request.status_code, told in request.json()['error']) == (status, True), request.text
    assert [photograph['name'] for photograph in user.state()['photographs']] == ['a.png']


def test_users_see_their_own_photographs_alone(client: TestClient) -> None:
    one, other = User(client), User(client)
    one.upload('one.png')
    other.upload('other.png')
    assert [each['name'] for each in one.state()['photographs']] == ['one.png']
    assert [each['name'] for each in other.state()['photographs']] == ['other.png']


def test_leaving_and_ending_delete_everything(parts: Parts) -> None:
    with TestClient(make_app(parts), base_url='http://127.0.0.1') as client:
        user = User(client)
        user.upload()
        root = parts.sessions.root
        assert any(root.rglob('a.png'))
        assert client.post(f'{user.root}/leave').status_code == 204
    assert not root.exists()


def test_examples_are_added(client: TestClient) -> None:
    user = User(client)
    assert [each['name'] for each in client.post(f'{user.root}/examples').json()] == ['example.png']
    assert client.get('/facts').json()['examples'] == 1


def test_fault_of_the_program_is_told_and_raised(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(parts)
    with TestClient(app, base_url='http://127.0.0.1', raise_server_exceptions=False) as client:
        monkeypatch.setattr(Sessions, 'open', lambda self: 1 / 0)
        answer = client.post('/sessions')
    assert (answer.status_code, answer.json()['error'][:23]) == (500, 'The program has a fault')


def test_other_sites_are_refused(client: TestClient) -> None:
    for headers in ({'Origin': 'https://elsewhere.example'}, {'Origin': 'null'}, {'Origin': 'http://127.0.0.1:1'}):
        assert client.post('/sessions', headers=headers).status_code == 403
    assert client.post('/sessions', headers={'Origin': 'http://127.0.0.1:7860'}).status_code == 201
    # A name of theirs that was made to lead here.
    assert client.get('/', headers={'Host': 'elsewhere.example'}).status_code == 403
    assert client.get('/', headers={'Host': 'localhost:7860'}).status_code == 200


@pytest.mark.parametrize(('host', 'token'), [('0.0.0.0', None), ('::', None), ('127.0.0.1', 'short')])
def test_others_are_let_in_with_a_token_alone(host: str, token: str | None) -> None:
    with pytest.raises(AppError, match='--token'):
        check_token(host, token)
    check_token(host, TOKEN)
    check_token('127.0.0.1', None)


def test_token_is_asked_for(parts: Parts) -> None:
    with TestClient(make_app(parts, TOKEN), base_url='http://site.example:7860') as client:
        assert client.get('/facts').status_code == 401
        assert client.post('/sessions').status_code == 401
        assert client.get('/static/main.js').status_code == 401
        form = client.get('/')
        assert (form.url.path, 'name="token"' in form.text) == ('/login', True)
        wrong = client.post('/login', data={'token': TOKEN[:-1]})
        assert (wrong.status_code, 'This is not the token' in wrong.text) == (403, True)
        assert client.post('/login', content=bytes(5000)).status_code == 413
        assert client.post('/login', data={'token': TOKEN}).url.path == '/'
        cookie = client.cookies['crack_plugin']
        assert TOKEN not in cookie
        assert client.post('/sessions').status_code == 201
        client.cookies.set('crack_plugin', 'x' * 64, domain='site.example')


def test_page_names_no_address_outside(client: TestClient) -> None:
    """And the browser is told to ask for none."""
    pages = [client.get('/'), *(client.get(f'/static/{path.name}') for path in STATIC.iterdir())]
    assert len(pages) >= 8
    for page in pages:
        assert page.status_code == 200
        policy = page.headers['Content-Security-Policy']
        assert "default-src 'none'" in policy and '*' not in policy and 'http' not in policy and 'unsafe' not in policy
        # The namespace of SVG is a name, and is not asked for.
        found = set(re.findall(r'(?:https?:)?//[\w.-]+\.\w+[^\s"\']*', page.text)) - {'http://www.w3.org/2000/svg'}
        assert not found, (page.url, found)


def test_every_file_of_the_page_is_packaged() -> None:
    patterns = (STATIC.parents[2] / 'MANIFEST.in').read_text()
    assert all(f'*{path.suffix}' in patterns for path in STATIC.iterdir())
