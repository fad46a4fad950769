"""Pages as Markdown and HTML."""

from pathlib import Path

import cv2
import numpy as np
from pages import Page

from crack_plugin.visualization import document
from crack_plugin.visualization.document import Heading, Picture, Table, Text


def test_pages_escape_what_they_are_told(tmp_path: Path) -> None:
    nasty = '<img src=x onerror=alert(1)>|"a"&`b`_c_*d*[e](f).jpg'
    cv2.imwrite(str(tmp_path / 'p (1).png'), np.zeros((2, 3), np.uint8))
    blocks: list[document.Block] = [Heading(nasty, 1), Text(nasty, note=True), Table([nasty], [[nasty]], strong=0)]
    blocks.append(Picture('p (1).png', nasty))
    page = Page(document.to_html(blocks, tmp_path))
    assert page.tags.count('img') == 1
    assert page.texts.count(nasty) == 6  # title, heading, note, two cells, caption
    assert page.links == []
    assert page.pictures == [(tmp_path / 'p (1).png').read_bytes()]

    markdown = document.to_markdown(blocks)
    assert '](<p (1).png>)' in markdown
    assert '<img' not in markdown.replace(r'\<', '')
    assert markdown.splitlines()[4] == r'| \<img src=x onerror=alert(1)\>\|"a"&\`b\`\_c\_\*d\*\[e\](f).jpg |'
