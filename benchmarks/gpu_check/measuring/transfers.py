"""Rates of copies between host and device, in GB/s."""

import time
from collections.abc import Callable

import torch

from sapiens_plugin.core.streaming.courier import Courier, now_on
from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import Block

from .device import MIB, done_at


def copy_rates(device: torch.device) -> dict[str, float]:
    """Measure pinned and ordinary memory, and copies from one to the other."""
    on_cuda = device.type == 'cuda'
    size = 256 * MIB if on_cuda else 16 * MIB
    chunk = 16 * MIB if on_cuda else MIB
    host = torch.ones(size, dtype=torch.uint8)
    pinned = torch.ones(size, dtype=torch.uint8, pin_memory=on_cuda)
    ring = torch.ones(chunk, dtype=torch.uint8, pin_memory=on_cuda)
    near = torch.ones(size, dtype=torch.uint8, device=device)
    floats = host.view(torch.float32)

    def stage() -> None:
        for piece in host.split(chunk):
            ring[: len(piece)].copy_(piece)

    def stage_to_bf16() -> None:  # half the bytes to write
        target = ring.view(torch.bfloat16)
        for piece in floats.split(target.numel()):
            target[: len(piece)].copy_(piece)

    def rate(run: Callable) -> float:
        return _rate(run, size, device)

    rates = dict(
        pinned_up=rate(lambda: near.copy_(pinned, non_blocking=True)),
        pinned_down=rate(lambda: pinned.copy_(near, non_blocking=True)),
        pageable_up=rate(lambda: near.copy_(host)),
        pageable_down=rate(lambda: host.copy_(near)),
    )
    usual = torch.get_num_threads()
    for threads in sorted({1, 4, usual}):
        torch.set_num_threads(threads)
        rates[f'staging_{threads}_threads'] = rate(stage)
        rates[f'staging_to_bf16_{threads}_threads'] = rate(stage_to_bf16)
    torch.set_num_threads(usual)
    if on_cuda:  # ordinary memory that is pinned where it is
        start = time.perf_counter()
        error = torch.cuda.cudart().cudaHostRegister(host.data_ptr(), size, 0)
        seconds = time.perf_counter() - start
        if not int(error):
            rates['registering'] = round(size / seconds / 1e9, 2)
            rates['registered_up'] = rate(lambda: near.copy_(host, non_blocking=True))
            torch.cuda.cudart().cudaHostUnregister(host.data_ptr())
    return rates


def courier_rates(device: torch.device) -> dict[str, float]:
    """Carry the weights of two blocks of Sapiens-1B; nothing else runs meanwhile."""
    arch = get_architecture('sapiens_1b' if device.type == 'cuda' else 'sapiens_0.3b')
    with torch.device('meta'):
        shapes = [param.shape for param in Block(arch).parameters()] * 2
    rates = {}
    courier = Courier(device)
    try:
        for name, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
            home = [torch.ones(shape, dtype=dtype) for shape in shapes]
            away = [torch.ones(shape, dtype=dtype, device=device) for shape in shapes]
            size = sum(tensor.nbytes for tensor in home)
            for title, carry, sources, targets in (
                ('up', courier.upload, home, away),
                ('down', courier.download, away, home),
            ):

                def run(c: Callable = carry, s: list = sources, t: list = targets):
                    c(list(zip(s, t, strict=True)), after=now_on(device)).result()

                rates[f'{title}_{name}'] = _rate(run, size, device)
    finally:
        courier.close()
    return rates


def _rate(run: Callable, size: int, device: torch.device) -> float:
    """Return the best rate of five runs that carry ``size`` bytes."""
    run()
    best = float('inf')
    for _ in range(5):
        start = done_at(device)
        run()
        best = min(best, done_at(device) - start)
    return round(size / best / 1e9, 2)
