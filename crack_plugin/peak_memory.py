"""The largest amount of memory that was in use: of CUDA's allocator on a GPU, of the process on a CPU."""

import sys
from pathlib import Path

import torch

CUDA_ALLOCATOR = 'CUDA allocator'
PROCESS = 'process'
WHOLE_PROCESS = 'process since its start, with loading'

_STATUS = Path('/proc/self/status')
_CLEAR = Path('/proc/self/clear_refs')


def reset_peak_memory(device: torch.device | str) -> str:
    """Measure from now on.

    Args:
        device: Where the model is.

    Returns:
        What :func:`peak_memory` tells from now on: that of the CUDA_ALLOCATOR, of the PROCESS from now on, or of the
        WHOLE_PROCESS where the system cannot begin anew.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return CUDA_ALLOCATOR
    if _high_water_mark() is None:
        return WHOLE_PROCESS
    try:
        # Linux: sets VmHWM back to the present resident memory, see proc(5).
        _CLEAR.write_text('5', encoding='ascii')
    except OSError:
        return WHOLE_PROCESS
    return PROCESS


def peak_memory(device: torch.device | str) -> float:
    """The peak since :func:`reset_peak_memory`, or since the start of the process, in MiB.

    Args:
        device: Where the model is. On a CPU (and on accelerators other than CUDA) it is the resident set of the
            process.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    mark = _high_water_mark()
    return _peak_since_start() if mark is None else mark / 2**10


def _peak_since_start() -> float:
    """MiB; for systems without /proc."""
    if sys.platform == 'win32':
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    # ru_maxrss cannot be reset; macOS, which has nothing else, gives it in bytes, the others in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)


def _high_water_mark() -> int | None:
    """KiB; None where the system has no such file, or no such line in it."""
    if not _STATUS.exists():
        return None
    return next(
        (
            int(line.split()[1])
            for line in _STATUS.read_text(encoding='ascii', errors='replace').splitlines()
            if line.startswith('VmHWM:')
        ),
        None,
    )
