"""One row of a benchmark: the scores and the cost of one model, by the same code for all.

``python -m crack_plugin.comparison.measure CONFIG FOLDER`` measures in a process of its own, whose memory is the
model's, and leaves in FOLDER what :class:`Measurement` reads.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint, set_random_seed
from mmseg.registry import MODELS
from torch.utils.data import DataLoader

from crack_plugin.comparison.cost import Cost, measure_cost
from crack_plugin.errors import CrackPluginError
from crack_plugin.evaluation import CrackMetric
from crack_plugin.evaluation.image_statistics import ImageStatistics
from crack_plugin.files import write_atomically
from crack_plugin.inference import predict

RESULT, STATISTICS = 'result.json', 'statistics.npz'


class MeasurementError(CrackPluginError, FileNotFoundError):
    """A file of a measurement is missing or damaged."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model.

    Attributes:
        cost: What a prediction costs.
        statistics: By image, to score them.
        images: Files of the images, in the statistics' order.
        shown: Indices of the images whose predictions are kept, in ``folder``/labels/INDEX.png.
        folder: Where they are.
        images_seen: Training images up to the checkpoint, repetitions counted, on one device; None if the checkpoint
            does not tell, or there is none.
    """

    cost: Cost
    statistics: ImageStatistics
    images: Sequence[str]
    shown: Sequence[int]
    folder: Path
    images_seen: int | None

    @classmethod
    def read(cls, folder: Path) -> 'Measurement':
        """Read what the process left."""
        result = json.loads((folder / RESULT).read_text(encoding='utf-8'))
        with np.load(folder / STATISTICS) as arrays:
            statistics = ImageStatistics(**arrays)
        return cls(cost=Cost(**result.pop('cost')), statistics=statistics, folder=folder, **result)

    def prediction(self, index: int) -> np.ndarray:
        """Predicted labels of a shown image, shape (H, W), uint8."""
        return _read_labels(self.folder / 'labels' / f'{index}.png')

    def truth(self, index: int) -> np.ndarray:
        """True labels of a shown image, shape (H, W), uint8, 255 where ignored."""
        return _read_labels(self.folder / 'truth' / f'{index}.png')


def measure(cfg: Config, checkpoint: str | None, folder: Path, device: str, shown: int) -> None:
    """Measure one model on its test images and write the results.

    Args:
        cfg: Its config; ``test_dataloader`` is what it is scored on, by a ``CrackMetric`` with default settings.
        checkpoint: File with its weights; None for the model as configured.
        folder: Where to write.
        device: Where to run.
        shown: How many predictions to keep, evenly spaced over the images.

    Raises:
        RuntimeError: The checkpoint does not fit the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    # Some heads draw random numbers when they predict (SegNeXt's).
    set_random_seed(0)
    model, iterations = build_model(cfg, checkpoint, device)
    loader = _test_loader(cfg)
    cost = measure_cost(model, loader, cfg, device)
    evaluator = Evaluator(CrackMetric())
    evaluator.dataset_meta = loader.dataset.metainfo  # type: ignore[attr-defined]
    count = len(loader.dataset)  # type: ignore[arg-type]
    kept = sorted({round(k * (count - 1) / max(shown - 1, 1)) for k in range(min(shown, count))})
    images = []
    for index, batch in enumerate(loader):
        (sample,) = predict(model.test_step, batch, cfg)
        evaluator.process([sample], batch)
        images.append(str(sample.img_path))
        if index in kept:
            _write_labels(folder / 'labels' / f'{index}.png', sample.pred_sem_seg.data)
            _write_labels(folder / 'truth' / f'{index}.png', sample.gt_sem_seg.data)
    evaluator.evaluate(count)
    statistics: ImageStatistics = evaluator.metrics[0].statistics  # type: ignore[attr-defined]
    arrays = {name: array for name, array in vars(statistics).items() if array is not None}
    np.savez_compressed(folder / STATISTICS, **arrays)
    seen = None if iterations is None else iterations * cfg.train_dataloader.batch_size
    result = {'cost': asdict(cost), 'images': images, 'shown': kept, 'images_seen': seen}
    write_atomically(folder / RESULT, json.dumps(result, indent=1).encode())


def build_model(cfg: Config, checkpoint: str | None, device: str) -> tuple[Any, int | None]:
    """The config's model in evaluation mode, with every key of its checkpoint loaded.

    Returns:
        The model, and after how many iterations the checkpoint was saved, if it tells.

    Raises:
        RuntimeError: The checkpoint does not fit the model.
    """
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    iterations = None
    if checkpoint is not None:
        iterations = load_checkpoint(model, checkpoint, map_location='cpu', strict=True).get('meta', {}).get('iter')
    return model.to(device).eval(), iterations


def _test_loader(cfg: Config) -> DataLoader:
    """The test images in the dataset's order, one by one, loaded in this process."""
    settings = cfg.copy().test_dataloader
    settings.batch_size = 1
    settings.num_workers = 0
    settings.persistent_workers = False
    settings.sampler = {'type': 'DefaultSampler', 'shuffle': False}
    return Runner.build_dataloader(settings)


def _write_labels(path: Path, labels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), labels.squeeze(0).cpu().numpy().astype(np.uint8))


def _read_labels(path: Path) -> np.ndarray:
    labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if labels is None:
        raise MeasurementError(f'{path} is missing or damaged: measure the model again.')
    return labels.astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('folder', type=Path, help='where to write')
    parser.add_argument('--checkpoint', help='default: none, the model as configured')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--shown', type=int, default=4, metavar='N', help='predictions to keep (default: %(default)s)')
    args = parser.parse_args(argv)
    measure(Config.fromfile(args.config), args.checkpoint, args.folder, args.device, args.shown)


if __name__ == '__main__':
    main()
