"""What negative prompts do: ``python benchmarks/negative_prompts.py DATA_ROOT [--recipe head] [--seeds 1 2 3]``.

Trains a recipe of benchmarks/recipes.py with and without ``negative_prompts`` on the tiny SAM 3, and prints the
per-image IoU of "crack" on the validation photographs, and the share of their pixels that each model marks when it is
asked for a negative prompt instead.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from recipes import ROOT, recipe_config

from crack_plugin.models import SAM3TextLoRA

NEGATIVE = ['shadow', 'construction joint', 'cable']


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_root', type=Path, help='dataset in YOLO layout, with train and valid')
    parser.add_argument('--recipe', default='lora', help='parts of recipes.py joined by + (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--images', type=int, default=1400, help='seen by a training (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/negative_prompts'))
    return parser


def train(cfg: Config, folder: Path, seed: int) -> Path:
    """Train unless it is done, and return the config file, beside which the last checkpoint is."""
    path = folder / 'config.py'
    if not (folder / 'last_checkpoint').is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cfg.randomness = {'seed': seed}
        cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_epochs
        cfg.dump(path)
        tool = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(path), '--work-dir', str(folder)]
        subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
    return path


def iou_and_marked(path: Path, prompts: Sequence[str]) -> tuple[float, list[float]]:
    """IoU of "crack", and the share of the validation photographs' pixels marked for each of ``prompts``."""
    cfg = Config.fromfile(path)
    cfg.work_dir, cfg.load_from = str(path.parent), (path.parent / 'last_checkpoint').read_text().strip()
    cfg.model.negative_prompts = []
    scores = Runner.from_cfg(cfg).test()
    marked = []
    for prompt in prompts:
        cfg.model.prompts = [prompt]
        runner = Runner.from_cfg(cfg)
        runner.load_or_resume()
        model = runner.model.eval()
        assert isinstance(model, SAM3TextLoRA)
        with torch.no_grad():
            found = [sample for batch in runner.test_dataloader for sample in model.test_step(batch)]
        marked.append(statistics.mean(float((each.pred_sem_seg.data > 0).float().mean()) for each in found))
    return scores['crack/IoU'], marked


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print."""
    args = make_parser().parse_args(argv)
    print('| trained | seed | IoU of crack | ' + ' | '.join(f'marked for {prompt}' for prompt in NEGATIVE) + ' |')
    print('|---' * (3 + len(NEGATIVE)) + '|')
    for seed in args.seeds:
        for name, negative in (('without', []), ('with', NEGATIVE)):
            cfg = recipe_config(args.recipe, args.data_root, 336, args.images, args.work_dir)
            cfg.model.negative_prompts = negative
            folder = f'{args.data_root.resolve().name}_{args.images}_{args.recipe}_{name}_{seed}'
            path = train(cfg, args.work_dir / folder, seed)
            iou, marked = iou_and_marked(path, NEGATIVE)
            cells = ' | '.join(f'{100 * share:.3f}%' for share in marked)
            print(f'| {name} negative prompts | {seed} | {iou:.3f} | {cells} |', flush=True)


if __name__ == '__main__':
    main()
