"""What the tools share: MMSegmentation's command line, the options of a dataset, and errors a user can read."""

import argparse
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

# torch hands on an error from a DataLoader worker as text: the traceback, here down to its innermost frame, then the
# exception's name and message.
_WORKER_ERROR = re.compile(
    r'Caught \w+ in DataLoader worker process (?:.|\n)*'
    r'\n  File "(?P<file>[^"]+)", line \d+, in .+\n    (?P<statement>.+)\n(?: .*\n)*'
    r'[\w.]+: (?P<message>(?:.|\n)+)\Z'
)
# Of the Unicode private use area, stands for a blank while mmengine parses.
_BLANK = '\ue000'
CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


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
    """Read the config that ``args`` names and apply launcher, overrides and work dir to it."""
    cfg = Config.fromfile(args.config)
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
    """Show what ``crack_plugin`` has to say to its user as one paragraph, and leave every other error its traceback."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        message = _package_message(error)
        if message is None:
            raise
        parser.exit(1, f'{parser.prog}: error: {message}\n')


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
    """Build the runner of ``cfg``: mmengine's own, or the registered one that ``runner_type`` names."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
