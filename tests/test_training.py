"""What users put around a training, through a real runner or tool: zero-shot, several prompts, EMA and the rest."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_SAM3, TOOLS, load_script
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from reference import plain_sam3
from torch import Tensor, nn

from crack_plugin.datasets.synthetic import write_dataset
from crack_plugin.models import SAM3TextLoRA

FAST = {'optim_wrapper.optimizer.lr': 1e-2, 'model.lora.lora_dropout': 0.0}
Scores = dict[str, float]


@pytest.fixture
def run_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Scores]:
    """``tools/test.py`` in this process; returns its metrics but the times."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('LOCAL_RANK', '0')
    tool = load_script(TOOLS / 'test.py')

    def run(config: Path, *arguments: str | Path, **options: Any) -> Scores:
        options = {'experiment_name': f'test_{time.monotonic_ns()}', **options}
        pairs = [f'{key}={value}' for key, value in options.items()]
        scores = tool.test([str(config), *map(str, arguments), '--cfg-options', *pairs])
        return {name: value for name, value in scores.items() if 'time' not in name}

    return run


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path) -> Path:
    """The tiny config, on a base whose predictions are neither all crack nor all background."""
    plain_sam3(TINY_SAM3).save_pretrained(tmp_path / 'base')
    path = tmp_path / 'config.py'
    path.write_text(f'{tiny_config.read_text()}\nmodel = dict(base={str(tmp_path / "base")!r})\n')
    return path


def train(config: Path, work_dir: Path, *hooks: Hook, **options: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        {'work_dir': str(work_dir), 'experiment_name': f'{work_dir.name}_{time.monotonic_ns()}', **FAST, **options}
    )
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, priority='LOWEST')
    runner.train()
    return runner


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """Values of the adapters that train."""
    return {
        name: weight.detach().clone()
        for name, weight in model.named_parameters()
        if 'lora_' in name and 'detr_decoder' not in name and 'geometry_encoder' not in name
    }


def checkpoint(work_dir: Path, name: str = 'epoch_2.pth') -> dict[str, Any]:
    return torch.load(work_dir / name)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=tolerance, rtol=tolerance)


class Watch(Hook):
    """Keeps the weights before training, after each iteration and during each validation, and the scores."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.scores: list[Scores] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self.start = self.start or adapters(runner.model)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.trained.append(adapters(runner.model))

    def before_val_epoch(self, runner: Runner) -> None:
        self.validated.append(adapters(runner.model))

    def after_val_epoch(self, runner: Runner, metrics: Scores | None = None) -> None:
        self.scores.append({name: value for name, value in (metrics or {}).items() if 'time' not in name})


class Crash(Hook):
    """Ends training in the second epoch."""

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 4:
            raise KeyboardInterrupt


# ---- zero-shot


def test_zero_shot_equals_fresh_adapters(config: Path, tmp_path: Path, run_test: Callable[..., Scores]) -> None:
    zero_shot = tmp_path / 'zero_shot.py'
    zero_shot.write_text(config.read_text().replace('sam3_lora_crack.py', 'sam3_zeroshot_crack.py'))
    scores = run_test(zero_shot)
    assert scores == run_test(config)
    assert 0 < scores['crack/IoU'] < 1
    train(config, tmp_path / 'trained')
    assert scores != run_test(config, tmp_path / 'trained' / 'epoch_2.pth')


# ---- several prompts

DEFECTS = ('crack', 'spalling', 'rust stain')


@pytest.fixture(scope='module')
def defects_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with cracks, spalling and rust stains."""
    folder = tmp_path_factory.mktemp('defects') / 'export'
    write_dataset(folder, n_train=8, n_valid=3, size=(56, 56), defects=DEFECTS, negative_share=0.0, seed=3)
    return folder


@pytest.fixture
def defects_config(config: Path, tmp_path: Path, defects_folder: Path) -> Path:
    """Three prompts for three classes."""
    path = tmp_path / 'defects.py'
    path.write_text(
        f"""
_base_ = {str(config)!r}
model = dict(prompts={list(DEFECTS)!r}, lora=dict(lora_dropout=0.0))
dataset = dict(data_root={str(defects_folder)!r}, classes={DEFECTS!r})
train_dataloader = dict(batch_size=4, dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
"""
    )
    return path


class Calls(Hook):
    """Counts calls of the model's parts, with the number of rows of each."""

    def __init__(self, model: SAM3TextLoRA) -> None:
        self.rows: dict[str, list[int]] = {'vision': [], 'text': [], 'fusion': []}
        sam3 = model.model
        parts = sam3.vision_encoder.backbone.embeddings, sam3.text_encoder.text_model, sam3.detr_encoder
        for name, part in zip(self.rows, parts, strict=True):
            part.register_forward_hook(self._record(name))

    def _record(self, name: str) -> Callable[..., None]:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:
            self.rows[name].append(len(output if isinstance(output, torch.Tensor) else output.last_hidden_state))

        return record


def test_all_prompts_share_one_pass(defects_config: Path) -> None:
    """Vision once an image, text once a prompt, the part between them once for all pairs."""
    runner = Runner.from_cfg(Config.fromfile(defects_config))
    runner.model.eval()
    calls = Calls(runner.model)
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader)))
    with torch.no_grad():
        samples = runner.model.test_step(batch)
    assert calls.rows == {'vision': [4], 'text': [3], 'fusion': [12]}
    for sample in samples:
        logits = sample.seg_logits.data
        assert logits.shape == (4, 56, 56)
        assert not logits[0].any()
        # Foreground where all prompts together outweigh the background, then the likeliest prompt.
        probability = logits.softmax(dim=0)
        expected = torch.where(probability[0] < 0.5, probability[1:].argmax(dim=0) + 1, 0)
        assert torch.equal(sample.pred_sem_seg.data[0], expected)


@pytest.mark.slow
def test_each_prompt_learns_its_own_class(
    defects_config: Path, tmp_path: Path, run_test: Callable[..., Scores]
) -> None:
    epochs = 100
    options = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'default_hooks.checkpoint.interval': epochs,
        'param_scheduler.0.T_max': epochs,
        'optim_wrapper.optimizer.lr': 5e-3,
    }
    runner = train(defects_config, tmp_path / 'work_dir', **options)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert losses[-4:].mean() < losses[:4].mean() - 0.1

    seen, probability = np.zeros((4, 1)), np.zeros((4, 3))
    runner.model.eval()
    with torch.no_grad():
        for batch in runner.train_dataloader:
            for sample in runner.model.test_step(batch):
                by_prompt = sample.seg_logits.data.softmax(dim=0)[1:].flatten(1)
                truth = nn.functional.one_hot(sample.gt_sem_seg.data.flatten(), 4)
                probability += (by_prompt @ truth.float()).T.numpy()
                seen[:, 0] += truth.sum(dim=0).numpy()
    mean = probability / seen  # [true class, prompt], the background first
    for prompt, column in enumerate(mean.T):
        own, others = column[prompt + 1], np.delete(column[1:], prompt)
        assert own > column[0], mean
        assert own > 2 * others.max(), mean

    on_train = {'test_dataloader.dataset.split': 'train'}
    before = run_test(defects_config, **on_train)
    after = run_test(defects_config, tmp_path / 'work_dir' / f'epoch_{epochs}.pth', **on_train)
    for name in DEFECTS:
        assert after[f'crack/dIoU/{name}'] > 2 * before[f'crack/dIoU/{name}']


# ---- EMA

MOMENTUM = 0.3
EMA = {'custom_hooks': [{'type': 'EMAHook', 'momentum': MOMENTUM}]}


def average(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Exponential moving average by its definition, from the weights after the first step on."""
    result = weights[0]
    for step in weights[1:]:
        result = {name: (1 - MOMENTUM) * result[name] + MOMENTUM * value for name, value in step.items()}
    return result


def test_ema_is_what_is_validated_saved_and_tested(
    config: Path, tmp_path: Path, run_test: Callable[..., Scores]
) -> None:
    watch, work_dir = Watch(), tmp_path / 'ema'
    train(config, work_dir, watch, **EMA)
    per_epoch = len(watch.trained) // 2
    assert_same(watch.validated[0], average(watch.trained[:per_epoch]), 1e-6)
    assert_same(watch.validated[1], average(watch.trained), 1e-6)
    assert any(not torch.equal(value, watch.trained[-1][name]) for name, value in watch.validated[1].items())

    saved = checkpoint(work_dir)
    assert_same(saved['state_dict'], watch.validated[1])
    own = {name.removeprefix('module.'): value for name, value in saved['ema_state_dict'].items()}
    assert_same(own, watch.trained[-1])
    assert run_test(config, work_dir / 'epoch_2.pth') == watch.scores[-1]


@pytest.mark.slow
def test_ema_adds_the_adapters_alone_to_a_checkpoint(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / 'ema', **EMA)
    train(config, tmp_path / 'plain')
    averaged = checkpoint(tmp_path / 'ema')['ema_state_dict']
    assert {name.removeprefix('module.') for name in averaged} == {
        *checkpoint(tmp_path / 'plain')['state_dict'],
        'steps',
    }
    ema, plain = (next((tmp_path / name).glob('best_*.pth')).stat().st_size for name in ('ema', 'plain'))
    assert plain < ema < 2.1 * plain


@pytest.mark.slow
def test_ema_resumes(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / 'whole', **EMA)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'broken', Crash(), **EMA)
    train(config, tmp_path / 'broken', **EMA, resume=True)
    whole, resumed = checkpoint(tmp_path / 'whole'), checkpoint(tmp_path / 'broken')
    for part in ('state_dict', 'ema_state_dict'):
        assert_same(resumed[part], whole[part])


@pytest.mark.slow
@pytest.mark.parametrize('hooks', [{}, EMA], ids=['plain', 'EMA'])
def test_what_trains_beside_lora_resumes(config: Path, tmp_path: Path, hooks: dict) -> None:
    beside = {
        'model.lora.modules_to_save': ['semantic_projection', 'layer_norm1'],
        'model.lora.bias': 'all',
        'model.detail_head': {},
        # With dropout, so that the same random numbers are drawn.
        'model.lora.lora_dropout': 0.1,
    }
    runner = train(config, tmp_path / 'whole', **hooks, **beside)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'broken', Crash(), **hooks, **beside)
    train(config, tmp_path / 'broken', **hooks, **beside, resume=True)
    whole, resumed = checkpoint(tmp_path / 'whole'), checkpoint(tmp_path / 'broken')
    for part in ('state_dict', *(['ema_state_dict'] if hooks else [])):
        assert_same(resumed[part], whole[part])
    # All of it has moved, and nothing else is in the file.
    torch.manual_seed(0)
    start = SAM3TextLoRA(base=str(tmp_path / 'base'), lora=runner.cfg.model.lora.to_dict(), detail_head={})
    trained = {name for name, value in start.named_parameters() if value.requires_grad}
    assert trained < whole['state_dict'].keys()
    for name in trained:
        # The bias of a key adds the same to every score of a query, which softmax ignores.
        assert 'k_proj' in name or not torch.equal(whole['state_dict'][name], start.state_dict()[name]), name
    folder = str(tmp_path / 'whole' / 'adapters' / 'epoch_2')
    adapter = SAM3TextLoRA(base=str(tmp_path / 'base'), adapter=folder, detail_head={})
    assert_same(adapter.state_dict(), whole['state_dict'])
    best = next((tmp_path / 'whole').glob('best_*.pth'))
    held = sum(value.nbytes for value in whole['state_dict'].values())
    assert best.stat().st_size < (2 if hooks else 1) * held + 400_000


# ---- accumulation, early stopping, load_from, TTA


def test_two_accumulated_batches_of_one_are_a_batch_of_two(config: Path, tmp_path: Path) -> None:
    """By SGD, because Adam blows the rounding of small gradients up to whole steps."""
    options = {
        'train_dataloader.sampler.shuffle': False,
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.lr': 1.0,
    }
    whole, accumulated = Watch(), Watch()
    train(config, tmp_path / 'whole', whole, **options)
    halves = {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2}
    train(config, tmp_path / 'accumulated', accumulated, **options, **halves)
    assert len(accumulated.trained) == 2 * len(whole.trained) == 12
    assert_same(accumulated.trained[0], accumulated.start)
    for step, expected in enumerate(whole.trained):
        assert_same(accumulated.trained[2 * step + 1], expected, 1e-5)
    assert max((value - whole.start[name]).abs().max() for name, value in whole.trained[-1].items()) > 0.01


@pytest.mark.slow
def test_early_stopping_ends_a_training_that_gets_no_better(config: Path, tmp_path: Path) -> None:
    stopping = {'type': 'EarlyStoppingHook', 'monitor': 'crack/IoU', 'rule': 'greater', 'patience': 2, 'min_delta': 1.0}
    runner = train(config, tmp_path / 'stopped', **{'custom_hooks': [stopping], 'train_cfg.max_epochs': 6})
    # The first validation sets the mark, and no IoU is larger by 1 than another.
    assert runner.epoch == 3
    assert sorted(path.name for path in (tmp_path / 'stopped').glob('epoch_*')) == [f'epoch_{n}.pth' for n in (1, 2, 3)]


def test_load_from_starts_a_new_training_from_adapters(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / 'first')
    watch = Watch()
    runner = train(config, tmp_path / 'second', watch, load_from=str(tmp_path / 'first' / 'epoch_2.pth'))
    saved = checkpoint(tmp_path / 'first')['state_dict']
    assert_same(watch.start, {name: saved[name] for name in watch.start})
    assert len(watch.trained) == runner.iter == 6


def test_tta_scores_the_mean_over_flips(config: Path, tmp_path: Path, run_test: Callable[..., Scores]) -> None:
    train(config, tmp_path / 'work_dir')
    file = tmp_path / 'work_dir' / 'epoch_2.pth'
    scores = run_test(config, file, '--tta')
    assert scores != run_test(config, file)

    cfg = Config.fromfile(config)
    cfg.load_from = str(file)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    model, dataset = runner.model.eval(), runner.build_dataloader(cfg.test_dataloader).dataset
    ious = []
    for sample in dataset:
        image = cv2.imread(sample['data_samples'].img_path)[..., ::-1].copy()
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            probability = sum(flip(model.encode_decode(flip(pixels), [{}])).softmax(dim=1) for flip in FLIPS) / 3
        predicted = probability[0, 1] > 0.5
        truth = sample['data_samples'].gt_sem_seg.data[0] == 1
        ious.append(((predicted & truth).sum() + 1e-6) / ((predicted | truth).sum() + 1e-6))
    assert scores['crack/IoU'] == pytest.approx(float(torch.stack(ious).mean()), abs=1e-6)


FLIPS: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x.flip(-1), lambda x: x.flip(-2)]
