"""What LoRA adds, shown on a CPU in minutes: ``make demo``, or without make ``python -m crack_plugin demo``.

Draws pictures of a surface that the embedded tiny SAM 3 has not seen, tests it zero-shot, trains adapters, tests again,
paints the predictions, writes a report, and prints both results. All of it goes through the tools and the config that
real work takes; what they print is in ``WORK_DIR/demo.log``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crack_plugin.cli import readable_errors
from crack_plugin.datasets.synthetic import HELD_OUT, write_dataset
from crack_plugin.errors import ToolError
from crack_plugin.hooks.history import FILE, read_history

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_lora_crack.py'
ZERO_SHOT = ROOT / 'configs' / 'sam3_tiny_zeroshot_crack.py'
# One that the tiny SAM 3 was not pretrained on.
SURFACE = HELD_OUT[0]
COLUMNS = ('crack/IoU', 'crack/Dice', 'crack/Precision', 'crack/Recall', 'crack/clIoU')
# Labels reach further over the crack than those that the tiny SAM 3 has learned, as many people outline it. Each
# picture has one: of two dozen, a few without would decide the mean.
LABELS: dict[str, Any] = {'label_margin': (1.5, 2.5), 'negative_share': 0.0}
# Of the config's 20 epochs, and not each validated, so that it ends within five minutes on two cores.
LENGTH = ('train_cfg.max_epochs=8', 'train_cfg.val_interval=2', 'param_scheduler.0.T_max=8')
LAST_LINES = 15
"""How much of the log is shown if a tool fails."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Draw cracks, test zero-shot, train adapters, test again.')
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='folder for the pictures')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder for results')
    parser.add_argument('--train', type=int, default=64, help='number of training pictures (default: 64)')
    parser.add_argument('--valid', type=int, default=24, help='number of validation pictures (default: 24)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as in train.py')
    return parser


def run(log: Path, tool: str, *arguments: str | Path) -> str:
    """Run one of the tools in a process of its own, as mmengine's global loggers and visualizers want it.

    Args:
        log: Gets what it prints, behind what is there.
        tool: File in ``tools/``.
        *arguments: Its command line.

    Returns:
        How long it took.

    Raises:
        ToolError: It failed; the message has the end of the log.
    """
    command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
    started = time.monotonic()
    with log.open('a', encoding='utf-8') as file:
        file.write(f'\n$ {subprocess.list2cmdline(command)}\n')
        file.flush()
        finished = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if finished.returncode:
        end = log.read_text(encoding='utf-8', errors='replace').splitlines()[-LAST_LINES:]
        raise ToolError(f'{tool} failed. All it printed is in {log}, which ends in:\n' + '\n'.join(end))
    return f'{time.monotonic() - started:.0f} s'


def test_scores(work_dir: Path) -> dict[str, float]:
    """What the last test in ``work_dir`` measured, from the file that mmengine leaves."""
    return json.loads(max(work_dir.glob('*/*.json')).read_text(encoding='utf-8'))


def percentages(scores: dict[str, float]) -> str:
    return ', '.join(f'{name.removeprefix("crack/")} {100 * scores[name]:.1f} %' for name in COLUMNS)


def results_table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown table of named results, in percent."""
    lines = ['| | ' + ' | '.join(name.removeprefix('crack/') for name in COLUMNS) + ' |', '|---' * 6 + '|']
    for name, scores in rows.items():
        lines.append(f'| {name} | ' + ' | '.join(f'{100 * scores[column]:.1f} %' for column in COLUMNS) + ' |')
    return '\n'.join(lines)


def show(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The five steps; metrics before and after training."""
    data, work_dir = args.data, args.work_dir
    log = work_dir / 'demo.log'
    work_dir.mkdir(parents=True, exist_ok=True)
    log.write_text('', encoding='utf-8')
    print(f'What the tools print goes to {log}')
    print(f'[1/5] drawing {args.train} + {args.valid} pictures of cracked {SURFACE}', flush=True)
    write_dataset(data, args.train, args.valid, size=(336, 336), surfaces=SURFACE, seed=1, **LABELS)
    print(f'      {data}')
    loaders = [f'{name}_dataloader.dataset.data_root={data.as_posix()}' for name in ('train', 'val', 'test')]
    options = ['--cfg-options', *loaders, *LENGTH, *args.cfg_options]

    print('[2/5] testing the embedded tiny SAM 3 zero-shot', flush=True)
    took = run(log, 'test.py', ZERO_SHOT, '--work-dir', work_dir / 'zero_shot', *options)
    before = test_scores(work_dir / 'zero_shot')
    print(f'      {percentages(before)} ({took})')

    print('[3/5] training LoRA adapters', flush=True)
    took = run(log, 'train.py', CONFIG, '--work-dir', work_dir, *options)
    epochs = read_history(work_dir / FILE)
    losses = [f'{row["train_loss"]:.3f}' for row in (epochs[0], epochs[-1])]
    print(f'      {len(epochs)} epochs, training loss {losses[0]} to {losses[1]} ({took})')

    print('[4/5] testing with the adapters, and painting the predictions', flush=True)
    last = Path((work_dir / 'last_checkpoint').read_text(encoding='utf-8'))
    painted = work_dir / 'painted'
    took = run(log, 'test.py', CONFIG, last, '--work-dir', work_dir / 'trained', '--show-dir', painted, *options)
    after = test_scores(work_dir / 'trained')
    print(f'      {percentages(after)} ({took})')

    print('[5/5] writing the report', flush=True)
    took = run(log, 'report.py', work_dir)
    print(f'      {work_dir / "report" / "report.html"} ({took})')

    rows = {'zero-shot': before, 'with LoRA': after}
    print(
        f'\n{args.valid} validation pictures, means over pictures (clIoU over all pixels):\n\n{results_table(rows)}\n'
    )
    print(f'An overlay (left: label, right: prediction): {min(painted.rglob("*.png"))}')
    print(f'Adapters: {last} ({last.stat().st_size / 1e6:.1f} MB with the optimizer)')
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the demonstration.

    Args:
        argv: Command-line arguments; those of the process if None.

    Returns:
        Metrics before and after training.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        return show(args)


if __name__ == '__main__':
    main()
