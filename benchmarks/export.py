"""Latency of exported models beside PyTorch: the table of ``docs/deploy.md``.

    python benchmarks/export.py

The embedded tiny SAM 3 (336 px) is exported, and a normalised image goes through the segmentor's semantic path, the
``torch.export`` file and the ONNX file on onnxruntime, in turns, on one thread each.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from onnxruntime import InferenceSession, SessionOptions

from crack_plugin.models import export

ROOT = Path(__file__).resolve().parents[1]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--rounds', type=int, default=30)
    return parser


def onnx_runner(path: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """Runs an ONNX file on one thread."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda images: session.run([export.OUTPUT], {export.INPUT: images.numpy()})[0]


def torch_runner(module: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], np.ndarray]:
    """Runs a module without gradients."""

    def run(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return module(images).numpy()

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print as the command line says."""
    args = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    model = MODELS.build({**Config.fromfile(args.config).model, 'dtype': None}).eval()
    images = torch.randn(1, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        files = {file_format: Path(folder, f'model.{file_format}') for file_format in export.FORMATS}
        for file_format, path in files.items():
            export.export(model, path, file_format)
        ways = {
            'PyTorch': torch_runner(export.SemanticPath(model)),
            'torch.export (.pt2)': torch_runner(torch.export.load(files['pt2']).module()),
            'onnxruntime (.onnx)': onnx_runner(files['onnx']),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        outputs = {name: run(images) for name, run in ways.items()}
        for _ in range(args.rounds):
            for name, run in ways.items():
                start = time.process_time()
                run(images)
                seconds[name].append(time.process_time() - start)
    print('| | ms of CPU time an image, median | against PyTorch | largest difference of logits |\n|---|---|---|---|')
    baseline = statistics.median(seconds['PyTorch'])
    for name in ways:
        median = statistics.median(seconds[name])
        difference = np.abs(outputs[name] - outputs['PyTorch']).max()
        print(f'| {name} | {1e3 * median:.0f} | {median / baseline:.2f} | {difference:.1e} |')


if __name__ == '__main__':
    main()
