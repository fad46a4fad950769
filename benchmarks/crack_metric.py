"""Time of ``CrackMetric`` against MMSegmentation's ``IoUMetric``: a figure of ``docs/evaluate.md``.

    python benchmarks/crack_metric.py                        # 12 megapixels
    python benchmarks/crack_metric.py --size 544 384

Both score the same predictions in turn, and the table has medians of CPU time, on one thread. The maps show drawn
cracks: 'sparse' a few of them, 'dense' so many that the share of foreground is 5 %, the prediction shifted against the
truth. Probabilities are those of a distance to the crack, so that they take all values.
"""

import argparse
import time
from statistics import median

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

# isort: split
import cv2
import numpy as np
import torch
from mmseg.evaluation import IoUMetric

from crack_plugin.evaluation import CrackMetric

META = {'classes': ('background', 'crack')}


def cracks(size: tuple[int, int], share: float, width: int, rng: np.random.Generator) -> np.ndarray:
    """Random walks until so large a share of (height, width) pixels is crack, shape (H, W), uint8."""
    height, columns = size
    label = np.zeros(size, np.uint8)
    while label.mean() < share:
        steps = np.cumsum(rng.normal(0, max(size) / 200, (120, 2)) + rng.normal(0, max(size) / 300, 2), axis=0)
        points = (steps + rng.uniform(0, 1, 2) * (columns, height)).astype(np.int32)
        cv2.polylines(label, [points], False, 1, width)
    return label


def prediction(label: np.ndarray) -> dict[str, dict[str, torch.Tensor]]:
    """A sample as evaluators take it."""
    shifted = np.roll(label, (2, 3), axis=(0, 1))
    logit = cv2.GaussianBlur(shifted.astype(np.float32), (0, 0), 3) * 12 - 6
    logits = torch.from_numpy(np.stack([np.zeros_like(logit), logit]))
    return {
        'seg_logits': {'data': logits},
        'pred_sem_seg': {'data': (logits[1:] > logits[:1]).long()},
        'gt_sem_seg': {'data': torch.from_numpy(label.astype(np.int64))[None]},
    }


def main() -> None:
    """Measure and print as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, nargs=2, default=(4000, 3000), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    width, height = args.size
    print(f'{width} x {height} pixels, medians of {args.rounds}\n')
    print('| maps | IoUMetric, ms | CrackMetric, ms | ratio |\n|---|---|---|---|')
    for name, share in (('sparse', 0.005), ('dense', 0.05)):
        rng = np.random.default_rng(0)
        sample = prediction(cracks((height, width), share, max(2, width // 400), rng))
        metrics = IoUMetric(), CrackMetric()
        seconds: list[list[float]] = [[], []]
        for _ in range(args.rounds + 1):
            for metric, times in zip(metrics, seconds, strict=True):
                metric.dataset_meta, metric.results = META, []
                start = time.process_time()
                metric.process(None, [sample])
                times.append(time.process_time() - start)
        stock, ours = (1e3 * median(times[1:]) for times in seconds)
        print(f'| {name} | {stock:.0f} | {ours:.0f} | {ours / stock:.2f} |')


if __name__ == '__main__':
    main()
