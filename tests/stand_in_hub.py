"""A stand-in for the Hugging Face hub on the loopback: repositories in memory, with accounts, commits and downloads.

It answers the endpoints that huggingface_hub calls to create a repository, to commit and to download. Files travel in
the commit itself ('regular'); what it does not have are transfers by LFS and Xet, which the hub uses for large files.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from huggingface_hub.utils import get_session

OWNER = 'someone'
LICENCES = ('apache-2.0', 'mit', 'other')
"""Some of those that the hub knows."""
TOKENS = {'hf_write': OWNER, 'hf_other': 'another', 'hf_read': OWNER}


@dataclass
class Repository:
    """Commits by their ids, the last being main, each with all its files."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def add(self, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[commit] = files
        return commit

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


class StandInHub(ThreadingHTTPServer):
    """The server; ``repositories`` and ``asked`` (method and path of each request) are for tests to look at."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.is_down = False

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def add(self, name: str, folder: Path, private: bool = False) -> str:
        """Add a repository (a commit, if it is there) with the files of a folder."""
        repository = self.repositories.setdefault(name, Repository(private))
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob('*') if path.is_file()}
        return repository.add({name: path.read_bytes() for name, path in files.items()})

    def environment(self, home: Path, token: str = '') -> dict[str, str]:
        """Environment of a process that talks to it, with a cache below ``home``."""
        names = {'HF_ENDPOINT': self.url, 'HF_HOME': str(home), 'HF_HUB_OFFLINE': '0', 'HF_HUB_DISABLE_XET': '1'}
        return {**names, 'HF_HUB_DISABLE_TELEMETRY': '1', 'HF_TOKEN': token}

    def use_here(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str = '') -> None:
        """Let this process talk to it."""
        template = f'{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', self.url)
        monkeypatch.setattr('huggingface_hub.repocard.get_session', lambda: _Session(self.url))
        monkeypatch.setattr('huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE', template)
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(home / 'hub'))
        monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(home / 'token'))
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
        monkeypatch.setenv('HF_TOKEN', token)


class _Session:
    """What checks a model card, which older versions of huggingface_hub ask the real hub for."""

    def __init__(self, url: str) -> None:
        self._url = url

    def post(self, url: str, **options: Any) -> Any:
        return get_session().post(url.replace('https://huggingface.co', self._url), **options)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """Run a server."""
    server = StandInHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub

    def do_GET(self) -> None:
        parts = self._begin()
        match parts:
            case ['api', 'whoami-v2']:
                return (
                    self._json({'name': self._user(), 'type': 'user', 'orgs': []}) if self._user() else self._no_token()
                )
            case ['api', 'models', owner, name, *_]:
                repository = self._readable(f'{owner}/{name}')
            case [owner, name, 'resolve', *_]:
                repository = self._readable(f'{owner}/{name}')
            case _:
                return self._refuse(404, 'EntryNotFound', 'no such page')
        if repository is None:
            return None
        match parts[-2:] if parts[0] == 'api' else []:
            case [_, _] if len(parts) == 4:
                revision = 'main'
            case _:
                revision = parts[5] if parts[0] == 'api' else parts[3]
        commit = repository.head if revision == 'main' else revision
        if commit not in repository.commits:
            return self._refuse(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        files = repository.commits[commit]
        if parts[0] != 'api':
            name = '/'.join(parts[4:])
            return self._file(files, name, commit)
        if len(parts) > 4 and parts[4] == 'tree':
            entries = [
                {'type': 'file', 'path': name, 'size': len(content), 'oid': hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self._json(entries)
        siblings = [{'rfilename': name} for name in files]
        identifier = '/'.join(parts[2:4])
        return self._json({'id': identifier, 'sha': commit, 'private': repository.private, 'siblings': siblings})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts = self._begin()
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        match parts:
            case ['api', 'validate-yaml']:
                content = json.loads(body)['content']
                header = yaml.safe_load(content.split('---')[1])
                errors = [] if header.get('license') in LICENCES else [{'message': '"license" must be one of [...]'}]
                answer = json.dumps({'errors': errors, 'warnings': []}).encode()
                self._answer(answer, {'Content-Type': 'application/json'}, 400 if errors else 200)
            case ['api', 'repos', 'create']:
                wanted = json.loads(body)
                identifier = f'{wanted["organization"]}/{wanted["name"]}'
                if self._may_write(identifier):
                    self.server.repositories[identifier] = Repository(wanted['visibility'] == 'private')
                    self.server.repositories[identifier].add({'.gitattributes': b''})
                    self._json({'url': f'{self.server.url}/{identifier}'})
            case ['api', 'models', owner, name, 'preupload', 'main']:
                if self._may_write(f'{owner}/{name}'):
                    paths = [file['path'] for file in json.loads(body)['files']]
                    modes = [{'path': path, 'uploadMode': 'regular', 'shouldIgnore': False} for path in paths]
                    self._json({'files': modes})
            case ['api', 'models', owner, name, 'commit', 'main']:
                if self._may_write(f'{owner}/{name}'):
                    self._commit(f'{owner}/{name}', [json.loads(line) for line in body.splitlines()])
            case _:
                self._refuse(404, 'EntryNotFound', 'no such page')

    def _commit(self, identifier: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[identifier]
        files = dict(repository.commits[repository.head])
        expected = next(line['value'] for line in lines if line['key'] == 'header').get('parentCommit')
        if expected not in (None, repository.head):
            return self._refuse(412, '', 'A commit has happened since. Please refresh and try again.')
        for line in lines:
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'deletedFile':
                del files[value['path']]
        commit = repository.add(files)
        return self._json(
            {'success': True, 'commitOid': commit, 'commitUrl': f'{self.server.url}/{identifier}/commit/{commit}'}
        )

    def _begin(self) -> list[str]:
        self.server.asked.append(f'{self.command} {self.path}')
        return [unquote(part) for part in self.path.split('?')[0].strip('/').split('/')]

    def _user(self) -> str | None:
        return TOKENS.get(self.headers.get('Authorization', '').removeprefix('Bearer '))

    def _no_token(self) -> None:
        self._refuse(401, '', 'Invalid credentials in Authorization header')

    def _may_write(self, identifier: str) -> bool:
        if self.server.is_down:
            self._refuse(500, '', 'We are down for maintenance')
        elif self._user() is None:
            self._no_token()
        elif self._user() != identifier.partition('/')[0] or 'hf_read' in self.headers.get('Authorization', ''):
            self._refuse(403, '', f'You don\'t have the rights to create a model under the namespace "{identifier}"')
        else:
            return True
        return False

    def _readable(self, identifier: str) -> Repository | None:
        repository = self.server.repositories.get(identifier)
        if repository is None or (repository.private and self._user() != identifier.partition('/')[0]):
            # As the hub does, which does not tell that there is a private one.
            self._refuse(401 if self._user() is None else 404, 'RepoNotFound', 'Repository not found')
            return None
        return repository

    def _file(self, files: dict[str, bytes], name: str, commit: str) -> None:
        if name not in files:
            return self._refuse(404, 'EntryNotFound', 'Entry not found')
        etag = hashlib.sha1(files[name]).hexdigest()
        return self._answer(files[name], {'X-Repo-Commit': commit, 'ETag': f'"{etag}"'})

    def _json(self, content: Any) -> None:
        self._answer(json.dumps(content).encode(), {'Content-Type': 'application/json'})

    def _refuse(self, status: int, code: str, reason: str) -> None:
        self._answer(json.dumps({'error': reason}).encode(), {'X-Error-Code': code, 'X-Error-Message': reason}, status)

    def _answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
