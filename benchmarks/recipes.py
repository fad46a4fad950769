"""What each part of a recipe adds: ``python benchmarks/recipes.py --data NAME=FOLDER --recipes lora head head+cldice``.

A recipe is ``lora``, configs/sam3_tiny_lora_crack.py as it is, or some of PARTS joined by +. Each is trained once for
each data set and seed, on as many images (--images), at --size pixels, and scored after the last epoch, not the best
one, which would be selected on the images it is scored on. --screen trains and scores on a split of the training
photographs instead, so that parts can be chosen without a look at the validation photographs.

Scores go to --results after each training; the same command goes on where it was stopped (--minutes stops it), and
prints one table of all there is, mean and standard deviation over the seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_lora_crack.py'
COLUMNS = ('crack/IoU', 'crack/clIoU', 'crack/Precision', 'crack/Recall', 'crack/ODS')
ATTENTION = ['q_proj', 'k_proj', 'v_proj', 'o_proj']
DICE, CLDICE, BCE = (
    {'type': 'ForegroundDiceLoss'},
    {'type': 'CenterlineDiceLoss', 'loss_weight': 0.5},
    {'type': 'CrossEntropyLoss', 'loss_weight': 0.5},
)
READ = [{'type': 'LoadImageFromFile'}, {'type': 'LoadYOLOPolygons'}]
FLIPS = [{'type': 'RandomFlip', 'prob': 0.5, 'direction': each} for each in ('horizontal', 'vertical')]
BORDERS = {f'crop_{side}': 0.25 for side in ('left', 'right', 'top', 'bottom')}
CROPS = {'type': 'SeededAlbu', 'transforms': [{'type': 'RandomCropFromBorders', 'p': 0.5, **BORDERS}]}
COLOURS = {'type': 'PhotoMetricDistortion'}
PACK = [{'type': 'PackSegInputs'}]


def pipeline(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {'train_dataloader': {'dataset': {'pipeline': [*READ, *FLIPS, *transforms, *PACK]}}}


PARTS: dict[str, dict[str, Any]] = {
    'lora': {},
    'head': {'model': {'detail_head': {}}},
    'head-square': {'model': {'detail_head': {'size': 'square'}}},
    'cldice': {'model': {'loss_decode': [DICE, CLDICE]}},
    'bce': {'model': {'loss_decode': [DICE, BCE]}},
    'bce-cldice': {'model': {'loss_decode': [DICE, BCE, CLDICE]}},
    'norms': {'model': {'lora': {'modules_to_save': ['layer_norm1', 'layer_norm2', 'layer_norm3']}}},
    'decoder': {'model': {'lora': {'modules_to_save': ['pixel_decoder', 'semantic_projection']}}},
    'projection': {'model': {'lora': {'modules_to_save': ['semantic_projection']}}},
    'mlp': {'model': {'lora': {'target_modules': [*ATTENTION, 'fc1', 'fc2']}}},
    'ema': {'custom_hooks': [{'type': 'EMAHook', 'ema_type': 'ExpMomentumEMA', 'momentum': 0.01, 'gamma': 20}]},
    'crops': pipeline(CROPS),
    'colours': pipeline(COLOURS),
    'crops-colours': pipeline(CROPS, COLOURS),
    'no-dropout': {'model': {'lora': {'lora_dropout': 0.0}}},
    'rank32': {'model': {'lora': {'r': 32, 'lora_alpha': 64}}},
    'lr-half': {'optim_wrapper': {'optimizer': {'lr': 1e-3}}},
    'lr-double': {'optim_wrapper': {'optimizer': {'lr': 4e-3}}},
    'batch2': {'train_dataloader': {'batch_size': 2}},
}
KEY = ('data', 'size', 'images', 'recipe')
Run = dict[str, Any]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='+', required=True, metavar='NAME=FOLDER', help='with splits train and valid')
    parser.add_argument('--recipes', nargs='+', default=[], metavar='PART+PART', help=f'of {", ".join(PARTS)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1])
    parser.add_argument('--size', type=int, default=336, help="side of the model's square in pixels (default: 336)")
    parser.add_argument('--images', type=int, default=1400, help='seen by a training (default: %(default)s)')
    parser.add_argument('--screen', action='store_true', help='on a split of the training photographs')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/recipes/results.json'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/recipes'))
    parser.add_argument('--minutes', type=float, default=float('inf'), help='start no training after so many')
    return parser


def screening_split(folder: Path, out: Path) -> Path:
    """A fifth of the training photographs for scoring."""
    if not (out / 'data.yaml').exists():
        command = [sys.executable, str(ROOT / 'tools' / 'split_dataset.py'), str(folder), str(out), '--share', '0.2']
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def recipe_config(recipe: str, data_root: Path, size: int, images: int) -> Config:
    """The config of a training: parts on top of the tiny model's."""
    cfg = Config.fromfile(CONFIG)
    for part in recipe.split('+'):
        cfg.merge_from_dict(PARTS[part])
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    masks = (data_root / 'train' / 'masks').is_dir() and not (data_root / 'train' / 'labels').is_dir()
    for loader in loaders:
        loader.dataset.update(data_root=str(data_root), **({'annotations': 'masks'} if masks else {}))
    cfg.model.image_size = size
    epochs = max(1, round(images / number_of_images(data_root)))
    cfg.train_cfg.update(max_epochs=epochs, val_interval=10**6)
    cfg.param_scheduler[0].T_max = epochs
    # Scores alone are kept.
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None)
    cfg.default_hooks.pop('adapter_checkpoint')
    cfg.default_hooks.pop('prediction')
    return cfg


def number_of_images(data_root: Path) -> int:
    """Training photographs: lines of train.txt in a split, else files."""
    if (data_root / 'train.txt').is_file():
        return len((data_root / 'train.txt').read_text().splitlines())
    return len(list((data_root / 'train' / 'images').iterdir()))


def train(cfg: Config, folder: Path, seed: int) -> dict[str, float]:
    """Train once and return the scores of the last validation."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg.randomness = {'seed': seed}
    cfg.dump(folder / 'config.py')
    tool = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(folder / 'config.py'), '--work-dir', str(folder)]
    done = subprocess.run(tool, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f'{" ".join(tool)} failed:\n{done.stdout[-5000:]}')
    last = json.loads((folder / 'history.json').read_text())[-1]
    return {name: last[name] for name in COLUMNS}


def table(runs: Sequence[Run]) -> str:
    """Mean and standard deviation of the seeds, one row for each data set, size, number of images and recipe."""
    lines = [
        '| data | size | images | recipe | seeds | '
        + ' | '.join(name.removeprefix('crack/') for name in COLUMNS)
        + ' |'
    ]
    lines.append('|---' * (len(KEY) + 1 + len(COLUMNS)) + '|')
    for key in dict.fromkeys(tuple(run[name] for name in KEY) for run in runs):
        same = [run for run in runs if tuple(run[name] for name in KEY) == key]
        cells = [_mean_and_deviation([run['scores'][name] for run in same]) for name in COLUMNS]
        lines.append('| ' + ' | '.join(map(str, [*key, len(same), *cells])) + ' |')
    return '\n'.join(lines)


def _mean_and_deviation(values: Sequence[float]) -> str:
    mean = f'{statistics.mean(values):.3f}'
    return f'{mean} ± {statistics.stdev(values):.3f}' if len(values) > 1 else mean


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and print the table."""
    parser = make_parser()
    args = parser.parse_args(argv)
    unknown = {part for recipe in args.recipes for part in recipe.split('+')} - set(PARTS)
    if unknown or not all('=' in each for each in args.data):
        parser.error(f'parts that there are not: {sorted(unknown)}; --data {args.data} (NAME=FOLDER)')
    start = time.monotonic()
    runs: list[Run] = json.loads(args.results.read_text()) if args.results.is_file() else []
    done = {(run['data'], run['size'], run['images'], run['recipe'], run['seed']) for run in runs}
    for recipe in args.recipes:
        for name, folder in (each.split('=', 1) for each in args.data):
            data = f'{name} (split of train)' if args.screen else name
            root = screening_split(Path(folder), args.work_dir / f'{name}_split') if args.screen else Path(folder)
            for seed in args.seeds:
                if (data, args.size, args.images, recipe, seed) in done or time.monotonic() - start > 60 * args.minutes:
                    continue
                cfg = recipe_config(recipe, root, args.size, args.images)
                part = 'split' if args.screen else 'all'
                scores = train(cfg, args.work_dir / f'{name}_{part}_{args.size}_{args.images}_{recipe}_{seed}', seed)
                what = {'data': data, 'size': args.size, 'images': args.images, 'recipe': recipe, 'seed': seed}
                runs.append({**what, 'scores': scores})
                write_atomically(args.results, (json.dumps(runs, indent=1) + '\n').encode())
                print(f'{data}, {args.size} px, {recipe}, seed {seed}: IoU {scores["crack/IoU"]:.3f}', flush=True)
    print(table(runs))


if __name__ == '__main__':
    main()
