"""Which trainings and measurements the models named on a command line ask for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from crack_plugin.comparison.runs import Run
from crack_plugin.comparison.settings import Settings, has_nothing_to_train
from crack_plugin.errors import CrackPluginError


class PlanError(CrackPluginError, ValueError):
    """Models that cannot be compared as they were named; the message says why."""


class ModelNotFoundError(CrackPluginError, FileNotFoundError):
    """A config, checkpoint or work directory that was named does not exist."""


def plan_runs(
    models: Sequence[str], settings: Settings, out: Path, train: bool = False, seeds: Sequence[int] | None = None
) -> list[Run]:
    """The runs that models ask for, checked before any of them starts.

    Args:
        models: Each CONFIG, CONFIG=CHECKPOINT, or a folder of work directories.
        settings: What is set alike in every config.
        out: Folder for trainings and measurements.
        train: Whether configs without a checkpoint are trained.
        seeds: Train each config from these; None for the config's own.

    Raises:
        ModelNotFoundError: A model is no file or folder, or the folder holds no work directory.
        PlanError: A config needs ``train``, or two models have one name.
        SettingsError: A setting cannot be applied to a config, or a training was begun with others.
    """
    runs = [run for model in models for run in _plan_model(model, settings, out, train, seeds)]
    _check_names(runs)
    for run in runs:
        if run.trains:
            run.check_unchanged()
    return runs


def _plan_model(model: str, settings: Settings, out: Path, train: bool, seeds: Sequence[int] | None) -> list[Run]:
    if Path(model).is_dir():
        return _plan_work_dirs(Path(model), settings, out)
    config, separator, checkpoint = (model, '', '') if Path(model).is_file() else model.rpartition('=')
    if not separator and not Path(model).is_file():
        raise ModelNotFoundError(f'{model} is neither a config file, nor CONFIG=CHECKPOINT, nor a folder')
    if not Path(config).is_file():
        raise ModelNotFoundError(f'config file not found: {config}')
    if separator and not Path(checkpoint).is_file():
        raise ModelNotFoundError(f'checkpoint not found: {checkpoint}')
    cfg = _read_config(Path(config))
    name = Path(config).stem
    folder = out / 'rows' / name
    if separator:
        return [Run(name, None, settings.apply(cfg), folder, checkpoint=Path(checkpoint))]
    if has_nothing_to_train(cfg):
        return [Run(name, None, settings.apply(cfg), folder)]
    if not train:
        raise PlanError(f'{config} comes without a checkpoint. Write {config}=CHECKPOINT, or add --train.')
    seeds = seeds or [cfg.get('randomness', {}).get('seed', 0)]
    return [
        Run(
            name,
            seed,
            settings.apply(cfg, seed),
            folder / f'seed_{seed}',
            work_dir=out / 'trainings' / name / f'seed_{seed}',
            trains=True,
        )
        for seed in dict.fromkeys(seeds)
    ]


def _plan_work_dirs(folder: Path, settings: Settings, out: Path) -> list[Run]:
    """The trainings in a folder, which may be one itself; those in X/seed_1, X/seed_2, ... are one model."""
    runs = []
    for work_dir in sorted(path.parent for path in folder.rglob('last_checkpoint')):
        configs = sorted(work_dir.glob('*.py'))
        if len(configs) != 1:
            raise PlanError(f'{work_dir} should hold one config file and has {len(configs)}')
        cfg = _read_config(configs[0])
        _, is_seed, number = work_dir.name.partition('seed_')
        has_seed = bool(is_seed) and number.isdecimal() and work_dir != folder
        place = work_dir.parent if has_seed else work_dir
        name = str(place.relative_to(folder)).replace('/', '_') if place != folder else folder.resolve().name
        seed = int(number) if has_seed else None
        target = out / 'rows' / name / (f'seed_{seed}' if has_seed else '')
        runs.append(Run(name, seed, settings.apply(cfg), target, work_dir=work_dir))
    if not runs:
        raise ModelNotFoundError(f'{folder} holds no work directory of tools/train.py (none with a last_checkpoint)')
    return runs


def _read_config(path: Path) -> Config:
    try:
        return Config.fromfile(path, import_custom_modules=False)
    except OSError as error:
        # No config file by its suffix, or one of those that it builds on is missing.
        raise PlanError(f'config {path} cannot be read: {error}') from error


def _check_names(runs: Sequence[Run]) -> None:
    """Refuse two models of one name, which would share a row and a folder."""
    titles = Counter((run.name, run.seed) for run in runs)
    for run in runs:
        if titles[run.name, run.seed] > 1:
            raise PlanError(f'two models are called {run.title}. Copy the config of one under another name.')
