"""The type to compute in, chosen by measurement.

A card's name and compute capability do not tell what it does with 16-bit numbers:
TU116 and TU117 (GTX 16xx) share capability 7.5 with the T4, but have no tensor cores.
PyTorch asks cuBLAS and cuDNN for tensor-core kernels on all of them, and what is
emulated runs several times slower than float32 there; float16 convolutions return NaN
or wrong values from a batch of about 7 samples on
(https://github.com/pytorch/pytorch/issues/58123 and 77955).
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sapiens_plugin.errors import InputError

from .modes import check_choice

# Every card on a TU116 or TU117 chip, as the driver names them.
_WITHOUT_TENSOR_CORES = re.compile(
    r'\b(GTX 16\d0|T400|T500|T550|T600|T1000|T1200|T2000|MX450|MX550|CMP 30HX)\b'
)
_WORTH_SCALING = 1.5  # loss scaling loses steps and range; it has to pay
_GEMM_SIZE = {'cuda': 1536, 'cpu': 256}  # to begin with: 0.25 s on a GTX 1650
_LONG_ENOUGH = 5e-4  # seconds; what it takes to launch a product is 2% of it at most
_WARM_UP, _ROUNDS = 2, 5


class Figure(NamedTuple):
    """What a type was measured at on a device.

    ``error`` is the largest deviation from a float64 reference, relative to the
    largest value of the tensor concerned; infinite where something was not finite.
    """

    tflops: float
    error: float


@dataclass(frozen=True)
class Precision:
    """The type to compute in, and why.

    Attributes:
        dtype: ``torch.float32``, or the type for autocast.
        loss_scaling: Whether the loss must be scaled (see :class:`LossScale`).
        reason: One sentence for the log.
        figures: What was measured; empty where nothing had to be.
    """

    dtype: torch.dtype
    loss_scaling: bool
    reason: str
    figures: Mapping[torch.dtype, Figure]


def choose_precision(device: torch.device, requested: str = 'auto') -> Precision:
    """Choose the type to compute in, by what this device does with each.

    Takes well under a second and up to 64 MiB of the device's memory, which are given
    back; 200 MiB from 15 TFLOPS on, and 800 MiB from 116 on.

    Args:
        device: A CUDA device or the CPU.
        requested: ``'auto'``, or the type to use: ``'float32'``, ``'bfloat16'`` or
            ``'float16'``.

    Raises:
        InputError: ``requested`` is none of these, or gives wrong values here.
    """
    check_choice('precision', requested)
    on_cuda = device.type == 'cuda'
    if requested == 'float32' or (requested == 'auto' and not on_cuda):
        figures = {}
    elif on_cuda:
        figures = measure(device, torch.float32, torch.float16, torch.bfloat16)
    else:
        figures = measure(device, torch.float32, torch.bfloat16)
    return decide(
        requested,
        name=torch.cuda.get_device_name(device) if on_cuda else 'CPU',
        capability=capability_of(device),
        figures=figures,
    )


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Return a GPU's CUDA compute capability; None for a CPU."""
    if device.type != 'cuda':
        return None
    return torch.cuda.get_device_capability(device)


def turn_tf32_off() -> None:
    """Have float32 mean float32 on GPUs, in all of the process.

    By default PyTorch lets cuDNN round what it convolves to TF32, and cuBLAS not.
    """
    # First what sets all that other code may read, then what outranks a general wish.
    torch.set_float32_matmul_precision('highest')
    torch.backends.cudnn.allow_tf32 = False
    for kind in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        kind.fp32_precision = 'ieee'


def decide(
    requested: str,
    *,
    name: str,
    capability: tuple[int, int] | None,
    figures: Mapping[torch.dtype, Figure],
) -> Precision:
    """Choose the type to compute in, from figures.

    Args:
        requested: As :func:`choose_precision` takes it.
        name: The device's name.
        capability: Its CUDA compute capability, None for a CPU.
        figures: What :func:`measure` found.

    Raises:
        InputError: ``requested`` gives wrong values on this device.
    """
    if requested == 'auto':
        return _decide_freely(name, capability, figures)
    dtype = getattr(torch, requested)
    reason = f'{requested}, as requested.'
    if dtype != torch.float32:
        if fault := _fault(dtype, name, capability, figures):
            raise InputError(
                f"precision='{requested}' cannot be used on this device ({name}): "
                f"{fault}.{_summary(figures)} Leave precision at 'auto', which chooses "
                f'{_name(_decide_freely(name, capability, figures).dtype)} here.'
            )
        if _speedup(dtype, figures) < 1:
            reason += (
                f' It is slower than float32 on this device ({name}), so '
                f"precision='float32' would be faster.{_summary(figures)}"
            )
    return Precision(dtype, dtype == torch.float16, reason, figures)


def _decide_freely(name, capability, figures) -> Precision:
    if capability is None:
        reason = 'float32: on a CPU narrower types save little time.'
        return Precision(torch.float32, False, reason, figures)
    measured = f' on this device ({name}).{_summary(figures)}'

    def usable(dtype: torch.dtype, native: bool, faster_than: float) -> bool:
        return (
            native
            and not _fault(dtype, name, capability, figures)
            and _speedup(dtype, figures) > faster_than
        )

    if usable(torch.bfloat16, capability >= (8, 0), 1):
        reason = f'bfloat16: native, right and the fastest safe type{measured}'
        return Precision(torch.bfloat16, False, reason, figures)
    if usable(torch.float16, capability >= (7, 0), _WORTH_SCALING):
        reason = f'float16 with loss scaling: right and clearly faster{measured}'
        return Precision(torch.float16, True, reason, figures)
    reason = f'float32: no narrower type is both right and faster{measured}'
    return Precision(torch.float32, False, reason, figures)


def _fault(dtype, name, capability, figures) -> str | None:
    """Say what is wrong with the values of a 16-bit type here, if anything."""
    if dtype == torch.float16 and capability is None:
        return 'float16 training needs a GPU'
    if dtype == torch.float16 and _WITHOUT_TENSOR_CORES.search(name):
        return (
            'it has no tensor cores, and float16 convolutions are known to return NaN '
            'or wrong values on its kind'
        )
    error, tolerance = figures[dtype].error, _tolerance(dtype)
    if error > tolerance:
        return (
            f'its {_name(dtype)} results differ from a float64 reference by '
            f'{error:.2g} of the largest value, where {tolerance:.2g} is expected at '
            'most'
        )
    return None


def _tolerance(dtype: torch.dtype) -> float:
    # Half an eps is the rounding of the result; some kernels also round partial sums.
    return 8 * torch.finfo(dtype).eps


def _speedup(dtype: torch.dtype, figures: Mapping[torch.dtype, Figure]) -> float:
    return figures[dtype].tflops / figures[torch.float32].tflops


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _summary(figures: Mapping[torch.dtype, Figure]) -> str:
    if not figures:
        return ''
    parts = (
        f'{_name(dtype)} {figure.tflops:.3g} TFLOPS (error {figure.error:.1g})'
        for dtype, figure in figures.items()
    )
    return f' Measured: {", ".join(parts)}.'


def measure(device: torch.device, *dtypes: torch.dtype) -> Mapping[torch.dtype, Figure]:
    """Time a matrix product in each type, and compare some results with a reference.

    Once in a process: what was measured is remembered. Leaves the global random state
    and the device's memory as they were.
    """
    if device.type == 'cuda' and device.index is None:
        device = torch.device('cuda', torch.cuda.current_device())
    return _measure(device, dtypes)


@cache
def _measure(device: torch.device, dtypes: tuple) -> Mapping[torch.dtype, Figure]:
    speeds = _gemm_tflops(device, dtypes)
    reference = _results(torch.device('cpu'), torch.float64)
    figures = {
        dtype: Figure(speeds[dtype], _deviation(_results(device, dtype), reference))
        for dtype in dtypes
    }
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    return MappingProxyType(figures)


def _gemm_tflops(device: torch.device, dtypes) -> dict[torch.dtype, float]:
    """Time square matrix products, the same size in each type.

    It doubles until the fastest type is busy for long enough: only fast devices, which
    have the memory, come to large ones.
    """
    size = _GEMM_SIZE[device.type]
    while min((seconds := _gemm_seconds(device, dtypes, size)).values()) < _LONG_ENOUGH:
        size *= 2
    return {dtype: 2 * size**3 / seconds[dtype] / 1e12 for dtype in dtypes}


def _gemm_seconds(device: torch.device, dtypes, size: int) -> dict[torch.dtype, float]:
    """Time a product in each type; in turns, as clocks rise while a card warms up."""
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    operands = {dtype: matrix.to(device, dtype) for dtype in dtypes}
    outputs = {dtype: torch.empty_like(operands[dtype]) for dtype in dtypes}
    seconds = {dtype: [] for dtype in dtypes}
    for _ in range(_WARM_UP + _ROUNDS):
        for dtype in dtypes:
            a, out = operands[dtype], outputs[dtype]
            seconds[dtype].append(
                _time(device, lambda a=a, o=out: torch.mm(a, a, out=o))
            )
    return {dtype: median(times[_WARM_UP:]) for dtype, times in seconds.items()}


def _time(device: torch.device, run) -> float:
    """Time one call in seconds."""
    if device.type != 'cuda':
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1e3


@torch.enable_grad()  # a test loop asks with gradients off
def _results(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Compute what a model is made of, forward and backward, 8 samples at a time.

    Matrix products, batched ones and convolutions; returned in float64 on the CPU.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # Numbers that each of the types can hold, so that one reference serves all.
        values = torch.randn(shape, generator=generator).bfloat16()
        return values.to(device, dtype).requires_grad_()

    results = []
    for function, shapes in (
        (F.linear, [(8, 64, 256), (512, 256)]),
        (torch.matmul, [(8, 64, 128), (8, 128, 64)]),
        (lambda x, w: F.conv2d(x, w, padding=1), [(8, 64, 16, 12), (64, 64, 3, 3)]),
    ):
        inputs = [draw(*shape) for shape in shapes]
        output = function(*inputs)
        gradients = torch.autograd.grad(output, inputs, draw(*output.shape).detach())
        results += [output.detach(), *gradients]
    return [result.to('cpu', torch.float64) for result in results]


def _deviation(results: list[Tensor], reference: list[Tensor]) -> float:
    errors = torch.stack(
        [
            (result - right).abs().max() / right.abs().max()
            for result, right in zip(results, reference, strict=True)
        ]
    )
    error = errors.max().item()  # NaN if any is
    return error if math.isfinite(error) else math.inf


class LossScale:
    """Dynamic loss scaling: as large as float16 gradients bear.

    Halved when a step overflows, doubled after 2000 steps that did not; never below 1.

    Attributes:
        scale: What to multiply the loss by, and to divide the gradients by.
    """

    GROWTH_INTERVAL = 2000  # steps; as in torch.amp.GradScaler

    def __init__(self, scale: float = 2.0**16):
        self.scale = scale
        self._good_steps = 0

    def update(self, *, overflow: bool) -> None:
        """Adapt to a step's outcome: were its gradients not finite?"""
        if overflow:
            self.scale = max(self.scale / 2, 1.0)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == self.GROWTH_INTERVAL:
            self.scale *= 2
            self._good_steps = 0

    def state_dict(self) -> dict:
        """Return what a resumed run needs."""
        return dict(scale=self.scale, good_steps=self._good_steps)

    def load_state_dict(self, state: Mapping) -> None:
        """Take up where :meth:`state_dict` left off."""
        self.scale = state['scale']
        self._good_steps = state['good_steps']
