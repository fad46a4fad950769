"""Time and memory of predicting large photographs: the tables of ``docs/large_images.md``.

    python benchmarks/large_images.py

For each size a photograph is drawn (synthetic concrete, repeated in mirror images) and predicted in sliding windows, as
``tools/predict.py`` does: read the JPEG, predict, write mask and overlay. Each in a process of its own, which first
predicts a photograph of one batch of windows, five times. What its peak memory grows by from there on is the larger
photograph's: divided by the pixels it has more, the bytes per pixel.
"""

import argparse
import json
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from crack_plugin.datasets.synthetic import draw

ROOT = Path(__file__).resolve().parents[1]
TILE = 1000


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, nargs='+', default=[1, 10, 50, 100], metavar='MP')
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--slide', type=int, nargs=2, default=[336, 224], metavar=('CROP', 'STRIDE'))
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
        Seconds, and bytes of peak memory before and after.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.path.insert(0, str(ROOT / 'tools'))
    tool: dict[str, Any] = runpy.run_path(str(ROOT / 'tools' / 'predict.py'))
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
    predictor = tool['Predictor'](cfg, None, 'cpu')
    with tempfile.TemporaryDirectory() as folder:
        small, out = Path(folder, 'small.jpg'), Path(folder, 'out')
        # Two by two windows
        cv2.imwrite(str(small), cv2.imread(str(image))[: crop + stride, : crop + stride])
        # Several times, until the allocator has what the model alone needs
        for _ in range(5):
            tool['predict_all'](tool['find_sources']([str(small)]), predictor, out / 'small', {})
        before = peak_bytes()
        start = time.perf_counter()
        failures = tool['predict_all'](tool['find_sources']([str(image)]), predictor, out / 'large', {})
        seconds = time.perf_counter() - start
        assert not failures, failures
    return {'seconds': seconds, 'before': before, 'after': peak_bytes()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.config, args.one, *args.slide)))
        return
    print('| megapixels | seconds | seconds per megapixel | memory above the model, MiB | bytes per pixel |')
    print('|---|---|---|---|---|')
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
        print(
            f'| {megapixels:g} | {result["seconds"]:.1f} | {result["seconds"] / megapixels:.2f} '
            f'| {grown / 2**20:.0f} | {grown / more:.1f} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
