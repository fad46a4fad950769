"""Test a segmentor: ``python tools/test.py CONFIG [CHECKPOINT]``, with the command line of MMSegmentation's own tool.

Without a checkpoint the model is tested as its config builds it: SAM 3 zero-shot, or with ``model.adapter``.
"""

import argparse
from collections.abc import Sequence

from mmengine.config import Config

from crack_plugin.cli import (
    add_run_arguments,
    build_runner,
    checkpoint_file,
    load_config,
    parse_arguments,
    readable_errors,
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Test a segmentor.')
    add_run_arguments(parser)
    parser.add_argument(
        'checkpoint', nargs='?', type=checkpoint_file, help='checkpoint file (default: none, the model as configured)'
    )
    parser.add_argument('--out', metavar='DIR', help='folder to save the predicted label maps to, as PNG')
    parser.add_argument('--show', action='store_true', help='show painted predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='folder to save painted predictions to')
    parser.add_argument(
        '--wait-time', type=float, default=2, metavar='S', help='seconds each window stays (default: 2)'
    )
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, by the config's tta_pipeline")
    return parser


def use_tta(cfg: Config, parser: argparse.ArgumentParser) -> None:
    """Put the config's TTA pipeline and model in the place of the plain ones."""
    missing = [key for key in ('tta_pipeline', 'tta_model') if key not in cfg]
    if missing:
        parser.error(f'--tta needs {" and ".join(missing)} in the config {cfg.filename}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def paint_predictions(cfg: Config, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Turn on the visualization hook: for every image, unless the config sets an ``interval`` of its own."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        parser.error(
            '--show and --show-dir need default_hooks.visualization in the config, e.g. '
            "visualization=dict(type='SegVisualizationHook')"
        )
    hook.draw = True
    hook.setdefault('interval', 1)
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def save_label_maps(cfg: Config, folder: str, parser: argparse.ArgumentParser) -> None:
    """Tell the evaluator that writes label maps (``IoUMetric``, ``CrackMetric``, ...) to write them to ``folder``."""
    from mmseg.evaluation import CityscapesMetric, IoUMetric
    from mmseg.registry import METRICS

    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for metric in metrics:
        metric_class = METRICS.get(metric.type) if isinstance(metric.type, str) else metric.type
        if metric_class and issubclass(metric_class, (IoUMetric, CityscapesMetric)):
            metric.output_dir = folder
            metric.keep_results = True
            return
    names = ', '.join(str(metric.type) for metric in metrics)
    parser.error(f'--out needs a metric that writes label maps, IoUMetric or CrackMetric; test_evaluator has {names}')


def test(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Test as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.

    Returns:
        The metrics, as ``Runner.test`` returns them.
    """
    parser = make_parser()
    args = parse_arguments(parser, argv)
    with readable_errors(parser):
        cfg = load_config(args)
        cfg.resume = False
        if args.checkpoint:
            cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            paint_predictions(cfg, args, parser)
        if args.tta:
            use_tta(cfg, parser)
        if args.out:
            save_label_maps(cfg, args.out, parser)
        runner = build_runner(cfg)
        if not cfg.get('load_from'):
            runner.logger.info('No checkpoint given: the model is tested as configured, nothing is loaded into it.')
        return runner.test()


if __name__ == '__main__':
    test()
