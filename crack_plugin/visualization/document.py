"""A page of headings, texts, tables and pictures, written as Markdown and as self-contained HTML."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Heading:
    """Attributes:
    text: The heading.
    level: 1 for the page's title, 2 for a section, 3 for a part of one.
    """

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; as a ``note``, one that the reader must not overlook."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Attributes:
    header: Names of the columns.
    rows: One text a cell.
    strong: Index of a row to set in bold, if any.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: int | None = None


@dataclass(frozen=True)
class Picture:
    """Attributes:
    file: A PNG file, relative to the page's folder, with / between the parts.
    caption: Shown below, and read out in the picture's place.
    """

    file: str
    caption: str


Block = Heading | Text | Table | Picture

# The policy lets a browser fetch nothing, whatever a name of a file smuggles in.
_START = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2 { border-bottom: 1px solid #ccc; padding-bottom: .2em; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #ccc; padding: .3em .7em; text-align: left; vertical-align: top; overflow-wrap: normal; }
td:last-child { overflow-wrap: anywhere; }
th { background: #f0f0f0; }
tr.strong { font-weight: bold; background: #e8f3fb; }
.note { border-left: 4px solid #D55E00; background: #fdf3ec; padding: .6em 1em; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { font-style: italic; }
$style</style>
</head>
<body>
""")
_END = """
</body>
</html>
"""


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as GitHub-flavoured Markdown; pictures are linked by their relative paths."""
    return '\n\n'.join(_markdown(block) for block in blocks) + '\n'


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """The page as one HTML file without links: pictures are inside as data URIs.

    Args:
        blocks: The page; its first level-1 heading is its title.
        folder: Where the pictures' files are.
    """
    titles = [block.text for block in blocks if isinstance(block, Heading) and block.level == 1]
    start, end = html_frame(titles[0] if titles else '')
    return f'{start}{html_body(blocks, folder)}{end}'


def html_frame(title: str, style: str = '') -> tuple[str, str]:
    """What comes before and after the body of a page, for one that is written piece by piece.

    Args:
        title: Of the browser's tab.
        style: CSS beyond that of all pages.
    """
    return _START.substitute(title=escape(title), style=style), _END


def html_body(blocks: Sequence[Block], folder: Path = Path()) -> str:
    """Blocks as HTML; ``folder`` is where the pictures' files are."""
    return '\n'.join(_html(block, folder) for block in blocks)


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f'{"#" * block.level} {_plain(block.text)}'
        case Text():
            return f'> **Note:** {_plain(block.text)}' if block.note else _plain(block.text)
        case Table():
            rows = [
                [f'**{_plain(cell)}**' if index == block.strong else _plain(cell) for cell in row]
                for index, row in enumerate(block.rows)
            ]
            lines = [[_plain(name) for name in block.header], ['---'] * len(block.header), *rows]
            return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        case Picture():
            # In angle brackets a path may hold blanks and parentheses.
            return f'![{_plain(block.caption)}](<{block.file}>)\n\n*{_plain(block.caption)}*'


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading():
            return f'<h{block.level}>{escape(block.text)}</h{block.level}>'
        case Text():
            note = ' class="note"' if block.note else ''
            return f'<p{note}>{escape(block.text)}</p>'
        case Table():
            head = ''.join(f'<th>{escape(name)}</th>' for name in block.header)
            rows = [
                ('<tr class="strong">' if index == block.strong else '<tr>')
                + ''.join(f'<td>{escape(cell)}</td>' for cell in row)
                + '</tr>'
                for index, row in enumerate(block.rows)
            ]
            return '\n'.join(['<div class="table"><table>', f'<tr>{head}</tr>', *rows, '</table></div>'])
        case Picture():
            data = base64.b64encode((folder / block.file).read_bytes()).decode()
            caption = escape(block.caption)
            source = f'data:image/png;base64,{data}'
            return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup, so that a file name stays itself."""
    return re.sub(r'([\\`*_\[\]<>|])', r'\\\1', text)
