"""Write the report of a training: ``python tools/report.py WORK_DIR`` makes WORK_DIR/report/report.md and report.html.

It holds model and recipe, the epoch table against zero-shot, curves, IoU and Dice histograms, example panels, runtime
and footprint. Curves and table come from what the training recorded; for histograms, examples and the zero-shot row the
best checkpoint is run over the validation images once, with its adapters and without.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from crack_plugin.checkpoints import load_from_local
from crack_plugin.cli import KeyValueAction, config_file, merge_options, readable_errors
from crack_plugin.models.adapters import WEIGHTS_FILE
from crack_plugin.models.base import BaseModelError
from crack_plugin.report.training import best_row, load_history, load_test_result
from crack_plugin.report.training_report import Facts, TrainingReport
from crack_plugin.report.validation import draw_examples, evaluate, validation_loader, zero_shot_step


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not args.work_dir.is_dir():
        parser.error(f'{args.work_dir} is no folder')
    if args.examples < 0:
        parser.error(f'--examples {args.examples}: a number from 0 on is wanted')
    with readable_errors(parser):
        rows, axis = load_history(args.work_dir)
        cfg = _load_config(parser, args)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        checkpoint = args.checkpoint or _find_checkpoint(parser, args.work_dir)
        report = TrainingReport(
            title=f'Crack segmentation: {args.work_dir.resolve().name}',
            recipe=_recipe(cfg, checkpoint),
            dataset=_count_images(cfg),
            rows=rows,
            axis=axis,
            best=best_row(rows, *_selection(cfg)),
            zero_shot=load_test_result(args.zero_shot) if args.zero_shot else None,
            runtime=_runtime(rows, axis, checkpoint),
        )
        folder = args.work_dir / 'report'
        folder.mkdir(exist_ok=True)
        if args.no_evaluation:
            _leave_out(report, 'the report was made with --no-evaluation')
        else:
            _evaluate_into(report, cfg, checkpoint, folder, args)
        report.write(folder)
    print(f'Wrote {folder / "report.md"} and {folder / "report.html"}')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='work directory of the training')
    parser.add_argument('--config', type=config_file, help='config file (default: the one in WORK_DIR)')
    parser.add_argument(
        '--checkpoint', type=_existing_file, help='checkpoint file (default: the best in WORK_DIR, or the last)'
    )
    parser.add_argument(
        '--zero-shot',
        type=_existing_file,
        metavar='RESULT.json',
        help='result of tools/test.py without training, for the first row of the table (default: run it now)',
    )
    parser.add_argument('--examples', type=int, default=2, metavar='N', help='images in each group (default: 2)')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument(
        '--no-evaluation',
        action='store_true',
        help='run no model: table and curves only, from what the training recorded',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='override config values, e.g. val_dataloader.dataset.data_root=DIR for data that has moved',
    )
    return parser


def _existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'file not found: {path}')
    return Path(path)


def _load_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """The config that mmengine left in the work directory, or the named one."""
    path = args.config
    if path is None:
        found = sorted(args.work_dir.glob('*.py'))
        if len(found) != 1:
            names = ', '.join(file.name for file in found) or 'none'
            parser.error(f'{args.work_dir} should hold one config file and has {names}: name it with --config')
        path = found[0]
    cfg = Config.fromfile(path)
    merge_options(cfg, args.cfg_options)
    return cfg


def _find_checkpoint(parser: argparse.ArgumentParser, work_dir: Path) -> Path:
    groups = [list(work_dir.glob(pattern)) for pattern in ('best_*.pth', 'epoch_*.pth', 'iter_*.pth')]
    newest = [max(group, key=lambda path: path.stat().st_mtime_ns) for group in groups if group]
    if not newest:
        parser.error(f'{work_dir} holds no checkpoint (best_*.pth, epoch_*.pth, iter_*.pth): name it with --checkpoint')
    return newest[0]


def _selection(cfg: Config) -> tuple[str, str]:
    """The metric and the rule that training selected its best checkpoint by, or the report's own."""
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    key = hook.get('save_best')
    return (key, hook.get('rule') or 'greater') if isinstance(key, str) and key != 'auto' else ('crack/IoU', 'greater')


def _leave_out(report: TrainingReport, why: str) -> None:
    if report.zero_shot is None:
        report.notes['results'] = f'The zero-shot row is missing: {why}'
    report.notes['distribution'] = report.notes['examples'] = f'Left out: {why}'


def _evaluate_into(
    report: TrainingReport, cfg: Config, checkpoint: Path, folder: Path, args: argparse.Namespace
) -> None:
    """Fill in what takes the model: its size, scores by image, the zero-shot row and the examples."""
    from mmseg.apis import init_model

    try:
        model = init_model(cfg.copy(), str(checkpoint), device=args.device)
        step = zero_shot_step(cfg, model, args.device) if report.zero_shot is None else None
    except BaseModelError as error:
        _leave_out(report, f'the model could not be loaded. {error}')
        print(f'warning: {report.notes["examples"]}')
        return
    sizes, adapter_size = _model_size(model)
    report.recipe[4:4] = sizes
    steps = {'fine-tuned': model.val_step}
    if step is not None:
        steps['zero-shot'] = step
    elif report.zero_shot is None:
        report.notes['results'] = (
            f'The zero-shot row is missing: this {type(model).__name__} has no state before training that could be '
            'run. Give a result with --zero-shot.'
        )
    loader = validation_loader(cfg)
    print(f'{checkpoint.name} on {report.dataset[-1][1]} validation images: {", ".join(steps)}')
    evaluations = evaluate(steps, loader, cfg)
    report.evaluation = evaluations['fine-tuned']
    if 'zero-shot' in evaluations:
        report.zero_shot_evaluation = evaluations['zero-shot']
        report.zero_shot = report.zero_shot_evaluation.metrics
    print('Drawing examples')
    report.examples = draw_examples(report.evaluation, model.val_step, loader.dataset, cfg, folder, args.examples)
    milliseconds = 1000 * report.evaluation.seconds_per_image
    report.runtime += adapter_size
    report.runtime.append((f'Prediction of an image ({_device_name(args.device)})', f'{milliseconds:,.0f} ms'))


def _count_images(cfg: Config) -> list[tuple[str, str, str]]:
    counts = []
    for name in ('train', 'val'):
        settings = cfg[f'{name}_dataloader'].dataset
        try:
            count = f'{len(DATASETS.build(settings)):,}'
        except FileNotFoundError as error:
            count = f'not found: {error}'
        counts.append((settings.get('split', name), count, str(settings.get('data_root', '-'))))
    return counts


def _recipe(cfg: Config, checkpoint: Path) -> Facts:
    model, loader = cfg.model, cfg.train_dataloader
    base = model.get('base')
    head = model.get('decode_head')
    loss = head.get('loss_decode') if isinstance(head, dict) else model.get('loss_decode')
    position = load_from_local(str(checkpoint), 'cpu')['meta']
    rows = [
        ('Config', Path(cfg.filename).name),
        ('Checkpoint', f'{checkpoint.name} (after epoch {position["epoch"]}, iteration {position["iter"]:,})'),
        ('Model', model.type),
        ('Base', 'random weights' if isinstance(base, dict) else base),
        ('Prompts', ', '.join(repr(prompt) for prompt in model.get('prompts', [])) or '-'),
        ('LoRA', _arguments(model.lora) if model.get('lora') else '-'),
        ('Loss', '; '.join(_arguments(one) for one in _listed(loss))),
        ('Optimizer', _arguments(cfg.optim_wrapper.get('optimizer', {}))),
        ('Precision', cfg.optim_wrapper.get('type', 'OptimWrapper')),
        ('Schedule', '; '.join(_arguments(step) for step in _listed(cfg.get('param_scheduler')))),
        ('Length', _arguments(cfg.train_cfg)),
        ('Batch size', str(loader.batch_size)),
        ('Seed', str(cfg.get('randomness', {}).get('seed', '-'))),
    ]
    return [(name, value or '-') for name, value in rows]


def _model_size(model: Any) -> tuple[Facts, Facts]:
    """Parameters, and the adapter's size as ``save_adapter`` writes it."""
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


def _runtime(rows: Sequence[dict[str, Any]], axis: str, checkpoint: Path) -> Facts:
    training, validation = (
        [row[key] for row in rows if row.get(key) is not None] for key in ('train_seconds', 'val_seconds')
    )
    peaks = [row for row in rows if row.get('peak_memory_mb') is not None]
    peak = max(peaks, key=lambda row: row['peak_memory_mb'], default=None)
    span = 'of an epoch' if axis == 'epoch' else 'between validations'
    memory = 'not recorded'
    if peak is not None:
        memory = f'{peak["peak_memory_mb"]:,.0f} MiB ({peak.get("peak_memory_of", "CUDA allocator")})'
    return [
        ('Training time', _duration(training)),
        ('Validation time', _duration(validation)),
        (f'Training time, mean {span}', _duration(training, mean=True)),
        ('Peak memory', memory),
        ('Checkpoint on disk', _megabytes(checkpoint.stat().st_size)),
    ]


def _arguments(settings: dict[str, Any]) -> str:
    """A config dict in one line: 'AdamW(lr=0.0001)'."""
    arguments = ', '.join(f'{key}={value}' for key, value in settings.items() if key != 'type')
    return f'{settings["type"]}({arguments})' if 'type' in settings else arguments


def _listed(settings: Any) -> list:
    return [] if settings is None else settings if isinstance(settings, list) else [settings]


def _duration(rows: Sequence[float], mean: bool = False) -> str:
    if not rows:
        return 'not recorded'
    seconds = sum(rows) / (len(rows) if mean else 1)
    if seconds < 120:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def _megabytes(size: int) -> str:
    return f'{size / 1e6:,.1f} MB'


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device


if __name__ == '__main__':
    main()
