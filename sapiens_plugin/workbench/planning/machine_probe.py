"""What this machine does in a second, measured in a few seconds."""

import time
from collections.abc import Callable
from statistics import median

import psutil
import torch
import torch.nn.functional as F

from sapiens_plugin.core.streaming.courier import Courier, now_on
from sapiens_plugin.core.streaming.precision import measure

from .cards import Card

_TOKENS, _DIMS, _FFN = 432, 1024, 4096  # 0.3B at 384×288: neither large nor small
_COPIED = 64 * 2**20  # bytes
_ROUNDS = 5


def probe_machine(clock: Callable[[], float] = time.perf_counter) -> Card:
    """Measure this machine's GPU, or its CPU where PyTorch finds no GPU.

    Matrix products, passes over activations and copies; under 10 s. Leaves the global
    random state as it was: a training may have set it.

    Args:
        clock: What time is taken from, on a CPU.
    """
    if torch.cuda.is_available():
        return _probe_gpu(torch.device('cuda'))
    with torch.random.fork_rng(devices=[]):
        return _probe_cpu(clock)


def _probe_gpu(device: torch.device) -> Card:
    figures = measure(device, torch.float32, torch.float16, torch.bfloat16)
    near = torch.empty(_COPIED, dtype=torch.uint8, device=device)
    other = torch.empty_like(near)

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)  # by this process, and soon given back
    name = torch.cuda.get_device_name(device)
    return Card(
        name=name,
        driver_name=name,
        capability=torch.cuda.get_device_capability(device),
        # The context of this process is not free now, but a job's own will be.
        vram_mib=((free + held) >> 20) + 300,
        tflops=_by_name({dtype: figure.tflops for dtype, figure in figures.items()}),
        memory_gb_s=2 * _COPIED / _seconds(lambda: other.copy_(near), clock) / 1e9,
        bus_gb_s=_bus_gb_s(device, clock),
        host_gb_s=_host_gb_s(time.perf_counter),
        host_threads=torch.get_num_threads(),
        source='measured now: matrix products, passes and copies, not a training step',
    )


def _probe_cpu(clock: Callable[[], float]) -> Card:
    speeds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(_TOKENS, _DIMS).to(dtype)
        weight = torch.randn(_FFN, _DIMS).to(dtype)
        seconds = _seconds(lambda x=x, w=weight: F.linear(x, w), clock)
        speeds[dtype] = 2 * _TOKENS * _DIMS * _FFN / seconds / 1e12
    host = _host_gb_s(clock)
    return Card(
        name='cpu',
        driver_name='CPU',
        capability=None,
        vram_mib=None,
        tflops=_by_name(speeds),
        memory_gb_s=_passes_gb_s(clock),
        bus_gb_s=_bus_gb_s(torch.device('cpu'), clock),
        host_gb_s=host,
        host_threads=torch.get_num_threads(),
        source=(
            f'measured now on {psutil.cpu_count()} cores: matrix products, passes and '
            'copies, not a training step'
        ),
    )


def _passes_gb_s(clock: Callable[[], float]) -> float:
    """Time what a block does between its products; bytes as arithmetic counts them."""
    x = torch.randn(4, _TOKENS, _DIMS, requires_grad=True)
    wide = torch.randn(4, _TOKENS, _FFN, requires_grad=True)

    def passes() -> None:
        y = x
        for _ in range(2):
            y = x + F.layer_norm(y, (_DIMS,))
        torch.autograd.backward((y, F.gelu(wide)), (x.detach(), wide.detach()))
        x.grad = wide.grad = None

    # Backward moves twice what forward does.
    return 3 * (10 * x.nbytes + 2 * wide.nbytes) / _seconds(passes, clock) / 1e9


def _bus_gb_s(device: torch.device, clock: Callable[[], float]) -> float:
    """Time the way of streamed weights and gradients; the slower direction."""
    host = torch.ones(_COPIED, dtype=torch.uint8)  # pageable, as they are
    near, courier = host.to(device, copy=True), Courier(device)
    up, down = [(host, near)] * 4, [(near, host)] * 4  # about two blocks of 1B
    slower = max(
        _seconds(lambda: courier.upload(up, after=now_on(device)).result(), clock),
        _seconds(lambda: courier.download(down, after=now_on(device)).result(), clock),
    )
    courier.close()
    return 4 * _COPIED / slower / 1e9


def _host_gb_s(clock: Callable[[], float]) -> float:
    source = torch.ones(_COPIED, dtype=torch.uint8)
    target = torch.ones_like(source)
    return 2 * _COPIED / _seconds(lambda: target.copy_(source), clock) / 1e9


def _seconds(run: Callable, clock: Callable[[], float]) -> float:
    run()
    times = []
    for _ in range(_ROUNDS):
        start = clock()
        run()
        times.append(clock() - start)
    return median(times)


def _by_name(speeds: dict[torch.dtype, float]) -> dict[str, float]:
    return {str(dtype).removeprefix('torch.'): speed for dtype, speed in speeds.items()}
