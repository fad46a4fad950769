"""What watching costs an evaluation: ``python benchmarks/evaluation_hooks.py DATA_ROOT [--repeats 5]``.

Validates one model, in one process and in turns, with bare ``IoUMetric`` and with everything on: CrackMetric and the
validation loss, PredictionHook, HistoryHook and WandbSegHook (offline, with its pictures and histograms). Prints the
median seconds of both and their ratio, by the clock and, for a machine that is busy with other things, in CPU time
of the process. The start of the wandb run is not part of it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

# isort: split
import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

ROOT = Path(__file__).resolve().parents[1]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="An evaluation's time with all hooks against bare IoUMetric.")
    parser.add_argument('data_root', type=Path, help='dataset in YOLO layout; its valid split is evaluated')
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--repeats', type=int, default=5, help='turns after one to warm up')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE', help='such as load_from=...'
    )
    return parser


def watchers() -> list[Hook]:
    """All hooks that look at an evaluation."""
    configs: list[dict[str, Any]] = [
        {'type': 'PredictionHook'},
        {'type': 'HistoryHook'},
        {'type': 'WandbSegHook', 'init_kwargs': {'mode': 'offline'}},
    ]
    return [HOOKS.build(config) for config in configs]


def make_runner(args: argparse.Namespace, work_dir: str) -> Runner:
    """A runner as it stands when training begins, so that hooks take its validations for those of a training."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(
        {
            'work_dir': work_dir,
            'train_dataloader.dataset.data_root': str(args.data_root),
            'val_dataloader.dataset.data_root': str(args.data_root),
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'val_evaluator.loss_decode': {'type': 'ForegroundDiceLoss'},
            **args.cfg_options,
        }
    )
    # What CheckpointHook writes is not part of an evaluation, and LoggerHook is in both.
    cfg.default_hooks.checkpoint = None
    runner = Runner.from_cfg(cfg)
    # The loops are built by their first use.
    assert runner.train_loop is not None and runner.val_loop is not None
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.load_or_resume()
    runner.call_hook('before_train')
    return runner


def seconds_of_validation(runner: Runner) -> tuple[float, float]:
    """By the clock, and of CPU time."""
    start = time.perf_counter(), time.process_time()
    runner.val_loop.run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as work_dir:
        os.environ |= {name: f'{work_dir}/{name.lower()}' for name in ('WANDB_DATA_DIR', 'WANDB_CACHE_DIR')}
        os.environ['WANDB_SILENT'] = 'true'
        runner = make_runner(args, work_dir)
        evaluators = {
            'bare IoUMetric': runner.build_evaluator({'type': 'IoUMetric'}),
            'all hooks': runner.val_loop.evaluator,
        }
        evaluators['bare IoUMetric'].dataset_meta = runner.val_loop.dataloader.dataset.metainfo
        bare_hooks = list(runner.hooks)
        for hook in watchers():
            runner.register_hook(hook)
            hook.before_train(runner)
        hooks = {'bare IoUMetric': bare_hooks, 'all hooks': list(runner.hooks)}

        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in evaluators}
        for turn in range(args.repeats + 1):
            # A new epoch each time, as the hooks expect.
            runner.train_loop._epoch, runner.train_loop._iter = turn + 1, turn + 1
            for name in evaluators:
                runner._hooks, runner.val_loop.evaluator = hooks[name], evaluators[name]
                seconds[name].append(seconds_of_validation(runner))
        runner.call_hook('after_run')
        images = len(runner.val_loop.dataloader.dataset)

    print(f'\n{images} images, {torch.get_num_threads()} threads, {args.repeats} turns, {args.config.name}')
    for kind, clock in enumerate(('by the clock', 'of CPU time')):
        bare, watched = ([turn[kind] for turn in values[1:]] for values in seconds.values())
        medians = statistics.median(bare), statistics.median(watched)
        turns = ' '.join(f'{b / a:.2f}' for a, b in zip(bare, watched, strict=True))
        print(
            f'{clock}: bare IoUMetric {medians[0]:.2f} s, all hooks {medians[1]:.2f} s, '
            f'ratio {medians[1] / medians[0]:.3f} (of each turn: {turns})'
        )


if __name__ == '__main__':
    sys.exit(main())
