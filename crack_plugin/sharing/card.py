"""The model card of a shared training: ``README.md`` with a header that the hub reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from mmengine.config import Config

from crack_plugin.models.base_files import EMBEDDED
from crack_plugin.report.epoch_table import SCORES, epoch_table
from crack_plugin.report.facts import count_images, duration, largest_memory, recipe_facts, without_folders
from crack_plugin.sharing.training import SharingError, Training, data_name
from crack_plugin.version import __version__
from crack_plugin.visualization.document import Block, Heading, Table, Text, to_markdown

SAM_LICENSE = 'https://github.com/facebookresearch/sam3/blob/main/LICENSE'
_SHOWN = 'crack/'
"""How the names of the scores begin that the header lists."""
_OTHERS = (
    'Other scores; dIoU, dDice, dPrecision, dRecall, ODS, clIoU and FalseAlarmPixels are from pixels summed over all '
    'images, and FalseAlarmPixels is no fraction.'
)


@dataclass(frozen=True)
class Licence:
    """As the hub's header has it.

    Attributes:
        identifier: One of the hub's, such as 'mit'; 'other' for those that it does not list.
        name: Of one that it does not list.
        link: To its text.
    """

    identifier: str
    name: str | None = None
    link: str | None = None


def licence_of(base: str, given: str | None, name: str | None, link: str | None) -> Licence:
    """The licence that the adapter is shared under.

    Args:
        base: Name of the base on every machine.
        given: The user's choice, an identifier of the hub; None for the one that goes with the base.
        name: Of a licence that the hub does not list.
        link: To its text.

    Raises:
        SharingError: There is none that goes with the base, or 'other' without name and link.
    """
    if given is None and (name or link):
        raise SharingError('--license-name and --license-link describe --license other: give that as well.')
    if given == 'other' and not (name and link):
        raise SharingError('--license other needs --license-name and --license-link: which licence, and its text.')
    if given is not None:
        return Licence(given, name, link)
    if base == EMBEDDED:
        return Licence('apache-2.0')
    if base.partition('/')[0] == 'facebook':
        return Licence('other', 'sam-license', SAM_LICENSE)
    raise SharingError(
        f'which licence goes with an adapter of {base} is not known here: read the model card of the base, and give '
        '--license (an identifier such as apache-2.0, or other with --license-name and --license-link).'
    )


def model_card(training: Training, shown: Config, repo: str, base: str, licence: Licence, dataset: str) -> ModelCard:
    """Write the card.

    Args:
        training: What is shared.
        shown: Its config as others may see it.
        repo: Hub id.
        base: Name of the base on every machine.
        licence: Of the adapter.
        dataset: What the images are called.
    """
    title = repo.partition('/')[2]
    scores = {key: value for key, value in training.row.items() if key.startswith(_SHOWN) and value is not None}
    results = [
        EvalResult(
            task_type='image-segmentation',
            dataset_type='custom',
            dataset_name=dataset,
            dataset_split='validation',
            metric_type=key.removeprefix(_SHOWN).lower(),
            metric_name=f'{key}, {training.axis} {training.row[training.axis]}',
            metric_value=round(float(value), 6),
        )
        for key, value in scores.items()
    ]
    data = ModelCardData(
        # Of the embedded one there is no repository.
        base_model=None if base == EMBEDDED else base.partition('@')[0],
        library_name='peft',
        license=licence.identifier,
        license_name=licence.name,
        license_link=licence.link,
        pipeline_tag='image-segmentation',
        tags=['crack_plugin', 'sam3', 'lora', 'mmsegmentation', 'crack-segmentation'],
        metrics=[result.metric_type for result in results] or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return ModelCard(f'---\n{data.to_yaml()}\n---\n\n{_body(training, shown, repo, base, licence, dataset)}')


def dataset_name(cfg: Config, given: str | None) -> str:
    """What the images are called: as ``given``, or else as the folder of the training data is."""
    return given or data_name(cfg) or 'custom'


def _body(training: Training, shown: Config, repo: str, base: str, licence: Licence, dataset: str) -> str:
    prompts = ', '.join(repr(prompt) for prompt in shown.model.get('prompts', ['crack']))
    base_name = 'the tiny SAM 3 that comes with crack_plugin' if base == EMBEDDED else base
    counts = [row[:2] for row in without_folders(count_images(training.cfg))]
    facts = [fact for fact in recipe_facts(shown, None) if fact[0] != 'Checkpoint']
    parts = [
        to_markdown(
            [
                Heading(repo.partition('/')[2], level=1),
                Text(f'LoRA adapter for {base_name}: segmentation of what the prompt names ({prompts}).'),
                Heading('Use'),
            ]
        ),
        _usage(repo),
        to_markdown(
            [
                Heading('Scores'),
                *_scores(training),
                Heading('Trained on'),
                Text(f'Dataset "{dataset}"; the images are not part of this repository.'),
                Table(['Split', 'Images'], counts),
                Heading('Settings'),
                Table(['Setting', 'Value'], [*facts, *_cost(training), ('crack_plugin', __version__)]),
                Heading('Licence'),
                Text(_licence_text(base, licence)),
            ]
        ),
    ]
    return '\n'.join(parts)


def _usage(repo: str) -> str:
    return f"""```python
from crack_plugin.prediction import Predictor

prediction = Predictor.from_pretrained({repo!r})('photo.jpg')
```

Or a whole folder: `python tools/predict.py photos --adapter {repo} --out results`. The files `adapter_*` alone are an
adapter as PEFT saves it. `config.py` is the configuration of the training, `report/report.html` its report.
"""


def _scores(training: Training) -> list[Block]:
    header, lines, strong = epoch_table(training.rows, training.axis, training.best, None)
    # The gain over a model without training, which is not in the history.
    header, lines = header[:-1], [line[:-1] for line in lines]
    others = [
        (key, f'{value:.4f}')
        for key, value in training.row.items()
        if key.startswith(_SHOWN) and key not in SCORES.values() and isinstance(value, float)
    ]
    which = '' if strong is None else '; the adapter is that of the row in bold'
    blocks: list[Block] = [
        Text(f'On the validation images, of the foreground in each image, averaged over the images{which}.'),
        Table(header, lines, strong),
    ]
    return [*blocks, Text(_OTHERS), Table(['Score', 'Value'], others)] if others else blocks


def _cost(training: Training) -> Sequence[tuple[str, str]]:
    seconds = [row['train_seconds'] for row in training.rows if row.get('train_seconds') is not None]
    device = training.rows[-1].get('device') if training.rows else None
    return [
        ('Trained on (device)', device or 'not recorded'),
        ('Training time', duration(seconds)),
        ('Peak memory', largest_memory(training.rows)),
    ]


def _licence_text(base: str, licence: Licence) -> str:
    name = licence.name or licence.identifier
    text = f'The adapter is shared under {name}' + (f' ({licence.link}).' if licence.link else '.')
    if base == EMBEDDED:
        return text
    return (
        f'{text} It holds no weight of its base, {base}, is of use only with it, and the base has a licence of its own'
        + (f', the SAM License ({SAM_LICENSE}).' if base.startswith('facebook/') else ': see its model card.')
    )
