"""Make the embedded tiny SAM 3 again: ``python tools/pretrain_tiny.py OUT``.

Draws pictures, trains configs/sam3_tiny_pretrain.py on them and writes a Hugging Face folder; then, on some of the same
pictures, configs/sam3_tiny_pretrain_head.py for a detail head beside it. The same command goes on where it stopped.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from crack_plugin.cli import readable_errors, whole_number
from crack_plugin.datasets.synthetic import PRETRAINING_SURFACES, write_dataset
from crack_plugin.errors import ToolError
from crack_plugin.files import write_atomically
from crack_plugin.models.adapters import HEAD_FILE
from crack_plugin.models.base import refuse_full_folder
from crack_plugin.models.base_files import WEIGHTS_FILE
from crack_plugin.models.detail_head import head_file
from crack_plugin.prediction import Predictor

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_pretrain.py'
HEAD_CONFIG = CONFIG.with_name('sam3_tiny_pretrain_head.py')
CLASSES = ('crack', 'joint', 'spalling', 'rust stain')
LENGTH = ('train_cfg.max_epochs', 'param_scheduler.1.T_max', 'param_scheduler.1.end')
# Pictures from 224 x 224 to 448 x 560 pixels, all stretched to one square: cracks and texture of many scales.
SMALLEST, LARGEST = (224, 224), (448, 560)
# Roads and concrete are inspected most.
SURFACES = (*PRETRAINING_SURFACES, 'asphalt', 'asphalt', 'concrete')
# As tight as public data sets are labelled: 1.7 pixels in the median of DeepCrack at this size.
LABEL_MARGIN = (0.0, 0.8)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write, new or empty')
    parser.add_argument('--start', metavar='FOLDER', help='weights to go on from (default: random ones)')
    parser.add_argument('--keep', type=float, default=0.0, metavar='SHARE', help='of --start, in the weights written')
    parser.add_argument('--data', type=Path, default=Path('data/synthetic_world'), help='default: %(default)s')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/pretrain_tiny'), help='default: %(default)s')
    parser.add_argument('--pictures', type=whole_number(1), default=20000, help='to draw (default: %(default)s)')
    parser.add_argument('--epochs', type=whole_number(1), default=4, help='default: %(default)s')
    parser.add_argument('--head-pictures', type=whole_number(1), default=4000, help='for a head (default: %(default)s)')
    parser.add_argument('--seed', type=whole_number(0), default=0, help='of the pictures (default: %(default)s)')
    parser.add_argument('--workers', type=whole_number(1), default=2, help='processes that draw (default: %(default)s)')
    parser.add_argument('--minutes', type=whole_number(1), help='stop a training after so many; run again to go on')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='of the first config')
    return parser


def draw(folder: Path, pictures: int, seed: int, workers: int) -> None:
    """Draw what is not there yet."""
    write_dataset(
        folder,
        n_train=pictures,
        n_valid=max(1, pictures // 50),
        size=SMALLEST,
        max_size=LARGEST,
        surfaces=SURFACES,
        defects=CLASSES,
        seed=seed,
        label_margin=LABEL_MARGIN,
        workers=workers,
    )


def train(config: Path, data: Path, work_dir: Path, options: Sequence[str], minutes: int | None) -> Path | None:
    """Train from the last checkpoint on, and return the newest; None if time ran out before."""
    options = [*(f'{name}_dataloader.dataset.data_root={data}' for name in ('train', 'val', 'test')), *options]
    tool = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(work_dir)]
    resume = ['--resume'] if (work_dir / 'last_checkpoint').is_file() else []
    process = subprocess.Popen([*tool, *resume, '--cfg-options', *options])
    try:
        code = process.wait(None if minutes is None else 60 * minutes)
    except subprocess.TimeoutExpired:
        # What it has written is complete, whenever it ends. Started in the background it would ignore an interrupt.
        process.terminate()
        process.wait()
        print(f'Stopped after {minutes} minutes. The same command goes on.')
        return None
    if code:
        raise ToolError(f'the training ended with exit code {code}, see above. The same command goes on from its end.')
    return Path((work_dir / 'last_checkpoint').read_text())


def train_base(args: argparse.Namespace) -> bool:
    """Write the weights; whether they are there."""
    refuse_full_folder(args.out)
    draw(args.data, args.pictures, args.seed, args.workers)
    options = [f'{name}={args.epochs}' for name in LENGTH]
    if args.start:
        # half the steps of random weights: what is learned already is adapted, not overwritten
        options += [f'model.base={args.start}', 'optim_wrapper.optimizer.lr=5e-4']
    last = train(CONFIG, args.data, args.work_dir, [*options, *args.cfg_options], args.minutes)
    if last is None:
        return False
    # The config as it was trained, with the base of --start
    config, scratch = str(args.work_dir / CONFIG.name), args.out.with_name(f'.{args.out.name}.unfinished')
    shutil.rmtree(scratch, ignore_errors=True)
    merge = [sys.executable, str(ROOT / 'tools' / 'merge_adapter.py'), config, str(scratch), '--checkpoint', str(last)]
    if subprocess.run(merge).returncode:
        raise ToolError(f'{args.out} was not written, see above. The same command tries again.')
    if args.keep:
        average(scratch / WEIGHTS_FILE, Path(args.start, WEIGHTS_FILE), args.keep)
    scratch.replace(args.out)
    return True


def average(file: Path, start: Path, share: float) -> None:
    """Mix weights with those they were trained from, which keeps more of what both know (arXiv 2109.01903)."""
    trained, former = load_file(file), load_file(start)
    mixed = {name: torch.lerp(value, former[name].to(value.dtype), share) for name, value in trained.items()}
    write_atomically(file, save(mixed, metadata={'format': 'pt'}))


def train_head(args: argparse.Namespace) -> None:
    """Lay a detail head beside the weights, trained on the first of their pictures."""
    draw(args.data, args.pictures, args.seed, args.workers)
    work_dir = args.work_dir.with_name(f'{args.work_dir.name}_head')
    options = [f'model.base={args.out}', f'train_dataloader.dataset.indices={args.head_pictures}']
    if (last := train(HEAD_CONFIG, args.data, work_dir, options, args.minutes)) is None:
        return
    model = Predictor(work_dir / HEAD_CONFIG.name, str(last), device='cpu').model
    content = head_file(model.detail_head, model.base_hash)
    assert content is not None
    write_atomically(args.out / HEAD_FILE, content)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, train, write."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not 0 <= args.keep < 1 or (args.keep and not args.start):
        parser.error(f'--keep {args.keep}: a share from 0 to below 1, of the weights of --start')
    with readable_errors(parser):
        if ((args.out / WEIGHTS_FILE).is_file() or train_base(args)) and not (args.out / HEAD_FILE).is_file():
            train_head(args)
        if (args.out / HEAD_FILE).is_file():
            print(f'{args.out} is complete')


if __name__ == '__main__':
    main()
