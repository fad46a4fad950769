"""Imported by configs of Mask2Former, which MMSegmentation builds from parts of mmdet."""

try:
    import mmdet.models  # noqa: F401 - registers
except ModuleNotFoundError as error:
    # Not an ImportError: in place of one, mmengine would show a message of its own.
    raise RuntimeError(
        f"Mask2Former needs mmdet 3.3, which cannot be imported here ({error}): pip install 'mmdet>=3.3,<3.4'. With "
        'mmcv-lite it then runs on the CPU; on a GPU it needs full mmcv.'
    ) from error
