"""Train a segmentor: ``python tools/train.py CONFIG``, with the command line of MMSegmentation's own tool."""

import argparse
import logging
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from torch import nn

from crack_plugin.cli import add_run_arguments, build_runner, load_config, parse_arguments, readable_errors

# `AmpOptimWrapper` asserts one of these.
AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')
AMP_ONLY_KEYS = ('loss_scale', 'dtype', 'use_fsdp')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Train a segmentor.')
    add_run_arguments(parser)
    parser.add_argument('--resume', action='store_true', help='continue from the latest checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision')
    return parser


def optim_wrapper_name(cfg: Config) -> str:
    """Name of the optimizer wrapper's class, without registry scope."""
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    return wrapper.rpartition('.')[2] if isinstance(wrapper, str) else wrapper.__name__


def set_precision(cfg: Config, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Apply ``--amp``, and end with a usage error where mixed precision is asked of a machine that has none."""
    if args.amp and optim_wrapper_name(cfg) == 'OptimWrapper':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif args.amp and optim_wrapper_name(cfg) != 'AmpOptimWrapper':
        parser.error(f'--amp needs a config with optim_wrapper.type=OptimWrapper, not {cfg.optim_wrapper.type}')

    if optim_wrapper_name(cfg) == 'AmpOptimWrapper' and get_device() not in AMP_DEVICES:
        parser.error(
            'mixed precision (optim_wrapper.type=AmpOptimWrapper) needs a GPU, and PyTorch finds none on this machine. '
            'To train in fp32 on the CPU, '
            + ('leave out --amp.' if args.amp else 'add: --cfg-options optim_wrapper.type=OptimWrapper')
        )

    if optim_wrapper_name(cfg) == 'OptimWrapper' and 'optim_wrapper.type' in (args.cfg_options or {}):
        for key in AMP_ONLY_KEYS:
            if key in cfg.optim_wrapper:
                value = cfg.optim_wrapper.pop(key)
                print_log(
                    f'optim_wrapper.{key}={value!r} has no meaning without mixed precision and is left out.',
                    logger='current',
                    level=logging.WARNING,
                )


def train(argv: Sequence[str] | None = None) -> nn.Module:
    """Train as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.

    Returns:
        The trained model, as ``Runner.train`` returns it.
    """
    parser = make_parser()
    args = parse_arguments(parser, argv)
    with readable_errors(parser):
        cfg = load_config(args)
        if 'optim_wrapper' in cfg:
            set_precision(cfg, args, parser)
        cfg.resume = args.resume or cfg.get('resume', False)
        return build_runner(cfg).train()


if __name__ == '__main__':
    train()
