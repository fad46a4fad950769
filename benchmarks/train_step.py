"""Time the reference's training step against ours, in turn in one run: the tables of docs/performance.md.

    python benchmarks/train_step.py                       # a GPU at 1008 px if there is one, else the CPU at 336
    python benchmarks/train_step.py --batch-sizes 1 2 4 8 # on a GPU: the best share of its matrix products' peak

Full size, random weights. On a CPU both sides compute in fp32 on the same threads, and bfloat16 has rows of its own.
Each row's operations are those of its semantic path, forward and backward, counted on the meta device; what
checkpointing computes again does not count.
"""

import argparse
import tempfile
from typing import Any

import torch
from memory import our_model
from meta_device import count_operations, transformers_on_meta
from steps import (
    PICTURE,
    PlainDice,
    Work,
    matmul_peak,
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
CACHED = 'last 8 blocks, frozen prefix from the cache'


def build(row: Row, image_size: int, device: str, images: int, compile: bool | None = None) -> Work:
    """The work of a row; on a CPU without compiling unless asked for."""
    name, config_name, arguments = row
    if compile is not None:
        arguments = {**arguments, 'compile': compile}
    work = our_training(config_name, our_config(config_name, image_size, **arguments), device, images)
    work.name = name
    return work


def cached(work: Work, folder: str) -> Work:
    """The same model's step with the hidden states of its frozen layers read from disk."""

    def step() -> None:
        model: Any = work.model
        if cache[0] is None:
            cache[0] = model.cache_prefix(folder, limit=work.images)
        model._prefix_cache = cache[0]
        try:
            work.run()
        finally:
            model._prefix_cache = None

    cache: list[Any] = [None]
    return Work(CACHED, step, work.model, work.optimizer, work.images)


def operations(config_name: str, image_size: int) -> float:
    """FLOPs of a training step of ours for one image, forward and backward, nothing computed twice."""
    with transformers_on_meta():
        with torch.device('meta'):
            model = our_model(config_name, image_size, activation_checkpointing=False, dtype=None)
            pixels, masks = torch.zeros(1, 3, PICTURE, PICTURE), torch.zeros(1, PICTURE, PICTURE)
        return count_operations(lambda: PlainDice()(model.encode_decode(pixels, [{}])[:, 1], masks))


def print_table(works: list[Work], flops: dict[str, float], peak: float, device: str) -> None:
    """A row for each work; the first is the reference."""
    print('| step | s an image | ratio | peak GB | TFLOP/s | share of the product peak |\n|---|---|---|---|---|---|')
    for work in works:
        seconds = work.seconds_per_image
        memory = f'{work.peak / 1e9:.2f}' if device == 'cuda' else ''
        speed = flops[work.name] / seconds if work.name in flops else None
        figures = f'{speed / 1e12:.3g} | {speed / peak:.0%}' if speed else ' | '
        print(f'| {work.name} | {seconds:.3g} | {seconds / works[0].seconds_per_image:.2f} | {memory} | {figures} |')


def sweep(args: argparse.Namespace, device: str, peak: float) -> None:
    """Every batch size by itself, as far as memory goes."""
    print('\n| step | batch | s an image | peak GB | share of the product peak |\n|---|---|---|---|---|')
    for name, config_name in (('fast', 'sam3_lora_crack_fast'), ('last 8 blocks', 'sam3_lora_crack_last8')):
        flops = operations(config_name, args.image_size)
        for images in args.batch_sizes:
            try:
                work = build((name, config_name, {}), args.image_size, device, images)
                time_alternately([work], args.rounds, args.warmup, device)
            except torch.OutOfMemoryError:
                print(f'| {name} | {images} | out of memory | | |')
                break
            share = flops / work.seconds_per_image / peak
            print(f'| {name} | {images} | {work.seconds_per_image:.3g} | {work.peak / 1e9:.1f} | {share:.0%} |')
            del work
            torch.cuda.empty_cache()


def main() -> None:
    """Run the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image-size', type=int, default=1008 if cuda else 336, metavar='PX')
    parser.add_argument('--rounds', type=int, default=20 if cuda else 5, metavar='N', help='timed steps of each')
    parser.add_argument('--warmup', type=int, default=3 if cuda else 1, metavar='N', help='steps before those')
    parser.add_argument('--compile', action='store_true', help='compile on a CPU, too (on a GPU the configs decide)')
    parser.add_argument('--batch-sizes', type=int, nargs='*', default=[], metavar='N', help='a sweep on a GPU')
    args = parser.parse_args()
    device = 'cuda' if cuda else 'cpu'
    print_machine(device)
    rows = CUDA_ROWS if cuda else CPU_ROWS
    works = [reference_training(args.image_size, device)]
    works += [build(row, args.image_size, device, 1, None if cuda else args.compile) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        frozen = next(work for work in works if work.name.startswith('last 8 blocks'))
        works.append(cached(frozen, folder))
        time_alternately(works, args.rounds, args.warmup, device)
    flops = {name: operations(config_name, args.image_size) for name, config_name, _ in rows}
    flops['reference'] = operations('sam3_lora_crack', args.image_size)
    peak = matmul_peak(device, torch.bfloat16 if cuda else torch.float32)
    print(f'{args.image_size} px, batch 1, medians of {args.rounds} steps each, in turn')
    print(f'best measured {"bfloat16" if cuda else "fp32"} matrix product: {peak / 1e12:.3g} TFLOP/s\n')
    print_table(works, flops, peak, device)
    if cuda and args.batch_sizes:
        del works, frozen
        torch.cuda.empty_cache()
        sweep(args, device, peak)


if __name__ == '__main__':
    main()
