"""Compare models on the same images: ``python tools/benchmark.py MODEL [MODEL ...]`` makes one table of them.

A MODEL is CONFIG=CHECKPOINT, a work directory of tools/train.py (or a folder of them), or a CONFIG alone: SAM 3
zero-shot is taken as it comes, anything else is trained first with --train. Each model is trained and measured in a
process of its own. One that fails is reported in its place with its reason, the others go on, and the exit code is 1.

With --train, what --out holds already is not trained again, and an interrupted training is resumed.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from tqdm import tqdm

from crack_plugin.cli import CONFIG_SUFFIXES, KeyValueAction
from crack_plugin.comparison import table
from crack_plugin.comparison.runs import Run, RunError
from crack_plugin.comparison.settings import Settings, has_nothing_to_train

TRAIN_TOOL = Path(__file__).with_name('train.py')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (None: the process's).

    Returns:
        1 if a model failed, 0 otherwise.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    settings = Settings(
        data_root=args.data_root,
        test_data=args.test_data,
        test_split=args.test_split,
        image_size=args.image_size,
        epochs=args.epochs,
        pretrained=args.pretrained,
        cfg_options=args.cfg_options,
    )
    try:
        runs = [run for model in args.models for run in plan(model, args, settings)]
        check_names(runs)
        for run in runs:
            if run.trains:
                run.check_unchanged()
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    command = shlex.join(['python', 'tools/benchmark.py', *(sys.argv[1:] if argv is None else argv)])
    rows = run_all(runs, args, facts={'Command': command, 'Machine': f'{os.cpu_count()} CPU cores'})
    print((args.out / 'benchmark.md').read_text(encoding='utf-8'))
    print(f'Wrote {args.out / "benchmark.md"}, benchmark.csv and benchmark.json')
    return int(any(row.failures for row in rows))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='MODEL', help='CONFIG, CONFIG=CHECKPOINT, or folder of work dirs')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmark'),
        metavar='DIR',
        help='folder for tables, plots and trainings (default: %(default)s)',
    )
    parser.add_argument('--train', action='store_true', help='train the configs that come without a checkpoint')
    parser.add_argument(
        '--seeds', type=int, nargs='+', metavar='N', help="train each config from these (default: the config's own)"
    )
    parser.add_argument('--epochs', type=positive, metavar='N', help='length of each training')
    parser.add_argument(
        '--no-pretrained',
        dest='pretrained',
        action='store_false',
        help='start the backbones of stock models from random weights, without a download',
    )
    parser.add_argument(
        '--image-size', type=positive, metavar='N', help='stretch images to N x N pixels (SAM 3: a multiple of 336)'
    )
    parser.add_argument('--data-root', metavar='DIR', help='dataset to train and test on')
    parser.add_argument('--test-data', metavar='DIR', help='dataset to test on, if it is another')
    parser.add_argument('--test-split', metavar='SPLIT', help="split to test on (default: the configs')")
    parser.add_argument(
        '--use',
        choices=['last', 'best'],
        default='last',
        help='checkpoint of a training to score: the last, or the one selected on the validation images, whose score '
        'on those same images is flattered (default: %(default)s)',
    )
    parser.add_argument('--device', default=get_device(), help='to measure on (default: %(default)s)')
    parser.add_argument(
        '--examples', type=int, default=4, metavar='N', help='images on the contact sheet (default: %(default)s)'
    )
    parser.add_argument(
        '--resamples', type=positive, default=1000, metavar='N', help='of the bootstrap (default: %(default)s)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='override values in every config'
    )
    return parser


def positive(text: str) -> int:
    """Argparse type: a whole number from 1 on."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'a whole number from 1 on is wanted, not {text}')
    return value


def plan(model: str, args: argparse.Namespace, settings: Settings) -> list[Run]:
    """The runs that a MODEL of the command line asks for.

    Raises:
        FileNotFoundError: It is no file or folder, or the folder holds no work directory.
        ValueError: A setting cannot be applied.
    """
    if Path(model).is_dir():
        return plan_work_dirs(Path(model), args, settings)
    config, separator, checkpoint = (model, '', '') if Path(model).is_file() else model.rpartition('=')
    if not separator and not Path(model).is_file():
        raise FileNotFoundError(f'{model} is neither a config file, nor CONFIG=CHECKPOINT, nor a folder')
    if not Path(config).is_file() or Path(config).suffix not in CONFIG_SUFFIXES:
        raise FileNotFoundError(f'config file not found: {config}')
    if separator and not Path(checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint not found: {checkpoint}')
    cfg = Config.fromfile(config, import_custom_modules=False)
    name = Path(config).stem
    folder = args.out / 'rows' / name
    if separator:
        return [Run(name, None, settings.apply(cfg), folder, checkpoint=Path(checkpoint))]
    if has_nothing_to_train(cfg):
        return [Run(name, None, settings.apply(cfg), folder)]
    if not args.train:
        raise ValueError(f'{config} comes without a checkpoint. Write {config}=CHECKPOINT, or add --train.')
    seeds = args.seeds or [cfg.get('randomness', {}).get('seed', 0)]
    return [
        Run(
            name,
            seed,
            settings.apply(cfg, seed),
            folder / f'seed_{seed}',
            work_dir=args.out / 'trainings' / name / f'seed_{seed}',
            trains=True,
        )
        for seed in dict.fromkeys(seeds)
    ]


def plan_work_dirs(folder: Path, args: argparse.Namespace, settings: Settings) -> list[Run]:
    """The trainings in a folder, which may be one itself; those in X/seed_1, X/seed_2, ... are one model.

    Raises:
        FileNotFoundError: There is none.
        ValueError: One holds no config, or several.
    """
    runs = []
    for work_dir in sorted(path.parent for path in folder.rglob('last_checkpoint')):
        configs = sorted(work_dir.glob('*.py'))
        if len(configs) != 1:
            raise ValueError(f'{work_dir} should hold one config file and has {len(configs)}')
        cfg = Config.fromfile(configs[0], import_custom_modules=False)
        _, is_seed, number = work_dir.name.partition('seed_')
        has_seed = bool(is_seed) and number.isdecimal() and work_dir != folder
        place = work_dir.parent if has_seed else work_dir
        name = str(place.relative_to(folder)).replace('/', '_') if place != folder else folder.resolve().name
        seed = int(number) if has_seed else None
        target = args.out / 'rows' / name / (f'seed_{seed}' if has_seed else '')
        runs.append(Run(name, seed, settings.apply(cfg), target, work_dir=work_dir))
    if not runs:
        raise FileNotFoundError(f'{folder} holds no work directory of tools/train.py (none with a last_checkpoint)')
    return runs


def check_names(runs: Sequence[Run]) -> None:
    """Refuse two models of one name: they would share a row and a folder.

    Raises:
        ValueError: There are some.
    """
    seen = set()
    for run in runs:
        if (run.name, run.seed) in seen:
            raise ValueError(f'two models are called {run.title}. Copy the config of one under another name.')
        seen.add((run.name, run.seed))


def run_all(runs: Sequence[Run], args: argparse.Namespace, facts: dict[str, str]) -> list[table.Row]:
    """Train and measure, and write the table anew after each run.

    Returns:
        The table's rows.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {run.name: table.Row(run.name, str(run.cfg.filename)) for run in runs}
    total = sum(1 + (epochs(run) if run.trains and not run.is_trained else 0) for run in runs)
    with tqdm(total=total, unit='step', dynamic_ncols=True) as bar:
        for number, run in enumerate(runs, start=1):
            row = rows[run.name]
            after = bar.n + 1 + (epochs(run) if run.trains and not run.is_trained else 0)
            try:
                row.measured[run.seed] = run_one(run, args, bar, f'[{number}/{len(runs)}] {run.title}')
                check_images(rows.values(), row, run)
                row.complete(args.resamples)
                bar.write(f'{run.title}: crack IoU {row.scores["IoU"]}')
            except RunError as error:
                row.measured.pop(run.seed, None)
                row.failures[run.seed] = str(error)
                bar.write(f'{run.title} failed: {error}')
            bar.update(after - bar.n)
            done = [row for row in rows.values() if row.measured or row.failures]
            table.write(args.out, done, facts | data_facts(done), with_pictures=False)
    table.write(args.out, done, facts | data_facts(done))
    return list(rows.values())


def run_one(run: Run, args: argparse.Namespace, bar: Any, title: str) -> Any:
    """Train a model if it has to be, and measure it."""
    run.write_config()
    if run.trains and not run.is_trained:
        bar.set_description(f'{title}: training')
        start = bar.n

        def show(epoch: int, is_over: bool, loss: str) -> None:
            bar.set_description(f'{title}: training, epoch {epoch}/{epochs(run)}, loss {loss}', refresh=False)
            bar.update(start + epoch - (not is_over) - bar.n)
            bar.refresh()

        run.train(TRAIN_TOOL, show)
    bar.set_description(f'{title}: measuring')
    return run.measure(args.device, args.examples, args.use)


def epochs(run: Run) -> int:
    """Steps of the progress bar that a training takes."""
    return run.cfg.train_cfg.get('max_epochs', 1)


def check_images(rows: Any, row: table.Row, run: Run) -> None:
    """Refuse a model that was scored on other images than the first.

    Raises:
        RunError: It was.
    """
    first = next(other for other in rows if other.measured)
    measured = row.measured[run.seed]
    if list(measured.images) != list(first.first.images):
        raise RunError(
            f'it was scored on {len(measured.images)} images, not on the {len(first.first.images)} of {first.name}: '
            'give all models the same with --data-root or --test-data'
        )


def data_facts(rows: Sequence[table.Row]) -> dict[str, str]:
    """What the rows were scored on."""
    images = next((row.first.images for row in rows if row.measured), [])
    return {'Test images': f'{len(images)} in {Path(images[0]).parent}'} if images else {}


if __name__ == '__main__':
    sys.exit(main())
