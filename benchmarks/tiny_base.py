"""What the embedded tiny SAM 3 finds before any training: the tables of ``configs/sam3_tiny/README.md``.

    python benchmarks/tiny_base.py photographs NAME=FOLDER [NAME=FOLDER ...] [--base FOLDER]
    python benchmarks/tiny_base.py prompts [--pictures 200]
    python benchmarks/tiny_base.py large [--pictures 24] [--data NAME=FOLDER ...]

``photographs`` scores data sets in YOLO layout, with polygons or masks, both splits, as tools/test.py does. ``prompts``
draws pictures with a crack and a joint on surfaces that the pretraining did not show, asks for each and holds the
answer against both masks; the config's threshold is for "crack", "joint" is marked where it has 0.5. ``large`` draws
pictures of 1440 x 1920 pixels on such surfaces, and compares the picture as a whole with windows; of a data set it lays
16 validation photographs side by side, at their own scale.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from recipes import annotations

from crack_plugin.datasets import YOLOCrackDataset
from crack_plugin.datasets.synthetic import HELD_OUT, Picture, draw
from crack_plugin.models.tuned_threshold import DEFAULT
from crack_plugin.prediction import Predictor

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_zeroshot_crack.py'
COLUMNS = ('crack/IoU', 'crack/Precision', 'crack/Recall', 'crack/clIoU')
SIZE, LARGE = (384, 512), (1440, 1920)
# Not a number that a data set is drawn with.
SEED = 20261126


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    photographs = commands.add_parser('photographs')
    photographs.add_argument('data', nargs='+', metavar='NAME=FOLDER')
    for name, count in (('prompts', 200), ('large', 24)):
        commands.add_parser(name).add_argument('--pictures', type=int, default=count, help='default: %(default)s')
    commands.choices['large'].add_argument('--data', nargs='+', default=[], metavar='NAME=FOLDER')
    for command in commands.choices.values():
        command.add_argument('--base', type=Path, help='another folder of weights')
        command.add_argument('--image-size', type=int, help='side of the square that the model sees')
    return parser


def config(args: argparse.Namespace) -> Config:
    cfg = Config.fromfile(CONFIG)
    if args.base:
        cfg.model.base = str(args.base)
    cfg.model.image_size = args.image_size
    return cfg


def photographs(args: argparse.Namespace) -> None:
    """Per-image means on both splits of each data set."""
    print(f'| set | {" | ".join(name.removeprefix("crack/") for name in COLUMNS)} |\n|---|{"---|" * len(COLUMNS)}')
    for name, folder in (item.split('=', 1) for item in args.data):
        for split in ('train', 'valid'):
            cfg = config(args)
            cfg.test_dataloader.dataset.update(data_root=folder, split=split, annotations=annotations(Path(folder)))
            cfg.work_dir = f'work_dirs/tiny_base/{name}_{split}'
            scores = Runner.from_cfg(cfg).test()
            print(f'| {name} {split} | {" | ".join(f"{scores[column]:.3f}" for column in COLUMNS)} |', flush=True)


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.count_nonzero(found & true) / np.count_nonzero(found | true)) if (found | true).any() else 1.0


def drawn(count: int, size: tuple[int, int], defects: Sequence[str]) -> Iterator[tuple[str, Picture]]:
    """As many pictures as asked for, with all of ``defects`` in each."""
    index = 0
    while count:
        surface = HELD_OUT[index % len(HELD_OUT)]
        picture = draw(np.random.default_rng([SEED, index]), size, surface, defects)
        index += 1
        if len(np.unique(picture.mask)) > len(defects):
            count -= 1
            yield surface, picture


def prompts(args: argparse.Namespace) -> None:
    """IoU of what each prompt marks with its own mask, and with the other's."""
    names = ('crack', 'joint')
    of_cracks, of_joints = config(args), config(args)
    of_joints.model.threshold = DEFAULT
    predictors = [Predictor(of_cracks, prompts=['crack']), Predictor(of_joints, prompts=['joint'])]
    results: dict[str, list[list[float]]] = {surface: [] for surface in HELD_OUT}
    for surface, picture in drawn(args.pictures, SIZE, names):
        found = [predictor(picture.image).labels > 0 for predictor in predictors]
        results[surface].append([iou(marked, picture.mask == each) for marked in found for each in (1, 2)])
    every = [row for rows in results.values() for row in rows]
    print('| surface | pictures | "crack": cracks | "crack": joints | "joint": cracks | "joint": joints |')
    print('|---' * 6 + '|')
    for surface, rows in [*results.items(), ('all', every)]:
        means = ' | '.join(f'{value:.3f}' for value in np.mean(rows, axis=0)) if rows else ' | '.join('-' * 4)
        print(f'| {surface} | {len(rows)} | {means} |')
    right = np.mean([row[0] > row[1] and row[3] > row[2] for row in every])
    print(f'Each prompt overlaps its own structure more than the other in {100 * right:.1f}% of the pictures.')


def mosaics(folder: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """16 photographs of the validation split in each, cut to the smallest of them, and their masks."""
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadYOLOPolygons'}]
    dataset = YOLOCrackDataset(
        data_root=folder, split='valid', annotations=annotations(Path(folder)), pipeline=pipeline
    )
    loaded = [dataset[index] for index in range(len(dataset))]
    pairs = [(each['img'], each['gt_seg_map'] == 1) for each in loaded]
    pairs = [tuple(map(np.rot90, pair)) if len(pair[1]) > pair[1].shape[1] else pair for pair in pairs]
    height, width = (min(pair[1].shape[axis] for pair in pairs) for axis in (0, 1))
    for start in range(0, len(pairs) - 15, 16):
        rows = [pairs[row : row + 4] for row in range(start, start + 16, 4)]
        image, mask = (
            np.vstack([np.hstack([pair[part][:height, :width] for pair in row]) for row in rows]) for part in (0, 1)
        )
        yield image, mask


def large(args: argparse.Namespace) -> None:
    """IoU over all pixels of large pictures, whole and in windows of several sizes."""
    init_default_scope('mmseg')
    pictures = [picture for _, picture in drawn(args.pictures, LARGE, ('crack',))]
    sets = {'drawn': [(picture.image, picture.mask > 0) for picture in pictures]} if pictures else {}
    sets |= {name: list(mosaics(folder)) for name, folder in (item.split('=', 1) for item in args.data)}
    print(f'| seen | {" | ".join(sets)} |\n|---|{"---|" * len(sets)}')
    for side in (None, 1344, 1008, 672, 504, 336):
        cfg = config(args)
        # Scales stay as the config has them.
        cfg.model.test_cfg.mode = 'slide' if side else 'whole'
        if side:
            cfg.model.test_cfg.update(crop_size=(side, side), stride=(side * 2 // 3,) * 2)
        predictor = Predictor(cfg)
        predictor.model.window_progress = iter
        cells = []
        for items in sets.values():
            both = either = 0
            for image, true in items:
                marked = predictor(image).labels > 0
                both += np.count_nonzero(marked & true)
                either += np.count_nonzero(marked | true)
            cells.append(f'{both / either:.3f}')
        print(f'| {f"windows of {side}" if side else "whole"} | {" | ".join(cells)} |', flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = make_parser().parse_args(argv)
    {'photographs': photographs, 'prompts': prompts, 'large': large}[args.command](args)


if __name__ == '__main__':
    main()
