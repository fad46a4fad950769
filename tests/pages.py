"""Reads an HTML page the way a test asks about it."""

import base64
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page holds: texts by tag, pictures, and anything that would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ('href', 'src', 'data', 'srcset'):
                kind, _, data = (value or '').partition('base64,')
                if kind in ('data:image/png;', 'data:image/jpeg;'):
                    self.pictures.append(base64.b64decode(data, validate=True))
                else:
                    self.links.append(value or '')

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())
