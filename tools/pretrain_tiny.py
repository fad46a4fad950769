"""Make the embedded tiny SAM 3 again: ``python tools/pretrain_tiny.py OUT``.

Draws the pictures, trains configs/sam3_tiny_pretrain.py on them and writes a Hugging Face folder. What is drawn and
trained already is kept: the same command goes on where it was stopped, by --minutes or by anything else.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import readable_errors, whole_number
from crack_plugin.datasets.synthetic import PRETRAINING_SURFACES, write_dataset
from crack_plugin.errors import ToolError
from crack_plugin.models.base import refuse_full_folder

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_pretrain.py'
CLASSES = ('crack', 'joint', 'spalling', 'rust stain')
# Pictures from 256 x 400 to 400 x 560 pixels, all stretched to one square: cracks and texture of many scales.
SMALLEST, LARGEST = (256, 400), (400, 560)
# As tight as public data sets are labelled: 1.7 pixels in the median of DeepCrack at this size.
LABEL_MARGIN = (0.0, 0.8)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write, new or empty')
    parser.add_argument('--start', metavar='FOLDER', help='weights to go on from (default: random ones)')
    parser.add_argument('--data', type=Path, default=Path('data/synthetic_world'), help='default: %(default)s')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/pretrain_tiny'), help='default: %(default)s')
    parser.add_argument('--pictures', type=whole_number(1), default=20000, help='to draw (default: %(default)s)')
    parser.add_argument('--epochs', type=whole_number(1), default=4, help='default: %(default)s')
    parser.add_argument('--workers', type=whole_number(1), default=2, help='processes that draw (default: %(default)s)')
    parser.add_argument('--minutes', type=whole_number(1), help='stop the training after so many; run again to go on')
    return parser


def train(args: argparse.Namespace) -> bool:
    """Train from the last checkpoint on; whether it came to its end."""
    loaders = [f'{name}_dataloader.dataset.data_root={args.data}' for name in ('train', 'val', 'test')]
    length = [f'train_cfg.max_epochs={args.epochs}', f'param_scheduler.1.T_max={args.epochs}']
    options = [*loaders, *length, f'param_scheduler.1.end={args.epochs}']
    if args.start:
        # half the steps of random weights: what is learned already is adapted, not overwritten
        options += [f'model.base={args.start}', 'optim_wrapper.optimizer.lr=5e-4']
    tool = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(CONFIG), '--work-dir', str(args.work_dir)]
    resume = ['--resume'] if (args.work_dir / 'last_checkpoint').is_file() else []
    process = subprocess.Popen([*tool, *resume, '--cfg-options', *options])
    try:
        code = process.wait(None if args.minutes is None else 60 * args.minutes)
    except subprocess.TimeoutExpired:
        # What it has written is complete, whenever it ends. Started in the background it would ignore an interrupt.
        process.terminate()
        process.wait()
        return False
    if code:
        raise ToolError(f'the training ended with exit code {code}, see above. The same command goes on from its end.')
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, train, write."""
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        refuse_full_folder(args.out)
        write_dataset(
            args.data,
            n_train=args.pictures,
            n_valid=max(1, args.pictures // 50),
            size=SMALLEST,
            max_size=LARGEST,
            surfaces=PRETRAINING_SURFACES,
            defects=CLASSES,
            label_margin=LABEL_MARGIN,
            workers=args.workers,
        )
        if not train(args):
            print(f'Stopped after {args.minutes} minutes. The same command goes on.')
            return
        last = Path((args.work_dir / 'last_checkpoint').read_text())
        merge = [sys.executable, str(ROOT / 'tools' / 'merge_adapter.py'), str(CONFIG), str(args.out)]
        if subprocess.run([*merge, '--checkpoint', str(last)]).returncode:
            raise ToolError(f'{args.out} was not written, see above. The same command tries again.')


if __name__ == '__main__':
    main()
