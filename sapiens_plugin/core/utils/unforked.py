"""Host memory that can be left out of forked processes.

A data loader's worker is a fork of the training process. It keeps every page as it was
at that moment, so as soon as an optimizer has rewritten the weights, they are in memory
twice. Pages that CUDA has pinned are even copied at once. Large buffers are therefore
mappings of their own, which the kernel leaves out of a fork. (Memory of PyTorch's
allocator must never be marked so: it is used again for other things, which workers do
read.)
"""

import math
import mmap
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from sapiens_plugin.errors import InputError

# Of smaller ones a copy costs nothing, and there are many.
_SMALL = 2**16  # bytes

# By the address of the first byte.
_mappings: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_kept: list[mmap.mmap] = []


def unforked_zeros(shape: Sequence[int], *, dtype: torch.dtype) -> Tensor:
    """Make a tensor of zeros on the CPU that no forked process has.

    The memory is taken up page by page as it is written to.

    Args:
        shape: Its shape.
        dtype: Its type.

    Raises:
        InputError: The system has no memory left.
    """
    zeros = _mapped_zeros(shape, dtype)
    set_forked([zeros], forked=False)
    return zeros


def set_forked(tensors: Iterable[Tensor], *, forked: bool) -> None:
    """Say whether forked processes shall have some tensors made in this module.

    One that does not, and touches them, dies of SIGSEGV. Where the system cannot leave
    memory out of a fork (macOS, Windows), nothing is done.
    """
    if hasattr(mmap, 'MADV_DONTFORK'):
        advice = mmap.MADV_DOFORK if forked else mmap.MADV_DONTFORK
        for tensor in tensors:
            if mapping := _mappings.get(tensor.data_ptr()):
                mapping.madvise(advice)


@contextmanager
def mapped_parameters() -> Iterator[None]:
    """Have parameters of modules that are made within be ones for :func:`set_forked`.

    Raises:
        InputError: The system has no memory left.
    """

    def move(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        # 'meta' has no memory at all, and a lazy one no shape yet.
        if param is not None and not is_lazy(param) and param.device.type == 'cpu':
            memory = _mapped_zeros(param.shape, param.dtype)
            param.data = memory.copy_(param.detach())

    handle = register_module_parameter_registration_hook(move)
    try:
        yield
    finally:
        handle.remove()


def _mapped_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    numel = math.prod(shape)
    size = numel * dtype.itemsize
    if size < _SMALL:
        return torch.zeros(tuple(shape), dtype=dtype)
    try:
        if sys.platform == 'win32':
            mapping = mmap.mmap(-1, size)
        else:
            mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise InputError(
            f'There is no host memory for {size:,} bytes more of weights, gradients or '
            f'moments: {error}. Close other programs, enlarge the swap or paging file, '
            "or need less: model.mode='compact', fewer layers that train "
            '(model.backbone.frozen_stages), a smaller model.'
        ) from error
    zeros = torch.frombuffer(mapping, dtype=dtype, count=numel).view(tuple(shape))
    _mappings[zeros.data_ptr()] = mapping
    return zeros


def _keep_mappings() -> None:
    """Never unmap in a child what it does not have: something else may be there now."""
    _kept.extend(_mappings.values())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_keep_mappings)
