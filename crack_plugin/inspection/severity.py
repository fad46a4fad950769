"""How severe a crack is by its width: by the limits of a published table, or one's own."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from crack_plugin.errors import CrackPluginError

Measure = Literal['max_width', 'mean_width']


class SeverityError(CrackPluginError, ValueError):
    """A profile that does not exist or cannot be read."""


@dataclass(frozen=True)
class Level:
    """A level of a profile.

    Attributes:
        name: Of a category, or the limit that is passed.
        up_to: The widest crack that belongs to it, in mm.
    """

    name: str
    up_to: float = math.inf


@dataclass(frozen=True)
class Profile:
    """Limits of the width, narrowest first.

    Attributes:
        name: Of a built-in one, or the file.
        source: Where the limits are from.
        levels: The last has no limit.
        measure: Which width is rated.
    """

    name: str
    source: str
    levels: tuple[Level, ...]
    measure: Measure = 'max_width'


@dataclass(frozen=True)
class Rating:
    """The severity of a crack.

    Attributes:
        level: Of the width as measured.
        lowest: Level of the least width that it may have.
        highest: Level of the largest width that it may have.
    """

    level: str
    lowest: str
    highest: str

    @property
    def is_certain(self) -> bool:
        """Whether the width is further from the next limit than it is uncertain."""
        return self.lowest == self.highest

    @property
    def severity(self) -> str:
        """The level, or between which it is uncertain."""
        return self.level if self.is_certain else f'uncertain: {self.lowest} to {self.highest}'


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            'bre251',
            'BRE Digest 251, Assessment of damage in low-rise buildings (Building Research Establishment): categories '
            'of visible damage to walls. The digest rates by ease of repair in the first place, and by number of '
            'cracks too; the widths are approximate.',
            (
                Level('0 negligible', 0.1),
                Level('1 very slight', 1.0),
                Level('2 slight', 5.0),
                Level('3 moderate', 15.0),
                Level('4 severe', 25.0),
                Level('5 very severe'),
            ),
        ),
        Profile(
            'ec2',
            'EN 1992-1-1:2004 (Eurocode 2), 7.3.1 (5), table 7.1N, recommended values of w_max: 0.2 mm for prestressed '
            'members with bonded tendons (X0, XC1 to XC4, frequent loads), 0.3 mm for reinforced members in XC2 to '
            'XC4, XD, XS, and 0.4 mm in X0, XC1 (quasi-permanent loads). They limit calculated widths, and national '
            'annexes may set others.',
            (
                Level('within 0.2 mm', 0.2),
                Level('over 0.2 mm', 0.3),
                Level('over 0.3 mm', 0.4),
                Level('over 0.4 mm'),
            ),
        ),
        Profile(
            'aci224r',
            'ACI 224R-01, Control of cracking in concrete structures, table 4.1, reasonable crack widths of reinforced '
            'concrete under service loads: 0.10 mm in water-retaining structures, 0.15 mm in seawater and its spray '
            '(wetting and drying), 0.18 mm with de-icing chemicals, 0.30 mm in humidity, moist air and soil, 0.41 mm '
            'in dry air or under a membrane. A guide for design: part of the cracks will exceed it.',
            (
                Level('within 0.10 mm', 0.10),
                Level('over 0.10 mm', 0.15),
                Level('over 0.15 mm', 0.18),
                Level('over 0.18 mm', 0.30),
                Level('over 0.30 mm', 0.41),
                Level('over 0.41 mm'),
            ),
        ),
    )
}


def rate(profile: Profile, width: float, uncertainty: float) -> Rating:
    """Rate a width.

    Args:
        profile: Limits.
        width: In mm.
        uncertainty: How far it may be off on either side, in mm.

    Example:
        >>> rate(PROFILES['bre251'], 2.3, 0.5).severity
        '2 slight'
        >>> rate(PROFILES['bre251'], 1.2, 0.5).severity  # half a millimetre a pixel
        'uncertain: 1 very slight to 2 slight'
    """

    def level(value: float) -> str:
        # Sums of decimals differ from the limit in the last digit.
        return next(level.name for level in profile.levels if value <= level.up_to + 1e-9)

    return Rating(level(width), level(max(width - uncertainty, 0)), level(width + uncertainty))


def find_profile(name: str) -> Profile:
    """A profile by its name, or from a YAML file::

        source: handbook of our bridges, table 3
        measure: max_width          # or mean_width; max_width if left out
        levels:
          - {name: fine, up_to: 0.2}  # mm
          - {name: wide, up_to: 1}
          - {name: severe}            # the last has no limit

    Raises:
        SeverityError: There is no such profile or file, or it is of another form; the message names the entry.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if not path.is_file():
        raise SeverityError(f'{name}: no severity profile of that name ({", ".join(PROFILES)}), and no file.')
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SeverityError(f'{path} cannot be read as YAML: {error}. Correct it.') from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Profile:
    if not isinstance(content, dict) or not isinstance(content.get('levels'), list):
        raise SeverityError(f'{path}: a severity profile has `levels`, a list of {{name: TEXT, up_to: MM}}.')
    unknown = sorted(map(str, content.keys() - {'source', 'measure', 'levels'}))
    if unknown:
        raise SeverityError(f'{path}: {", ".join(unknown)} is unknown. A profile has source, measure and levels.')
    measure = content.get('measure', 'max_width')
    if measure not in get_args(Measure):
        raise SeverityError(f'{path}: measure is {measure!r}, wanted is {" or ".join(get_args(Measure))}.')
    entries = content['levels']
    levels = [_level(path, number, entry, number == len(entries)) for number, entry in enumerate(entries, start=1)]
    if not levels:
        raise SeverityError(f'{path}: levels is empty. Name one at least.')
    for number, (lower, upper) in enumerate(pairwise(levels), start=2):
        if upper.up_to <= lower.up_to:
            raise SeverityError(
                f'{path}, level {number}: up_to {upper.up_to} does not exceed the {lower.up_to} before.'
            )
    names = [level.name for level in levels]
    if len(set(names)) < len(names):
        raise SeverityError(f'{path}: two levels have one name. Name each its own.')
    return Profile(str(path), str(content.get('source', '')), tuple(levels), measure)


def _level(path: Path, number: int, entry: Any, is_last: bool) -> Level:
    keys = {'name'} if is_last else {'name', 'up_to'}
    if not isinstance(entry, dict) or entry.keys() != keys:
        wanted = '{name: TEXT}: the last has no limit' if is_last else '{name: TEXT, up_to: MM}'
        raise SeverityError(f'{path}, level {number} is {entry!r}, wanted is {wanted}.')
    limit = entry.get('up_to', math.inf)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise SeverityError(f'{path}, level {number}: up_to is {limit!r}, wanted is a width in mm.')
    return Level(str(entry['name']), float(limit))
