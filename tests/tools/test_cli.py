"""`tools/train.py`, `tools/test.py` and the `dist_*.sh` scripts: arguments, errors, and a run of a toy model."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch._utils import ExceptionWrapper

from crack_plugin import cli

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'crack_plugin_tool_{name}', TOOLS / f'{name}.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train_tool():
    return load_tool('train')


@pytest.fixture
def test_tool():
    return load_tool('test')


@MODELS.register_module()
class CliToyModel(BaseModel):
    """Fits one weight, and predicts it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        output = self.layer(torch.stack(inputs))
        return {'loss': (output**2).mean()} if mode == 'loss' else [self.layer.weight.item()] * len(inputs)


@DATASETS.register_module()
class CliToyDataset(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'inputs': torch.ones(1), 'data_samples': index}


@METRICS.register_module()
class CliToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {'weight': results[0]}


TOY_CONFIG = """
model = dict(type='CliToyModel')
loader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type='CliToyDataset'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
train_dataloader = loader
test_dataloader = loader
test_evaluator = dict(type='CliToyMetric')
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
"""


@pytest.fixture
def toy_config(tmp_path):
    path = tmp_path / 'toy.py'
    path.write_text(TOY_CONFIG)
    return str(path)


def usage_error(call, capsys) -> str:
    """The one-line error that argparse ended `call` with."""
    with pytest.raises(SystemExit) as exit_info:
        call()
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_arguments_of_the_stock_tools_are_accepted(tool, toy_config):
    parser = load_tool(tool).make_parser()
    common = ['--work-dir', 'w', '--launcher', 'pytorch', '--local-rank', '1', '--cfg-options', 'a.b=[1,2]', 'c=x']
    own = {
        'train': ['--resume', '--amp'],
        'test': ['--out', 'o', '--show', '--show-dir', 's', '--wait-time', '0.5', '--tta'],
    }
    args = cli.parse_arguments(parser, [toy_config, *own[tool], *common])
    assert (args.config, args.work_dir, args.launcher, args.local_rank) == (toy_config, 'w', 'pytorch', 1)
    assert args.cfg_options == {'a.b': [1, 2], 'c': 'x'}


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('thin crack', 'thin crack'),
        ("['thin crack', 'spalling']", ['thin crack', 'spalling']),
        ('[thin crack,spalling of concrete]', ['thin crack', 'spalling of concrete']),
        ('[(1, 2), (3, 4)]', [(1, 2), (3, 4)]),
        ('(1008,1008)', (1008, 1008)),
        ('1e-4', 1e-4),
        ('None', None),
        ('True', True),
        ('1,2', [1, 2]),
        ('[]', []),
        (r'(?!detr_decoder|neck).*\.(q_proj|v_proj)', r'(?!detr_decoder|neck).*\.(q_proj|v_proj)'),
        ("[crack's edge, spalling]", ["crack's edge", 'spalling']),
    ],
)
def test_overrides_keep_blanks_inside_values(value, expected, toy_config, train_tool):
    args = train_tool.make_parser().parse_args([toy_config, '--cfg-options', f'key={value}'])
    assert args.cfg_options == {'key': expected}


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ("{'crack': 'crack'}", {'crack': 'crack'}),
        (
            "{'Crack-fine': 'crack', 'scale bar': None, '0': 'crack'}",
            {'Crack-fine': 'crack', 'scale bar': None, '0': 'crack'},
        ),
        ('{Crack fine: crack, scale bar: None}', {'Crack fine': 'crack', 'scale bar': None}),
        ('{}', {}),
        (
            "[{'type':'ForegroundDiceLoss'},{'type':'CrossEntropyLoss','loss_weight':0.5}]",
            [{'type': 'ForegroundDiceLoss'}, {'type': 'CrossEntropyLoss', 'loss_weight': 0.5}],
        ),
        (
            "[dict(type='FocalLoss', gamma=2.0), dict(type='DiceLoss', use_sigmoid=False)]",
            [{'type': 'FocalLoss', 'gamma': 2.0}, {'type': 'DiceLoss', 'use_sigmoid': False}],
        ),
        (
            "{'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341), 'batch': 2}",
            {'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341), 'batch': 2},
        ),
        (
            '{"type": "CrossEntropyLoss", "use_sigmoid": true, "class_weight": [1, -2.5], "x": null}',
            {'type': 'CrossEntropyLoss', 'use_sigmoid': True, 'class_weight': [1, -2.5], 'x': None},
        ),
        ("['a, b', 'c']", ['a, b', 'c']),
        ("['1', 2]", ['1', 2]),
        ("[('a',), ['b: c', {}]]", [('a',), ['b: c', {}]]),
        (
            r"{'target_modules': r'.*\.(2[4-9]|3[01])\.q_proj', 'r': 8}",
            {'target_modules': r'.*\.(2[4-9]|3[01])\.q_proj', 'r': 8},
        ),
        (r'{target_modules: .*\.(q_proj|v_proj), r: 8}', {'target_modules': r'.*\.(q_proj|v_proj)', 'r': 8}),
        (r"{'it\'s': 1}", {"it's": 1}),
        ("{0: 'crack', 1: None}", {0: 'crack', 1: None}),
    ],
)
def test_overrides_hold_dicts_and_quoted_texts(value, expected, toy_config, train_tool):
    args = train_tool.make_parser().parse_args([toy_config, '--cfg-options', f'key={value}', 'other=1'])
    assert args.cfg_options == {'key': expected, 'other': 1}
    assert repr(args.cfg_options['key']) == repr(expected)  # 1 is not True, nor a list a tuple


@pytest.mark.parametrize(
    ('value', 'reason'),
    [
        ("{'crack': 'crack'", "'}' is missing"),
        ("{'crack'}", "':' and a value are missing after 'crack'"),
        ("{'crack': }", 'a value is missing'),
        ("{'crack: crack}", 'the quote of'),
        ("{'a': 1} b", "'b' follows where the value ends"),
        ("['a' 'b']", "a comma or ']' is missing before"),
        ('[a, (b]', 'a bracket is not closed'),
        ('{crack:', 'it ends too early'),
    ],
)
def test_override_that_cannot_be_read_is_one_line(value, reason, toy_config, train_tool, capsys):
    error = usage_error(lambda: train_tool.train([toy_config, '--cfg-options', 'a=1', f'b.c={value}']), capsys)
    assert f'b.c={value}'[:8] in error and reason in error and 'double quotes' in error


def merged(content: dict, **options) -> dict:
    cfg = Config(content)
    cli.merge_options(cfg, {key.replace('__', '.'): value for key, value in options.items()})
    return cfg.to_dict()


def test_dict_override_is_merged_or_takes_the_place_of_what_is_none():
    assert merged({'m': {'a': {'x': 1}}}, m__a={'y': 2}) == {'m': {'a': {'x': 1, 'y': 2}}}
    for present in (None, 5, [{'type': 'A'}, {'type': 'B'}]):
        assert merged({'m': {'a': present}}, m__a={'type': 'C'}) == {'m': {'a': {'type': 'C'}}}
    assert merged({'m': {}}, m__a={'type': 'C'}) == {'m': {'a': {'type': 'C'}}}
    assert merged({'m': {'a': {'x': 1}}}, m__a={0: 'crack'}) == {'m': {'a': {'x': 1, 0: 'crack'}}}
    assert merged({'m': [{'x': 1}]}, m__0={'y': 2}) == {'m': [{'x': 1, 'y': 2}]}
    assert merged({'m': {'a': {'x': 1}}}, m__a=None) == {'m': {'a': None}}


@pytest.mark.parametrize('key', ['m.a.type', 'm.b.7.x', 'm.b.x', 'm.c.x'])
def test_override_without_a_place_is_named(key):
    content = {'m': {'a': None, 'b': [{'x': 1}], 'c': 5}}
    with pytest.raises(cli.ToolError, match=f'--cfg-options {key}: the config has no place'):
        cli.merge_options(Config(content), {'m.d': 1, key: 'B'})


def test_checkpoint_may_follow_an_option(toy_config, tmp_path, test_tool):
    checkpoint = tmp_path / 'best.pth'
    checkpoint.touch()
    args = cli.parse_arguments(test_tool.make_parser(), [toy_config, '--work-dir', 'w', str(checkpoint)])
    assert args.checkpoint == str(checkpoint)


def test_local_rank_reaches_the_environment(toy_config, monkeypatch, train_tool):
    monkeypatch.delenv('LOCAL_RANK')
    cli.parse_arguments(train_tool.make_parser(), [toy_config, '--local_rank', '3'])
    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['missing.py'], 'config file not found: missing.py'),
        (['best.pth'], 'not a config file'),
        (['toy.py', '--cfg-options', 'model.lora'], 'expected key=value without blanks around "=", got \'model.lora\''),
        (['toy.py', '--launcher', 'ssh'], 'invalid choice'),
    ],
)
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_wrong_arguments_are_usage_errors(tool, argv, message, toy_config, tmp_path, capsys):
    (tmp_path / 'best.pth').touch()
    module = load_tool(tool)
    assert message in usage_error(lambda: getattr(module, tool)(argv), capsys)


def test_missing_checkpoint_is_a_usage_error(toy_config, capsys, test_tool):
    error = usage_error(lambda: test_tool.test([toy_config, 'missing.pth']), capsys)
    assert 'checkpoint not found: missing.pth' in error


def test_adapter_folder_as_checkpoint_names_the_way_that_works(toy_config, tmp_path, capsys, test_tool):
    error = usage_error(lambda: test_tool.test([toy_config, str(tmp_path)]), capsys)
    assert f'--cfg-options model.adapter={tmp_path}' in error


def test_checkpoint_address_is_left_to_mmengine(test_tool):
    assert test_tool.checkpoint_file('https://example.org/best.pth') == 'https://example.org/best.pth'


def test_work_dir_falls_back_to_config_then_to_its_name(toy_config, train_tool):
    parser = train_tool.make_parser()

    def work_dir(*argv):
        return cli.load_config(parser.parse_args([toy_config, *argv])).work_dir

    assert work_dir() == 'work_dirs/toy'
    assert work_dir('--cfg-options', 'work_dir=from_config') == 'from_config'
    assert work_dir('--work-dir', 'given', '--cfg-options', 'work_dir=from_config') == 'given'


def set_precision(train_tool, config: str, *argv: str) -> Config:
    parser = train_tool.make_parser()
    args = parser.parse_args([config, *argv])
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(args.cfg_options or {})
    train_tool.set_precision(cfg, args, parser)
    return cfg


def test_mixed_precision_without_gpu_names_the_option(tmp_path, capsys, monkeypatch, train_tool):
    monkeypatch.setattr(train_tool, 'get_device', lambda: 'cpu')
    config = tmp_path / 'amp.py'
    config.write_text(TOY_CONFIG.replace("'OptimWrapper'", "'AmpOptimWrapper'"))
    error = usage_error(lambda: train_tool.train([str(config)]), capsys)
    assert '--cfg-options optim_wrapper.type=OptimWrapper' in error


def test_amp_flag_without_gpu_says_to_leave_it_out(toy_config, capsys, monkeypatch, train_tool):
    monkeypatch.setattr(train_tool, 'get_device', lambda: 'cpu')
    error = usage_error(lambda: set_precision(train_tool, toy_config, '--amp'), capsys)
    assert 'leave out --amp' in error


def test_amp_flag_selects_amp_wrapper_on_gpu(toy_config, monkeypatch, train_tool):
    monkeypatch.setattr(train_tool, 'get_device', lambda: 'cuda')
    wrapper = set_precision(train_tool, toy_config, '--amp').optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_amp_flag_refuses_other_wrappers(toy_config, capsys, train_tool):
    call = [toy_config, '--amp', '--cfg-options', 'optim_wrapper.type=ApexOptimWrapper']
    assert 'not ApexOptimWrapper' in usage_error(lambda: set_precision(train_tool, *call), capsys)


def test_overridden_wrapper_loses_its_amp_settings(tmp_path, monkeypatch, train_tool):
    monkeypatch.setattr(train_tool, 'get_device', lambda: 'cpu')
    config = tmp_path / 'amp.py'
    config.write_text(
        TOY_CONFIG.replace(
            "type='OptimWrapper'", "type='AmpOptimWrapper', dtype='bfloat16', clip_grad=dict(max_norm=1)"
        )
    )
    wrapper = set_precision(train_tool, str(config), '--cfg-options', 'optim_wrapper.type=OptimWrapper').optim_wrapper
    assert set(wrapper) == {'type', 'optimizer', 'clip_grad'}


def test_train_returns_the_model_and_resumes(toy_config, train_tool):
    first = train_tool.train([toy_config, '--work-dir', 'w', '--cfg-options', 'experiment_name=cli_first'])
    assert isinstance(first, CliToyModel)
    # Each of the two steps multiplies the weight by 1 - 2 * lr.
    assert first.layer.weight.item() == pytest.approx(0.8**2)

    overrides = ['train_cfg.max_epochs=2', 'experiment_name=cli_second']
    second = train_tool.train([toy_config, '--work-dir', 'w', '--resume', '--cfg-options', *overrides])
    assert second.layer.weight.item() == pytest.approx(0.8**4)


def test_test_scores_the_checkpoint_or_the_model_as_configured(toy_config, train_tool, test_tool):
    train_tool.train([toy_config, '--work-dir', 'w', '--cfg-options', 'experiment_name=cli_train'])

    argv = [toy_config, 'w/epoch_1.pth', '--work-dir', 'trained', '--cfg-options', 'experiment_name=cli_trained']
    assert test_tool.test(argv)['weight'] == pytest.approx(0.8**2)
    assert test_tool.test([toy_config, '--work-dir', 'plain'])['weight'] == 1

    def mentions_no_checkpoint(work_dir):
        (log,) = Path(work_dir).glob('*/*.log')
        return 'No checkpoint given' in log.read_text()

    assert mentions_no_checkpoint('plain') and not mentions_no_checkpoint('trained')


def test_tta_needs_its_config_keys(toy_config, capsys, test_tool):
    error = usage_error(lambda: test_tool.test([toy_config, '--tta']), capsys)
    assert '--tta needs tta_pipeline and tta_model in the config' in error and toy_config in error


def test_tta_wraps_the_model(toy_config, test_tool):
    cfg = Config.fromfile(toy_config)
    cfg.tta_model, cfg.tta_pipeline = {'type': 'SegTTAModel'}, [{'type': 'LoadImageFromFile'}]
    test_tool.use_tta(cfg, test_tool.make_parser())
    assert cfg.model == {'type': 'SegTTAModel', 'module': {'type': 'CliToyModel'}}
    assert cfg.test_dataloader.dataset.pipeline == [{'type': 'LoadImageFromFile'}]


def test_out_reaches_the_metric_that_writes_label_maps(test_tool):
    parser = test_tool.make_parser()
    cfg = Config({'test_evaluator': {'type': 'mmseg.IoUMetric'}})
    test_tool.save_label_maps(cfg, 'maps', parser)
    assert cfg.test_evaluator.output_dir == 'maps'

    cfg = Config({'test_evaluator': [{'type': 'CliToyMetric'}, {'type': 'mmseg.IoUMetric'}]})
    test_tool.save_label_maps(cfg, 'maps', parser)
    assert 'output_dir' not in cfg.test_evaluator[0] and cfg.test_evaluator[1].output_dir == 'maps'


def test_out_without_such_a_metric_is_a_usage_error(toy_config, capsys, test_tool):
    error = usage_error(lambda: test_tool.test([toy_config, '--out', 'maps']), capsys)
    assert '--out needs a metric that writes label maps' in error and 'CliToyMetric' in error


def test_show_dir_paints_every_image(toy_config, test_tool):
    parser = test_tool.make_parser()
    args = parser.parse_args([toy_config, '--show-dir', 'painted'])
    hook = {'type': 'SegVisualizationHook'}
    cfg = Config({'default_hooks': {'visualization': hook}, 'visualizer': {'type': 'SegLocalVisualizer'}})
    test_tool.paint_predictions(cfg, args, parser)
    assert cfg.default_hooks.visualization == {'type': 'SegVisualizationHook', 'draw': True, 'interval': 1}
    assert cfg.visualizer.save_dir == 'painted'


def test_show_without_visualization_hook_is_a_usage_error(toy_config, capsys, test_tool):
    error = usage_error(lambda: test_tool.test([toy_config, '--show']), capsys)
    assert 'default_hooks.visualization' in error


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that `cli` takes for crack_plugin."""
    path = tmp_path / 'package.py'
    path.write_text(
        'def complain():\n'
        '    raise ValueError(\n'
        "        'labels/1.txt, line 2: '\n"
        "        'odd number of coordinates'\n"
        '    )\n'
        'def slip():\n'
        "    return int('x')\n"
    )
    spec = importlib.util.spec_from_file_location('package', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(cli, 'find_spec', lambda name: importlib.util.spec_from_file_location(name, path))
    return module


def test_error_raised_by_the_package_is_one_paragraph(capsys, package, train_tool):
    with pytest.raises(SystemExit) as exit_info, cli.readable_errors(train_tool.make_parser()):
        package.complain()
    assert exit_info.value.code == 1
    error = capsys.readouterr().err
    assert error.endswith('error: labels/1.txt, line 2: odd number of coordinates\n') and 'Traceback' not in error


def call_in_worker(function) -> None:
    """Call `function` as a DataLoader worker does, whose errors reach the main process as text."""
    try:
        function()
    except Exception:  # noqa: BLE001 - as torch does
        ExceptionWrapper(where='in DataLoader worker process 0').reraise()


def test_so_is_one_from_a_dataloader_worker(capsys, package, train_tool):
    with pytest.raises(SystemExit), cli.readable_errors(train_tool.make_parser()):
        call_in_worker(package.complain)
    error = capsys.readouterr().err
    assert error.endswith('error: labels/1.txt, line 2: odd number of coordinates\n') and 'Traceback' not in error


def test_programming_errors_in_a_worker_keep_their_traceback(package, train_tool):
    with pytest.raises(ValueError, match='invalid literal'), cli.readable_errors(train_tool.make_parser()):
        call_in_worker(package.slip)


def test_programming_errors_keep_their_traceback(package, train_tool):
    with pytest.raises(ValueError, match='invalid literal'), cli.readable_errors(train_tool.make_parser()):
        package.slip()
    with pytest.raises(ValueError, match='elsewhere'), cli.readable_errors(train_tool.make_parser()):
        raise ValueError('elsewhere')


def test_scripts_run_from_any_folder(tmp_path):
    result = subprocess.run(
        [sys.executable, TOOLS / 'train.py', 'missing.py'], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.endswith('train.py: error: argument config: config file not found: missing.py\n')


@pytest.fixture
def recorded_python(tmp_path):
    """An interpreter for the `dist_*.sh` scripts that prints its arguments instead of starting processes."""
    path = tmp_path / 'python'
    path.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def run_dist(script: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOLS / script, *argv], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ('script', 'argv', 'expected'),
    [
        ('dist_train.sh', ['c.py', '2', '--resume'], ['train.py', 'c.py', '--resume']),
        ('dist_test.sh', ['c.py', 'best.pth', '2', '--tta'], ['test.py', 'c.py', 'best.pth', '--tta']),
        ('dist_test.sh', ['c.py', '2', '--cfg-options', 'a="b c"'], ['test.py', 'c.py', '--cfg-options', 'a="b c"']),
    ],
)
def test_dist_scripts_start_torchrun(script, argv, expected, recorded_python):
    environment = {'NNODES': '3', 'NODE_RANK': '1', 'MASTER_ADDR': 'host', 'PORT': '1234'}
    result = run_dist(script, *argv, PYTHON=str(recorded_python), **environment)
    module, *options = result.stdout.splitlines()[1:]
    assert module == 'torch.distributed.run'
    torchrun = ['--nnodes=3', '--node_rank=1', '--master_addr=host', '--master_port=1234', '--nproc_per_node=2']
    assert options == [*torchrun, str(TOOLS / expected[0]), *expected[1:], '--launcher', 'pytorch']


@pytest.mark.parametrize('argv', [['c.py'], ['c.py', 'best.pth'], ['c.py', 'best.pth', '--tta']])
@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_dist_scripts_want_a_number_of_gpus(script, argv):
    result = run_dist(script, *argv)
    assert result.returncode == 2 and result.stderr.startswith('usage:')


def shown(parser, capsys, error: Exception, in_worker: bool = False) -> str:
    """The one paragraph that `readable_errors` makes of an error."""

    def fail():
        raise error

    with pytest.raises(SystemExit) as exit_info, cli.readable_errors(parser):
        call_in_worker(fail) if in_worker else fail()
    assert exit_info.value.code == 1
    text = capsys.readouterr().err
    assert 'Traceback' not in text and len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB'),
        torch.AcceleratorError('CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously'),
        RuntimeError('CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`'),
        RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
        RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
        RuntimeError('cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`'),
        RuntimeError("NCCL error in: x.cpp:1\nLast error:\nCuda failure 'out of memory'"),
        RuntimeError('MPS backend out of memory (MPS allocated: 18 GB)'),
    ],
    ids=str,
)
def test_full_gpu_gets_advice(error, train_tool, capsys):
    text = shown(train_tool.make_parser(), capsys, error)
    assert 'the GPU has too little memory' in text and 'lowmem.py' in text
    assert 'out of memory' in text.lower() or '_FAILED' in text


@pytest.mark.parametrize('in_worker', [False, True])
@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        MemoryError('Unable to allocate 8.00 TiB for an array with shape (1048576, 1048576) and data type float64'),
        RuntimeError(
            "[alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError('[alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.'),
        OSError(12, 'Cannot allocate memory'),
        cv2.error('OpenCV(4.13) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes'),
        RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED'),
    ],
    ids=str,
)
def test_full_memory_gets_the_advice_for_a_machine(error, in_worker, train_tool, capsys):
    text = shown(train_tool.make_parser(), capsys, error, in_worker)
    assert "the machine has too little memory (RAM, not the GPU's)" in text and 'num_workers=1' in text


def test_real_failures_to_allocate_are_recognised(train_tool, capsys):
    for allocate in (lambda: torch.empty(2**58, dtype=torch.uint8), lambda: bytearray(2**60)):
        with pytest.raises(SystemExit), cli.readable_errors(train_tool.make_parser()):
            allocate()
        assert 'the machine has too little memory' in capsys.readouterr().err


@pytest.mark.parametrize(
    'message', ['cuDNN error: CUDNN_STATUS_INTERNAL_ERROR', 'CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling x']
)
def test_error_that_may_be_a_full_gpu_keeps_its_traceback_with_a_note(message, train_tool):
    with pytest.raises(RuntimeError) as caught, cli.readable_errors(train_tool.make_parser()):
        raise RuntimeError(message)
    assert 'A full GPU is often behind' in ''.join(caught.value.__notes__)


def test_other_accelerator_errors_keep_their_traceback(train_tool):
    with pytest.raises(RuntimeError) as caught, cli.readable_errors(train_tool.make_parser()):
        raise torch.AcceleratorError('CUDA error: device-side assert triggered')
    assert not hasattr(caught.value, '__notes__')
