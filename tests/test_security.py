"""Files from strangers are data: each payload here would make a folder, and none may."""

import contextlib
import http.server
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOOLS, load_script
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import init_model
from mmseg.registry import MODELS
from peft import PeftConfig
from stand_in_hub import stand_in_hub
from transformers import Sam3Config

from crack_plugin.checkpoints import CheckpointError
from crack_plugin.datasets import YOLOCrackDataset
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.adapters import AdapterError
from crack_plugin.models.base import BaseModelError, load_base
from crack_plugin.models.portable import PortableError
from crack_plugin.prediction import Predictor


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.mkdir, (self.folder,)


@pytest.fixture
def proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that must not come to be, even where torch's variable for unsafe loading is set."""
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    folder = tmp_path / 'proof'
    yield folder
    assert not folder.exists()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tiny_config: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a tool that has to refuse, and return what it says."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name: str, *arguments: str | Path) -> str:
        script = load_script(TOOLS / f'{name}.py')
        main = getattr(script, name, None) or script.main
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    return run


def write_zip(path: Path, folder: Path) -> None:
    torch.save({'state_dict': {}, 'meta': {}, 'payload': Payload(folder)}, path)


def write_bare_pickle(path: Path, folder: Path) -> None:
    path.write_bytes(pickle.dumps({'state_dict': Payload(folder)}))


def write_legacy(path: Path, folder: Path) -> None:
    torch.save({'payload': Payload(folder)}, path, _use_new_zipfile_serialization=False)


WRITERS = pytest.mark.parametrize('write', [write_zip, write_bare_pickle, write_legacy])


@WRITERS
def test_the_payload_works_where_it_is_let_in(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / 'evil.pth', tmp_path / 'made')
    # A bare pickle is no checkpoint, which torch finds out too late.
    with contextlib.suppress(RuntimeError):
        torch.load(tmp_path / 'evil.pth', weights_only=False)
    assert (tmp_path / 'made').is_dir()


@WRITERS
def test_tested_checkpoint(tiny_config: Path, tmp_path: Path, proof: Path, tool: Any, write: Any) -> None:
    write(tmp_path / 'evil.pth', proof)
    said = tool('test', tiny_config, tmp_path / 'evil.pth')
    assert f'checkpoint {tmp_path / "evil.pth"} is' in said
    if write is not write_bare_pickle:
        assert 'is refused: loading it would run code that it names (pathlib' in said


def test_resumed_checkpoint(tiny_config: Path, tmp_path: Path, proof: Path, tool: Any) -> None:
    work_dir = tmp_path / 'work_dir'
    work_dir.mkdir()
    write_zip(work_dir / 'epoch_1.pth', proof)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    assert 'is refused: loading it would run code' in tool('train', tiny_config, '--resume', '--work-dir', work_dir)


def test_config_inside_a_resumed_checkpoint(tiny_config: Path, tmp_path: Path, proof: Path) -> None:
    """MMEngine runs meta['config'], if there is one, as a config file: Python."""
    cfg = Config.fromfile(tiny_config)
    cfg.train_cfg.max_epochs, cfg.train_dataloader.dataset.indices = 1, 2
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    Runner.from_cfg(cfg).train()
    path = Path(cfg.work_dir, 'epoch_1.pth')
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['config'] = f'import pathlib\npathlib.Path({str(proof)!r}).mkdir()'
    torch.save(checkpoint, path)
    cfg.load_from, cfg.resume, cfg.experiment_name = str(path), True, 'resumed'
    cfg.train_cfg.max_epochs = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.epoch == 2


def test_load_from_init_model_and_merge(tiny_config: Path, tmp_path: Path, proof: Path, tool: Any) -> None:
    path = tmp_path / 'evil.pth'
    write_zip(path, proof)
    assert 'is refused' in tool('train', tiny_config, '--cfg-options', f'load_from={path}')
    assert 'is refused' in tool('merge_adapter', tiny_config, tmp_path / 'merged', '--checkpoint', path)
    with pytest.raises(CheckpointError, match='is refused'):
        init_model(str(tiny_config), str(path), device='cpu')


def test_checkpoint_from_an_address(
    tiny_config: Path, tmp_path: Path, proof: Path, tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.hub, which MMEngine downloads with, runs what a file says unless told otherwise."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    served = tmp_path / 'served'
    served.mkdir()
    write_zip(served / 'evil.pth', proof)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(served))

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = tool('test', tiny_config, f'http://127.0.0.1:{server.server_port}/evil.pth')
        server.shutdown()
    assert 'is refused: loading it would run code' in said


def test_adapter(tiny_sam3: dict, tmp_path: Path, proof: Path) -> None:
    folder = tmp_path / 'adapter'
    folder.mkdir()
    (folder / 'adapter_config.json').write_text(json.dumps({'peft_type': 'LORA', 'r': 8, 'target_modules': ['q_proj']}))
    torch.save({'payload': Payload(proof)}, folder / 'adapter_model.bin')
    model = {'type': 'SAM3TextLoRA', 'base': tiny_sam3, 'adapter': str(folder)}
    with pytest.raises(AdapterError, match=r'pickled adapter_model\.bin files are not read'):
        MODELS.build(model)
    # The pickle under the name of the safe format.
    (folder / 'adapter_model.bin').rename(folder / 'adapter_model.safetensors')
    with pytest.raises(AdapterError, match='damaged'):
        MODELS.build(model)


@pytest.mark.parametrize(
    'entries',
    [
        {'megatron_config': {'a': 1}, 'megatron_core': 'payload_module'},
        {'megatron_config': {'a': 1}},
        {'megatron_config': {}, 'megatron_core': 'megatron.payload_module'},
        {'megatron_core': 'payload_module'},
        {'auto_mapping': {'base_model_class': 'Model', 'parent_library': 'payload_module'}},
        {'corda_config': {'cache_file': 'evil.bin'}},
        {'corda_config': {'covariance_file': 'evil.bin'}, 'init_lora_weights': 'corda'},
        {'lora_ga_config': {'cache_file': 'evil.bin'}},
    ],
)
def test_adapter_that_makes_peft_import_or_unpickle(
    tiny_sam3: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict
) -> None:
    """Some versions of PEFT import what megatron_core names, so none gets to see the configuration."""
    (tmp_path / 'payload_module.py').write_text('raise SystemExit("ran")')
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / 'adapter'
    SAM3TextLoRA(base=tiny_sam3, lora={'target_modules': ['q_proj']}).save_adapter(folder)
    SAM3TextLoRA(base=tiny_sam3, adapter=str(folder))
    config = json.loads((folder / 'adapter_config.json').read_text())
    (folder / 'adapter_config.json').write_text(json.dumps({**config, **entries}))
    monkeypatch.setattr(PeftConfig, 'from_pretrained', lambda *_: pytest.fail('PEFT saw it'))
    with pytest.raises(AdapterError, match=f'refused: {next(iter(entries))}|refused: auto_mapping names'):
        MODELS.build({'type': 'SAM3TextLoRA', 'base': tiny_sam3, 'adapter': str(folder)})
    with pytest.raises(AdapterError, match='is refused'):
        SAM3TextLoRA(base=tiny_sam3, lora={'target_modules': ['q_proj'], **entries})


def test_config_in_a_repository(tiny_sam3: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Path) -> None:
    """It would run where it is read as a config; a prediction from the repository does not download it."""
    pushed = tmp_path / 'pushed'
    SAM3TextLoRA(base=tiny_sam3).save_adapter(pushed)
    content = f'import os\nos.mkdir({str(proof)!r})\nmodel = dict()\n'
    for name in ('config.py', 'adapter_config.py', 'crack_plugin.py'):
        (pushed / name).write_text(content)
    Config.fromfile(pushed / 'config.py', lazy_import=False)
    proof.rmdir()
    model = {'base': 'crack_plugin::sam3_tiny', 'prompts': ['crack']}
    description = {'format': 1, 'model': model, 'classes': ['crack'], 'fp16': False}
    (pushed / 'crack_plugin.json').write_text(json.dumps({**description, 'custom_imports': ['crack_plugin.json']}))
    with stand_in_hub() as hub:
        hub.use_here(monkeypatch, tmp_path / 'hf')
        hub.add('someone/cracks', pushed)
        with pytest.raises(PortableError, match='holds custom_imports'):
            Predictor.from_pretrained('someone/cracks')
        (pushed / 'crack_plugin.json').write_text(json.dumps(description))
        hub.add('someone/cracks', pushed)
        # Its adapter belongs to another base, which is found out after all else was read.
        with pytest.raises(AdapterError, match='other base weights'):
            Predictor.from_pretrained('someone/cracks')
    assert not list((tmp_path / 'hf').rglob('*.py'))


def test_base_that_names_code_on_the_hub(tiny_sam3: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers downloads and runs an attention called owner/name, if the package kernels is installed."""
    SAM3TextLoRA(base=tiny_sam3, lora=None).save_pretrained(tmp_path / 'base')
    path = tmp_path / 'base' / 'config.json'
    config = json.loads(path.read_text())
    config['_attn_implementation'] = 'somebody/kernel'
    assert Sam3Config.from_dict(config).vision_config._attn_implementation == 'somebody/kernel'
    path.write_text(json.dumps(config))
    monkeypatch.setattr(Sam3Config, 'from_dict', lambda *_: pytest.fail('transformers saw it'))
    with pytest.raises(BaseModelError, match=r"attn_implementation='somebody/kernel' is code on the Hugging Face hub"):
        load_base(str(tmp_path / 'base'))


def test_base(tiny_sam3: dict, tmp_path: Path, proof: Path) -> None:
    Sam3Config(**tiny_sam3, architectures=['Sam3Model']).save_pretrained(tmp_path / 'base')
    torch.save({'payload': Payload(proof)}, tmp_path / 'base' / 'pytorch_model.bin')
    with pytest.raises(BaseModelError, match='is refused: loading its pickled weights would run code'):
        load_base(str(tmp_path / 'base'))


def test_data_yaml(tmp_path: Path, proof: Path) -> None:
    (tmp_path / 'data.yaml').write_text(f'names: !!python/object/apply:os.mkdir [{str(proof)!r}]\n')
    with pytest.raises(ValueError, match=r'data\.yaml'):
        YOLOCrackDataset(tmp_path)
