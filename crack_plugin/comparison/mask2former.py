"""Imported by configs of Mask2Former, which MMSegmentation builds from parts of mmdet."""

from crack_plugin.errors import CrackPluginError


class MissingMmdetError(CrackPluginError, RuntimeError):
    """mmdet cannot be imported. Not an ``ImportError``, which mmengine replaces by a message of its own."""


try:
    import mmdet.models  # noqa: F401 - registers
except ModuleNotFoundError as error:
    raise MissingMmdetError(
        f"Mask2Former needs mmdet 3.3, which cannot be imported here ({error}): pip install 'mmdet>=3.3,<3.4'. With "
        'mmcv-lite it then runs on the CPU; on a GPU it needs full mmcv.'
    ) from error
