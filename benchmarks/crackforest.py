"""Before and after LoRA on real photographs: ``python benchmarks/crackforest.py DATA_ROOT [--seeds 1 2 3]``.

Trains a config once for each seed and prints the per-image crack scores on the validation split, zero-shot and after
the last epoch (not the best one: that would be selected on the images it is scored on). ``--like CONFIG`` takes from
another config what it changes to save memory or time (``configs/sam3_lora_crack_lowmem.py``), so that what this costs
in accuracy shows.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ('crack/IoU', 'crack/Dice', 'crack/Precision', 'crack/Recall', 'crack/clIoU')
Scores = dict[str, float]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Crack scores before and after training, over several seeds.')
    parser.add_argument('data_root', type=Path, help='dataset in YOLO layout, with train and valid')
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--like', type=Path, metavar='CONFIG', help='with precision, adapters and optimizer of CONFIG')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/crackforest'))
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as in tools/train.py')
    return parser


def config_like(config: Path, other: Path, folder: Path) -> Path:
    """Write a config: ``config``, trained in the manner of ``other`` (not one for certain layers of the full SAM 3)."""
    manner = Config.fromfile(other)
    pattern = manner.model.lora.target_modules
    if isinstance(pattern, str) and not re.fullmatch(pattern, 'vision_encoder.backbone.layers.0.attention.q_proj'):
        sys.exit(f'{other} adapts certain layers of the full SAM 3, which a small model does not have.')
    arguments = {name: manner.model.get(name) for name in ('dtype', 'activation_checkpointing', 'compile')}
    model = {name: value for name, value in arguments.items() if value is not None}
    model['lora'] = {name: manner.model.lora[name] for name in ('lora_dropout', 'target_modules')}
    optimizer = {'fused': manner.optim_wrapper.optimizer.get('fused', False)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{config.stem}_like_{other.stem}.py'
    path.write_text(
        f'_base_ = {str(config.resolve())!r}\nmodel = {model!r}\noptim_wrapper = {dict(optimizer=optimizer)!r}\n'
    )
    return path


def run(tool: str, *arguments: str | Path) -> str:
    """Run one of the tools and return its log; its output goes to the terminal if it fails."""
    command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        sys.exit(f'{" ".join(command)} failed:\n{result.stdout}')
    return result.stdout


def last_scores(log: str) -> Scores:
    """The scores in the last validation or test line of a log."""
    line = [line for line in log.splitlines() if 'crack/IoU: ' in line][-1]
    return {name: float(value) for name, value in re.findall(r'([\w/]+): ([\d.]+)', line) if name in COLUMNS}


def table_row(name: str, scores: Scores) -> str:
    return f'| {name} | ' + ' | '.join(f'{scores[column]:.3f}' for column in COLUMNS) + ' |'


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    loaders = [f'{name}_dataloader.dataset.data_root={args.data_root}' for name in ('train', 'val', 'test')]
    options = ['--cfg-options', *loaders, *args.cfg_options]
    if args.like:
        args.config = config_like(args.config, args.like, args.work_dir)
    zero_shot = last_scores(run('test.py', args.config, '--work-dir', args.work_dir / 'zero_shot', *options))
    after, seconds = [], []
    for seed in args.seeds:
        start = time.perf_counter()
        work_dir = args.work_dir / f'seed_{seed}'
        # An interval beyond the end leaves the validation after the last epoch.
        last_only = [f'randomness.seed={seed}', 'train_cfg.val_interval=1000000']
        log = run('train.py', args.config, '--work-dir', work_dir, *options, *last_only)
        seconds.append(time.perf_counter() - start)
        after.append(last_scores(log))
        print(f'seed {seed}: IoU {after[-1]["crack/IoU"]:.3f} after {seconds[-1]:.0f} s', flush=True)
    mean = {column: statistics.mean(scores[column] for scores in after) for column in COLUMNS}
    print('\n| | ' + ' | '.join(column.removeprefix('crack/') for column in COLUMNS) + ' |')
    print('|---' * (len(COLUMNS) + 1) + '|')
    print(table_row('zero-shot', zero_shot))
    print(table_row(f'LoRA, last epoch, mean of {len(after)} seeds', mean))
    print(f'\nMedian seconds of a training, with one validation: {statistics.median(seconds):.0f}')


if __name__ == '__main__':
    main()
