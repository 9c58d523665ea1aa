"""Unpickling: what checkpoints of MMEngine may name, and nothing more."""

import pickle
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch


@cache
def allow_mmengine_checkpoints() -> None:
    """Let PyTorch's restricted unpickler read what MMEngine writes.

    Symptom:
        ``--resume``: Weights only load failed.

    Cause:
        Besides tensors, a checkpoint of MMEngine holds the histories of the log and
        the colours of the data set, as ``HistoryBuffer`` and NumPy values, which
        PyTorch 2.6 and later refuse.

    Cure:
        Exactly those names are allowed, in the spellings of NumPy 1 and 2. Where a
        name could do more than make a number or an array, a narrower function answers
        to it. Loading with ``weights_only=False`` would run whatever a file asks for.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    allowed = [
        HistoryBuffer,
        (_history_buffer_method, 'builtins.getattr'),
        (_empty_bytes, 'builtins.bytes'),
        (_Dtype, 'numpy.dtype'),
        (_Array, 'numpy.ndarray'),
    ]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [
            (_Array, f'{module}._reconstruct'),
            (_scalar, f'{module}.scalar'),
        ]
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Answer for ``getattr``, by which a HistoryBuffer's statistics are pickled."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise _refusal('builtins.getattr', f'on {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


def _refusal(name: str, purpose: str) -> pickle.UnpicklingError:
    # Worded as PyTorch words its own.
    return pickle.UnpicklingError(f'Unsupported global: GLOBAL {name} {purpose}')


def _empty_bytes() -> bytes:
    """Answer for ``bytes``, by which the values of an empty array are pickled."""
    return b''


class _Dtype:
    """Answer for ``numpy.dtype``: numbers and strings, in either byte order.

    The state of a real dtype has flags that say, among other things, that its values
    are pointers; NumPy believes them.
    """

    def __init__(self, code: str, *_):
        if not re.fullmatch(r'[biufcSU]\d+', str(code)):
            raise _refusal('numpy.dtype', f'for values of {code!r}')
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, *_ = state
        self.numpy = self.numpy.newbyteorder(byte_order)


class _Array(np.ndarray):
    """Answer for ``numpy.ndarray``: takes its values once, of a checked dtype.

    NumPy's own constructor would make pointers of the bytes of a file.
    """

    def __new__(cls, *_):
        return super().__new__(cls, (0,))

    def __setstate__(self, state: tuple) -> None:
        if self.shape != (0,):
            raise _refusal('numpy.ndarray', 'to take values twice')
        _, shape, dtype, fortran_order, values = state
        super().__setstate__((1, shape, dtype.numpy, fortran_order, values))

    def __reduce_ex__(self, protocol: int) -> tuple:
        # The next checkpoint must not name this class.
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _scalar(dtype: _Dtype, value: bytes) -> np.generic:
    return np.frombuffer(value, dtype.numpy, count=1)[0]
