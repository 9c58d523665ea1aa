"""Have freed memory go back to the system."""

import ctypes
import sys

_LARGE = 4 * 2**20  # bytes
_M_MMAP_THRESHOLD = -3  # malloc.h


def give_back_large_memory() -> None:
    """Have large pieces of memory go back to the system when they are freed.

    glibc takes large pieces from the system one by one, but after a few of them, of up
    to 32 MiB, it keeps their memory to hand it out again. Small ones that live on then
    lie between them, and what is freed fits nothing any more: 2.5 GB in a training step
    of Sapiens-1B on a CPU. A limit that was set does not grow. With other C libraries
    nothing is done.
    """
    if sys.platform == 'linux':
        libc = ctypes.CDLL(None)
        if hasattr(libc, 'mallopt'):  # musl has none
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
