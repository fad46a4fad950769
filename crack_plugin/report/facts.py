"""Facts of a training for its report: dataset, recipe, size of the model, runtime and footprint."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import DATASETS

from crack_plugin.checkpoints import load_from_local
from crack_plugin.models.adapters import WEIGHTS_FILE

Facts = list[tuple[str, str]]
"""Name and value of each."""


def count_images(cfg: Config) -> list[tuple[str, str, str]]:
    """Split, number of images (or why they cannot be counted) and folder, of the training and the validation data."""
    counts = []
    for name in ('train', 'val'):
        settings = cfg[f'{name}_dataloader'].dataset
        try:
            count = f'{len(DATASETS.build(settings)):,}'
        except FileNotFoundError as error:
            count = f'not found: {error}'
        counts.append((settings.get('split', name), count, str(settings.get('data_root', '-'))))
    return counts


def without_folders(dataset: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """What :func:`count_images` returns, without a word on where the images are."""
    return [(split, 'not known' if ':' in count else count, '-') for split, count, _ in dataset]


def recipe_facts(cfg: Config, checkpoint: Path | None) -> Facts:
    """Model and recipe as the config states them, and how far the checkpoint, if there is one, was trained."""
    model, loader = cfg.model, cfg.train_dataloader
    base = model.get('base')
    head = model.get('decode_head')
    loss = head.get('loss_decode') if isinstance(head, dict) else model.get('loss_decode')
    trained = '-'
    if checkpoint is not None:
        position = load_from_local(str(checkpoint), 'cpu')['meta']
        trained = f'{checkpoint.name} (after epoch {position["epoch"]}, iteration {position["iter"]:,})'
    rows = [
        ('Config', Path(cfg.filename).name),
        ('Checkpoint', trained),
        ('Model', model.type),
        ('Base', 'random weights' if isinstance(base, dict) else base),
        ('Prompts', ', '.join(repr(prompt) for prompt in model.get('prompts', [])) or '-'),
        ('LoRA', _one_line(model.lora) if model.get('lora') else '-'),
        ('Loss', '; '.join(_one_line(one) for one in _as_list(loss))),
        ('Optimizer', _one_line(cfg.optim_wrapper.get('optimizer', {}))),
        ('Precision', cfg.optim_wrapper.get('type', 'OptimWrapper')),
        ('Schedule', '; '.join(_one_line(step) for step in _as_list(cfg.get('param_scheduler')))),
        ('Length', _one_line(cfg.train_cfg)),
        ('Batch size', str(loader.batch_size)),
        ('Seed', str(cfg.get('randomness', {}).get('seed', '-'))),
    ]
    return [(name, value or '-') for name, value in rows]


def model_size(model: Any) -> tuple[Facts, Facts]:
    """Parameters of a model, and the size on disk of its adapter as ``save_adapter`` writes it (none: empty)."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    adapter = sum(parameter.numel() for name, parameter in model.named_parameters() if '.lora_' in name)
    rows = [('Parameters', f'{total:,}'), ('Trainable parameters', f'{trainable:,} ({trainable / total:.2%})')]
    if not adapter:
        return rows, []
    with tempfile.TemporaryDirectory() as scratch:
        model.save_adapter(scratch)
        size = Path(scratch, WEIGHTS_FILE).stat().st_size
    rows.append(('Adapter parameters', f'{adapter:,} ({adapter / total:.2%})'))
    return rows, [('Adapter on disk', _megabytes(size))]


def runtime_facts(rows: Sequence[Mapping[str, Any]], axis: str, checkpoint: Path | None) -> Facts:
    """Time, memory and disk that the training took.

    Args:
        rows: Of :func:`~crack_plugin.report.history.load_history`.
        axis: 'epoch' or 'iter'.
        checkpoint: File whose size is told; None for none.
    """
    training, validation = (
        [row[key] for row in rows if row.get(key) is not None] for key in ('train_seconds', 'val_seconds')
    )
    span = 'of an epoch' if axis == 'epoch' else 'between validations'
    return [
        ('Training time', duration(training)),
        ('Validation time', duration(validation)),
        (f'Training time, mean {span}', duration(training, mean=True)),
        ('Peak memory', largest_memory(rows)),
        ('Checkpoint on disk', '-' if checkpoint is None else _megabytes(checkpoint.stat().st_size)),
    ]


def largest_memory(rows: Sequence[Mapping[str, Any]]) -> str:
    """The largest peak of the training, and what it is of."""
    peaks = [row for row in rows if row.get('peak_memory_mb') is not None]
    peak = max(peaks, key=lambda row: row['peak_memory_mb'], default=None)
    if peak is None:
        return 'not recorded'
    return f'{peak["peak_memory_mb"]:,.0f} MiB ({peak.get("peak_memory_of", "CUDA allocator")})'


def _one_line(settings: dict[str, Any]) -> str:
    """A config dict in one line: 'AdamW(lr=0.0001)'."""
    arguments = ', '.join(f'{key}={value}' for key, value in settings.items() if key != 'type')
    return f'{settings["type"]}({arguments})' if 'type' in settings else arguments


def _as_list(settings: Any) -> list:
    return [] if settings is None else settings if isinstance(settings, list) else [settings]


def duration(rows: Sequence[float], mean: bool = False) -> str:
    """The sum of seconds, or their mean, in a unit that fits."""
    if not rows:
        return 'not recorded'
    seconds = sum(rows) / (len(rows) if mean else 1)
    if seconds < 120:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def _megabytes(size: int) -> str:
    return f'{size / 1e6:,.1f} MB'


def device_name(device: str) -> str:
    """The GPU's product name, or 'cpu'."""
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device
