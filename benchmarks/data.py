"""Time data loading against the reference's, and the start on 100,000 files: the section of ``docs/performance.md``.

    python benchmarks/data.py

The reference's loading is written out below: Pillow decodes, stretches to 1008 px and normalises on the CPU, and reads
a mask that was drawn beforehand. Ours reads polygons and draws them while loading; the resize is the model's, on its
device, and is timed apart. All on one thread, pictures and masks in the page cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from torch import Tensor

from crack_plugin.datasets import LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.synthetic import write_dataset
from crack_plugin.peak_memory import peak_memory

SIDE = 1008
PIPELINE = [LoadImageFromFile(), LoadYOLOPolygons(), {'type': 'mmseg.PackSegInputs'}]


class ReferenceDataset:
    """The reference's loading: image and mask files to tensors of the model's input size."""

    def __init__(self, images: list[Path], masks: list[Path]) -> None:
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.open(self.images[index]).convert('RGB').resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).astype(np.float32) / 255
        normalised = (pixels - 0.5) / 0.5
        mask = np.array(Image.open(self.masks[index]).convert('L'))
        label = (mask > 127).astype(np.float32)
        return torch.from_numpy(normalised.transpose(2, 0, 1).copy()), torch.from_numpy(label)


def resized(image: Tensor) -> Tensor:
    """What preprocessor and model do on the device, here on the CPU: normalise, then stretch to the model's square."""
    pixels = (image[None].float() - 127.5) / 127.5
    return F.interpolate(pixels, size=(SIDE, SIDE), mode='bilinear', align_corners=False, antialias=False)


def images_per_second(load: Callable[[int], object], count: int, seconds: float, rounds: int = 5) -> list[float]:
    """Images a second of CPU time, one figure a round."""
    for index in range(min(count, 8)):
        load(index)
    speeds = []
    for _ in range(rounds):
        loaded, start = 0, time.process_time()
        while time.process_time() - start < seconds / rounds:
            load(loaded % count)
            loaded += 1
        speeds.append(loaded / (time.process_time() - start))
    return speeds


def compare_speed(folder: Path, count: int, seconds: float) -> None:
    """Print a table row for each way to load ``count`` pictures of 640 x 640 pixels."""
    write_dataset(folder, n_train=count, n_valid=1, size=(640, 640), negative_share=0.1)
    ours = YOLOCrackDataset(folder, pipeline=PIPELINE)
    infos = [ours.get_data_info(i) for i in range(len(ours))]
    masks = [folder / f'{i}.png' for i in range(count)]
    for index, path in enumerate(masks):
        label = np.array(ours[index]['data_samples'].gt_sem_seg.data[0], np.uint8)
        cv2.imwrite(str(path), label * 255)
    decoding = LoadImageFromFile()
    reference = ReferenceDataset([Path(info['img_path']) for info in infos], masks)
    ways: dict[str, Callable[[int], object]] = {
        'reference: Pillow, resize to 1008, normalise, mask PNG': reference.__getitem__,
        'ours, polygons drawn': ours.__getitem__,
        'ours, with normalise and resize to 1008 on the CPU': lambda i: resized(ours[i]['inputs']),
        'for comparison: cv2 decoding alone': lambda i: decoding({'img_path': infos[i]['img_path']}),
    }
    print('| loading | images/s per core | least to most of 5 | against the reference |\n|---|---|---|---|')
    baseline = None
    for name, load in ways.items():
        speeds = images_per_second(load, count, seconds)
        median = float(np.median(speeds))
        baseline = baseline or median
        print(f'| {name} | {median:.0f} | {min(speeds):.0f} to {max(speeds):.0f} | {median / baseline:.1f} x |')


def measure_start(folder: Path, count: int) -> None:
    """Print how long a dataset of ``count`` images takes to start, and the memory of it and of a pass over it."""
    write_dataset(folder / 'one', n_train=1, n_valid=1, size=(64, 64), negative_share=0.0)
    for kind in ('images', 'labels'):
        (folder / 'many/train' / kind).mkdir(parents=True)
        (source,) = (folder / 'one/train' / kind).iterdir()
        for index in range(count):
            # A file system allows so many links to one file (ext4: 65,000).
            if index % 50_000 == 0:
                copy = folder / f'{kind}_{index}{source.suffix}'
                copy.write_bytes(source.read_bytes())
            os.link(copy, folder / 'many/train' / kind / f'{index:09d}{source.suffix}')
    before = resident_mb()
    start = time.perf_counter()
    dataset = YOLOCrackDataset(folder / 'many', pipeline=PIPELINE)
    print(f'start on {len(dataset):,} images with labels: {time.perf_counter() - start:.1f} s')
    print(f'memory of the list of files: {dataset.data_bytes.nbytes / 2**20:.0f} MiB in one array, without objects')
    print(f'resident memory: {before:.0f} MiB before, {resident_mb():.0f} MiB after the start')
    for end in range(count // 4, count + 1, count // 4):
        for index in range(end - count // 4, end):
            dataset[index]
        print(f'  after {end:,} images loaded: {resident_mb():.0f} MiB')
    print(f'  peak: {peak_memory("cpu"):.0f} MiB')


def resident_mb() -> float:
    """Resident memory of this process in MiB (Linux)."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=64, metavar='N', help='pictures to load (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=15, help='for each way to load (default: %(default)s)')
    parser.add_argument('--files', type=int, default=100_000, metavar='N', help='for the start (default: %(default)s)')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare_speed(Path(folder) / 'speed', args.images, args.seconds)
        print()
        measure_start(Path(folder), args.files)


if __name__ == '__main__':
    main()
