"""As :mod:`crack_plugin.comparison.mask2former`, for configs saved by version 0.1."""

from crack_plugin.comparison import mask2former  # noqa: F401 - registers
