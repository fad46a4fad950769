"""What the tools share: MMSegmentation's command line, the options of a dataset, and errors a user can read."""

import argparse
import copy
import errno
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
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
# Torch's own allocator raises OutOfMemoryError; the driver and the libraries beside it say so in words.
_FULL_GPU = re.compile(
    r'(?P<reason>.*(?:\b(?:CUDA|HIP|XPU|NPU|MPS)\b.*out of memory|\bCU\w+(?<!HOST)_ALLOC(?:ATION)?_FAILED).*)',
    re.IGNORECASE,
)
_FULL_RAM = re.compile(
    r"(?P<reason>DefaultCPUAllocator: (?:can't allocate memory|not enough memory).*"
    r'|\bCU\w+HOST_ALLOC(?:ATION)?_FAILED|.*Insufficient memory.*|\[Errno 12\] .*'
    r'|.*Unable to allocate .* for an array.*)'
)
# Said of a full GPU, but of other faults too.
_PERHAPS_FULL_GPU = re.compile(
    r'CU(?:DNN|BLAS)_STATUS_(?:INTERNAL_ERROR|NOT_INITIALIZED)|unable to find (?:an engine|a valid cuDNN algorithm)',
    re.IGNORECASE,
)
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Of the Unicode private use area, stands for a blank while mmengine parses.
_BLANK = '\ue000'
_BRACKETS = {'{': '}', '[': ']', '(': ')'}
# A text as Python and JSON write it. After a backslash the quote does not end it.
_QUOTED = re.compile(r'(?P<raw>[rR]?)(?P<quote>[\'"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)', re.DOTALL)
CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


class ToolError(RuntimeError):
    """What a tool itself has to say to its user."""


class KeyValueAction(DictAction):
    """mmengine's ``DictAction`` with values as a config file has them: dicts, lists, quoted texts with blanks.

    mmengine deletes all blanks (a prompt 'thin crack' would reach the model as 'thincrack'), takes a comma inside
    quotes for the end of an element, and knows no dicts. What has neither quotes nor braces is parsed by its rules.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for item in values:
            key, separator, value = item.partition('=')
            if not separator:
                raise argparse.ArgumentError(self, f'expected key=value without blanks around "=", got {item!r}')
            try:
                options[key] = self._parse_iterable(value)
            except (ValueError, AssertionError) as error:
                raise argparse.ArgumentError(
                    self,
                    f'{item!r} cannot be read: {error}. Write the value as in a config file, and the whole item in '
                    'double quotes for the shell: '
                    "\"key={'name': 'value'}\"",
                ) from error
        setattr(namespace, self.dest, options)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip()
        # Quotes around the whole may have come through the shell.
        if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' and text[1] in '{[(':
            text = text[1:-1].strip()
        if (
            text[:1] == '{'
            or text.startswith('dict(')
            or (text[:1] in ('[', '(') and re.search(r'[\'"{]|dict\(', text))
        ):
            return _whole_value(text)
        if text[:1] in ('[', '('):
            if any(text.count(left) != text.count(right) for left, right in _BRACKETS.items()):
                raise ValueError('a bracket is not closed')
            # The regular expression (?!detr_decoder).*(q_proj|v_proj) is no list: its first bracket closes early.
            closes_early = _plain_text(text, 1, _BRACKETS[text[0]])[1] < len(text) - 1
            if closes_early and _plain_text(text, 0, ',')[1] == len(text):
                return text
        compact = re.sub(r' *([\[\](),]) *', r'\1', text)
        return _restore_blanks(DictAction._parse_iterable(compact.replace(' ', _BLANK)))


def _restore_blanks(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_BLANK, ' ')
    if isinstance(value, (list, tuple)):
        return type(value)(_restore_blanks(item) for item in value)
    return value


def _whole_value(text: str) -> Any:
    """What a text such as ``{'type': 'FocalLoss', 'gamma': 2.0}`` stands for; ValueError if it stands for nothing."""
    value, position = _read_value(text, 0, '')
    rest = text[position:].strip()
    if rest:
        raise ValueError(f'{rest!r} follows where the value ends')
    return value


def _read_value(text: str, position: int, ends: str) -> tuple[Any, int]:
    """The value that begins at ``position``, and where it ends: at one of ``ends`` if it is plain."""
    position = _skip_blanks(text, position)
    if text.startswith('dict(', position):
        return _read_pairs(text, position + len('dict('), '=', ')')
    if text.startswith('{', position):
        return _read_pairs(text, position + 1, ':', '}')
    if text.startswith(('[', '('), position):
        closing = _BRACKETS[text[position]]
        items, position = _read_items(
            text, position + 1, closing, lambda text, position: _read_value(text, position, ',' + closing)
        )
        return (tuple(items) if closing == ')' else items), position
    quoted = _QUOTED.match(text, position)
    if quoted:
        content = quoted['text'] if quoted['raw'] else re.sub(r'\\([\\\'"])', r'\1', quoted['text'])
        return content, quoted.end()
    plain, position = _plain_text(text, position, ends)
    if plain[:1] in ('"', "'"):
        raise ValueError(f'the quote of {plain} is not closed')
    if not plain:
        raise ValueError('a value is missing' if position < len(text) else 'it ends too early')
    return (None if plain == 'null' else DictAction._parse_int_float_bool(plain)), position


def _read_pairs(text: str, position: int, separator: str, closing: str) -> tuple[dict[Any, Any], int]:
    def read_pair(text: str, position: int) -> tuple[tuple[Any, Any], int]:
        key, position = _read_value(text, position, separator + ',' + closing)
        position = _skip_blanks(text, position)
        if not text.startswith(separator, position):
            raise ValueError(f'{separator!r} and a value are missing after {key!r}')
        value, position = _read_value(text, position + 1, ',' + closing)
        return (key, value), position

    pairs, position = _read_items(text, position, closing, read_pair)
    if any(isinstance(key, (dict, list)) for key, _ in pairs):
        raise ValueError('a key is a text or a number')
    return dict(pairs), position


def _read_items(
    text: str, position: int, closing: str, read: Callable[[str, int], tuple[Any, int]]
) -> tuple[list[Any], int]:
    """Items between commas up to ``closing``; a comma after the last one is allowed, as in Python."""
    items: list[Any] = []
    position = _skip_blanks(text, position)
    while not text.startswith(closing, position):
        item, position = read(text, position)
        items.append(item)
        position = _skip_blanks(text, position)
        if text.startswith(',', position):
            position = _skip_blanks(text, position + 1)
        elif not text.startswith(closing, position):
            rest = text[position:]
            raise ValueError(
                f'a comma or {closing!r} is missing before {rest!r}' if rest else f'{closing!r} is missing'
            )
    return items, position + 1


def _plain_text(text: str, position: int, ends: str) -> tuple[str, int]:
    """Text without quotes up to one of ``ends`` outside brackets, such as a regular expression with a group."""
    start, depth = position, 0
    while position < len(text) and (depth or text[position] not in ends):
        depth += (text[position] in _BRACKETS) - (text[position] in _BRACKETS.values())
        position += 1
    return text[start:position].strip(), position


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def merge_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Put the values of ``--cfg-options`` into a config.

    As ``Config.merge_from_dict``, except that a dict also replaces what is no dict (``model.lora={'r': 4}`` over None).

    Raises:
        ToolError: One of them has no place in the config.
    """
    if not options:
        return
    options = {key: _replacing(cfg, key, value) for key, value in options.items()}
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ToolError(
            f'--cfg-options {_culprit(cfg, options)}: the config has no place for it. A dot leads into a dict, a '
            'number into a list, as in param_scheduler.0.T_max=12; a dict or a list as a whole is set by '
            "\"key={'name': 'value'}\""
        ) from error


def _replacing(cfg: Config, key: str, value: Any) -> Any:
    """A dict that takes the place of what is no dict, marked so for mmengine; anything else as it is."""
    *parents, name = key.split('.')
    parent: Any = cfg
    for step in parents:
        if isinstance(parent, list):
            parent = parent[int(step)] if step.isdigit() and int(step) < len(parent) else None
        else:
            parent = parent.get(step) if isinstance(parent, (Config, dict)) else None
    if not isinstance(value, dict) or not isinstance(parent, (Config, dict)) or name not in parent:
        return value
    present = parent[name]
    # mmengine merges dicts with texts as keys only.
    if isinstance(present, dict) and all(isinstance(each, str) for each in value):
        return value
    return {**(present if isinstance(present, dict) else {}), **value, '_delete_': True}


def _culprit(cfg: Config, options: Mapping[str, Any]) -> str:
    """The first option that cannot be merged alone; all of them if each can."""
    for key, value in options.items():
        try:
            copy.deepcopy(cfg).merge_from_dict({key: copy.deepcopy(value)})
        except (AttributeError, IndexError, KeyError, TypeError):
            return key
    return ', '.join(options)


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
    merge_options(cfg, args.cfg_options)
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
    except (cv2.error, ImportError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ToolError):
            message: str | None = str(error)
        else:
            message = _package_message(error) or _machine_message(error) or _config_message(error)
        if message is None:
            if _PERHAPS_FULL_GPU.search(str(error)):
                error.add_note(
                    'A full GPU is often behind this error: see `nvidia-smi` for other processes on it, and try '
                    'configs/sam3_lora_crack_lowmem.py or --cfg-options train_dataloader.batch_size=1'
                )
            raise
        parser.exit(1, f'{parser.prog}: error: {message}\n')


def _machine_message(error: Exception) -> str | None:
    """What to do about a fault of the machine; None for any other error."""
    import torch

    text = str(error)
    full = _FULL_GPU.search(text)
    if isinstance(error, torch.OutOfMemoryError) or full:
        reason = full['reason'] if full else text
        return (
            f'{reason.strip().partition(". ")[0]}: the GPU has too little memory for this config. For SAM 3 use one '
            'that needs less: configs/sam3_lora_crack_lowmem.py, or --cfg-options model.image_size=672 (or 336); for '
            'any model: train_dataloader.batch_size=1. What was saved is whole; a training goes on with --resume.'
        )
    full = _FULL_RAM.search(text)
    if isinstance(error, MemoryError) or full or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        reason = full['reason'] if full else text.strip().rpartition('\n')[2] or 'out of memory'
        return (
            f"{reason.strip()}: the machine has too little memory (RAM, not the GPU's). Fewer workers and smaller "
            'batches need less: --cfg-options train_dataloader.batch_size=1 train_dataloader.num_workers=1 '
            'val_dataloader.num_workers=1; for SAM 3 on a CPU also model.image_size=336, or '
            'configs/sam3_lora_crack_lowmem.py. What was saved is whole; a training goes on from it with --resume.'
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
