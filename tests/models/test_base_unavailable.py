"""A base that cannot be had, or is none: one paragraph that says what to do."""

import copy
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_SAM3, run_tool
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig
from transformers.models.sam3.modeling_sam3 import Sam3Model

from crack_plugin.errors import ConfigError
from crack_plugin.models import SAM3TextLoRA, base
from crack_plugin.models.base import BaseModelError, load_base

ASK_HUB = """
import sys
import crack_plugin
from crack_plugin.models import SAM3TextLoRA
for base in sys.argv[1:]:
    try:
        model = SAM3TextLoRA(base=base)
        model.save_adapter('adapter')
        print('loaded', model.base_hash)
    except OSError as error:
        print(type(error).__name__, error)
"""
COMMITS = {'main': 'a' * 40, 'v2': 'b' * 40}


class Hub(BaseHTTPRequestHandler):
    """A hub of one repository, someone/sam3 with the revisions main and v2, or of refusals.

    ``answers`` says what is refused: by repository, the status, the hub's code and its reason.
    """

    answers: dict[str, tuple[int, str, str]] = {}
    revisions: dict[str, Path] = {}

    def do_GET(self) -> None:
        for repository, (status, code, reason) in self.answers.items():
            if repository in self.path:
                return self.refuse(status, code, reason)
        parts = self.path.split('?')[0].strip('/').split('/')
        if parts[:3] == ['api', 'models', 'someone'] and parts[4] == 'revision':
            commit = COMMITS.get(parts[5], parts[5])
            if commit not in COMMITS.values():
                return self.refuse(404, 'RevisionNotFound', f'Invalid rev id: {parts[5]}')
            return self.answer(json.dumps({'id': 'someone/sam3', 'sha': commit}).encode())
        if parts[:3] == ['api', 'models', 'someone'] and parts[4] == 'tree':
            files = sorted(self.revisions[parts[5]].iterdir())
            tree = [{'type': 'file', 'path': f.name, 'size': f.stat().st_size, 'oid': 'c' * 40} for f in files]
            return self.answer(json.dumps(tree).encode())
        if len(parts) == 5 and parts[2] == 'resolve':
            return self.answer((self.revisions[parts[3]] / parts[4]).read_bytes(), parts[3], parts[4])
        return self.refuse(404, 'RepoNotFound', 'Repository not found')

    do_HEAD = do_GET

    def refuse(self, status: int, code: str, reason: str) -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        self.send_header('X-Error-Message', reason)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def answer(self, body: bytes, commit: str = '', name: str = '') -> None:
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        if commit:
            self.send_header('X-Repo-Commit', commit)
            self.send_header('ETag', f'"{commit[:8]}{name}"')
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.answers, Hub.revisions = {}, {}
    server = HTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def ask(endpoint: str, tmp_path: Path, *bases: str, offline: str = '0') -> list[str]:
    (tmp_path / 'here').mkdir(exist_ok=True)
    (tmp_path / 'ask.py').write_text(ASK_HUB)
    environment = {'HF_ENDPOINT': endpoint, 'HF_HOME': str(tmp_path / 'hf'), 'HF_HUB_DISABLE_TELEMETRY': '1'}
    environment |= {'HF_HUB_OFFLINE': offline, 'PYTHONPATH': str(ROOT), 'HF_HUB_DISABLE_XET': '1'}
    result = run_tool(tmp_path / 'ask.py', *bases, cwd=tmp_path / 'here', **environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith(('BaseModelError', 'loaded'))]
    assert len(lines) == len(bases), result.stdout + result.stderr
    return lines


@pytest.mark.slow
def test_refusals_of_the_hub_keep_its_reason(hub: str, tmp_path: Path) -> None:
    Hub.answers = {
        'facebook/sam3': (401, 'GatedRepo', 'Access to model facebook/sam3 is restricted.'),
        'owner/review': (
            403,
            'GatedRepo',
            'Your request to access model x is awaiting a review from its authors.',
        ),
        'owner/token': (401, '', 'Invalid credentials in Authorization header'),
        'owner/fine': (
            403,
            '',
            'Please enable access to public gated repositories in your token settings',
        ),
        'owner/busy': (503, '', 'We are down for maintenance'),
    }
    bases = [*Hub.answers, 'owner/nothing', 'nothing']
    restricted, review, token, fine, busy, absent, word = ask(hub, tmp_path, *bases)
    assert 'is restricted' in restricted and 'gated' in restricted and 'hf auth login' in restricted
    assert 'https://huggingface.co/facebook/sam3' in restricted
    assert 'awaiting a review' in review and 'gated-repos' in review and 'accept its licence' not in review
    assert 'Invalid credentials' in token and 'settings/tokens' in token and 'licence' not in token
    assert 'enable access to public gated repositories' in fine
    assert 'down for maintenance' in busy and 'licence' not in busy
    for message, name in ((absent, 'owner/nothing'), (word, 'nothing')):
        assert f'no folder {name!r} here' in message and 'Mind the spelling' in message


def test_no_network(tmp_path: Path) -> None:
    (message,) = ask('http://127.0.0.1:9', tmp_path, 'facebook/sam3')
    assert 'hf auth login' in message
    assert 'without network, copy the model folder' in message


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp('written') / 'base'
    SAM3TextLoRA(base=copy.deepcopy(TINY_SAM3), lora=None).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / 'base'))


@pytest.mark.slow
def test_hub_revisions_and_cache(hub: str, folder: Path, tiny_sam3: dict, tmp_path: Path) -> None:
    """Weights, configuration and tokenizer are the revision's; without a tokenizer CLIP's is used; offline the same."""
    SAM3TextLoRA(base={**tiny_sam3, 'seed': 5}, lora=None).save_pretrained(tmp_path / 'second')
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        (tmp_path / 'second' / name).unlink()
    (tmp_path / 'second' / 'sam3.pt').write_bytes(b'not fetched')
    Hub.revisions = {COMMITS['main']: folder, COMMITS['v2']: tmp_path / 'second'}
    hashes = [f'loaded {SAM3TextLoRA(base=str(path), lora=None).base_hash}' for path in (folder, tmp_path / 'second')]
    bases = ['someone/sam3', 'someone/sam3@v2', f'someone/sam3@{COMMITS["main"]}']
    *loaded, refused = ask(hub, tmp_path, *bases, 'someone/sam3@v3')
    assert loaded == [hashes[0], hashes[1], hashes[0]]
    config = json.loads((tmp_path / 'here' / 'adapter' / 'adapter_config.json').read_text())
    assert (config['base_model_name_or_path'], config['revision']) == ('someone/sam3', COMMITS['main'])
    assert "no branch, tag or commit 'v3'" in refused
    assert not list((tmp_path / 'hf').rglob('sam3.pt'))
    assert ask(hub, tmp_path, *bases, offline='1') == loaded


def test_home_at_sign_and_adapter_config(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    folder.rename(tmp_path / 'sam3@home')
    model = SAM3TextLoRA(base='~/sam3@home')
    model.save_adapter(tmp_path / 'adapter')
    config = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    assert (config['base_model_name_or_path'], config['revision']) == (str(tmp_path / 'sam3@home'), None)


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('sam3.pt', "Meta's own format"),
        ('config.json', 'Give its folder'),
        ('model.safetensors', 'Give its folder'),
        ('model.onnx', 'Sam3Model.save_pretrained'),
    ],
)
def test_file_instead_of_a_folder(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b'x')
    with pytest.raises(BaseModelError, match=f'is a file.*{said}') as caught:
        load_base(str(tmp_path / name))
    assert 'gated' not in str(caught.value)


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        ([], 'it is empty'),
        (['sam3.pt'], "but sam3.pt. If it is Meta's own format"),
        (['model.onnx', 'notes.txt'], 'but model.onnx, notes.txt'),
        (['adapter_config.json', 'adapter_model.safetensors'], 'goes to model.adapter'),
    ],
)
def test_folder_in_another_format(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(BaseModelError, match=f'could not be read as a SAM 3: .*has no config.json.*{said}'):
        load_base(str(tmp_path))


def rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sam3Model, 'from_pretrained', lambda *_, **__: pytest.fail('the model was built'))


POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3439938512\n'


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json'])
@pytest.mark.parametrize('damage', ['pointer', 'cut', 'empty', 'noise'])
def test_damaged_file(folder: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / name
    whole = path.read_bytes()
    damaged = {'pointer': POINTER.encode(), 'cut': whole[:-1000], 'empty': b'', 'noise': b'\x00\xff' * 500}
    path.write_bytes(damaged[damage])
    build_nothing(monkeypatch)
    said = {'pointer': 'pointer of Git LFS', 'cut': 'cut short', 'empty': 'is empty', 'noise': 'damaged'}[damage]
    with pytest.raises(BaseModelError, match=f'{path}.*{said}'):
        load_base(str(folder))


def other_architecture(config: dict) -> None:
    config['model_type'] = 'edgetam_video'


def other_sizes(config: dict) -> None:
    config['detr_encoder_config']['hidden_size'] = 32


def not_a_number(config: dict) -> None:
    config['vision_config']['backbone_config']['hidden_size'] = 'large'


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (other_architecture, "of type 'edgetam_video', not sam3, sam3_lite_text or sam3_video"),
        (other_sizes, r'weights have other shapes than config.json says.*has shape \(.*\), and \(.*is expected'),
        (not_a_number, 'does not describe one'),
        (dict.clear, 'of type None'),
    ],
)
def test_config_of_another_model(folder: Path, change: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder / 'config.json', change)
    build_nothing(monkeypatch)
    with pytest.raises(BaseModelError, match=said):
        load_base(str(folder))


def no_heads(config: dict) -> None:
    config['text_config']['num_attention_heads'] = 0


def negative_size(config: dict) -> None:
    config['text_config']['hidden_size'] = -16


def unknown_activation(config: dict) -> None:
    config['text_config']['hidden_act'] = 'none of them'


@pytest.mark.parametrize('change', [no_heads, negative_size, unknown_activation])
def test_config_that_no_model_can_be_built_from(folder: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder / 'config.json', change)
    build_nothing(monkeypatch)
    with pytest.raises(BaseModelError, match=r'could not be read as a SAM 3: .*config\.json'):
        load_base(str(folder))


@pytest.mark.parametrize('dtype', [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights(folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads them as they are, without their scale."""
    path = folder / 'model.safetensors'
    save_file({name: weight.to(dtype) for name, weight in load_file(path).items()}, path, metadata={'format': 'pt'})
    build_nothing(monkeypatch)
    with pytest.raises(BaseModelError, match='weights are quantised'):
        load_base(str(folder))


@pytest.mark.parametrize('content', [{'weight_map': ['a']}, {'weight_map': {'a': 1}}, {'weight_map': {'a': 'x'}}])
def test_damaged_index(folder: Path, content: dict) -> None:
    (folder / 'model.safetensors').rename(folder / 'x')
    (folder / 'model.safetensors.index.json').write_text(json.dumps(content))
    with pytest.raises(BaseModelError, match=r'index\.json is damaged'):
        load_base(str(folder))


@pytest.mark.parametrize('added', [['a'], {'a': 1}, [{'content': 'a'}]])
def test_damaged_tokens(folder: Path, added: Any) -> None:
    rewrite(folder / 'tokenizer.json', lambda content: content.update(added_tokens=added))
    with pytest.raises(BaseModelError, match='added_tokens'):
        load_base(str(folder))


def test_merges_in_another_encoding(folder: Path) -> None:
    (folder / 'tokenizer.json').rename(folder / 'vocab.json')
    (folder / 'merges.txt').write_bytes(b'\xff\xfe\x80 a')
    with pytest.raises(BaseModelError, match='no UTF-8 text'):
        load_base(str(folder))


def test_values_of_another_type(tiny_sam3: dict) -> None:
    for arguments in ({'base': None}, {'base': ['a']}, {'base': tiny_sam3, 'image_size': '56'}):
        with pytest.raises(ConfigError, match='give a '):
            SAM3TextLoRA(**arguments)


def test_clip_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CLIPTextConfig(hidden_size=16).save_pretrained(tmp_path)
    save_file({'text_model.x': torch.zeros(1)}, tmp_path / 'model.safetensors')
    build_nothing(monkeypatch)
    with pytest.raises(BaseModelError, match="of type 'clip_text_model', not sam3"):
        load_base(str(tmp_path))


def test_weights_under_other_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({'backbone.stem.weight': torch.zeros(2)}, folder / 'model.safetensors')
    build_nothing(monkeypatch)
    with pytest.raises(BaseModelError, match=r'other names \(backbone\.stem\.weight\)'):
        load_base(str(folder))


def test_shards_and_the_hubs_video_model(folder: Path, tmp_path: Path) -> None:
    """facebook/sam3 is a video model whose detector is ours; its weights may come in several files."""
    expected = SAM3TextLoRA(base=str(folder)).base_hash
    weights = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    shards: list[dict] = [{}, {}]
    for index, (name, value) in enumerate(weights.items()):
        shards[index % 2][f'detector_model.{name}'] = value
    shards[0]['tracker_model.x'] = torch.zeros(3)
    names = [f'model-0000{index}-of-00002.safetensors' for index in (1, 2)]
    for shard, name in zip(shards, names, strict=True):
        save_file(shard, folder / name, metadata={'format': 'pt'})
    where = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': where}))
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({'model_type': 'sam3_video', 'detector_config': config}))
    assert SAM3TextLoRA(base=str(folder)).base_hash == expected
    (folder / names[1]).unlink()
    with pytest.raises(BaseModelError, match=f'{names[1]} is missing'):
        load_base(str(folder))


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: list[str]) -> None:
    (folder / 'tokenizer.json').unlink()
    (folder / 'vocab.json').write_text(json.dumps(vocabulary))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))


def crack_ids(base: str) -> list[int]:
    return SAM3TextLoRA(base=base, lora=None).prompt_ids[0, :4].tolist()


def test_tokenizers_that_are_clips(folder: Path, log: list[str]) -> None:
    """One file or two, or none at all: "crack" is what it is in CLIP."""
    clip = [49406, 10334, 49407, 49407]
    assert crack_ids(str(folder)) == clip
    content = json.loads((folder / 'tokenizer.json').read_text())['model']
    write_vocabulary(folder, content['vocab'], [' '.join(pair) for pair in content['merges']])
    assert crack_ids(str(folder)) == clip
    assert not any('tokenizer' in message for message in log)
    content['vocab']['a rare word</w>'] = content['vocab'].pop('zz</w>')
    (folder / 'vocab.json').write_text(json.dumps(content['vocab']))
    assert crack_ids(str(folder)) == clip
    assert any('1 tokens of its tokenizer have other ids' in message for message in log)
    for name in ('vocab.json', 'merges.txt', 'tokenizer_config.json'):
        (folder / name).unlink()
    assert crack_ids(str(folder)) == clip
    assert any('holds no tokenizer' in message for message in log)


def test_other_tokenizers_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_nothing(monkeypatch)
    path = folder / 'tokenizer.json'
    whole = json.loads(path.read_text())
    model = whole['model']
    shifted = {token: (index + 1) % 49406 if index < 49406 else index for token, index in model['vocab'].items()}
    two = {'<|startoftext|>': 0, '<|endoftext|>': 1}
    for content, said in (
        ({**whole, 'model': {**model, 'vocab': shifted}}, '49,408 tokens instead of 49,408, and 49,406'),
        ({**whole, 'model': {**model, 'vocab': two}, 'added_tokens': []}, '2 tokens instead of 49,408'),
        ({**whole, 'model': {**model, 'merges': []}}, 'a vocabulary without merges'),
        ({**whole, 'model': {'vocab': model['vocab']}}, 'a vocabulary without merges'),
        ({'version': '1.0'}, 'has no vocabulary'),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(BaseModelError, match=said):
            load_base(str(folder))
    path.unlink()
    (folder / 'vocab.json').write_text(json.dumps(model['vocab']))
    with pytest.raises(BaseModelError, match=r'vocab\.json without merges\.txt'):
        load_base(str(folder))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    with pytest.raises(BaseModelError, match='vocabulary without merges'):
        load_base(str(folder))


def test_hash_of_scalars() -> None:
    """They count, and the hash of the embedded base is what checkpoints of it carry."""
    embedded, _ = load_base(str(ROOT / 'configs' / 'sam3_tiny'))
    assert base.base_hash(embedded) == '43226cc831be82ddcf458e64cdc971aa23a296047aa2cf65ce309a3dac95c60d'
    module = torch.nn.Module()
    module.register_buffer('scale', torch.tensor(1.0))
    one = base.base_hash(module)
    module.scale += 1
    assert base.base_hash(module) != one


@pytest.mark.slow
def test_hash_across_processes(tmp_path: Path) -> None:
    """The first process of a distributed run computes the hash for all."""
    script = tmp_path / 'hash.py'
    script.write_text(
        """
import sys
import crack_plugin
import torch
from crack_plugin.models import base
torch.distributed.init_process_group('gloo', init_method='file://' + sys.argv[2], rank=int(sys.argv[1]), world_size=2)
calls = []
base.base_hash = lambda model: calls.append(1) or f'hash by {sys.argv[1]}'
print(base.shared_base_hash(torch.nn.Linear(1, 1)), len(calls))
"""
    )
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen([*command, rank, str(tmp_path / 'store')], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in '01'
    ]
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in ranks]
    assert said == ['hash by 0 1', 'hash by 0 0']


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match='is not a folder'):
        SAM3TextLoRA(base=str(tmp_path / 'absent'))
