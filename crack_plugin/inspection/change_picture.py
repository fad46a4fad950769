"""The picture of a comparison: the second photograph with what has changed in colours, numbered, above a legend."""

from collections import Counter

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from crack_plugin.inspection.changes import (
    GONE,
    KIND_NAMES,
    KINDS,
    NARROWED,
    NEW,
    OUTSIDE,
    UNCHANGED,
    WIDENED,
    Comparison,
)
from crack_plugin.visualization.panels import CLASS_COLORS, overlay

_CLASS_OF = {NEW: 6, GONE: 2, WIDENED: 4, NARROWED: 7, UNCHANGED: 3, OUTSIDE: 5}
COLORS = {kind: CLASS_COLORS[label - 1] for kind, label in _CLASS_OF.items()}
"""Vermillion, sky blue, yellow, purple, green and blue, in the order of the kinds."""

CHANGED = (NEW, GONE, WIDENED, NARROWED)
"""Kinds whose pieces are numbered in the picture."""


def change_picture(image: np.ndarray, comparison: Comparison) -> np.ndarray:
    """Draw a comparison.

    Args:
        image: The second photograph, RGB, shape (H, W, 3), uint8.
        comparison: Of it. What has changed is numbered from 1, in the order of its changes.

    Returns:
        RGB, shape (H', W, 3), uint8, H' being H and some rows more for the legend.
    """
    as_classes = np.array([0, *(_CLASS_OF[kind] for kind in KINDS)], np.uint8)
    picture = Image.fromarray(overlay(image, as_classes[comparison.kinds]))
    height, width = image.shape[:2]
    size = max(10, max(height, width) // 60)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(picture)
    for number, change in enumerate(comparison.changes, start=1):
        if change.kind in CHANGED:
            # What is gone may lie in the second photograph with its other end alone.
            x, y = np.clip(change.place, 0, (width - size, height - size)).tolist()
            draw.text((x, y), str(number), 'white', font, stroke_width=max(1, size // 8), stroke_fill='black')
    return np.concatenate([np.asarray(picture), _legend(width, comparison, font, size)])


def _legend(
    width: int, comparison: Comparison, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int
) -> np.ndarray:
    counts = Counter(change.kind for change in comparison.changes)
    gap, line = size // 2, 2 * size
    entries, x, y = [], gap, gap
    for kind in KINDS:
        text = f'{KIND_NAMES[kind]} ({counts[kind]})'
        needed = round(size + gap + font.getlength(text) + 2 * gap)
        if x + needed > width and x > gap:
            x, y = gap, y + line
        entries.append((x, y, kind, text))
        x += needed
    picture = Image.new('RGB', (width, y + line), 'white')
    draw = ImageDraw.Draw(picture)
    for x, y, kind, text in entries:
        color = tuple(round(255 * part) for part in to_rgb(COLORS[kind]))
        draw.rectangle((x, y, x + size, y + size), fill=color, outline='black')
        draw.text((x + size + gap, y), text, 'black', font)
    return np.asarray(picture)
