r"""Photographs a second of ``tools/predict.py`` against the model alone: a table of ``docs/report_and_predict.md``.

    python benchmarks/predict.py                                             # CPU, the tiny model, about five minutes
    python benchmarks/predict.py --cfg-options model.detail_head.channels=24                      # with a detail head
    python benchmarks/predict.py --config configs/sam3_lora_crack_fast.py --random-base --device cuda --workers 8 \
        --batch-size 8 --photographs 48x544x384 --rounds 2 --cfg-options model.compile=False

Photographs of each size are drawn (synthetic concrete; beyond a megapixel enlarged, with noise) and saved as JPEG. Then
the same photographs are predicted in turn, several times over: by the model alone (``test_step`` on photographs that
are decoded already, in the same batches, and the labels of what it gives), and by what the tool does with them (read,
predict, write mask, overlay and table). By the clock, for the photographs a second; and in CPU time of all threads and
processes, of which the tool's own part is what it takes beyond the model alone. Medians over the rounds. The model has
one thread, because threads that wait for each other count as CPU time.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.runner.amp import autocast

from crack_plugin.datasets.synthetic import draw
from crack_plugin.prediction import Predictor
from crack_plugin.prediction.output import predict_all
from crack_plugin.prediction.sources import find_sources

ROOT = Path(__file__).resolve().parents[1]
DRAWN_PIXELS = 1_000_000


def draw_photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write JPEG files of (height, width) pixels."""
    folder.mkdir(parents=True)
    height, width = size
    scale = min(1.0, (DRAWN_PIXELS / (height * width)) ** 0.5)
    for index in range(count):
        rng = np.random.default_rng(index)
        image = draw(rng, size=(round(scale * height), round(scale * width))).image
        if scale < 1:
            enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            noise = rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
            image = np.clip(enlarged + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f'{index:04d}.jpg'), image)


def batches(predictor: Predictor, folder: Path, size: int) -> list[dict[str, list[Any]]]:
    """The photographs as ``test_step`` takes them, ``size`` in each but the last."""
    loaded = [predictor.read(path).data for path in sorted(folder.iterdir())]
    parts = [loaded[start : start + size] for start in range(0, len(loaded), size)]
    return [{key: [data[key] for data in part] for key in ('inputs', 'data_samples')} for part in parts]


def model_alone(predictor: Predictor, data: list[dict[str, list[Any]]]) -> None:
    """``test_step``, until the device has finished."""
    for batch in data:
        with torch.no_grad(), autocast(enabled=predictor.fp16):
            samples = predictor.model.test_step(batch)
        # What the tool cannot do without.
        [sample.pred_sem_seg.data.cpu() for sample in samples]


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time."""
    start = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start[0], cpu_seconds() - start[1]


def compare(predictor: Predictor, folder: Path, options: dict[str, int], rounds: int) -> tuple[list[float], int]:
    """Predict the photographs of a folder both ways, in turn.

    Returns:
        Seconds a photograph: the model alone and the tool by the clock, the same in CPU time; and how many marked
        pixels the tool has found in all.
    """
    sources = find_sources([str(folder)])[0]
    data = batches(predictor, folder, options.get('batch_size', 1))
    seconds: list[tuple[float, ...]] = []
    for turn in range(rounds + 1):
        with tempfile.TemporaryDirectory() as out:
            alone = timed(lambda: model_alone(predictor, data))
            tool = timed(lambda out=out: predict_all(sources, predictor, Path(out), {}, **options))
            masks = [cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) for mask in Path(out).glob('masks/*.png')]
        assert len(masks) == len(sources)
        if turn:  # the first warms up
            seconds.append((alone[0], tool[0], alone[1], tool[1]))
    marked = sum(int(np.count_nonzero(mask)) for mask in masks)
    return [median(column) / len(sources) for column in zip(*seconds, strict=True)], marked


def sizes(text: str) -> tuple[int, int, int]:
    """COUNTxWIDTHxHEIGHT as numbers."""
    count, width, height = map(int, text.split('x'))
    return count, width, height


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--checkpoint', type=Path)
    parser.add_argument('--random-base', action='store_true', help='SAM 3 of full size with random weights')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--photographs', type=sizes, nargs='+', default=[(32, 544, 384), (4, 4000, 3000)],
                        metavar='COUNTxWIDTHxHEIGHT', help='default: 32x544x384 4x4000x3000')  # fmt: skip
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1, help='of the model, on a CPU (default: %(default)s)')
    parser.add_argument('--workers', type=int, help="default: the tool's")
    parser.add_argument('--batch-size', type=int, help="default: the tool's")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE')
    return parser


def main() -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    if args.random_base:
        cfg.model.base = {}
    predictor = Predictor(cfg, args.checkpoint, device=args.device)
    options = {'workers': args.workers, 'batch_size': args.batch_size}
    options = {name: value for name, value in options.items() if value is not None}
    print(f'{args.config.name}, {args.device}, {torch.get_num_threads()} threads, {options or "defaults"}')
    print('| photographs | model alone, a second | tool, a second | ratio | test_step, CPU ms | own, CPU ms | marked |')
    print('|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as scratch:
        for count, width, height in args.photographs:
            folder = Path(scratch, f'{width}x{height}')
            draw_photographs(folder, (height, width), count)
            (alone, tool, alone_cpu, tool_cpu), marked = compare(predictor, folder, options, args.rounds)
            print(
                f'| {count} of {width} x {height} | {1 / alone:.3g} | {1 / tool:.3g} | {alone / tool:.2f} '
                f'| {1e3 * alone_cpu:.0f} | {1e3 * (tool_cpu - alone_cpu):.0f} '
                f'| {marked / (count * width * height):.2%} |'
            )


if __name__ == '__main__':
    main()
