"""What reading the headers of a TIFF file ends in, and which way up its picture is."""

import struct

from tifffile import TiffFileError, TiffPage

# tifffile's own error was no ValueError in 2024.
TIFF_FAULTS = (TiffFileError, IndexError, KeyError, TypeError, ValueError, struct.error)
"""What tifffile raises for a damaged file, or one of another format."""


def tiff_orientation(page: TiffPage) -> int:
    """How a picture lies in its file, from 1 (upright) to 8, as in EXIF; 1 for values that mean nothing."""
    tag = page.tags.get('Orientation')
    return tag.value if tag is not None and tag.value in range(1, 9) else 1
