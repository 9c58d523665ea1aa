import ctypes
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch

from sapiens_plugin.core.utils import mapped
from sapiens_plugin.core.utils.mapped import release_pages

on_linux = pytest.mark.skipif(
    sys.platform != 'linux' or not Path('/proc/self/pagemap').exists(),
    reason='/proc/self/pagemap is of Linux',
)

MIB = 2**20


@pytest.fixture
def tensors(tmp_path):
    """Four mapped tensors of 8 MiB, each of its own number, every page looked at."""
    path = tmp_path / 'weights.pth'
    torch.save([torch.full((2 * MIB,), float(i)) for i in range(4)], path)
    tensors = torch.load(path, mmap=True)
    for tensor in tensors:
        tensor.sum()
    return tensors


def _file_mib():
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'RssFile:\s+(\d+)', status)[1]) / 1024


@on_linux
def test_a_copied_tensor_leaves_memory_and_comes_back(tensors):
    before = _file_mib()
    for tensor in tensors:
        release_pages(tensor)
    assert 30 < before - _file_mib() < 34
    assert [tensor.unique().tolist() for tensor in tensors] == [[0], [1], [2], [3]]


@on_linux
def test_what_was_written_to_stays(tensors):
    libc = ctypes.CDLL(None)
    changed, forced = tensors[:2]
    changed[MIB] = forced[MIB] = 7
    begin = forced.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE
    libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(7 * MIB), mmap.MADV_DONTNEED)
    assert forced[MIB] == 1  # what is at stake

    before = _file_mib()
    release_pages(changed)
    assert changed[MIB] == 7
    assert before - _file_mib() < 1


def test_ordinary_memory_stays():
    for tensor in (
        torch.full((2 * MIB,), 5),
        torch.full((2 * MIB,), 5).share_memory_(),
        torch.full((2, 2 * MIB), 5).T,
        torch.tensor(5),
    ):
        release_pages(tensor)
        assert tensor.unique().tolist() == [5]
    release_pages(torch.empty(0))
    release_pages(torch.empty(2 * MIB, device='meta'))


@pytest.mark.parametrize('system', ['win32', 'darwin', 'linux'])
def test_where_the_kernel_cannot_be_asked_nothing_is_done(system, tensors, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(mapped, 'open', refuse, raising=False)
    monkeypatch.setattr(mapped.sys, 'platform', system)
    monkeypatch.setattr(mapped.ctypes, 'CDLL', None)  # not to be called
    release_pages(tensors[3])
    assert tensors[3].unique().tolist() == [3]
