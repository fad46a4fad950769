"""A training on the hub: what is uploaded, what is not, and that predictions from it are the same."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, ROOT, TOOLS, load_script, run_tool
from mmengine.config import Config
from safetensors.torch import load_file
from stand_in_hub import OWNER, StandInHub, stand_in_hub

from crack_plugin.hub import HubError
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.base_files import EMBEDDED
from crack_plugin.prediction import Predictor
from crack_plugin.sharing import privacy
from crack_plugin.sharing.push import push
from crack_plugin.sharing.training import SharingError, public_base, read_training

REPO = f'{OWNER}/cracks'
PUSHED = {
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
    'crack_plugin.json',
    'config.py',
    'report/report.md',
    'report/report.html',
    'report/curves.png',
}
SCORES = {'crack/IoU': 0.5281, 'crack/Dice': 0.6874, 'crack/Precision': 0.6, 'crack/Recall': 0.7, 'crack/clIoU': 0.9}
ROWS: list[dict[str, Any]] = [
    {'epoch': 1, 'iter': 6, 'lr': 1e-3, 'train_loss': 0.9, 'train_seconds': 30.0, 'crack/IoU': 0.25, 'crack/Dice': 0.4},
    {'epoch': 2, 'iter': 12, 'lr': 1e-4, 'train_loss': 0.5, 'train_seconds': 30.0, **SCORES},
    {'epoch': 3, 'iter': 18, 'lr': 1e-5, 'train_loss': 0.4, 'train_seconds': 30.0, 'crack/IoU': 0.5, 'crack/Dice': 0.6},
]
ROWS[-1] |= {'device': 'Fake GPU', 'peak_memory_mb': 3210.4, 'peak_memory_of': 'CUDA allocator'}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as server:
        yield server


@pytest.fixture(scope='module')
def trained_embedded(crack_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory as tools/train.py leaves it, of the embedded base, with adapters that change predictions."""
    folder = tmp_path_factory.mktemp('work_dirs') / 'my_bridge'
    folder.mkdir()
    photographs = folder.parent / 'secret_site'
    photographs.symlink_to(crack_folder)
    cfg = Config.fromfile(CONFIGS / 'sam3_tiny_lora_crack.py')
    cfg.merge_from_dict({f'{name}_dataloader.dataset.data_root': str(photographs) for name in ('train', 'val', 'test')})
    cfg.data_root = str(photographs)
    cfg.work_dir = str(folder)
    cfg.vis_backends = [{'type': 'WandbVisBackend', 'init_kwargs': {'entity': 'secret team'}}]
    cfg.custom_hooks = [{'type': 'WandbSegHook', 'project': 'secret project'}, {'type': 'EMAHook'}]
    cfg.dump(folder / 'my_bridge.py')
    torch.manual_seed(0)
    model = SAM3TextLoRA(base=cfg.model.base, lora=cfg.model.lora.to_dict())
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_adapter(folder / 'adapters' / 'best')
    record = {'epoch': 2, 'iter': 12, 'score': SCORES['crack/IoU']}
    (folder / 'adapters' / 'best' / 'checkpoint.json').write_text(json.dumps(record))
    (folder / 'history.json').write_text(json.dumps(ROWS))
    meta = {'epoch': 2, 'iter': 12, 'dataset_meta': {'classes': ('background', 'crack')}}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, folder / 'best_crack_IoU_epoch_2.pth')
    return folder


@pytest.fixture
def work_dir(trained_embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_embedded, tmp_path / 'work_dirs' / 'my_bridge'))


@pytest.fixture
def tool() -> Callable[..., None]:
    return load_script(TOOLS / 'push_to_hub.py').main


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take a second."""
    monkeypatch.setattr('crack_plugin.sharing.push.build_report', lambda *_, **__: None)


def refusal(call: Callable[[], Any], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as end:
        call()
    assert end.value.code in (1, 2)
    return capsys.readouterr().err


def header_of(card: bytes | str) -> dict[str, Any]:
    text = card.decode() if isinstance(card, bytes) else card
    return yaml.safe_load(text.split('---')[1])


def rewrite(work_dir: Path, **model: Any) -> None:
    """Change the model in the config of a work directory."""
    path = work_dir / 'my_bridge.py'
    cfg = Config.fromfile(path)
    cfg.model.update(model)
    cfg.dump(path)


def test_dry_run_writes_all_and_asks_nobody(
    work_dir: Path, crack_folder: Path, tool: Callable[..., None], hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.use_here(monkeypatch, work_dir.parent)
    tool([str(work_dir), REPO, '--dry-run', '--dataset-name', 'Bridges'])
    folder = work_dir / 'hub'
    assert {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()} == PUSHED
    assert hub.asked == [] and not (work_dir / 'hub.json').exists()

    header = header_of((folder / 'README.md').read_text())
    assert header['library_name'] == 'peft' and header['pipeline_tag'] == 'image-segmentation'
    assert header['license'] == 'apache-2.0' and 'base_model' not in header
    (result,) = header['model-index']
    assert result['name'] == 'cracks' and result['results'][0]['dataset']['name'] == 'Bridges'
    metrics = {metric['type']: metric['value'] for metric in result['results'][0]['metrics']}
    assert metrics == {key.removeprefix('crack/').lower(): value for key, value in SCORES.items()}
    card = (folder / 'README.md').read_text()
    assert '| **2 (Best)** | **52.81%** | **68.74%** | **60.00%** | **70.00%** |' in card
    assert 'that of the row in bold' in card and 'FalseAlarmPixels is no fraction' in card
    assert '| train | 6 |' in card and '| valid | 3 |' in card and 'Fake GPU' in card and '3,210 MiB' in card
    assert f"Predictor.from_pretrained('{REPO}')" in card

    # Nothing that tells of this machine, or of accounts.
    for path in folder.rglob('*'):
        if path.is_file():
            content = path.read_bytes()
            for private in (crack_folder, 'secret', work_dir, ROOT, Path.home()):
                assert str(private).encode() not in content, (path, private)
    shared = Config.fromfile(folder / 'config.py')
    assert shared.model.base == EMBEDDED and shared.train_dataloader.dataset.data_root == 'data/cracks'
    assert [hook['type'] for hook in shared.custom_hooks] == ['EMAHook']
    assert 'work_dir' not in shared and 'vis_backends' not in shared
    config = json.loads((folder / 'adapter_config.json').read_text())
    assert config['base_model_name_or_path'] == EMBEDDED
    saved, written = (
        load_file(each / 'adapter_model.safetensors') for each in (work_dir / 'adapters' / 'best', folder)
    )
    assert all(torch.equal(saved[name], written[name]) for name in saved.keys() | written.keys())
    # Again, over what it wrote; and from the folder as from a repository.
    tool([str(work_dir), REPO, '--dry-run'])
    assert Predictor.from_pretrained(folder, device='cpu').class_names == ['crack']


def test_push_and_predict(
    work_dir: Path, images: Path, tool: Callable[..., None], hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels from the repository are those of the training, and nothing but its own files is fetched."""
    photograph = next(images.glob('a.*'))
    config, adapter = work_dir / 'my_bridge.py', work_dir / 'adapters' / 'best'
    before = Predictor(config, adapter=adapter, device='cpu')(photograph)
    # A threshold that divides the picture.
    threshold = float(np.median(before.probabilities))
    rewrite(work_dir, threshold=threshold)
    expected = before.probabilities[0] > threshold
    assert 0.4 < expected.mean() < 0.6
    hub.use_here(monkeypatch, work_dir.parent / 'hf', 'hf_write')
    tool([str(work_dir), REPO])
    repository = hub.repositories[REPO]
    assert repository.private and len(repository.commits) == 2
    assert repository.commits[repository.head].keys() == PUSHED | {'.gitattributes'}
    record = json.loads((work_dir / 'hub.json').read_text())
    assert record == {'repo': REPO, 'url': f'{hub.url}/{REPO}', 'commit': repository.head, 'public': False}

    after = Predictor.from_pretrained(REPO, revision=repository.head, device='cpu')(photograph)
    np.testing.assert_array_equal(after.labels, expected)
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=0)
    assert not any('report' in path or 'config.py' in path for path in hub.asked if 'GET' in path and 'resolve' in path)

    # Pictures and a detail head of an earlier push do not stay.
    files = repository.commits[repository.head]
    stale = {'report/photograph.png': b'x', 'detail_head.safetensors': b'x'}
    repository.add({**files, **stale, 'notes.txt': b'mine'})
    push(work_dir / 'hub', REPO, public=False)
    now = repository.commits[repository.head]
    assert not stale.keys() & now.keys() and now['notes.txt'] == b'mine'
    # What somebody pushes in between is not overwritten.
    monkeypatch.setattr('crack_plugin.sharing.push.ModelCard.validate', lambda *_: repository.add({**now, 'new': b''}))
    with pytest.raises(HubError, match='at the same time'):
        push(work_dir / 'hub', REPO, public=False)
    assert 'new' in repository.commits[repository.head]


@pytest.mark.usefixtures('without_report')
@pytest.mark.slow
def test_adapter_of_a_checkpoint_alone(work_dir: Path, tool: Callable[..., None]) -> None:
    before = load_file(work_dir / 'adapters' / 'best' / 'adapter_model.safetensors')
    shutil.rmtree(work_dir / 'adapters')
    tool([str(work_dir), REPO, '--dry-run'])
    after = load_file(work_dir / 'hub' / 'adapter_model.safetensors')
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())
    assert '**2 (Best)**' in (work_dir / 'hub' / 'README.md').read_text()


@pytest.mark.usefixtures('without_report')
@pytest.mark.slow
def test_base_in_a_folder_needs_a_name(
    work_dir: Path, tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(work_dir), REPO, '--dry-run']
    # The embedded one is known by its hash, wherever it was.
    rewrite(work_dir, base='/elsewhere/configs/sam3_tiny')
    tool(arguments)
    assert json.loads((work_dir / 'hub' / 'crack_plugin.json').read_text())['model']['base'] == EMBEDDED
    path = work_dir / 'adapters' / 'best' / 'adapter_model.safetensors'
    content = path.read_bytes()
    path.write_bytes(content.replace(b'520b09c4', b'00000000'))
    assert '--base-model facebook/sam3' in refusal(lambda: tool(arguments), capsys)
    assert 'give a hub id' in refusal(lambda: tool([*arguments, '--base-model', '/elsewhere']), capsys)
    assert 'which licence' in refusal(lambda: tool([*arguments, '--base-model', 'owner/sam3']), capsys)
    tool([*arguments, '--base-model', 'facebook/sam3@v1'])
    header = header_of((work_dir / 'hub' / 'README.md').read_text())
    assert header['base_model'] == 'facebook/sam3' and header['license_name'] == 'sam-license'
    config = json.loads((work_dir / 'hub' / 'adapter_config.json').read_text())
    assert (config['base_model_name_or_path'], config['revision']) == ('facebook/sam3', 'v1')
    assert json.loads((work_dir / 'hub' / 'crack_plugin.json').read_text())['model']['base'] == 'facebook/sam3@v1'
    # What looks like a hub id may have been a relative path.
    rewrite(work_dir, base='models/sam3')
    assert '--base-model models/sam3' in refusal(lambda: tool(arguments), capsys)
    training = read_training(work_dir)
    for base in ('facebook/sam3', 'models/sam3@v1'):
        training.cfg.model.base = base
        assert public_base(training, None, path.parent) == base
    rewrite(work_dir, base={'_delete_': True, 'seed': 1})
    assert 'random weights' in refusal(lambda: tool(arguments), capsys)


@pytest.mark.usefixtures('without_report')
def test_licences_and_the_folder(
    work_dir: Path, tool: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(work_dir), REPO, '--dry-run']
    assert 'needs --license-name' in refusal(lambda: tool([*arguments, '--license', 'other']), capsys)
    assert 'give that as well' in refusal(lambda: tool([*arguments, '--license-name', 'mine']), capsys)
    tool([*arguments, '--license', 'other', '--license-name', 'mine', '--license-link', 'https://example.org/mine'])
    header = header_of((work_dir / 'hub' / 'README.md').read_text())
    assert (header['license'], header['license_name']) == ('other', 'mine')
    # No row of the history is that of the adapter.
    (work_dir / 'adapters' / 'best' / 'checkpoint.json').write_text('{"epoch": 9}')
    tool([*arguments, '--license', 'mit'])
    assert 'in bold' not in (work_dir / 'hub' / 'README.md').read_text()
    # What is in the folder that the tool did not write stays, whatever else is there.
    mine = work_dir / 'hub' / '.git'
    mine.touch()
    assert 'holds other files (.git)' in refusal(lambda: tool(arguments), capsys) and mine.exists()
    mine.unlink()
    link = work_dir / 'link'
    link.symlink_to(work_dir / 'hub')
    assert 'is a link' in refusal(lambda: tool([*arguments, '--output', str(link)]), capsys) and link.is_symlink()
    with monkeypatch.context() as patch:
        patch.chdir(work_dir / 'hub')
        assert 'the current folder' in refusal(lambda: tool([*arguments, '--output', '.']), capsys)
        patch.chdir(work_dir)
        assert 'is a file' in refusal(lambda: tool([*arguments, '--output', 'my_bridge.py']), capsys)


def test_what_is_missing(work_dir: Path, tool: Callable[..., None], capsys: pytest.CaptureFixture) -> None:
    arguments = [str(work_dir), REPO, '--dry-run']
    assert 'OWNER/NAME' in refusal(lambda: tool([str(work_dir), 'cracks']), capsys)
    assert 'OWNER/NAME' in refusal(lambda: tool([str(work_dir), 'some one/cracks']), capsys)
    (work_dir / 'hub').mkdir()
    (work_dir / 'hub' / 'mine.txt').touch()
    assert 'holds other files' in refusal(lambda: tool(arguments), capsys)
    assert (work_dir / 'hub' / 'mine.txt').exists()
    shutil.rmtree(work_dir / 'hub')
    rewrite(work_dir, trainable='all')
    assert 'every weight trained' in refusal(lambda: tool(arguments), capsys)
    rewrite(work_dir, trainable='lora')
    shutil.rmtree(work_dir / 'adapters')
    (work_dir / 'best_crack_IoU_epoch_2.pth').unlink()
    assert 'no adapter (adapters/best) and no checkpoint' in refusal(lambda: tool(arguments), capsys)
    (work_dir / 'history.json').unlink()
    assert 'neither history.json' in refusal(lambda: tool(arguments), capsys)
    assert not (work_dir / 'hub').exists() and not list(work_dir.glob('.*'))


@pytest.mark.usefixtures('without_report')
def test_private_names_stop_an_upload(
    work_dir: Path, tool: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(privacy.getpass, 'getuser', lambda: 'alice')
    arguments = [str(work_dir), 'alice/cracks', '--dry-run', '--dataset-name', 'photos of /home/alice/site']
    assert "'/alice/'" in refusal(lambda: tool(arguments), capsys)
    assert not (work_dir / 'hub').exists()
    # Her own name in the repository's is no secret.
    tool(arguments[:3])
    assert 'alice/cracks' in (work_dir / 'hub' / 'README.md').read_text()
    training, folder = read_training(work_dir), work_dir / 'hub'
    (folder / 'README.md').write_text('https://huggingface.co/alice/cracks')
    privacy.refuse_private(folder, training, 'alice/cracks')
    # Nor does it hide a folder.
    for path in ('/data/alice/cracks/photos', '/alice/cracks/alice/photos'):
        (folder / 'README.md').write_text(f'see {path}')
        with pytest.raises(SharingError, match="'/alice/'"):
            privacy.refuse_private(folder, training, 'alice/cracks')
    (folder / 'README.md').write_text('see /home/alice/cracks/photos')
    monkeypatch.setattr(privacy.getpass, 'getuser', lambda: 'root')
    monkeypatch.setattr(Path, 'home', lambda: Path('/home/alice/cracks'))
    with pytest.raises(SharingError, match="'/home/alice/cracks'"):
        privacy.refuse_private(folder, training, 'alice/cracks')


def test_test_pipeline_that_changes_images(
    work_dir: Path, tool: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    path = work_dir / 'my_bridge.py'
    cfg = Config.fromfile(path)
    cfg.test_dataloader.dataset.pipeline.insert(1, {'type': 'Resize', 'scale': (64, 64)})
    cfg.dump(path)
    said = refusal(lambda: tool([str(work_dir), REPO, '--dry-run']), capsys)
    assert 'the test pipeline has the step' in said and 'Resize' in said


@pytest.mark.usefixtures('without_report')
def test_refusals_of_the_hub(
    work_dir: Path,
    tool: Callable[..., None],
    hub: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'model.safetensors').write_bytes(b'x')
    hub.add(f'{OWNER}/other', tmp_path / 'other', private=True)

    tool([str(work_dir), REPO, '--dry-run'])

    def said(token: str, repo: str, public: bool = False) -> str:
        hub.use_here(monkeypatch, tmp_path / 'hf', token)
        with pytest.raises((HubError, SharingError)) as caught:
            push(work_dir / 'hub', repo, public)
        return str(caught.value)

    assert 'without an access token' in said('', REPO)
    assert 'wrong or has expired' in said('hf_wrong', REPO)
    assert "You don't have the rights" in said('hf_other', REPO) and 'hf auth whoami' in said('hf_read', REPO)
    assert 'did not write: model.safetensors' in said('hf_write', f'{OWNER}/other')
    assert REPO not in hub.repositories
    card = work_dir / 'hub' / 'README.md'
    sound = card.read_text()
    card.write_text(sound.replace('license: apache-2.0', 'license: mine'))
    refused = said('hf_write', REPO)
    assert '"license' in refused and '--license-name' in refused and REPO not in hub.repositories
    card.write_text(sound)
    assert push(work_dir / 'hub', REPO, public=True).public and not hub.repositories[REPO].private
    assert 'is public, which an upload does not change: add --public' in said('hf_write', REPO)
    assert push(work_dir / 'hub', REPO, public=True).commit == hub.repositories[REPO].head


@pytest.mark.slow
def test_hub_that_is_down(
    work_dir: Path,
    tool: Callable[..., None],
    hub: StandInHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """huggingface_hub tries several times."""
    hub.use_here(monkeypatch, work_dir.parent / 'hf', 'hf_write')
    hub.is_down = True
    assert 'down for maintenance' in refusal(lambda: tool([str(work_dir), REPO]), capsys)
    assert REPO not in hub.repositories
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    assert 'Is there a network?' in refusal(lambda: tool([str(work_dir), REPO]), capsys)


@pytest.mark.slow
def test_predict_in_an_empty_directory(work_dir: Path, images: Path, hub: StandInHub, tmp_path: Path) -> None:
    """With the tools alone: push, then predict from the repository; the same masks as from the work directory."""
    environment = hub.environment(tmp_path / 'hf', 'hf_write') | {'PYTHONPATH': str(ROOT)}
    pushed = run_tool(TOOLS / 'push_to_hub.py', work_dir, REPO, **environment)
    assert pushed.returncode == 0, pushed.stderr
    assert f'Pushed to {hub.url}/{REPO} (private)' in pushed.stdout
    local = run_tool(
        *(TOOLS / 'predict.py', images, '--config', work_dir / 'my_bridge.py', '--out', tmp_path / 'local'),
        *('--adapter', work_dir / 'adapters' / 'best', '--device', 'cpu'),
        **environment,
    )
    assert local.returncode == 0, local.stderr
    shutil.rmtree(work_dir)
    empty = tmp_path / 'empty'
    empty.mkdir()
    remote = run_tool(
        *(TOOLS / 'predict.py', images, '--adapter', REPO, '--out', 'results', '--device', 'cpu'),
        cwd=empty,
        **environment,
    )
    assert remote.returncode == 0, remote.stderr
    masks = sorted((tmp_path / 'local' / 'masks').rglob('*.png'))
    assert len(masks) == 3
    for mask in masks:
        name = mask.relative_to(tmp_path / 'local')
        assert mask.read_bytes() == (empty / 'results' / name).read_bytes(), name
    # Without a token it is as if there were no such repository.
    shutil.rmtree(tmp_path / 'hf')
    refused = run_tool(
        *(TOOLS / 'predict.py', images, '--adapter', REPO, '--out', 'other'),
        cwd=empty,
        **(environment | {'HF_TOKEN': ''}),
    )
    assert refused.returncode == 1 and 'run `hf auth login`' in refused.stderr and 'Traceback' not in refused.stderr
