"""Apple's GPUs, on which torch lacks some operators."""

import os
import sys

FALLBACK = 'PYTORCH_ENABLE_MPS_FALLBACK'


def allow_fallback() -> None:
    """Let operators that MPS misses run on the CPU; a warning of torch's names each.

    torch reads the variable when it is imported: a script that imports torch before this package sets it by itself.
    """
    if sys.platform == 'darwin':
        os.environ.setdefault(FALLBACK, '1')
