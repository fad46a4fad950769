"""What soft clDice costs: ``python benchmarks/centerline_loss.py [--device cuda]``.

Computes the loss of one picture and its gradient, each size in a process of its own. Prints the seconds of both losses
(CPU time on a CPU, by the clock on a GPU), and by how much memory grows beyond logits and labels.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

# isort: split
import torch

from crack_plugin.models import CenterlineDiceLoss, ForegroundDiceLoss
from crack_plugin.peak_memory import peak_memory, reset_peak_memory

SIZES = ((336, 336), (1008, 1008), (3000, 4000))
ITERATIONS = (0, 5, 10, 50)
"""0 stands for ForegroundDiceLoss."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Time and memory of CenterlineDiceLoss.')
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=1, help='times the loss is computed, after once to warm up')
    parser.add_argument('--one', type=int, nargs=3, metavar=('HEIGHT', 'WIDTH', 'ITERATIONS'), help='a single row')
    return parser


def row(height: int, width: int, iterations: int, device: str, repeats: int) -> str:
    """Measure one size and loss; a row of the table."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, height, width, generator=generator).to(device).requires_grad_()
    labels = torch.zeros(1, height, width, dtype=torch.long, device=device)
    # A crack of 11 pixels, across.
    labels[:, height // 2 : height // 2 + 11] = 1
    loss = CenterlineDiceLoss(iterations=iterations) if iterations else ForegroundDiceLoss()
    small = logits.detach()[..., :64, :64].requires_grad_()
    loss.of_foreground(small, labels[:, :64, :64]).backward()
    clock = time.process_time if device == 'cpu' else time.perf_counter
    reset_peak_memory(device)
    before, start = peak_memory(device), clock()
    for _ in range(repeats):
        logits.grad = None
        loss.of_foreground(logits, labels).backward()
    if device != 'cpu':
        torch.cuda.synchronize()
    seconds = (clock() - start) / repeats
    name = f'CenterlineDiceLoss, {iterations} iterations' if iterations else 'ForegroundDiceLoss'
    return f'| {width} x {height} | {name} | {seconds:.2g} | {peak_memory(device) - before:,.0f} |'


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    args = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    if args.one:
        print(row(*args.one, args.device, args.repeats))
        return
    print('| picture | loss | seconds | memory (MiB) |\n|---|---|---|---|', flush=True)
    for height, width in SIZES:
        for iterations in ITERATIONS:
            one = ['--one', str(height), str(width), str(iterations), '--device', args.device]
            subprocess.run([sys.executable, __file__, *one, '--repeats', str(args.repeats)], check=True)


if __name__ == '__main__':
    main()
