"""Computes the frozen bottom of the ViT once for each picture, instead of once an epoch."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from crack_plugin.errors import ConfigError
from crack_plugin.hooks.reproducibility import seed
from crack_plugin.hooks.run_state import unwrap

SAMPLES, DRAWS = 3, 8


@HOOKS.register_module()
class PrefixCacheHook(Hook):
    """Keep what the frozen layers of ``SAM3TextLoRA`` make of each training and validation picture on disk.

    For adapters on the last blocks alone, and pipelines without random transforms. It is kept in bfloat16: exact under
    ``model.dtype='bfloat16'``, otherwise rounded to that. The log says how large the cache may become before anything
    is written: at 1008 px, 10.6 MB a picture.

    Args:
        folder: Where to keep it. Later runs, and other runs with the same frozen layers, use what is there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train(self, runner: Runner) -> None:
        """Announce the size and open the cache.

        Raises:
            ConfigError: The pipeline is random, no layer is frozen, the model is another, or the disk is too small.
        """
        model = unwrap(runner.model)
        if not hasattr(model, 'cache_prefix'):
            raise ConfigError(f'PrefixCacheHook is for SAM3TextLoRA; {type(model).__name__} has no use for it.')
        loops = [loop for loop in (runner.train_loop, runner.val_loop) if loop is not None]
        datasets = [loop.dataloader.dataset for loop in loops]
        for dataset in datasets:
            _refuse_random(dataset)
        images = sum(len(dataset) for dataset in datasets)
        cache = model.cache_prefix(self.folder, images)
        # What is there may be of other images.
        wanted, free = images * model.prefix_bytes, shutil.disk_usage(cache.folder).free
        present = len(cache) * model.prefix_bytes
        runner.logger.info(
            f'Prefix cache in {cache.folder}: {images:,} pictures of {_size(model.prefix_bytes)}, {_size(wanted)} in '
            f'all; {_size(present)} are there already, {_size(free)} are free'
        )
        if wanted > free + present:
            raise ConfigError(
                f'the prefix cache needs {_size(wanted)} in {cache.folder}, where {_size(present)} are there and '
                f'{_size(free)} are free. Give PrefixCacheHook a folder on a larger disk, or leave it out.'
            )

    def after_train(self, runner: Runner) -> None:
        """Close the cache: a test that follows may have other images."""
        unwrap(runner.model).close_prefix_cache()


def _refuse_random(dataset: Any) -> None:
    """Load a few samples from several seeds each. A transform of probability 1/2 gets through once in 2^21 times."""
    with _own_randomness():
        for index in range(min(SAMPLES, len(dataset))):
            first, *others = [_draw(dataset, index, number) for number in range(DRAWS)]
            if any(other.shape != first.shape or not torch.equal(other, first) for other in others):
                raise ConfigError(
                    f'the pipeline of {type(dataset).__name__} makes another picture of an image every time, so the '
                    'prefix cache would never be read. Take its random transforms out, or PrefixCacheHook.'
                )


def _draw(dataset: Any, index: int, number: int) -> torch.Tensor:
    seed(number, index)
    return dataset[index]['inputs']


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give the training back the random state it had, on the CPU and on every GPU: seeding torch seeds them all."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - mmseg's transforms use it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _size(count: float) -> str:
    """Bytes in the largest fitting decimal unit."""
    for unit in ('B', 'kB', 'MB'):
        if count < 1000:
            return f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:,.1f} GB'
