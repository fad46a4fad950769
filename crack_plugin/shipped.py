"""What comes with the package beside its code: configs and tools."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """The folder ``configs`` or ``tools`` of an installation, or of a checkout that is not installed."""
    installed = _PACKAGE / '.mim' / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
