"""``report.html``: the cracks of a run on one page for a browser and for paper, without anything outside of it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import matplotlib as mpl
from matplotlib.colors import to_hex
from tqdm import tqdm

from crack_plugin.files import write_atomically
from crack_plugin.inspection.crack_map import Mapped, bounds, draw_map
from crack_plugin.inspection.features import Feature
from crack_plugin.inspection.georeference import read_georeference
from crack_plugin.inspection.scale import Scales
from crack_plugin.inspection.severity import Level, Profile
from crack_plugin.prediction.report_card import Card, length_of, width_of
from crack_plugin.prediction.settings import SETTINGS
from crack_plugin.prediction.tables import Row
from crack_plugin.version import __version__
from crack_plugin.visualization.document import Block, Heading, Table, Text, html_body, html_frame
from crack_plugin.visualization.panels import CLASS_COLORS

REPORT = 'report.html'
_TITLE = 'Crack inspection report'
_WIDEST = 10
_STYLE = """
td:last-child { overflow-wrap: break-word; }
.card { border-top: 1px solid #ccc; margin-top: 2rem; }
svg { display: block; width: 100%; max-height: 85vh; }
svg text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg.photograph { overflow: visible; }
svg.photograph text { font-weight: bold; paint-order: stroke; stroke: #fff; fill: #222; }
svg.photograph text.widest { fill: #0072B2; }
circle { fill: none; stroke: #0072B2; }
circle.halo { stroke: #fff; }
svg.map polygon { fill: #f4f4f4; fill-opacity: .6; stroke: #999; }
svg.map text { fill: #777; text-anchor: middle; }
svg.map text.bar { fill: #222; text-anchor: start; font-size: 20px; }
svg.map path { fill: none; stroke-linecap: round; stroke-linejoin: round; stroke-width: 2; }
svg.map path.bar { stroke: #222; }
.legend span { display: inline-block; margin-right: 1.5em; }
.legend i { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; margin-right: .4em; }
@page { size: A4; margin: 15mm 15mm 18mm;
  @bottom-right { content: counter(page) " / " counter(pages); font-size: 8pt; } }
@media print {
  body { font-size: 9.5pt; line-height: 1.35; max-width: none; margin: 0; padding: 0; }
  h1, h2, h3 { break-after: avoid; }
  tr, figure, .card { break-inside: avoid; }
  .table { overflow: visible; }
  table, figure { margin: 2mm 0; }
  th, td { padding: .15em .5em; }
  .card { margin-top: 0; padding-top: 2mm; }
  .card h3, .card p { margin: 1mm 0; }
  .chapter { break-before: page; }
  svg { max-height: 100mm; }
  .empty svg { max-height: 50mm; }
  svg.map { max-height: 200mm; }
  th, tr, .note, .legend i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


@dataclass(frozen=True)
class Origin:
    """What a run was started with.

    Attributes:
        config: The config file; None for the one that came with the adapter.
        weights: Checkpoint or adapter; None for the model as configured.
    """

    config: str | None
    weights: str | None


@dataclass(frozen=True)
class Run:
    """What the page says besides the cracks.

    Attributes:
        out: Folder with masks, overlays and predict.json.
        origin: What it was started with.
        class_names: Of the K classes.
        scales: Of the photographs.
        profile: Limits of the severity; None for no severity.
        threshold: Probability above which a pixel is foreground; None for a model that decides otherwise.
        left_out: A line on each file, or kind of file, that could not be read.
    """

    out: Path
    origin: Origin
    class_names: Sequence[str]
    scales: Scales
    profile: Profile | None = None
    threshold: float | None = None
    left_out: Sequence[str] = ()


def write_report(run: Run, done: Mapping[str, Sequence[Row]], features: Sequence[Feature]) -> str:
    """Write report.html, one card after the other: no two pictures are in memory.

    Args:
        run: What it says besides the cracks.
        done: Rows of all photographs, by mask.
        features: The cracks of all photographs.

    Returns:
        A line that says what there is.

    Raises:
        OutputError: A mask or an overlay cannot be read.
        SaveError: The page could not be written; a former one is as it was.
    """
    by_mask: dict[str, list[Feature]] = {}
    for feature in features:
        by_mask.setdefault(feature.mask, []).append(feature)
    cards = [
        _card(run, number, rows[0], by_mask.get(mask, [])) for number, (mask, rows) in enumerate(done.items(), start=1)
    ]

    def write(scratch: Path) -> None:
        # The names of files may have bytes that are no text.
        with scratch.open('w', encoding='utf-8', errors='backslashreplace') as file:
            _write(file, run, cards)

    write_atomically(run.out / REPORT, write)
    return f'{run.out / REPORT}: {len(cards):,} photographs'


def _card(run: Run, number: int, row: Row, features: Sequence[Feature]) -> Card:
    image = Path(row.image)
    return Card(number, row, features, len(run.class_names), run.scales.of(image), read_georeference(image))


def _write(file: TextIO, run: Run, cards: Sequence[Card]) -> None:
    start, end = html_frame(_TITLE, _STYLE)
    settings = json.loads((run.out / SETTINGS).read_text(encoding='utf-8'))
    page: list[Block] = [Heading(_TITLE, 1), Table(['Run', ''], _facts(run, settings)), *_summary(run, cards)]
    file.write(start + html_body(page) + '\n')
    file.writelines(f'{part}\n' for part in _maps(run, cards))
    file.write('<h2 class="chapter">Photographs</h2>\n')
    file.writelines(f'{card.html(run.out)}\n' for card in tqdm(cards, desc='report'))
    file.write(end)


def _facts(run: Run, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    base, slide = settings.get('model.base'), settings.get('model.test_cfg') or {}
    windows = f'{slide["crop_size"]} px, one every {slide["stride"]}' if slide.get('mode') == 'slide' else 'none'
    rows = [
        ('Date', f'{datetime.now().astimezone():%Y-%m-%d %H:%M %z}'),
        ('Config', run.origin.config or 'that of the adapter'),
        ('Model', str(settings['model.type'])),
        ('Base', 'random weights' if isinstance(base, dict) else str(base or '-')),
        ('Weights', run.origin.weights or 'none: the model as configured'),
        *((f'SHA-256 of {name}', digest) for name, digest in settings['sha256'].items()),
        ('Prompts', ', '.join(map(repr, settings.get('model.prompts') or [])) or '-'),
        ('Classes', ', '.join(run.class_names)),
        ('Threshold', 'that of the model' if run.threshold is None else f'{run.threshold:g}'),
        ('Windows', windows),
        ('Scale', _scale(run.scales)),
        ('Severity', 'not asked for' if run.profile is None else _profile(run.profile)),
        ('Written by', f'crack_plugin {__version__}; all settings of the model are in {SETTINGS}'),
    ]
    return [row for row in rows if row[1] != '-']


def _scale(scales: Scales) -> str:
    if scales.table is not None:
        return f'of each photograph, from {scales.table}'
    given = 'none was given' if scales.for_all is None else f'{scales.for_all:g} mm a pixel'
    return f'{given}; GeoTIFFs have their own'


def _profile(profile: Profile) -> str:
    measure = profile.measure.replace('_', ' ')
    return f'{profile.name}, by {measure}. Source: {profile.source or "not named"}'


def _summary(run: Run, cards: Sequence[Card]) -> list[Block]:
    features = [feature for card in cards for feature in card.features]
    found = sum(bool(card.features) for card in cards)
    blocks: list[Block] = [Heading('Summary')]
    if run.left_out:
        blocks.append(Text('Not in this report:', note=True))
        blocks += [Text(line, note=True) for line in run.left_out]
    if not features:
        return [*blocks, Text(f'No crack was found in {_photographs(len(cards))}.')]
    blocks.append(Text(f'{len(features):,} cracks in {found:,} of {_photographs(len(cards))}.'))
    header = ['Cracks', 'Total length', 'Widest']
    for unit in dict.fromkeys(feature.unit for feature in features):
        own = [feature for feature in features if feature.unit == unit]
        if run.profile is not None:
            blocks.append(Table(['Severity', 'Width', *header], _by_severity(run.profile, own)))
        else:
            groups = {name: [each for each in own if each.class_name == name] for name in run.class_names}
            blocks.append(Table(['Class', *header], [[name, *_sizes(each)] for name, each in groups.items()]))
    if run.profile is not None:
        blocks.append(
            Text(
                'These are limits of widths, and no judgement of a structure. Where the uncertainty of a width reaches '
                'past a limit, the severity is between the levels that are named.'
            )
        )
    blocks.append(
        Text(
            'A model marked the cracks; check them on site. A width may be off by its uncertainty, half a pixel at '
            'each edge, and by what the mask has too much or too little.'
        )
    )
    pairs = [(card, feature) for card in cards for feature in card.features]
    pairs.sort(key=lambda pair: (pair[1].unit, -pair[1].max_width))
    severity = [] if run.profile is None else ['Severity']
    rows = [
        [f'{card.number}. {card.name}', str(each.id), length_of(each.length, each.unit), width_of(each)]
        + ([each.rating.severity] if each.rating else [])
        for card, each in pairs[:_WIDEST]
    ]
    return [
        *blocks,
        Heading('Widest cracks', 3),
        Table(['Photograph', 'Crack', 'Length', 'Widest', *severity], rows),
    ]


def _photographs(count: int) -> str:
    return f'{count:,} photographs' if count > 1 else '1 photograph'


def _by_severity(profile: Profile, features: Sequence[Feature]) -> list[list[str]]:
    """A row for each level, and for each pair of levels that cracks are uncertain between."""
    groups: dict[str, list[Feature]] = {level.name: [] for level in profile.levels}
    names = list(groups)
    rated = [(feature.rating, feature) for feature in features if feature.rating is not None]
    for rating, feature in sorted(rated, key=lambda pair: (names.index(pair[0].lowest), names.index(pair[0].highest))):
        groups.setdefault(rating.severity, []).append(feature)
    limits = [_limits(lower, level) for lower, level in pairwise([Level('', 0), *profile.levels])]
    return [
        [name, limit, *_sizes(own)]
        for (name, own), limit in zip(groups.items(), limits + ['-'] * (len(groups) - len(limits)), strict=True)
    ]


def _limits(lower: Level, level: Level) -> str:
    over = f'over {lower.up_to:g}' if lower.up_to else ''
    up_to = f'up to {level.up_to:g}' if level.up_to < math.inf else ''
    return f'{", ".join(filter(None, (over, up_to))) or "any"} mm'


def _sizes(features: Sequence[Feature]) -> list[str]:
    if not features:
        return ['0', '-', '-']
    total = length_of(sum(feature.length for feature in features), features[0].unit)
    return [f'{len(features):,}', total, width_of(max(features, key=lambda feature: feature.max_width))]


def _maps(run: Run, cards: Sequence[Card]) -> Iterator[str]:
    """A map for each CRS."""
    groups: dict[str, list[Mapped]] = {}
    for card in cards:
        if card.georeference is not None:
            shape = card.row.height, card.row.width
            mapped = Mapped(card.number, shape, card.georeference, card.features)
            groups.setdefault(card.georeference.wkt, []).append(mapped)
    color, legend = _colors(run)
    for photographs in groups.values():
        name = photographs[0].georeference.name
        (left, bottom), (right, top) = bounds(photographs)
        caption = (
            f'{name}: x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}, its y axis upwards. Outlines are '
            'the photographs, with their numbers.'
        )
        keys = ''.join(f'<span><i style="background: {key}"></i>{escape(text)}</span>' for text, key in legend.items())
        yield f'<h2 class="chapter">Map in {escape(name)}</h2>'
        yield f'<figure>{draw_map(photographs, color)}<figcaption>{escape(caption)}</figcaption></figure>'
        yield f'<p class="legend">{keys}</p>'


def _colors(run: Run) -> tuple[Callable[[Feature], str], dict[str, str]]:
    """Colour of each crack, and what the colours mean: the level of the width as measured, or the class."""
    if run.profile is None:
        colors = {name: CLASS_COLORS[i % len(CLASS_COLORS)] for i, name in enumerate(run.class_names)}
        return lambda feature: colors[feature.class_name], colors
    count = len(run.profile.levels)
    # The more severe, the darker, for all kinds of colour vision; the lightest would not show on white.
    shades = mpl.colormaps['YlOrRd']
    colors = {level.name: to_hex(shades(0.35 + 0.65 * i / count)) for i, level in enumerate(run.profile.levels, 1)}
    return lambda feature: colors[feature.rating.level if feature.rating else ''], colors
