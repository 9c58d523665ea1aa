"""Copies between host and device that nobody waits for."""

import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from sapiens_plugin.core.utils.unforked import unforked_zeros

# Two chunks travel while a third is filled. Larger ones gain nothing on PCIe, and
# pinned memory is scarce on WSL2 and Windows.
CHUNK_BYTES = 16 * 2**20
NUM_CHUNKS = 3

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU

Pair = tuple[Tensor, Tensor]  # source and target, of one shape and dtype


def now_on(device: torch.device) -> object:
    """Return an event after all work that has been queued for computing so far."""
    api = torch.get_device_module(device)
    now = api.Event()
    now.record(api.current_stream(device))
    return now


class Courier:
    """Carries tensors in one direction, in the order of the calls.

    Host tensors stay ordinary pageable memory: a thread moves them through a small
    ring of pinned chunks, and a stream of its own moves those over the bus. On a CPU
    "device" the same code runs with copies in the place of transfers.

    Args:
        device: The device at the other end.
    """

    def __init__(self, device: torch.device):
        self._api = torch.get_device_module(device)
        self._is_cuda = device.type == 'cuda'
        self._stream = (
            torch.cuda.Stream(device) if self._is_cuda else torch.cpu.Stream()
        )
        self._registered: list[Tensor] = []
        # Before the memory is gone, also where nobody closes.
        self._unregister = weakref.finalize(self, _unregister, self._registered)
        self._ring = [(self._make_chunk(), self._event()) for _ in range(NUM_CHUNKS)]
        self._turn = 0
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix='courier',
            initializer=self._api.set_device,
            initargs=(device,),
        )

    def upload(
        self,
        pairs: Sequence[Pair],
        *,
        after: object,
        prepare: Callable[[], None] | None = None,
    ) -> Future:
        """Copy host tensors to device tensors.

        Args:
            pairs: (host, device) tensors, contiguous. They must not change before
                the result is there.
            after: Event on the device that the copies wait for: the last use of the
                targets' former content.
            prepare: Called in the thread before the host tensors are read.

        Returns:
            A future whose result is an event: the content is there for a stream that
            waits for it.
        """
        return self._thread.submit(self._upload, pairs, after, prepare)

    def download(self, pairs: Sequence[Pair], *, after: object) -> Future:
        """Copy device tensors to host tensors.

        Args:
            pairs: (device, host) tensors, contiguous.
            after: Event on the device after which the sources are complete.

        Returns:
            A future that is done when the host tensors are complete.
        """
        return self._thread.submit(self._download, pairs, after)

    def settle(self) -> None:
        """Wait until nothing is under way, also on the device."""
        self._thread.submit(int).result()
        if self._is_cuda:
            self._stream.synchronize()

    def close(self) -> None:
        """End the thread, when what it has been given is done, also on the device."""
        self.settle()
        self._thread.shutdown()
        self._unregister()

    def _make_chunk(self) -> Tensor:
        """Make host memory, pinned where the device is a GPU."""
        if self._is_cuda and sys.platform == 'win32':
            # Nothing forks, and cudaHostRegister is reported to fail on Windows 11.
            return torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True)
        chunk = unforked_zeros([CHUNK_BYTES], dtype=torch.uint8)
        if self._is_cuda:
            # Not PyTorch's own: every fork would copy it.
            register = torch.cuda.cudart().cudaHostRegister
            torch.cuda.check_error(register(chunk.data_ptr(), CHUNK_BYTES, _PORTABLE))
            self._registered.append(chunk)
        return chunk

    def _event(self) -> object:
        # A thread that waits for a blocking event sleeps instead of spinning.
        return self._api.Event(blocking=True) if self._is_cuda else self._api.Event()

    def _upload(self, pairs, after, prepare) -> object:
        if prepare is not None:
            prepare()
        with self._api.stream(self._stream), torch.no_grad():
            after.wait(self._stream)
            for source, target in _pieces(pairs):
                chunk, sent = self._next_chunk(source)
                sent.synchronize()
                chunk.copy_(source)
                target.copy_(chunk, non_blocking=True)
                sent.record(self._stream)
            arrived = self._event()
            arrived.record(self._stream)
        return arrived

    def _download(self, pairs, after) -> None:
        under_way: deque[tuple[Tensor, Tensor, object]] = deque()
        with self._api.stream(self._stream), torch.no_grad():
            after.wait(self._stream)
            for source, target in _pieces(pairs):
                if len(under_way) == NUM_CHUNKS:
                    _deliver(*under_way.popleft())
                chunk, received = self._next_chunk(source)
                chunk.copy_(source, non_blocking=True)
                received.record(self._stream)
                under_way.append((target, chunk, received))
            while under_way:
                _deliver(*under_way.popleft())

    def _next_chunk(self, like: Tensor) -> tuple[Tensor, object]:
        buffer, event = self._ring[self._turn]
        self._turn = (self._turn + 1) % NUM_CHUNKS
        return buffer[: like.nbytes].view(like.dtype), event


def _unregister(chunks: Sequence[Tensor]) -> None:
    if torch.cuda.is_initialized():  # not in a forked process
        for chunk in chunks:
            torch.cuda.cudart().cudaHostUnregister(chunk.data_ptr())


def _pieces(pairs: Sequence[Pair]):
    """Cut pairs of tensors into flat pieces no larger than a chunk."""
    for source, target in pairs:
        source, target = source.detach().view(-1), target.detach().view(-1)
        step = CHUNK_BYTES // source.element_size()
        yield from zip(source.split(step), target.split(step), strict=True)


def _deliver(target: Tensor, chunk: Tensor, received) -> None:
    received.synchronize()
    target.copy_(chunk)
