"""Faults of the machine (memory, disk, killed data workers): told apart, and what to do about each."""

import errno
import re

import torch

# Patterns: how torch 2.13 and CUDA's libraries word these errors.
_DEAD_WORKER = re.compile(
    r'DataLoader worker \(pid(?:\(s\))? (?P<pid>[\d, ]+)\) '
    r'(?:exited unexpectedly|is killed by signal: (?P<signal>[^.]+))'
)
# Torch's own allocator raises OutOfMemoryError; the driver and the libraries beside it say so in words.
_FULL_GPU = re.compile(
    r'(?P<reason>.*(?:\b(?:CUDA|HIP|XPU|NPU|MPS)\b.*out of memory|\bCU\w+(?<!HOST)_ALLOC(?:ATION)?_FAILED).*)',
    re.IGNORECASE,
)
_FULL_RAM = re.compile(
    r"(?P<reason>DefaultCPUAllocator: (?:can't allocate memory|not enough memory).*"
    r'|\bCU\w+HOST_ALLOC(?:ATION)?_FAILED|.*Insufficient memory.*|\[Errno 12\] .*'
    r'|.*Unable to allocate .* for an array.*)'
)
# torch's tensors on their way from a data worker.
_FULL_SHARED_MEMORY = re.compile(
    r'(?P<reason>unable to (?:mmap|write|resize|allocate shared memory).* file </torch_.*)', re.IGNORECASE
)
_SHARED_MEMORY_ADVICE = 'Shared memory is full (/dev/shm; in Docker: --shm-size=8g, or --ipc=host).'
# Said of a full GPU, but of other faults too.
_PERHAPS_FULL_GPU = re.compile(
    r'CU(?:DNN|BLAS)_STATUS_(?:INTERNAL_ERROR|NOT_INITIALIZED)|unable to find (?:an engine|a valid cuDNN algorithm)',
    re.IGNORECASE,
)
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def advice(error: Exception) -> str | None:
    """What to do about a fault of the machine; None for any other error."""
    text = str(error)
    full = _FULL_GPU.search(text)
    if isinstance(error, torch.OutOfMemoryError) or full:
        reason = full['reason'] if full else text
        return (
            f'{reason.strip().partition(". ")[0]}: the GPU has too little memory for this config. For SAM 3 use one '
            'that needs less: configs/sam3_lora_crack_lowmem.py, or --cfg-options model.image_size=672 (or 336); for '
            'any model: train_dataloader.batch_size=1. What was saved is complete; a training goes on with --resume.'
        )
    full = _FULL_RAM.search(text)
    if isinstance(error, MemoryError) or full or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        reason = full['reason'] if full else text.strip().rpartition('\n')[2] or 'out of memory'
        return (
            f"{reason.strip()}: the machine has too little memory (RAM, not the GPU's). Fewer workers and smaller "
            'batches need less: --cfg-options train_dataloader.batch_size=1 train_dataloader.num_workers=1 '
            'val_dataloader.num_workers=1; for SAM 3 on a CPU also model.image_size=336, or '
            'configs/sam3_lora_crack_lowmem.py. What was saved is complete; a training goes on from it with --resume.'
        )
    # torch may put the signal into the cause
    worker = _DEAD_WORKER.search(str(error.__cause__)) or _DEAD_WORKER.search(str(error))
    if worker:
        # torch itself points at shared memory after a bus error
        reason = (
            _SHARED_MEMORY_ADVICE
            if worker['signal'] == 'Bus error'
            else 'The usual reason is memory: the kernel ends the process that takes most (see `dmesg`).'
        )
        return (
            f'data worker {worker["pid"]} died ({worker["signal"] or "signal unknown"}). {reason} Fewer workers need '
            'less: --cfg-options train_dataloader.num_workers=1 val_dataloader.num_workers=1. What was saved is '
            'complete; a training goes on from it with --resume.'
        )
    shared = _FULL_SHARED_MEMORY.search(text)
    if shared:
        return (
            f'{shared["reason"].strip()}: {_SHARED_MEMORY_ADVICE} Fewer workers need less: --cfg-options '
            'train_dataloader.num_workers=1 val_dataloader.num_workers=1. What was saved is complete; a training goes '
            'on from it with --resume.'
        )
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
        file = f' ({error.filename})' if error.filename else ''
        return (
            f'a file could not be written: {error.strerror}{file}. Make room, or choose another folder with '
            '--work-dir. What was saved is complete; a training goes on from it with --resume.'
        )
    return None


def add_note(error: Exception) -> None:
    """Add to an error that may come from a full GPU, but also from something else, what to look at."""
    if _PERHAPS_FULL_GPU.search(str(error)):
        error.add_note(
            'A full GPU is often behind this error: see `nvidia-smi` for other processes on it, and try '
            'configs/sam3_lora_crack_lowmem.py or --cfg-options train_dataloader.batch_size=1'
        )
