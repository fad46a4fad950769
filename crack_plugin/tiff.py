"""What reading the headers of a TIFF file ends in."""

import struct

from tifffile import TiffFileError

# tifffile's own error was no ValueError in 2024.
TIFF_FAULTS = (TiffFileError, IndexError, KeyError, TypeError, ValueError, struct.error)
"""What tifffile raises for a damaged file, or one of another format."""
