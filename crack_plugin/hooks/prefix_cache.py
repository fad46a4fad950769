"""Computes the frozen bottom of the ViT once for each picture, instead of once an epoch."""

import shutil
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.hooks.reproducibility import seed

SAMPLES = 3


@HOOKS.register_module()
class PrefixCacheHook(Hook):
    """Keep what the frozen layers of ``SAM3TextLoRA`` make of each training and validation picture on disk.

    For adapters on the last blocks alone, and pipelines without random transforms. The log says how large the cache
    will be before anything is written: at 1008 px, 10.6 MB a picture.

    Args:
        folder: Where to keep it. Later runs, and other runs with the same frozen layers, use what is there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train(self, runner: Runner) -> None:
        """Announce the size and open the cache.

        Raises:
            ValueError: The pipeline is random, no layer is frozen, or the disk is too small.
        """
        loops = [loop for loop in (runner.train_loop, runner.val_loop) if loop is not None]
        datasets = [loop.dataloader.dataset for loop in loops]
        for dataset in datasets:
            _refuse_random(dataset)
        images = sum(len(dataset) for dataset in datasets)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        cache = model.cache_prefix(self.folder, images)
        wanted = max(0, images - len(cache)) * model.prefix_bytes
        free = shutil.disk_usage(cache.folder).free
        runner.logger.info(
            f'Prefix cache in {cache.folder}: {images:,} pictures of {model.prefix_bytes / 1e6:.1f} MB, '
            f'{images * model.prefix_bytes / 1e9:.2f} GB in all, {wanted / 1e9:.2f} GB of them to be written'
        )
        if wanted > free:
            raise ValueError(
                f'the prefix cache needs {wanted / 1e9:.1f} GB in {cache.folder}, where {free / 1e9:.1f} GB are free. '
                'Give PrefixCacheHook a folder on a larger disk, or leave it out.'
            )
        # Nobody writes before everybody has counted what is there.
        barrier()


def _refuse_random(dataset: Any) -> None:
    """Load a few samples twice, from different seeds."""
    for index in range(min(SAMPLES, len(dataset))):
        drawn = []
        for number in (0, 1):
            seed(number)
            drawn.append(dataset[index]['inputs'])
        if drawn[0].shape != drawn[1].shape or not torch.equal(*drawn):
            raise ValueError(
                f'the pipeline of {type(dataset).__name__} makes another picture of an image every time, so the '
                'prefix cache would never be read. Take its random transforms out, or PrefixCacheHook.'
            )
