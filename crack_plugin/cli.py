"""What the tools share: MMSegmentation's command line, the options of a dataset, and errors a user can read."""

import argparse
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config

from crack_plugin import machine_faults
from crack_plugin.config_options import KeyValueAction, merge_options
from crack_plugin.cpu_processes import distribute_on_cpu, launcher_variables
from crack_plugin.errors import CrackPluginError, ToolError, message
from crack_plugin.shipped import shipped

ADAPTER_HELP = 'PEFT adapter: a folder, or a hub id (owner/name, owner/name@revision)'
CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def local_checkpoint(path: str) -> str:
    """Argparse type: the path of an existing checkpoint file."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'file not found: {path} (a PEFT adapter folder is given with --adapter)')
    return path


def config_file(path: str) -> str:
    """Argparse type: the path of an existing config file, or the name of one that comes with the package."""
    if not Path(path).is_file():
        installed = shipped('configs') / path
        if not installed.is_file():
            raise argparse.ArgumentTypeError(f'config file not found: {path}')
        path = str(installed)
    if Path(path).suffix not in CONFIG_SUFFIXES:
        raise argparse.ArgumentTypeError(f'not a config file ({", ".join(CONFIG_SUFFIXES)}): {path}')
    return path


def existing_file(path: str) -> Path:
    """Argparse type: the path of an existing file."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'file not found: {path}')
    return Path(path)


def checkpoint_file(path: str) -> str:
    """Argparse type: an existing checkpoint file, or an address mmengine can fetch (``https://``, ``s3://``, ...)."""
    if re.match(r'[\w-]+://', path):
        return path
    if Path(path).is_dir():
        raise argparse.ArgumentTypeError(
            f'{path} is a folder, not a checkpoint file. To test a PEFT adapter folder, leave the checkpoint out and '
            f'add: --cfg-options model.adapter={path}'
        )
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'checkpoint not found: {path}')
    return path


def whole_number(least: int) -> Callable[[str], int]:
    """Argparse type: a whole number of at least ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text} is no whole number from {least} on')
        return int(text)

    return parse


def add_launcher(parser: argparse.ArgumentParser, default: str = 'none') -> None:
    """Add ``--launcher``, named and meant as in MMSegmentation's tools."""
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default=default, help='how processes were started'
    )


def join_processes(launcher: str) -> None:
    """Connect this process with the others that ``launcher`` has started, through gloo; a GPU each, if there are any.

    For work that is shared once and needs no gradients: nothing but a few objects travels.

    Raises:
        ToolError: The launcher has not started this process.
    """
    from mmengine.device import get_device
    from mmengine.dist import init_dist

    if launcher == 'none':
        return
    # The first to be done waits for the last.
    options = {'backend': 'gloo', 'timeout': 30 * 24 * 3600}
    if get_device() == 'cpu':
        distribute_on_cpu(Config({'launcher': launcher, 'env_cfg': {'dist_cfg': options}}))
    else:
        launcher_variables(launcher)
        init_dist(launcher, **options)


def add_cfg_options(parser: argparse.ArgumentParser, example: str = '') -> None:
    """Add ``--cfg-options``, with an example for its help."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help=f'override config values, e.g. {example}' if example else 'override config values',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common, named and meant as in MMSegmentation's tools."""
    parser.add_argument('config', type=config_file, help='config file')
    parser.add_argument(
        '--work-dir', help="folder for logs, results and checkpoints (default: the config's, or work_dirs/CONFIG_NAME)"
    )
    add_cfg_options(
        parser,
        'train_dataloader.batch_size=2 model.prompts="[thin crack, spalling]"; quote values with brackets or blanks',
    )
    add_launcher(parser)
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch, not by hand'
    )


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a dataset and say how to read its polygons, see ``dataset_options``."""
    parser.add_argument('data_root', type=Path, help='folder of the dataset, or its yaml file')
    parser.add_argument(
        '--splits', nargs='+', metavar='SPLIT', help='default: train, val, and test if there is one; all without splits'
    )
    parser.add_argument(
        '--classes', nargs='+', default=['crack'], metavar='NAME', help='foreground classes (default: crack)'
    )
    parser.add_argument(
        '--class-map',
        nargs='+',
        action=KeyValueAction,
        metavar='NAME=CLASS',
        help='name in data.yaml to one of --classes, or to None to leave its polygons out',
    )
    parser.add_argument(
        '--missing-label',
        choices=['background', 'error'],
        default='background',
        help='an image without label file is background, or an error (default: %(default)s)',
    )
    parser.add_argument(
        '--boxes',
        choices=['error', 'fill', 'drop'],
        default='error',
        help='detection boxes among the polygons (default: %(default)s)',
    )
    parser.add_argument(
        '--outside',
        choices=['error', 'clip'],
        default='error',
        help='polygons that reach more than one pixel out of the image: an error, or cut there (default: %(default)s)',
    )


def add_annotations_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which files are the labels, for tools that take either kind."""
    parser.add_argument(
        '--annotations',
        choices=['polygons', 'masks'],
        default='polygons',
        help='labels/NAME.txt, or masks/NAME.png (or .jpg, .bmp, .tif, .webp) (default: %(default)s)',
    )
    parser.add_argument(
        '--mask-suffix', default='', metavar='TEXT', help="what follows an image's name in its mask's: _mask"
    )


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a tool that converts annotations: where to write, and what to do with odd ones."""
    parser.add_argument('out', type=Path, help='folder of the dataset to write')
    parser.add_argument('--split', default='train', help='default: %(default)s')
    parser.add_argument(
        '--boxes',
        choices=['error', 'fill', 'drop'],
        default='error',
        help='boxes where a segmentation should be: an error, rectangles, or left out (default: %(default)s)',
    )
    parser.add_argument(
        '--outside',
        choices=['error', 'clip'],
        default='error',
        help='shapes that reach far outside their image: an error, or cut at the edge (default: %(default)s)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace labels that exist')


def selected_splits(args: argparse.Namespace) -> list[str]:
    """The splits that ``add_dataset_arguments`` was asked for: by default 'train', 'val', and 'test' if it exists.

    Of a dataset without splits, it is 'all'.
    """
    from crack_plugin.datasets.data_yaml import ALL, is_unsplit, read_data_yaml, split_sources

    if args.splits:
        return args.splits
    try:
        data_yaml = read_data_yaml(args.data_root)
        if is_unsplit(data_yaml):
            return [ALL]
        has_test = bool(split_sources(data_yaml, 'test'))
    except (FileNotFoundError, ValueError):
        has_test = False  # opening train will say what is wrong
    return ['train', 'val', *(['test'] if has_test else [])]


def dataset_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``YOLOCrackDataset`` that ``add_dataset_arguments`` has added to a command line."""
    return {name: getattr(args, name) for name in ('classes', 'class_map', 'missing_label', 'boxes', 'outside')}


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse ``argv`` (None: the process's), and leave ``LOCAL_RANK`` where mmengine's launchers look for it."""
    # Intermixed: plain argparse would refuse `CONFIG --work-dir DIR CHECKPOINT` because CHECKPOINT is optional.
    args = parser.parse_intermixed_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that ``args`` names and apply launcher, overrides and work dir to it.

    Raises:
        ToolError: The config is not Python.
    """
    try:
        cfg = Config.fromfile(args.config)
    except SyntaxError as error:
        raise ToolError(
            f'config {args.config}, or a file it builds on, is not Python: line {error.lineno}: {error.msg}'
        ) from error
    cfg.launcher = args.launcher
    merge_options(cfg, args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def add_weights(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add what names trained weights: a checkpoint or an adapter."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument('--checkpoint', type=checkpoint_file, help='checkpoint of a training')
    source.add_argument('--adapter', metavar='DIR_OR_HUB_ID', help=ADAPTER_HELP)


def add_trained_model_arguments(parser: argparse.ArgumentParser, out: str, required: bool) -> None:
    """Add what names a trained model and where to write what becomes of it; for :func:`load_trained_config`.

    Args:
        parser: To add to.
        out: What ``out`` is, for the help.
        required: Whether there have to be trained weights.
    """
    parser.add_argument('config', type=config_file, help='config file the model was trained with')
    parser.add_argument('out', type=Path, help=out)
    add_weights(parser, required)
    add_cfg_options(parser)


def load_trained_config(args: argparse.Namespace) -> Config:
    """The config that ``args`` of :func:`add_trained_model_arguments` name, with overrides and adapter."""
    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    if args.adapter is not None:
        cfg.model.adapter = args.adapter
    return cfg


def build_trained_model(cfg: Config, checkpoint: str | None) -> Any:
    """Build the model of ``cfg`` on the CPU, and load its weights."""
    from mmengine.runner import load_checkpoint
    from mmseg.registry import MODELS

    model = MODELS.build(cfg.model)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, map_location='cpu')
    return model


@contextmanager
def readable_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Show what a user can act on as one paragraph, and leave every other error its traceback.

    That is a :class:`~crack_plugin.errors.CrackPluginError`, a fault of the machine (memory, disk, a killed data
    worker), and a name or an argument in the config that does not exist.
    """
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, f'\n{parser.prog}: stopped. What was written is complete; a training goes on with --resume.\n')
    except CrackPluginError as error:
        parser.exit(1, f'{parser.prog}: error: {message(error)}\n')
    except (cv2.error, KeyError, MemoryError, OSError, RuntimeError, TypeError) as error:
        paragraph = machine_faults.advice(error) or _config_message(error)
        if paragraph is None:
            machine_faults.add_note(error)
            raise
        parser.exit(1, f'{parser.prog}: error: {paragraph}\n')


def _config_message(error: Exception) -> str | None:
    """What is wrong with a name or an argument in the config; None for any other error."""
    text = str(error.args[0]) if error.args else ''
    unknown = re.match(r'(?P<name>\S+) is not in the \S+::(?P<registry>[\w ]+) registry', text)
    if isinstance(error, KeyError) and unknown:
        return (
            f'the config asks for type={unknown["name"]!r}, and no {unknown["registry"]} has that name. Correct it; '
            'a class of your own has to be imported by custom_imports.'
        )
    if isinstance(error, TypeError) and 'got an unexpected keyword argument' in text:
        frames = traceback.extract_tb(error.__traceback__)
        if Path(frames[-1].filename).name == 'build_functions.py':
            return f'the config gives an argument that does not exist: {text}. Correct or remove it.'
    return None


def build_runner(cfg: Config) -> Any:
    """Build the runner of ``cfg``: mmengine's own, or the registered one that ``runner_type`` names.

    Raises:
        ToolError: The work dir cannot be written, or the processes cannot talk to each other.
    """
    from mmengine.device import get_device
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    _check_work_dir(Path(cfg.work_dir))
    if cfg.get('launcher', 'none') != 'none' and get_device() == 'cpu':
        distribute_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _check_work_dir(folder: Path) -> None:
    """Refuse a folder that cannot be written now, rather than after an epoch."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ToolError(
            f'the work dir {folder} cannot be written: {error.strerror}. Choose another with --work-dir.'
        ) from error
