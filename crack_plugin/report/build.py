"""Builds the report of a training from its work directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmseg.apis import init_model

from crack_plugin.checkpoints import find_best, find_last
from crack_plugin.errors import CrackPluginError
from crack_plugin.models.base import BaseModelError
from crack_plugin.report.epoch_table import best_row, load_test_result
from crack_plugin.report.examples import draw_examples, draw_false_alarms
from crack_plugin.report.facts import (
    count_images,
    device_name,
    model_size,
    recipe_facts,
    runtime_facts,
    without_folders,
)
from crack_plugin.report.history import load_history
from crack_plugin.report.training_report import TrainingReport
from crack_plugin.report.validation import evaluate, validation_loader, zero_shot_step


class WorkDirError(CrackPluginError, FileNotFoundError):
    """A work directory does not hold what a report needs."""


def build_report(
    work_dir: Path,
    cfg: Config | None = None,
    checkpoint: Path | None = None,
    zero_shot: Path | None = None,
    examples: int = 2,
    device: str | None = None,
    run_model: bool = True,
    folder: Path | None = None,
    shown: Config | None = None,
) -> Path:
    """Write report.md and report.html.

    Args:
        work_dir: Work directory of the training.
        cfg: Its config; None for the one in ``work_dir``.
        checkpoint: None for the best one in ``work_dir``, or else the last; without a model, a
            report for others needs none.
        zero_shot: Result of ``tools/test.py`` without training, for the first row of the table; None to run it now.
        examples: Number of images in each group.
        device: Where to run the model; None for the first GPU, or else the CPU.
        run_model: False leaves out what needs the model: scores of each image, examples, and the zero-shot row.
        folder: Where to; None for ``work_dir``/report.
        shown: Config to tell the settings of, in a report for others, which leaves out where the images are as well.

    Returns:
        Folder of the report.

    Raises:
        WorkDirError: There is no single config file or no checkpoint in ``work_dir``, and none was given.
        HistoryNotFoundError: ``work_dir`` holds no training.
        ValueError: A file of the training, or ``zero_shot``, is damaged.
    """
    device = device or get_device()
    rows, axis = load_history(work_dir)
    cfg = load_config(work_dir) if cfg is None else cfg
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if checkpoint is None and (run_model or shown is None):
        checkpoint = _find_checkpoint(work_dir)
    dataset = count_images(cfg)
    report = TrainingReport(
        title=f'Crack segmentation: {work_dir.resolve().name}',
        recipe=recipe_facts(shown or cfg, checkpoint),
        dataset=dataset if shown is None else without_folders(dataset),
        rows=rows,
        axis=axis,
        best=best_row(rows, *selection(cfg)),
        zero_shot=load_test_result(zero_shot) if zero_shot else None,
        runtime=runtime_facts(rows, axis, checkpoint),
    )
    folder = folder or work_dir / 'report'
    folder.mkdir(exist_ok=True)
    if run_model and checkpoint is not None:
        _evaluate_into(report, cfg, checkpoint, folder, examples, device)
    else:
        _leave_out(report, f'the report was made {"with --no-evaluation" if shown is None else "without the model"}')
    report.write(folder)
    return folder


def load_config(work_dir: Path, path: str | Path | None = None) -> Config:
    """The config that MMEngine left in the work directory, or the one at ``path``.

    Raises:
        WorkDirError: The work directory holds no config file, or several.
        HistoryNotFoundError: It holds no training at all.
    """
    if path is None:
        found = sorted(work_dir.glob('*.py'))
        if not found:
            # A folder without a training gets the error that says so.
            load_history(work_dir)
        if len(found) != 1:
            names = ', '.join(file.name for file in found) or 'none'
            raise WorkDirError(f'{work_dir} should hold one config file and has {names}: name it with --config')
        path = found[0]
    return Config.fromfile(path)


def _find_checkpoint(work_dir: Path) -> Path:
    checkpoint = find_best(work_dir) or find_last(work_dir)
    if checkpoint is None:
        raise WorkDirError(
            f'{work_dir} holds no checkpoint (best_*.pth, epoch_*.pth, iter_*.pth): name it with --checkpoint'
        )
    return checkpoint


def selection(cfg: Config) -> tuple[str, str]:
    """Metric and rule by which the training selected its best checkpoint, or the report's own."""
    hook: Mapping[str, Any] = cfg.get('default_hooks', {}).get('checkpoint') or {}
    key = hook.get('save_best')
    return (key, hook.get('rule') or 'greater') if isinstance(key, str) and key != 'auto' else ('crack/IoU', 'greater')


def _leave_out(report: TrainingReport, why: str) -> None:
    if report.zero_shot is None:
        report.notes['results'] = f'The zero-shot row is missing: {why}'
    report.notes['distribution'] = report.notes['examples'] = f'Left out: {why}'


def _evaluate_into(
    report: TrainingReport, cfg: Config, checkpoint: Path, folder: Path, examples: int, device: str
) -> None:
    """Fill in what needs the model: its size, the scores of each image, the zero-shot row and the examples."""
    try:
        model = init_model(cfg.copy(), str(checkpoint), device=device)
        step = zero_shot_step(cfg, model, device) if report.zero_shot is None else None
    except BaseModelError as error:
        _leave_out(report, f'the model could not be loaded. {error}')
        print(f'warning: {report.notes["examples"]}')
        return
    sizes, adapter_size = model_size(model)
    # After the config, the checkpoint, the model's type and its base.
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
    drawn = report.evaluation, model.val_step, loader.dataset, cfg, folder, examples
    report.examples = draw_examples(*drawn)
    report.false_alarms = draw_false_alarms(*drawn)
    milliseconds = 1000 * report.evaluation.seconds_per_image
    report.runtime += adapter_size
    report.runtime.append((f'Prediction of an image ({device_name(device)})', f'{milliseconds:,.0f} ms'))
