"""Memory that forked processes do not have."""

import faulthandler
import gc
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from sapiens_plugin.core.utils.unforked import (
    mapped_parameters,
    set_forked,
    unforked_zeros,
)
from sapiens_plugin.errors import InputError

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='only Linux leaves memory out of a fork'
)

LARGE = 2**18  # elements


def in_a_fork(run) -> int:
    """Return the exit code of a forked process that calls a function."""

    def quietly():
        faulthandler.disable()
        torch.set_num_threads(1)  # the parent's threads are not there
        run()

    process = multiprocessing.get_context('fork').Process(target=quietly)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(
    'shape, dtype',
    [((512, 700), torch.float32), ((LARGE,), torch.bfloat16), ((2, 0), torch.int8),
     ((), torch.float32), ((700, 128), torch.uint8)],
)  # fmt: skip
def test_they_are_zeros_like_others(shape, dtype):
    zeros = unforked_zeros(shape, dtype=dtype)
    assert zeros.shape == shape
    assert zeros.dtype == dtype
    assert zeros.is_contiguous()
    assert not zeros.any()
    assert zeros.untyped_storage().nbytes() == zeros.nbytes
    zeros += 1
    assert zeros.sum() == zeros.numel()


def test_memory_that_is_not_there_is_told():
    with pytest.raises(InputError, match=r'no host memory for 4,\d+,\d+'):
        unforked_zeros([2**60], dtype=torch.float32)


def test_a_fork_does_not_have_them():
    large = unforked_zeros([LARGE], dtype=torch.float32)
    small = unforked_zeros([10], dtype=torch.float32)
    ordinary = torch.zeros(LARGE)
    assert in_a_fork(lambda: (ordinary.sum(), small.sum())) == 0
    assert in_a_fork(large.sum) == -signal.SIGSEGV
    assert large.sum() == 0


class Numbers:
    """Samples that take memory of PyTorch's allocator as large as the buffers."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        tensors = [torch.full([LARGE], index) for _ in range(3)]
        gc.collect()
        return sum(tensor.sum() for tensor in tensors)


def test_workers_come_after_buffers_that_were_freed_and_made_again():
    """Marked memory never comes back as memory that a worker may touch."""
    for turn in range(2):
        cycle = [unforked_zeros([LARGE * n], dtype=torch.float32) for n in (1, 2, 3)]
        cycle.append(cycle)  # as garbage it is there when the workers begin
        kept = unforked_zeros([LARGE], dtype=torch.float32)
        del cycle
        if turn:
            gc.collect()
        loader = DataLoader(Numbers(), num_workers=2, multiprocessing_context='fork')
        assert [int(x) for x in loader] == [3 * LARGE * i for i in range(6)]
        assert kept.sum() == 0


def test_a_child_never_unmaps_what_has_become_its_own():
    """Where a parent has a buffer, other memory of a child may be."""
    holder = [unforked_zeros([LARGE], dtype=torch.float32)]
    address, size = holder[0].data_ptr(), holder[0].nbytes

    def child():
        taken = []
        while len(taken) < 1000:  # the kernel fills its holes one after the other
            taken.append(torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8))
            if abs(taken[-1].data_ptr() - address) < size:
                break
        else:
            os._exit(3)
        holder.clear()  # the last reference: its mapping would go
        taken[-1].fill_(1)
        os._exit(0)

    assert in_a_fork(child) == 0


def test_parameters_made_within_can_be_left_out_and_let_in_again():
    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(512, 512), nn.LayerNorm([512, 512]))
        net.register_parameter('scale', nn.Parameter(torch.full([LARGE], 3.0)))
        net.scale.requires_grad_(False)
        net.register_parameter('nothing', None)
        net.register_parameter('again', net[0].weight)
        net.lazy = nn.LazyLinear(3)
        mine = nn.Parameter(torch.empty(LARGE))
        net.mine = mine
        nn.init.ones_(mine)  # it is still the same
        return net

    with mapped_parameters():
        net = make()
        with torch.device('meta'):
            assert nn.Linear(512, 512).weight.is_meta
    other = make()  # the context is over
    del other.lazy
    names = dict(other.named_parameters())
    assert net.again is net[0].weight
    assert is_lazy(net.lazy.weight)
    del net.lazy
    for name, param in net.named_parameters():
        assert isinstance(param, nn.Parameter)
        assert torch.equal(param, names[name]), name
        assert param.requires_grad == (name != 'scale')
    for forked, code in ((None, 0), (False, -signal.SIGSEGV), (True, 0)):
        for each in (net, other):
            if forked is not None:
                set_forked(each.parameters(), forked=forked)
        assert in_a_fork(other[0].weight.sum) == 0
        for param in (net[0].weight, net[1].bias, net.scale, net.mine):
            assert in_a_fork(param.sum) == code


def test_a_forked_worker_holds_no_second_copy():
    """In a process of its own: what others have rewritten would count."""
    script = textwrap.dedent("""
        import os, torch
        from sapiens_plugin.core.utils.unforked import unforked_zeros

        def resident():
            with open('/proc/self/smaps_rollup') as file:
                return next(
                    int(line.split()[1]) for line in file if line.startswith('Pss:')
                )

        def shared_by_a_fork(tensor):
            tensor.fill_(1)
            read, write = os.pipe()
            child = os.fork()
            if not child:
                os.read(read, 1)
                os.write(1, f'{resident()}\\n'.encode())
                os._exit(0)
            tensor.fill_(2)  # as an optimizer does
            os.write(write, b'x')
            os.waitpid(child, 0)

        size = 64 * 2**20 // 4
        shared_by_a_fork(unforked_zeros([size], dtype=torch.float32))
        shared_by_a_fork(torch.zeros(size))
    """)
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    without, with_copy = map(int, done.stdout.split())
    assert with_copy - without > 60 * 1024  # kB
