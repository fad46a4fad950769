"""Time the reference's training step against ours, in turn in one run: the tables of docs/performance.md.

    python benchmarks/train_step.py                       # a GPU at 1008 px if there is one, else the CPU at 336
    python benchmarks/train_step.py --batch-sizes 1 2 4 8 # on a GPU: the best share of its matrix products' peak

Full size, random weights. On a CPU both sides compute in fp32 on the same threads, and bfloat16 has rows of its own.
Each row's operations are those of its semantic path, forward and backward, counted on the meta device; what
checkpointing computes again does not count.
"""

import argparse
import gc
import tempfile
from statistics import median
from typing import Any

import torch
from memory import our_model
from meta_device import count_operations, transformers_on_meta
from mmengine.device import get_device
from steps import (
    PICTURE,
    PlainDice,
    Work,
    matmul_peak,
    on_gpu,
    our_config,
    our_training,
    print_machine,
    reference_training,
    time_alternately,
)

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

Row = tuple[str, str, dict[str, Any]]

CPU_ROWS: tuple[Row, ...] = (
    ('same adapters, fp32', 'sam3_lora_crack_fast', {'dtype': None, 'activation_checkpointing': False}),
    ('last 8 blocks, fp32', 'sam3_lora_crack_last8', {'dtype': None, 'activation_checkpointing': False}),
    ('last 8 blocks, bfloat16', 'sam3_lora_crack_last8', {'activation_checkpointing': False}),
)
CUDA_ROWS: tuple[Row, ...] = (
    ('fast, not compiled', 'sam3_lora_crack_fast', {'compile': False}),
    ('fast', 'sam3_lora_crack_fast', {}),
    ('lowmem', 'sam3_lora_crack_lowmem', {}),
    ('last 8 blocks', 'sam3_lora_crack_last8', {}),
)


def build(row: Row, image_size: int, device: str, images: int, compile: bool | None = None) -> Work:
    """The work of a row; on a CPU without compiling unless asked for."""
    name, config_name, arguments = row
    if compile is not None:
        arguments = {**arguments, 'compile': compile}
    work = our_training(config_name, our_config(config_name, image_size, **arguments), device, images)
    work.name = name
    return work


def build_cached(row: Row, image_size: int, device: str, images: int, compile: bool | None, folder: str) -> Work:
    """The same with the hidden states of the frozen layers read from a file, which the page cache holds."""
    work = build(row, image_size, device, images, compile)
    work.name = f'{work.name}, frozen blocks from the cache'
    model: Any = work.model
    model.cache_prefix(folder, limit=images)
    # The first step fills the cache.
    work.run()
    return work


def operations(config_name: str, image_size: int) -> float:
    """FLOPs of a training step of ours for one image, forward and backward, nothing computed twice."""
    with transformers_on_meta():
        with torch.device('meta'):
            model = our_model(config_name, image_size, activation_checkpointing=False, dtype=None)
            pixels, masks = torch.zeros(1, 3, PICTURE, PICTURE), torch.zeros(1, PICTURE, PICTURE)
        return count_operations(lambda: PlainDice()(model.encode_decode(pixels, [{}])[:, 1], masks))


def print_table(works: list[Work], flops: dict[str, float], device: str) -> None:
    """A row for each work; the first is the reference."""
    reference = works[0]
    dtypes = {work.name: getattr(work.model, 'dtype', None) or torch.float32 for work in works}
    if on_gpu(device):
        dtypes[reference.name] = torch.float16  # by autocast
    peaks = {dtype: matmul_peak(device, dtype) for dtype in set(dtypes.values())}
    for dtype, peak in peaks.items():
        print(f'best measured {str(dtype).removeprefix("torch.")} matrix product: {peak / 1e12:.3g} TFLOP/s')
    print()
    print('| step | s an image | ratio | peak GB | TFLOP/s | share of that |\n|---|---|---|---|---|---|')
    for work in works:
        seconds = work.seconds_per_image
        memory = f'{work.peak / 1e9:.2f}' if on_gpu(device) else ''
        speed = flops[work.name] / seconds if work.name in flops else None
        figures = f'{speed / 1e12:.3g} | {speed / peaks[dtypes[work.name]]:.0%}' if speed else ' | '
        print(f'| {work.name} | {seconds:.3g} | {seconds / reference.seconds_per_image:.2f} | {memory} | {figures} |')


def sweep(args: argparse.Namespace, device: str) -> None:
    """Every batch size by itself, as far as memory goes."""
    peak = matmul_peak(device, torch.bfloat16)
    print('\n| step | batch | s an image | peak GB | share of the bfloat16 peak |\n|---|---|---|---|---|')
    for name, config_name in (('fast', 'sam3_lora_crack_fast'), ('last 8 blocks', 'sam3_lora_crack_last8')):
        flops = operations(config_name, args.image_size)
        for images in args.batch_sizes:
            work = build((name, config_name, {}), args.image_size, device, images)
            try:
                time_alternately([work], args.rounds, args.warmup, device)
            except torch.OutOfMemoryError:
                print(f'| {name} | {images} | out of memory | | |')
                break
            finally:
                figures = work.seconds, work.peak
                del work
                gc.collect()
                torch.cuda.empty_cache()
            seconds, bytes_at_most = median(figures[0]) / images, figures[1]
            print(f'| {name} | {images} | {seconds:.3g} | {bytes_at_most / 1e9:.1f} | {flops / seconds / peak:.0%} |')


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--image-size', type=int, metavar='PX', help='default: 1008 on a GPU, else 336')
    parser.add_argument('--rounds', type=int, metavar='N', help='timed steps of each (default: 20 on a GPU, else 5)')
    parser.add_argument('--warmup', type=int, metavar='N', help='steps before those (default: 3 on a GPU, else 1)')
    parser.add_argument('--compile', action='store_true', help='compile on a CPU, too (on a GPU the configs decide)')
    parser.add_argument('--batch-sizes', type=int, nargs='*', default=[], metavar='N', help='a sweep on a GPU')
    args = parser.parse_args()
    device, cuda = args.device, on_gpu(args.device)
    args.image_size = args.image_size or (1008 if cuda else 336)
    args.rounds = args.rounds or (20 if cuda else 5)
    args.warmup = (3 if cuda else 1) if args.warmup is None else args.warmup
    print_machine(device)
    rows = CUDA_ROWS if cuda else CPU_ROWS
    compile = None if cuda else args.compile
    works = [reference_training(args.image_size, device)]
    works += [build(row, args.image_size, device, 1, compile) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        works.append(build_cached(rows[-1], args.image_size, device, 1, compile, folder))
        time_alternately(works, args.rounds, args.warmup, device)
    flops = {name: operations(config_name, args.image_size) for name, config_name, _ in rows}
    flops['reference'] = operations('sam3_lora_crack', args.image_size)
    print(f'{args.image_size} px, batch 1, medians of {args.rounds} steps each, in turn')
    print_table(works, flops, device)
    if cuda and args.batch_sizes:
        del works
        gc.collect()
        torch.cuda.empty_cache()
        sweep(args, device)


if __name__ == '__main__':
    main()
