"""Data loaders without worker processes, whatever their config says about workers.

``persistent_workers=True`` and ``prefetch_factor`` are about worker processes, and torch refuses them beside
``num_workers=0``. MMEngine hands a config on as it is, so that a config written for workers could not be run without
them by an override of ``num_workers`` alone.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

WORKER_OPTIONS = {'persistent_workers': False, 'prefetch_factor': None, 'timeout': 0, 'multiprocessing_context': None}
"""What torch's ``DataLoader`` accepts without workers, by argument."""


def register_dataloaders() -> None:
    """Make MMEngine's runners build data loaders through :func:`without_idle_options`."""
    for runner in (Runner, FlexibleRunner):
        build = runner.build_dataloader
        if not hasattr(build, '__wrapped__'):
            runner.build_dataloader = staticmethod(_building(build))  # type: ignore[method-assign]


def without_idle_options(dataloader: Mapping[str, Any]) -> dict[str, Any]:
    """A data loader's config, without the options of worker processes if it has no workers.

    Args:
        dataloader: As ``Runner`` takes it; ``num_workers`` is 0 if it is left out.

    Returns:
        A shallow copy. What was left out is logged in one line.
    """
    kept = dict(dataloader)
    if kept.get('num_workers', 0) != 0:
        return kept
    idle = [name for name, value in WORKER_OPTIONS.items() if kept.get(name, value) != value]
    for name in idle:
        del kept[name]
    if idle:
        options = ', '.join(f'{name}={dataloader[name]!r}' for name in idle)
        print_log(f'num_workers=0: data is loaded in the main process, and {options} left out', logger='current')
    return kept


def _building(build: Callable[..., DataLoader]) -> Callable[..., DataLoader]:
    @wraps(build)
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        # One that is built already is passed on as it is.
        config = without_idle_options(dataloader) if isinstance(dataloader, Mapping) else dataloader
        return build(config, *args, **kwargs)

    return build_dataloader
