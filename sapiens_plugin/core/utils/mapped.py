"""Copying out of files that are mapped into memory, without holding them in it."""

import ctypes
import mmap
import os
import sys

import torch
from torch import Tensor

# Bits of an entry of /proc/self/pagemap, one entry a page. The sign bit says that the
# page is in memory.
_OF_A_FILE = 1 << 61
_SWAPPED_OUT = 1 << 62


def release_pages(tensor: Tensor) -> None:
    """Take a tensor of a mapped file out of memory; it is read again when looked at.

    To be called once a tensor of ``torch.load(mmap=True)`` has been copied, so that a
    large file never counts as a second copy in memory. Nothing is ever lost: the kernel
    is asked about every page first, and unless all that are in memory are unchanged
    pages of a file, the tensor is left alone, as ordinary memory is. Other systems than
    Linux have no such question, and nothing is done.

    Args:
        tensor: Any tensor, on any device, that no other thread is writing to.
    """
    if sys.platform != 'linux' or tensor.device.type != 'cpu':
        return
    begin = tensor.data_ptr()
    first = -(-begin // mmap.PAGESIZE)
    count = (begin + tensor.nbytes) // mmap.PAGESIZE - first  # whole pages
    if count > 0 and _are_of_a_file(first, count):
        libc = ctypes.CDLL(None)
        libc.madvise(
            ctypes.c_void_p(first * mmap.PAGESIZE),
            ctypes.c_size_t(count * mmap.PAGESIZE),
            mmap.MADV_DONTNEED,
        )


def _are_of_a_file(first: int, count: int) -> bool:
    """Tell whether what is in memory of these pages could be read from a file again.

    A page of a private mapping that was written to is no longer the file's.
    """
    try:
        with open('/proc/self/pagemap', 'rb', buffering=0) as pagemap:
            entries = bytearray(os.pread(pagemap.fileno(), 8 * count, 8 * first))
    except OSError:  # no such file, or it is not for this process to read
        return False
    if len(entries) < 8 * count:
        return False
    pages = torch.frombuffer(entries, dtype=torch.int64)
    own = ((pages < 0) & (pages & _OF_A_FILE == 0)) | (pages & _SWAPPED_OUT != 0)
    return not own.any()
