"""Time the reference's prediction against ours, in turn in one run: the tables of docs/performance.md.

    python benchmarks/inference.py      # on a GPU at 1008 px if there is one, otherwise on the CPU at 336 px
    python benchmarks/inference.py --exported   # the tiny model's ONNX and torch.export files beside PyTorch

Full size, random weights. The reference runs the full forward with its adapters in place; ours has merged adapters, a
prompt encoded once, and the semantic path alone, and its time includes what lies around the model: normalisation,
resizing, label maps. A second table says where the time goes, part by part.
"""

import argparse
import time
from collections import defaultdict
from statistics import median
from typing import Any

import export
import torch
from mmengine.device import get_device
from steps import (
    BEST_HEAD,
    Work,
    matmul_peak,
    on_gpu,
    our_config,
    our_inference,
    print_machine,
    reference_inference,
    synchronize,
    time_alternately,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite

CPU_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('merged, fp32', {'dtype': None, 'compile': False}),
    ('the same with a detail head', {'dtype': None, 'compile': False, 'detail_head': BEST_HEAD}),
    ('merged, bfloat16', {'compile': False}),
    ('the same with a detail head', {'compile': False, 'detail_head': BEST_HEAD}),
)
CUDA_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('merged, bfloat16, not compiled', {'compile': False}),
    ('the same with a detail head', {'compile': False, 'detail_head': BEST_HEAD}),
    ('merged, bfloat16, compiled', {}),
)


def parts(model: Any) -> dict[str, list[nn.Module]]:
    """The modules that a prediction of the merged model spends its time in."""
    vision, decoder = model.vision_encoder, model.mask_decoder
    return {
        'patch embedding': [vision.backbone.embeddings, vision.backbone.layer_norm],
        'ViT, windows': [layer for layer in vision.backbone.layers if layer.window_size],
        'ViT, global attention': [layer for layer in vision.backbone.layers if not layer.window_size],
        'neck': list(vision.neck.fpn_layers[:-1]),
        'DETR encoder': list(model.detr_encoder.layers),
        'prompt attention': [decoder.prompt_cross_attn_norm, decoder.prompt_cross_attn],
        'pixel decoder': [decoder.pixel_decoder, decoder.semantic_projection],
    }


def print_parts(work: Work, peak: float, rounds: int, device: str) -> None:
    """Time, operations and speed of each part; the device is waited for around each, which costs some time itself."""
    seconds: dict[str, list[float]] = defaultdict(list)
    flops: dict[str, float] = defaultdict(float)
    handles = []
    # The counter knows CUDA's attention kernels, and not the CPU's.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})
    counting = True
    for name, modules in parts(work.model.model).items():
        for module in modules:

            def enter(module: Any, inputs: Any) -> None:
                synchronize(device)
                module.entered = time.perf_counter(), counter.get_total_flops() if counting else 0

            def leave(module: Any, inputs: Any, output: Any, name: str = name) -> None:
                synchronize(device)
                start, before = module.entered
                if counting:
                    flops[name] += counter.get_total_flops() - before
                else:
                    seconds[name][-1] += time.perf_counter() - start

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with counter:
        work.run()
    counting = False
    totals = []
    for _ in range(rounds):
        for name in parts(work.model.model):
            seconds[name].append(0.0)
        start = time.perf_counter()
        work.run()
        synchronize(device)
        totals.append(time.perf_counter() - start)
    for handle in handles:
        handle.remove()
    whole = median(totals)
    print('\n| part | share of the time | GFLOP | TFLOP/s | share of the product peak |\n|---|---|---|---|---|')
    for name, times in seconds.items():
        spent = median(times)
        speed = flops[name] / spent
        print(f'| {name} | {spent / whole:.1%} | {flops[name] / 1e9:.1f} | {speed / 1e12:.3g} | {speed / peak:.0%} |')
    others = 1 - sum(median(times) for times in seconds.values()) / whole
    print(f'| normalisation, resizing, positions, label maps | {others:.1%} | | | |')


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--image-size', type=int, metavar='PX', help='default: 1008 on a GPU, else 336')
    parser.add_argument(
        '--rounds', type=int, metavar='N', help='timed predictions of each (default: 30 on a GPU, else 7)'
    )
    parser.add_argument(
        '--warmup', type=int, metavar='N', help='predictions before those (default: 5 on a GPU, else 1)'
    )
    parser.add_argument('--compile', action='store_true', help='on a CPU, a row with compiled code')
    parser.add_argument('--exported', action='store_true', help='as benchmarks/export.py, and nothing else')
    args = parser.parse_args()
    if args.exported:
        export.main([] if args.rounds is None else ['--rounds', str(args.rounds)])
        return
    device, cuda = args.device, on_gpu(args.device)
    args.image_size = args.image_size or (1008 if cuda else 336)
    args.rounds = args.rounds or (30 if cuda else 7)
    args.warmup = (5 if cuda else 1) if args.warmup is None else args.warmup
    print_machine(device)
    works = [reference_inference(args.image_size, device)]
    rows = CUDA_ROWS if cuda else CPU_ROWS
    if args.compile and not cuda:
        rows += (('merged, fp32, compiled', {'dtype': None}),)
    for name, arguments in rows:
        config = our_config('sam3_lora_crack_fast', args.image_size, **arguments)
        work = our_inference(name, config, device)
        works.append(work)
    time_alternately(works, args.rounds, args.warmup, device)
    print(f'{args.image_size} px, batch 1, medians of {args.rounds} predictions each, in turn\n')
    print('| prediction | s an image | ratio | peak GB |\n|---|---|---|---|')
    for work in works:
        memory = f'{work.peak / 1e9:.2f}' if cuda else ''
        ratio = work.seconds_per_image / works[0].seconds_per_image
        print(f'| {work.name} | {work.seconds_per_image:.3g} | {ratio:.2f} | {memory} |')
    dtype = torch.bfloat16 if cuda else torch.float32
    peak = matmul_peak(device, dtype)
    print(f'\n{works[1].name}, part by part; best measured {dtype} product: {peak / 1e12:.3g} TFLOP/s')
    print_parts(works[1], peak, args.rounds, device)


if __name__ == '__main__':
    main()
