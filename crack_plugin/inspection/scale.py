"""How many millimetres a pixel of each photograph measures: one figure for all, a table, or the georeference."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from crack_plugin.datasets.names import listed
from crack_plugin.errors import CrackPluginError
from crack_plugin.inspection.georeference import GeoreferenceError, read_georeference

_COLUMNS = ('image', 'mm_per_pixel')
_TOLERANCE = 0.01
"""How far a scale that is given may differ from the georeference's, as a share."""


class ScaleError(CrackPluginError, ValueError):
    """A scale that is missing, wrong, or told twice."""


@dataclass(frozen=True)
class Scales:
    """The scales of photographs.

    Attributes:
        table: File they are from; None without one.
        by_image: Millimetres a pixel by the photograph's name in the table.
        for_all: Millimetres a pixel of those without; None if there is no such figure.
    """

    table: Path | None = None
    by_image: dict[str, float] = field(default_factory=dict)
    for_all: float | None = None

    def of(self, image: Path) -> float | None:
        """Millimetres a pixel of a photograph; None if nothing tells them.

        A GeoTIFF's are those of its georeference. In a table a photograph is named by its path as it is given, by the
        path below the table's folder, or, where no path is there, by the file's name.

        Raises:
            ScaleError: It is in a table of scales under two paths with two scales; its pixels are not square, or in
                degrees; the georeference has no length, and no scale is given; or the two contradict each other.
        """
        given = self._given(image)
        georeference = read_georeference(image)
        if georeference is None:
            return given
        try:
            # Whoever gives one scale gives that of both sides.
            georeference.check_pixels()
            if georeference.metres is None and given is not None:
                return given
            own = georeference.mm_per_pixel()
        except GeoreferenceError as error:
            raise ScaleError(f'{image}: {error}') from error
        if given is not None and abs(given - own) > _TOLERANCE * own:
            raise ScaleError(
                f'{image}: --mm-per-pixel is {given:g}, and its georeference says {own:g}. Leave it out for this image.'
            )
        return own

    def require(self, images: Iterable[Path], what: str) -> None:
        """Refuse photographs without a scale, and those of one name in the table.

        Raises:
            ScaleError: There are some.
        """
        images = list(images)
        missing = [image for image in images if self.of(image) is None]
        if missing:
            where = f' (not in {self.table})' if self.table else ''
            raise ScaleError(
                f'{what} needs the scale of every photograph, and that of {listed(missing)} is not known{where}: '
                '--mm-per-pixel MM, or --mm-per-pixel FILE.csv with the columns image, mm_per_pixel.'
            )
        owners: dict[str, Path] = {}
        for image in images:
            for name in self._names(image)[:1]:
                other = owners.setdefault(name, image)
                if other.resolve() != image.resolve():
                    raise ScaleError(
                        f'{self.table} has {name}, and that may be {other} or {image}. Name each by its path.'
                    )

    def _given(self, image: Path) -> float | None:
        if self.table is None:
            return self.for_all
        found = {self.by_image[name] for name in self._names(image)}
        if len(found) > 1:
            raise ScaleError(f'{self.table} has several scales for {image}. Name it once, by its path.')
        return found.pop() if found else None

    def _names(self, image: Path) -> list[str]:
        """By which names the table has a photograph: paths, or else its file's name, which others may have as well."""
        if self.table is None:
            return []
        paths = {str(image), image.as_posix()} - {image.name}
        folder = self.table.parent.resolve()
        if image.resolve().is_relative_to(folder):
            paths.add(image.resolve().relative_to(folder).as_posix())
        return [name for name in sorted(paths) if name in self.by_image] or [
            name for name in (image.name,) if name in self.by_image
        ]


def read_scales(text: str | None) -> Scales:
    """The scales that an option gives.

    Args:
        text: Millimetres a pixel, a CSV file with the columns image and mm_per_pixel, or None.

    Raises:
        ScaleError: It is neither; or the table has a fault, which the message names with its line.
    """
    if text is None:
        return Scales()
    path = Path(text)
    if path.suffix.lower() != '.csv':
        return Scales(for_all=_size(text, '--mm-per-pixel'))
    if not path.is_file():
        raise ScaleError(f'{path}: no such file.')
    try:
        content = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise ScaleError(f'{path} cannot be read: {error}. Save it as CSV in UTF-8.') from error
    lines = csv.DictReader(content.splitlines(), dialect=_dialect(content))
    header = [name.strip() for name in lines.fieldnames or []]
    if any(header.count(name) != 1 for name in _COLUMNS):
        raise ScaleError(f'{path}: wanted are the columns {", ".join(_COLUMNS)}, and the first line is {header}.')
    lines.fieldnames = header
    by_image: dict[str, float] = {}
    for row in lines:
        place = f'{path}, line {lines.line_num}'
        # Those without a name: 1,5 is two cells where commas separate them.
        if any(cell.strip() for cell in row.get(None, ())):
            raise ScaleError(f'{place}: more cells than columns. Decimals have a point.')
        name, value = (row['image'] or '').strip(), (row['mm_per_pixel'] or '').strip()
        if not name:
            raise ScaleError(f'{place}: the image is not named.')
        size = _size(value, place)
        if by_image.setdefault(name, size) != size:
            raise ScaleError(f'{place}: {name} has {size:g} here and {by_image[name]:g} above. Correct one.')
    return Scales(path, by_image)


def _dialect(content: str) -> type[csv.Dialect]:
    # Spreadsheets of many countries separate by semicolons, because the comma is in their numbers.
    return _Semicolons if ';' in content.partition('\n')[0] else csv.excel


class _Semicolons(csv.excel):
    delimiter = ';'


def _size(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        hint = ' Decimals have a point.' if ',' in text else ''
        raise ScaleError(f'{place}: {text!r} is no size of a pixel in mm, and no .csv file.{hint}')
    return value
