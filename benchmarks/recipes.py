"""What each part of a recipe adds: ``python benchmarks/recipes.py --data NAME=FOLDER --recipes lora head head+cldice``.

A recipe is one of STARTS and some of PARTS joined by +, with a learning rate as in lr=1e-3: ``lora`` alone is
configs/sam3_tiny_lora_crack.py, ``full`` the same model with all weights trained, and ``segformer_b0`` and ``unet`` are
MMSegmentation's, from random weights, or NAME-pretrained-N, trained on N of --pictures before. A recipe that begins
with a part starts from ``lora``. All see a photograph once; RECIPE+scales is RECIPE, trained as it is and scored with
the config's ``test_cfg.scales=(1, 1.5)``; a training that --work-dir has is not done again for it. Each is trained once
for each data set and seed, on as many images (--images), at --size pixels, and scored after the last epoch, not the
best one, which would be selected on the images it is scored on. --screen trains and scores on a split of the training
photographs instead, so that parts can be chosen without a look at the validation photographs.

Scores go to --results after each training; the same command goes on where it was stopped (--minutes stops it), and
prints one table of all there is, mean and standard deviation over the seeds.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin.datasets.data_yaml import read_data_yaml
from crack_plugin.files import write_atomically
from crack_plugin.models.adapters import HEAD_FILE

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
COLUMNS = ('crack/IoU', 'crack/clIoU', 'crack/Precision', 'crack/Recall', 'crack/ODS')
ATTENTION = ['q_proj', 'k_proj', 'v_proj', 'o_proj']
READ = [{'type': 'LoadImageFromFile'}, {'type': 'LoadYOLOPolygons'}]
FLIPS = [{'type': 'RandomFlip', 'prob': 0.5, 'direction': each} for each in ('horizontal', 'vertical')]
BORDERS = {f'crop_{side}': 0.25 for side in ('left', 'right', 'top', 'bottom')}
PACK = [{'type': 'PackSegInputs'}]

CONTEXT = {'channels': 16, 'levels': 4}

# What a recipe starts from.
STARTS = {
    'lora': CONFIGS / 'sam3_tiny_lora_crack.py',
    'full': CONFIGS / 'sam3_tiny_lora_crack.py',
    'segformer_b0': CONFIGS / 'benchmark' / 'segformer_b0.py',
    'unet': CONFIGS / 'benchmark' / 'unet.py',
}
# Parts that change one setting, and parts that add to a list: several of those can be combined.
SETTINGS: dict[str, dict[str, Any]] = {
    'head': {'model': {'detail_head': {}}},
    'context': {'model': {'detail_head': CONTEXT}},
    'pretrained-context': {'model': {'detail_head': {**CONTEXT, 'weights': str(CONFIGS / 'sam3_tiny' / HEAD_FILE)}}},
    'head-square': {'model': {'detail_head': {'size': 'square'}}},
    'head48': {'model': {'detail_head': {'channels': 48}}},
    'mlp': {'model': {'lora': {'target_modules': [*ATTENTION, 'fc1', 'fc2']}}},
    'ema': {'custom_hooks': [{'type': 'EMAHook', 'ema_type': 'ExponentialMovingAverage', 'momentum': 0.01}]},
    'no-dropout': {'model': {'lora': {'lora_dropout': 0.0}}},
    'rank32': {'model': {'lora': {'r': 32, 'lora_alpha': 64}}},
    'batch1': {'train_dataloader': {'batch_size': 1}},
    'batch2': {'train_dataloader': {'batch_size': 2}},
}
LOSSES = {
    'bce': {'type': 'CrossEntropyLoss', 'loss_weight': 0.5},
    'cldice': {'type': 'CenterlineDiceLoss', 'loss_weight': 0.5},
}
SAVED_MODULES = {
    'norms': ['layer_norm1', 'layer_norm2', 'layer_norm3'],
    'decoder': ['pixel_decoder', 'semantic_projection'],
    'projection': ['semantic_projection'],
}
TRANSFORMS = {
    'crops': {'type': 'SeededAlbu', 'transforms': [{'type': 'RandomCropFromBorders', 'p': 0.5, **BORDERS}]},
    'turns': {'type': 'SeededAlbu', 'transforms': [{'type': 'RandomRotate90', 'p': 1.0}]},
    'colours': {'type': 'PhotoMetricDistortion'},
}
PARTS = (*SETTINGS, *LOSSES, *SAVED_MODULES, *TRANSFORMS)
LEARNING_RATE = 'lr='
SCALES, AT_SCALES = '+scales', 'model.test_cfg.scales=[1,1.5]'
PRETRAINED = re.compile(r'(segformer_b0|unet)-pretrained-([1-9]\d*)')
PRETRAINING_SIZE = 336
KEY = ('data', 'size', 'images', 'recipe')
Run = dict[str, Any]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='+', required=True, metavar='NAME=FOLDER', help='with splits train and valid')
    parser.add_argument('--recipes', nargs='+', default=[], metavar='START+PART', help=f'of {", ".join(PARTS)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1])
    parser.add_argument('--size', type=int, default=336, help="side of the model's square in pixels (default: 336)")
    parser.add_argument('--images', type=int, default=1400, help='seen by a training (default: %(default)s)')
    parser.add_argument('--screen', action='store_true', help='on a split of the training photographs')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/recipes/results.json'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/recipes'))
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time (default: 1)')
    parser.add_argument('--pictures', type=Path, help='synthetic pictures to pretrain segformer_b0 and unet on')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='start no training after so many')
    return parser


def screening_split(folder: Path, out: Path) -> Path:
    """A fifth of the training photographs for scoring."""
    if not (out / 'data.yaml').exists():
        tool = str(ROOT / 'tools' / 'split_dataset.py')
        command = [sys.executable, tool, str(folder), str(out), '--share', '0.2', '--annotations', annotations(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def recipe_config(recipe: str, data_root: Path, size: int, images: int, pretrained: Path) -> Config:
    """The config of a training: parts on top of what the recipe starts from."""
    name, *parts = recipe.split('+')
    if name in PARTS or name.startswith(LEARNING_RATE):
        name, parts = 'lora', [name, *parts]
    start = name.partition('-pretrained-')[0]
    cfg = Config.fromfile(STARTS[start])
    if start in ('lora', 'full'):
        cfg.model.image_size = size
        cfg.model.test_cfg.scales = (1,)
        cfg.default_hooks.pop('adapter_checkpoint')
    else:
        _compare(cfg, size)
    if start == 'full':
        cfg.model.update(lora=None, trainable='all')
    if name != start:
        cfg.load_from = str(pretrained / f'{name}.pth')
    _add_parts(cfg, parts)
    _set_length(cfg, data_root, images)
    # Scores alone are kept.
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None)
    cfg.default_hooks.pop('prediction')
    return cfg


def _compare(cfg: Config, size: int) -> None:
    """MMSegmentation's model at the same square, from random weights, all of it at one learning rate."""
    cfg.model.backbone.init_cfg = None
    cfg.optim_wrapper.paramwise_cfg = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for transform in loader.dataset.pipeline:
            if transform['type'] == 'Resize':
                transform['scale'] = (size, size)


def _add_parts(cfg: Config, parts: Sequence[str]) -> None:
    for part in parts:
        if part.startswith(LEARNING_RATE):
            cfg.optim_wrapper.optimizer.lr = float(part.removeprefix(LEARNING_RATE))
        cfg.merge_from_dict(SETTINGS.get(part, {}))
    losses = [LOSSES[part] for part in parts if part in LOSSES]
    if losses:
        cfg.model.loss_decode = [{'type': 'ForegroundDiceLoss'}, *losses]
    modules = [module for part in parts for module in SAVED_MODULES.get(part, [])]
    if modules:
        cfg.model.lora.modules_to_save = list(dict.fromkeys(modules))
    transforms = [TRANSFORMS[part] for part in parts if part in TRANSFORMS]
    if transforms:
        cfg.train_dataloader.dataset.pipeline = [*READ, *FLIPS, *transforms, *PACK]


def _set_length(cfg: Config, data_root: Path, images: int) -> None:
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers = 1
        loader.dataset.update(data_root=str(data_root), annotations=annotations(data_root))
    epochs = max(1, round(images / len(training_images(data_root))))
    cfg.train_cfg.update(max_epochs=epochs, val_interval=10**6)
    cfg.param_scheduler[-1].T_max = epochs
    if 'end' in cfg.param_scheduler[-1]:
        cfg.param_scheduler[-1].end = epochs


def training_images(data_root: Path) -> list[Path]:
    """Training photographs: lines of train.txt in a split, else files."""
    if (data_root / 'train.txt').is_file():
        return [data_root / line for line in (data_root / 'train.txt').read_text().splitlines()]
    return list((data_root / 'train' / 'images').iterdir())


def annotations(data_root: Path) -> str:
    """What a data set's labels are."""
    folder = training_images(data_root)[0].parent.parent
    return 'polygons' if (folder / 'labels').is_dir() else 'masks'


def train(cfg: Config, folder: Path, seed: int, resume: bool = False) -> dict[str, float]:
    """Train once, or from the last checkpoint on, and return the scores of the last validation."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg.randomness = {'seed': seed}
    cfg.dump(folder / 'config.py')
    again = ['--resume'] if resume and (folder / 'last_checkpoint').is_file() else []
    run_tool('train.py', folder / 'config.py', '--work-dir', folder, *again)
    last = json.loads((folder / 'history.json').read_text())[-1]
    return {name: last[name] for name in COLUMNS}


def test_at_scales(folder: Path) -> dict[str, float]:
    """Scores of what :func:`train` trained in this folder, with ``test_cfg.scales``."""
    checkpoint, out = (folder / 'last_checkpoint').read_text(), folder / 'scales'
    run_tool('test.py', folder / 'config.py', checkpoint, '--work-dir', out, '--cfg-options', AT_SCALES)
    scores = json.loads(max(out.glob('*/*.json')).read_text())
    return {name: scores[name] for name in COLUMNS}


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run one of tools/; what it printed is told if it fails."""
    command = [sys.executable, str(ROOT / 'tools' / name), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f'{" ".join(command)} failed:\n{done.stdout[-5000:]}')


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


def pretraining_config(name: str, pictures: Path, out: Path) -> Config:
    """The config of a training on synthetic pictures; what they show beside cracks is background.

    Args:
        name: As ``segformer_b0-pretrained-16000``, with the number of images seen.
        pictures: Their folder.
        out: Folder of what is pretrained.
    """
    start, _, images = name.partition('-pretrained-')
    cfg = recipe_config(start, pictures, PRETRAINING_SIZE, int(images), out)
    class_map = {**dict.fromkeys(read_data_yaml(pictures).names or []), 'crack': 'crack'}
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.class_map = class_map
    cfg.train_dataloader.update(batch_size=16, num_workers=2)
    # A part may end anywhere, and loses little.
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=50, max_keep_ckpts=1)
    return cfg


def pretrain(name: str, pictures: Path, out: Path) -> None:
    """Train a model of MMSegmentation on synthetic pictures, as the embedded base was."""
    train(pretraining_config(name, pictures, out), out / name, seed=1, resume=True)
    checkpoint = Path((out / name / 'last_checkpoint').read_text())
    checkpoint.replace(out / f'{name}.pth')


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and print the table."""
    parser = make_parser()
    args = parser.parse_args(argv)
    named = {part for recipe in args.recipes for part in recipe.removesuffix(SCALES).split('+')}
    pretrained = {each for each in named if PRETRAINED.fullmatch(each)}
    unknown = {each for each in named if not each.startswith(LEARNING_RATE)} - {*PARTS, *STARTS, *pretrained}
    if unknown or not all('=' in each for each in args.data):
        parser.error(f'parts that there are not: {sorted(unknown)}; --data {args.data} (NAME=FOLDER)')
    for name in sorted(pretrained):
        if not (args.work_dir / 'pretrained' / f'{name}.pth').is_file():
            if args.pictures is None:
                parser.error(f'{name} has to be pretrained: give --pictures')
            pretrain(name, args.pictures, args.work_dir / 'pretrained')
    start = time.monotonic()
    runs: list[Run] = json.loads(args.results.read_text()) if args.results.is_file() else []
    done = [{name: run[name] for name in (*KEY, 'seed')} for run in runs]
    roots = dict(each.split('=', 1) for each in args.data)
    if args.screen:
        roots = {
            f'{name} (split of train)': screening_split(Path(folder), args.work_dir / f'{name}_split')
            for name, folder in roots.items()
        }

    def run(what: Run) -> None:
        if time.monotonic() - start > 60 * args.minutes:
            return
        data, size, images, recipe = (what[name] for name in KEY)
        trained = recipe.removesuffix(SCALES)
        name = '_'.join(map(str, (what | {'recipe': trained}).values()))
        folder = args.work_dir / name.replace(' (split of train)', '_split')
        if recipe == trained or not (folder / 'last_checkpoint').exists():
            cfg = recipe_config(trained, Path(roots[data]), size, images, args.work_dir / 'pretrained')
            scores = train(cfg, folder, what['seed'])
        if recipe != trained:
            scores = test_at_scales(folder)
        runs.append({**what, 'scores': scores})
        write_atomically(args.results, (json.dumps(runs, indent=1) + '\n').encode())
        print(f'{data}, {size} px, {recipe}, seed {what["seed"]}: IoU {scores["crack/IoU"]:.3f}', flush=True)

    wanted = [
        {'data': data, 'size': args.size, 'images': args.images, 'recipe': recipe, 'seed': seed}
        for recipe in args.recipes
        for data in roots
        for seed in args.seeds
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, (what for what in wanted if what not in done)))
    print(table(runs))


if __name__ == '__main__':
    main()
