"""Time and memory of a GeoTIFF that is predicted in bands: the table of ``docs/large_images.md``.

    python benchmarks/gigapixel.py --megapixels 20 60 --stand-in

For each size a dense orthomosaic is drawn, band by band (three cracks in every 512 x 512 pixels, some 5 % of them;
tiled, deflate, with alpha), and predicted as ``tools/predict.py --cracks`` does: read, predict in windows, write mask,
overlay and record, and measure each crack. Each in a process of its own. Memory is the largest sum of the proportional
set sizes (PSS) of the process and of those it starts, looked at every 50 ms, before the first pixel, while it predicts
and while it measures; seconds are of CPU time, on one thread.

With --stand-in, the model is a cheap one that takes what is dark for a crack, so that what remains is the road around
the model. With --nodata, that share of the rows at the bottom has no data. With --vector, polygons and centrelines are
written as well.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
TILE = 1024


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, nargs='+', default=[10, 100, 500], metavar='MP')
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--slide', type=int, nargs=2, default=[336, 224], metavar=('CROP', 'STRIDE'))
    parser.add_argument('--stand-in', action='store_true', help='a cheap model: what is dark is a crack')
    parser.add_argument('--nodata', type=float, default=0.0, metavar='SHARE', help='of the rows (default: %(default)s)')
    parser.add_argument('--vector', nargs='+', choices=['gpkg', 'geojson'], default=[])
    parser.add_argument('--one', type=Path, metavar='IMAGE', help=argparse.SUPPRESS)
    return parser


def draw_raster(path: Path, megapixels: float, nodata: float) -> tuple[int, int]:
    """Write a square GeoTIFF of so many million pixels, a row of tiles at a time; its height and width."""
    import rasterio

    side = round((megapixels * 1e6) ** 0.5)
    random = np.random.default_rng(0)
    tile = random.integers(170, 200, (TILE, TILE), np.uint8)
    for top in range(0, TILE, TILE // 2):
        for left in range(0, TILE, TILE // 2):
            for number in range(3):
                steps = np.cumsum(random.integers(-12, 13, 12)).clip(-60, 60)
                points = np.stack([left + np.linspace(20, 490, 12), top + 90 + 160 * number + steps], axis=1)
                cv2.polylines(tile, [points.astype(np.int32)], False, 20, thickness=9)
    row = np.broadcast_to(np.tile(tile, side // TILE + 1)[:, :side], (3, TILE, side))
    transform = rasterio.Affine(0.0005, 0, 5e5, 0, -0.0005, 5.4e6)
    profile = {'driver': 'GTiff', 'count': 4, 'dtype': 'uint8', 'crs': 'EPSG:32632', 'transform': transform}
    profile |= {'tiled': True, 'blockxsize': 512, 'blockysize': 512, 'compress': 'deflate', 'zlevel': 1}
    profile |= {'photometric': 'rgb', 'alpha': 'yes', 'BIGTIFF': 'IF_SAFER', 'sparse_ok': True}
    with rasterio.open(path, 'w', height=side, width=side, **profile) as file:
        for number, top in enumerate(range(0, round(side * (1 - nodata)), TILE)):
            height = min(TILE, side - top)
            part = (row[:, ::-1] if number % 2 else row)[:, :height]
            file.write(part, [1, 2, 3], window=((top, top + height), (0, side)))
            file.write(np.full((height, side), 255, np.uint8), 4, window=((top, top + height), (0, side)))
    return side, side


def total_pss() -> int:
    """Bytes of the proportional set sizes of this process and of all below it."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = Path('/proc', str(waiting.pop()))
        try:
            lines = (process / 'smaps_rollup').read_text().splitlines()
            children = [(task / 'children').read_text().split() for task in (process / 'task').iterdir()]
        except OSError:  # it has ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith('Pss:'))
        waiting += [int(child) for own in children for child in own]
    return total


class StandIn:
    """Has of a ``Predictor`` what :func:`~crack_plugin.prediction.raster_output.predict_raster` asks for."""

    def __init__(self, crop: int, stride: int) -> None:
        from types import SimpleNamespace

        from crack_plugin.prediction.mosaic import Windows

        self.class_names, self.device = ['crack'], torch.device('cpu')
        self.windows = Windows((crop, crop), (stride, stride), 4)
        self.model = SimpleNamespace(threshold=0.5)

    def segment_windows(self, windows: torch.Tensor) -> torch.Tensor:
        return (60 - windows[:, :1].float()) / 10


def measure(
    config: Path, image: Path, crop: int, stride: int, is_stand_in: bool, vector: Sequence[str]
) -> dict[str, Any]:
    """Predict a raster in this process.

    Returns:
        Seconds of CPU time of the prediction and of the measuring, bytes of the PSS before and at the peaks of both,
        number of cracks, and share of the pixels.
    """
    from mmengine.config import Config

    from crack_plugin.prediction import Predictor
    from crack_plugin.prediction.cracks import Wanted, make_all
    from crack_plugin.prediction.output import predict_all
    from crack_plugin.prediction.sources import Source
    from crack_plugin.prediction.tables import TABLE, read_table

    cfg = Config.fromfile(config)
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (crop, crop), 'stride': (stride, stride)}
    predictor = StandIn(crop, stride) if is_stand_in else Predictor(cfg, device='cpu')
    peaks = [total_pss()]
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.05):
            peaks[-1] = max(peaks[-1], total_pss())

    watcher = threading.Thread(target=watch)
    peaks.append(0)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        assert not predict_all([Source(image, 'image', is_raster=True)], predictor, Path(folder), {})
        predicted = time.process_time()
        peaks.append(0)
        make_all(Path(folder), ['crack'], Wanted(cracks=True, vector=tuple(vector)))
        measured = time.process_time()
        (rows,) = read_table(Path(folder, TABLE), 1).values()
        cracks = len(Path(folder, 'cracks.csv').read_text().splitlines()) - 1
    is_done.set()
    watcher.join()
    return {
        'predicted': predicted - start,
        'measured': measured - predicted,
        'peaks': peaks,
        'cracks': cracks,
        'share': rows[0].share,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.one:
        print(json.dumps(measure(args.config, args.one, *args.slide, args.stand_in, args.vector)))
        return
    columns = ['megapixels', 'predicting, s a megapixel', 'measuring, s a megapixel', 'before, MiB']
    columns += ['predicting, MiB', 'measuring, MiB', 'cracks', 'foreground']
    print('| ' + ' | '.join(columns) + ' |\n' + '|---' * len(columns) + '|')
    for megapixels in args.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder, 'image.tif')
            height, width = draw_raster(image, megapixels, args.nodata)
            options = ['--config', str(args.config), '--slide', *map(str, args.slide), '--one', str(image)]
            options += (['--stand-in'] if args.stand_in else []) + (['--vector', *args.vector] if args.vector else [])
            command = [sys.executable, __file__, *options]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(run.stdout.splitlines()[-1])
        million = height * width / 1e6
        cells = [
            f'{megapixels:g}',
            f'{result["predicted"] / million:.3f}',
            f'{result["measured"] / million:.3f}',
            *(f'{peak / 2**20:.0f}' for peak in result['peaks']),
            f'{result["cracks"]:,}',
            f'{result["share"]:.2%}',
        ]
        print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
