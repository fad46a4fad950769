"""What LoRA adds, shown on a CPU in minutes: ``python tools/demo.py`` (or ``make demo``).

Draws pictures of a surface that the embedded tiny SAM 3 has not seen, tests it zero-shot, trains adapters, tests again,
paints the predictions, writes a report, and prints both results. All of it goes through the tools and the config that
real work takes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import readable_errors
from crack_plugin.datasets.synthetic import HELD_OUT, write_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_lora_crack.py'
# One that the tiny SAM 3 was not pretrained on.
SURFACE = HELD_OUT[0]
COLUMNS = ('crack/IoU', 'crack/Dice', 'crack/Precision', 'crack/Recall', 'crack/clIoU')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Draw cracks, test zero-shot, train adapters, test again.')
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='folder for the pictures')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder for results')
    parser.add_argument('--train', type=int, default=64, help='number of training pictures (default: 64)')
    parser.add_argument('--valid', type=int, default=24, help='number of validation pictures (default: 24)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as in train.py')
    return parser


def run(tool: str, *arguments: str | Path) -> None:
    """Run one of the tools in a process of its own, as mmengine's global loggers and visualizers want it."""
    finished = subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)])
    if finished.returncode:
        sys.exit(f'{tool} failed, see above')


def test_scores(work_dir: Path) -> dict[str, float]:
    """What the last test in ``work_dir`` measured, from the file that mmengine leaves."""
    return json.loads(max(work_dir.glob('*/*.json')).read_text())


def results_table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown table of named results, in percent."""
    lines = ['| | ' + ' | '.join(name.removeprefix('crack/') for name in COLUMNS) + ' |', '|---' * 6 + '|']
    for name, scores in rows.items():
        lines.append(f'| {name} | ' + ' | '.join(f'{100 * scores[column]:.1f} %' for column in COLUMNS) + ' |')
    return '\n'.join(lines)


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
        print(f'[1/5] drawing {args.train} + {args.valid} pictures of cracked {SURFACE} in {args.data}')
        write_dataset(args.data, args.train, args.valid, size=(336, 336), surfaces=SURFACE, seed=1)
    loaders = [f'{name}_dataloader.dataset.data_root={args.data}' for name in ('train', 'val', 'test')]
    options = ['--cfg-options', *loaders, *args.cfg_options]

    print('[2/5] testing the embedded tiny SAM 3 zero-shot')
    run('test.py', CONFIG, '--work-dir', args.work_dir / 'zero_shot', *options)
    print('[3/5] training LoRA adapters')
    run('train.py', CONFIG, '--work-dir', args.work_dir, *options)
    print('[4/5] testing with the adapters, and painting the predictions')
    last = Path((args.work_dir / 'last_checkpoint').read_text())
    painted = args.work_dir / 'painted'
    run('test.py', CONFIG, last, '--work-dir', args.work_dir / 'trained', '--show-dir', painted, *options)

    print('[5/5] writing the report')
    run('report.py', args.work_dir)

    rows = {
        'zero-shot': test_scores(args.work_dir / 'zero_shot'),
        'with LoRA': test_scores(args.work_dir / 'trained'),
    }
    print(
        f'\n{args.valid} validation pictures, means over pictures (clIoU over all pixels):\n\n{results_table(rows)}\n'
    )
    overlay = min(painted.rglob('*.png'))
    print(f'The report: {args.work_dir / "report" / "report.html"}')
    print(f'An overlay (left: label, right: prediction): {overlay}')
    print(f'Adapters: {last} ({last.stat().st_size / 1e6:.1f} MB with the optimizer)')
    return rows


if __name__ == '__main__':
    main()
