"""Faults of the machine get advice; what only looks like one keeps its traceback."""

import argparse
import errno

import cv2
import pytest
import torch
from conftest import call_in_worker

from crack_plugin.cli import readable_errors


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser('tool')


def shown(parser, capsys, error: Exception, in_worker: bool = False) -> str:
    """The one paragraph that `readable_errors` makes of an error."""

    def fail():
        raise error

    with pytest.raises(SystemExit) as exit_info, readable_errors(parser):
        call_in_worker(fail) if in_worker else fail()
    assert exit_info.value.code == 1
    text = capsys.readouterr().err
    assert 'Traceback' not in text and len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB'),
        torch.AcceleratorError('CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously'),
        RuntimeError('CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`'),
        RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
        RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
        RuntimeError('cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`'),
        RuntimeError("NCCL error in: x.cpp:1\nLast error:\nCuda failure 'out of memory'"),
        RuntimeError('MPS backend out of memory (MPS allocated: 18 GB)'),
    ],
    ids=str,
)
def test_full_gpu_gets_advice(error, parser, capsys):
    text = shown(parser, capsys, error)
    assert 'the GPU has too little memory' in text and 'lowmem.py' in text
    assert 'out of memory' in text.lower() or '_FAILED' in text


@pytest.mark.parametrize('in_worker', [False, True])
@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        MemoryError('Unable to allocate 8.00 TiB for an array with shape (1048576, 1048576) and data type float64'),
        RuntimeError(
            "[alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError('[alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.'),
        OSError(12, 'Cannot allocate memory'),
        cv2.error('OpenCV(4.13) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes'),
        RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED'),
    ],
    ids=str,
)
def test_full_memory_gets_the_advice_for_a_machine(error, in_worker, parser, capsys):
    text = shown(parser, capsys, error, in_worker)
    assert "the machine has too little memory (RAM, not the GPU's)" in text and 'num_workers=1' in text


def test_real_failures_to_allocate_are_recognised(parser, capsys):
    for allocate in (lambda: torch.empty(2**58, dtype=torch.uint8), lambda: bytearray(2**60)):
        with pytest.raises(SystemExit), readable_errors(parser):
            allocate()
        assert 'the machine has too little memory' in capsys.readouterr().err


@pytest.mark.parametrize(
    'message', ['cuDNN error: CUDNN_STATUS_INTERNAL_ERROR', 'CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling x']
)
def test_error_that_may_be_a_full_gpu_keeps_its_traceback_with_a_note(message, parser):
    with pytest.raises(RuntimeError) as caught, readable_errors(parser):
        raise RuntimeError(message)
    assert 'A full GPU is often behind' in ''.join(caught.value.__notes__)


def test_other_accelerator_errors_keep_their_traceback(parser):
    with pytest.raises(RuntimeError) as caught, readable_errors(parser):
        raise torch.AcceleratorError('CUDA error: device-side assert triggered')
    assert not hasattr(caught.value, '__notes__')


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_disk_that_takes_no_more(number, parser, capsys):
    text = shown(parser, capsys, OSError(number, 'a reason', 'scalars.json'))
    assert 'a file could not be written: a reason (scalars.json). Make room' in text and '--resume' in text


@pytest.mark.parametrize('in_worker', [False, True])
@pytest.mark.parametrize(
    'message',
    [
        'unable to write to file </torch_41_7_0>: No space left on device (28)',
        'unable to mmap 9 bytes from file </torch_41_7_0>: Cannot allocate memory (12)',
        'unable to allocate shared memory(shm) for file </torch_41_7>: Resource temporarily unavailable (11)',
    ],
)
def test_full_shared_memory(message, in_worker, parser, capsys):
    text = shown(parser, capsys, RuntimeError(message), in_worker)
    assert message in text and '--shm-size=8g' in text and 'num_workers=1' in text


@pytest.mark.parametrize(('signal', 'advice'), [('Bus error', '--shm-size=8g'), ('Killed', 'dmesg')])
def test_killed_data_worker(signal, advice, parser, capsys):
    text = shown(parser, capsys, RuntimeError(f'DataLoader worker (pid 41) is killed by signal: {signal}. '))
    assert f'data worker 41 died ({signal})' in text and advice in text and 'num_workers=1' in text
