"""What the tools share: MMSegmentation's command line, the options of a dataset, and errors a user can read."""

import argparse
import errno
import os
import re
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mmengine.config import Config, DictAction

# torch hands on an error from a DataLoader worker as text: the traceback, here down to its innermost frame, then the
# exception's name and message.
_WORKER_ERROR = re.compile(
    r'Caught \w+ in DataLoader worker process (?:.|\n)*'
    r'\n  File "(?P<file>[^"]+)", line \d+, in .+\n    (?P<statement>.+)\n(?: .*\n)*'
    r'[\w.]+: (?P<message>(?:.|\n)+)\Z'
)
_DEAD_WORKER = re.compile(
    r'DataLoader worker \(pid(?:\(s\))? (?P<pid>[\d, ]+)\) '
    r'(?:exited unexpectedly|is killed by signal: (?P<signal>[^.]+))'
)
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Of the Unicode private use area, stands for a blank while mmengine parses.
_BLANK = '\ue000'
CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


class ToolError(RuntimeError):
    """What a tool itself has to say to its user."""


class KeyValueAction(DictAction):
    """mmengine's ``DictAction``, except that it keeps blanks inside values, and explains an item without ``=``.

    mmengine deletes all blanks: a prompt 'thin crack' would reach the model as 'thincrack'.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for item in values:
            if '=' not in item:
                raise argparse.ArgumentError(self, f'expected key=value without blanks around "=", got {item!r}')
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        compact = re.sub(r' *([\[\](),]) *', r'\1', val.strip())
        return _restore_blanks(DictAction._parse_iterable(compact.replace(' ', _BLANK)))


def _restore_blanks(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_BLANK, ' ')
    if isinstance(value, (list, tuple)):
        return type(value)(_restore_blanks(item) for item in value)
    return value


def config_file(path: str) -> str:
    """Argparse type: the path of an existing config file."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'config file not found: {path}')
    if Path(path).suffix not in CONFIG_SUFFIXES:
        raise argparse.ArgumentTypeError(f'not a config file ({", ".join(CONFIG_SUFFIXES)}): {path}')
    return path


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


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common, named and meant as in MMSegmentation's tools."""
    parser.add_argument('config', type=config_file, help='config file')
    parser.add_argument(
        '--work-dir', help="folder for logs, results and checkpoints (default: the config's, or work_dirs/CONFIG_NAME)"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='override config values, e.g. train_dataloader.batch_size=2 model.prompts="[thin crack, spalling]"; '
        'quote values with brackets or blanks',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='how processes were started'
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch, not by hand'
    )


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a dataset and say how to read its polygons, see ``dataset_options``."""
    parser.add_argument('data_root', type=Path, help='folder of the dataset, or its yaml file')
    parser.add_argument('--splits', nargs='+', metavar='SPLIT', help='default: train, val, and test if there is one')
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


def add_annotations_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which files are the labels, for tools that take either kind."""
    parser.add_argument(
        '--annotations',
        choices=['polygons', 'masks'],
        default='polygons',
        help='labels/NAME.txt, or masks/NAME.png of 0 and 255 or 0 and 1 (default: %(default)s)',
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
    """The splits that ``add_dataset_arguments`` was asked for: by default 'train', 'val', and 'test' if it exists."""
    from crack_plugin.datasets.yolo_layout import read_data_yaml, split_sources

    if args.splits:
        return args.splits
    try:
        has_test = bool(split_sources(read_data_yaml(args.data_root), 'test'))
    except (FileNotFoundError, ValueError):
        has_test = False  # opening train will say what is wrong
    return ['train', 'val', *(['test'] if has_test else [])]


def dataset_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``YOLOCrackDataset`` that ``add_dataset_arguments`` has added to a command line."""
    return {name: getattr(args, name) for name in ('classes', 'class_map', 'missing_label', 'boxes')}


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
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def add_trained_model_arguments(parser: argparse.ArgumentParser, out: str, required: bool) -> None:
    """Add what names a trained model and where to write what becomes of it; for :func:`load_trained_config`.

    Args:
        parser: To add to.
        out: What ``out`` is, for the help.
        required: Whether there have to be trained weights.
    """
    parser.add_argument('config', type=config_file, help='config file the model was trained with')
    parser.add_argument('out', type=Path, help=out)
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument('--checkpoint', type=checkpoint_file, help='checkpoint of a training')
    source.add_argument('--adapter', type=Path, metavar='DIR', help='PEFT adapter folder')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='override config values'
    )


def load_trained_config(args: argparse.Namespace) -> Config:
    """The config that ``args`` of :func:`add_trained_model_arguments` name, with overrides and adapter."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.adapter is not None:
        cfg.model.adapter = str(args.adapter)
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

    That is what ``crack_plugin`` itself raises, and the faults of the machine: memory, disk, a killed data worker.
    """
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, f'\n{parser.prog}: stopped. What was written is whole; a training goes on with --resume.\n')
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ToolError):
            message: str | None = str(error)
        else:
            message = _package_message(error) or _machine_message(error) or _config_message(error)
        if message is None:
            raise
        parser.exit(1, f'{parser.prog}: error: {message}\n')


def _machine_message(error: Exception) -> str | None:
    """What to do about a fault of the machine; None for any other error."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).partition('. ')[0]
        return (
            f'{reason}: the GPU has too little memory for this config. For SAM 3 use one that needs less: '
            'configs/sam3_lora_crack_lowmem.py, or --cfg-options model.image_size=672 (or 336); for any model: '
            'train_dataloader.batch_size=1. What was saved is whole; a training goes on from it with --resume.'
        )
    # torch may put the signal into the cause
    worker = _DEAD_WORKER.search(str(error.__cause__)) or _DEAD_WORKER.search(str(error))
    if worker:
        # torch itself points at shared memory after a bus error
        reason = (
            'Shared memory is full (/dev/shm; in Docker: --shm-size=8g, or --ipc=host).'
            if worker['signal'] == 'Bus error'
            else 'The usual reason is memory: the kernel ends the process that takes most (see `dmesg`).'
        )
        return (
            f'data worker {worker["pid"]} died ({worker["signal"] or "signal unknown"}). {reason} Fewer workers need '
            'less: --cfg-options train_dataloader.num_workers=1 val_dataloader.num_workers=1. What was saved is whole; '
            'a training goes on from it with --resume.'
        )
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
        file = f' ({error.filename})' if error.filename else ''
        return (
            f'a file could not be written: {error.strerror}{file}. Make room, or choose another folder with '
            '--work-dir. What was saved is whole; a training goes on from it with --resume.'
        )
    return None


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


def _package_message(error: Exception) -> str | None:
    """The message of an error that a ``raise`` statement of ``crack_plugin`` made; None for any other error."""
    spec = find_spec('crack_plugin')
    if spec is None or spec.origin is None:
        return None
    in_worker = _WORKER_ERROR.match(str(error))
    if in_worker:
        file, statement, message = in_worker['file'], in_worker['statement'], in_worker['message'].strip()
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, statement, message = frame.filename, frame.line or '', str(error)
    is_deliberate = Path(file).is_relative_to(Path(spec.origin).parent) and statement.startswith('raise ')
    return message if is_deliberate else None


def build_runner(cfg: Config) -> Any:
    """Build the runner of ``cfg``: mmengine's own, or the registered one that ``runner_type`` names.

    Raises:
        ToolError: The work dir cannot be written, or the processes cannot talk to each other.
    """
    from mmengine.device import get_device
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    _check_work_dir(Path(cfg.work_dir))
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return build(cfg)
    _distribute_on_cpu(cfg)
    # mmengine's launchers choose a CUDA device, which raises where there is none.
    with patch('torch.cuda.set_device'):
        return build(cfg)


def _check_work_dir(folder: Path) -> None:
    """Find out now, and not after an epoch, that nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ToolError(
            f'the work dir {folder} cannot be written: {error.strerror}. Choose another with --work-dir.'
        ) from error


def _distribute_on_cpu(cfg: Config) -> None:
    """Make several processes on CPUs possible, for tests and clusters without GPUs."""
    if cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl') == 'nccl':
        raise ToolError(
            'several processes talk through nccl in this config, which needs GPUs, and PyTorch finds none on this '
            'machine. For processes on the CPU add: --cfg-options env_cfg.dist_cfg.backend=gloo'
        )
    unused = cfg.get('find_unused_parameters', False)
    default = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False, 'find_unused_parameters': unused}
    # mmengine hands over the number of a GPU otherwise.
    cfg.model_wrapper_cfg = {**cfg.get('model_wrapper_cfg', default), 'device_ids': None}
