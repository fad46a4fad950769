"""`tools/train.py`, `tools/test.py` and the `dist_*.sh` scripts: arguments, errors, and a run of a toy model."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

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
