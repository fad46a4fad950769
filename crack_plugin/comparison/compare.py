"""Trains and measures models one after the other, and writes the table again after each."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from crack_plugin.comparison import table
from crack_plugin.comparison.measure import Measurement
from crack_plugin.comparison.runs import Run, RunError


def compare(
    runs: Sequence[Run],
    out: Path,
    train_tool: Path,
    device: str,
    use: str = 'last',
    examples: int = 4,
    resamples: int = 1000,
    facts: Mapping[str, str] | None = None,
) -> list[table.Row]:
    """Train what has to be trained, measure all, and write the table into ``out``.

    A model that fails is reported in its place, and the others go on. A progress bar counts the epochs of all
    trainings, and each measurement as one step.

    Args:
        runs: Of :func:`~crack_plugin.comparison.plan.plan_runs`.
        out: Folder for the table and its pictures.
        train_tool: ``tools/train.py``.
        device: Where to measure.
        use: 'last' or 'best' checkpoint of a training.
        examples: Number of images on the contact sheet.
        resamples: Of the bootstrap.
        facts: What the table says holds for all models, name and value.

    Returns:
        The table's rows.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = {run.name: table.Row(run.name, str(run.cfg.filename)) for run in runs}
    with tqdm(total=sum(map(_steps, runs)), unit='step', dynamic_ncols=True) as bar:
        for number, run in enumerate(runs, start=1):
            row = rows[run.name]
            after = bar.n + _steps(run)
            try:
                row.measured[run.seed] = _run_one(
                    run, train_tool, device, use, examples, bar, f'[{number}/{len(runs)}] {run.title}'
                )
                _check_images(rows.values(), row, run)
                row.complete(resamples)
                bar.write(f'{run.title}: crack IoU {row.scores["IoU"]}')
            except RunError as error:
                row.measured.pop(run.seed, None)
                row.failures[run.seed] = str(error)
                bar.write(f'{run.title} failed: {error}')
            bar.update(after - bar.n)
            done = [row for row in rows.values() if row.measured or row.failures]
            all_facts = {**(facts or {}), **_data_facts(done)}
            table.write(out, done, all_facts, with_pictures=False)
    table.write(out, done, all_facts)
    return list(rows.values())


def _run_one(run: Run, train_tool: Path, device: str, use: str, examples: int, bar: tqdm, title: str) -> Measurement:
    """Train a model if it has to be trained, and measure it."""
    run.write_config()
    if run.trains and not run.is_trained:
        bar.set_description(f'{title}: training')
        start = bar.n

        def show(epoch: int, is_over: bool, loss: str) -> None:
            bar.set_description(f'{title}: training, epoch {epoch}/{_epochs(run)}, loss {loss}', refresh=False)
            bar.update(start + epoch - (not is_over) - bar.n)
            bar.refresh()

        run.train(train_tool, show)
    bar.set_description(f'{title}: measuring')
    return run.measure(device, examples, use)


def _steps(run: Run) -> int:
    """Steps of the progress bar that a run takes: epochs still to be trained, and the measurement."""
    return 1 + (_epochs(run) if run.trains and not run.is_trained else 0)


def _epochs(run: Run) -> int:
    return run.cfg.train_cfg.get('max_epochs', 1)


def _check_images(rows: Iterable[table.Row], row: table.Row, run: Run) -> None:
    """Refuse a model that was scored on other images than the first."""
    first = next(other for other in rows if other.measured)
    measured = row.measured[run.seed]
    if list(measured.images) != list(first.first.images):
        raise RunError(
            f'it was scored on {len(measured.images)} images, not on the {len(first.first.images)} of {first.name}: '
            'give all models the same with --data-root or --test-data'
        )


def _data_facts(rows: Sequence[table.Row]) -> dict[str, str]:
    """What the rows were scored on."""
    images = next((row.first.images for row in rows if row.measured), [])
    return {'Test images': f'{len(images)} in {Path(images[0]).parent}'} if images else {}
