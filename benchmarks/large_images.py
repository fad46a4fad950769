"""Time and memory of predicting large photographs: the tables of ``docs/large_images.md``.

    python benchmarks/large_images.py
    python benchmarks/large_images.py --tta

For each size a photograph is drawn (synthetic concrete, repeated in mirror images) and predicted in sliding windows, as
``tools/predict.py`` does: read the JPEG, predict, write mask and overlay. Each in a process of its own, which first
predicts a photograph of one batch of windows, five times. What its peak memory grows by from there on is the larger
photograph's: divided by the pixels it has more, the bytes per pixel. Seconds are of CPU time, on one thread.

With --tta, prediction with flips and scales (the ``tta_pipeline`` of configs/sam3_lora_crack_tiles.py) beside plain
prediction, alternating in one process; without reading and writing files.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from crack_plugin.datasets.synthetic import draw
from crack_plugin.models.sliding import window_starts

ROOT = Path(__file__).resolve().parents[1]
TILE = 1000


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, nargs='+', default=[1, 10, 50, 100], metavar='MP')
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--slide', type=int, nargs=2, default=[336, 224], metavar=('CROP', 'STRIDE'))
    parser.add_argument('--tta', action='store_true', help='compare test-time augmentation with plain prediction')
    parser.add_argument('--rounds', type=int, default=3, help='of --tta (default: %(default)s)')
    parser.add_argument('--one', type=Path, metavar='IMAGE', help=argparse.SUPPRESS)
    return parser


def draw_photograph(path: Path, megapixels: float) -> None:
    """Write a square JPEG of so many million pixels."""
    side = round((megapixels * 1e6) ** 0.5)
    tile = draw(np.random.default_rng(0), size=(TILE, TILE)).image
    repeated = max(0, side - TILE)
    cv2.imwrite(str(path), cv2.copyMakeBorder(tile, 0, repeated, 0, repeated, cv2.BORDER_REFLECT)[:side, :side])


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(config: Path, image: Path, crop: int, stride: int) -> dict[str, float]:
    """Predict a photograph in this process.

    Returns:
        Seconds, those of a photograph of four windows (median of five before and five after) and of decoding alone, and
        bytes of peak memory before and after.
    """
    from mmengine.config import Config

    from crack_plugin.prediction import Predictor
    from crack_plugin.prediction.output import predict_all
    from crack_plugin.prediction.sources import find_sources

    cfg = Config.fromfile(config)
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
    predictor = Predictor(cfg, device='cpu')
    with tempfile.TemporaryDirectory() as folder:
        small, out = Path(folder, 'small.jpg'), Path(folder, 'out')
        # Two by two windows
        cv2.imwrite(str(small), cv2.imread(str(image))[: crop + stride, : crop + stride])

        def predict(path: Path) -> float:
            start = time.process_time()
            failures = predict_all(find_sources([str(path)])[0], predictor, out / path.stem, {})
            assert not failures, failures
            return time.process_time() - start

        # Several times, until the allocator has what the model alone needs
        four_windows = [predict(small) for _ in range(5)]
        before = peak_bytes()
        seconds = predict(image)
        after = peak_bytes()
        four_windows += [predict(small) for _ in range(5)]
    start = time.process_time()
    cv2.imread(str(image))
    decoding = time.process_time() - start
    return {
        'seconds': seconds,
        'small': float(np.median(four_windows)),
        'decoding': decoding,
        'before': before,
        'after': after,
    }


def compare_tta(config: Path, image: Path, crop: int, stride: int, rounds: int) -> None:
    """Print time and memory of prediction with test-time augmentation beside plain prediction."""
    from mmengine.config import Config
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    cfg = Config.fromfile(config)
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
    steps = Config.fromfile(ROOT / 'configs' / 'sam3_lora_crack_tiles.py').tta_pipeline
    model = MODELS.build({**cfg.tta_model, 'module': cfg.model}).eval()
    plain, augmented = (
        pseudo_collate([Compose(pipeline)({'img_path': str(image)})]) for pipeline in (cfg.test_pipeline, steps)
    )
    ways = {'plain': (model.module, plain), 'TTA': (model, augmented)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    grown: dict[str, int] = {}
    pixels = plain['inputs'][0][0].numel()
    # A photograph of two by two windows, until the allocator has what the model alone needs
    small = {**plain, 'inputs': [plain['inputs'][0][:, : crop + stride, : crop + stride]]}
    small['data_samples'] = [plain['data_samples'][0].clone()]
    small['data_samples'][0].set_metainfo({'ori_shape': (crop + stride, crop + stride)})
    with torch.no_grad():
        for _ in range(5):
            model.module.test_step(small)
        before = peak_bytes()
        for _ in range(rounds):
            for name, (segmentor, batch) in ways.items():
                start = time.process_time()
                segmentor.test_step(batch)
                seconds[name].append(time.process_time() - start)
                grown.setdefault(name, peak_bytes() - before)
    print('| | seconds per megapixel, median | bytes per pixel, without the input |\n|---|---|---|')
    for name in ways:
        print(f'| {name} | {np.median(seconds[name]) / pixels * 1e6:.2f} | {grown[name] / pixels:.1f} |')
    print(f'TTA takes {np.median(seconds["TTA"]) / np.median(seconds["plain"]):.1f} times as long')


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.tta:
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder, 'photograph.jpg')
            draw_photograph(image, args.megapixels[0])
            compare_tta(args.config, image, *args.slide, args.rounds)
        return
    if args.one:
        print(json.dumps(measure(args.config, args.one, *args.slide)))
        return
    columns = ['megapixels', 'windows', 's per megapixel', 'per window, against 4 windows', 'decoding alone, s']
    print('| ' + ' | '.join([*columns, 'memory, MiB', 'bytes per pixel']) + ' |\n' + '|---' * 7 + '|')
    for megapixels in args.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder, 'photograph.jpg')
            draw_photograph(image, megapixels)
            options = ['--config', str(args.config), '--slide', *map(str, args.slide)]
            command = [sys.executable, __file__, *options, '--one', str(image)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(run.stdout.splitlines()[-1])
        grown = result['after'] - result['before']
        more = megapixels * 1e6 - sum(args.slide) ** 2
        windows = len(window_starts(round((megapixels * 1e6) ** 0.5), *args.slide)) ** 2
        seconds = result['seconds']
        cells = [
            f'{megapixels:g}',
            f'{windows:,}',
            f'{seconds / megapixels:.2f}',
            f'{4 * seconds / windows / result["small"]:.2f}',
            f'{result["decoding"]:.2f}',
            f'{grown / 2**20:.0f}',
            f'{grown / more:.1f}',
        ]
        print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
