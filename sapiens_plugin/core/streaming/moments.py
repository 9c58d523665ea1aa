"""How AdamW's two moments are held in memory: in fp32, in bf16 or in int8.

An encoding reads and writes a chunk at a time, so that narrow moments never exist in
fp32 as a whole. It works on the state that an optimizer keeps of a parameter:

========  ======================================================  =================
encoding  tensors                                                 bytes a parameter
========  ======================================================  =================
float32   ``exp_avg``, ``exp_avg_sq``                             8
bfloat16  the same, in bf16                                       4
int8      ``exp_avg_int8``, ``exp_avg_scale``,                    2.06
          ``exp_avg_sq_uint8``, ``exp_avg_sq_scale``
========  ======================================================  =================

Rounding is the difficulty. With ``beta2 = 0.999`` the second moment loses 0.1% a step,
less than a step of bf16 (0.4%) or of int8: rounded to nearest it would never shrink. So
values are rounded up or down at random, right on average. The random numbers depend on
the step and on the place in the tensor alone: neither the order of the updates nor an
interruption changes a result.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sapiens_plugin.core.utils.unforked import unforked_zeros
from sapiens_plugin.errors import InputError

BLOCK = 128
"""Elements that share a scale in int8."""

CHUNK = 2048 * BLOCK
"""Elements read and written at a time: a few buffers of them (1 MiB in fp32) stay in
the processor's cache, and calling PyTorch costs little beside the work."""

_NOISE_SIZE = 1 << 16
_noise = torch.rand(_NOISE_SIZE + CHUNK, generator=torch.Generator().manual_seed(0))
_noise_bits = (_noise * 2**16).to(torch.int32)
_noise -= 0.5


def _noise_span(chunk: int, draw: int, size: int) -> slice:
    """Return where to read noise; odd factors come to every place before again."""
    offset = (draw * 40503 + chunk * 30011) % _NOISE_SIZE
    return slice(offset, offset + size)


class _Moments:
    def allocate(self, param: Tensor) -> dict[str, Tensor]:
        """Return the moments of a parameter that has taken no step."""
        return {
            key: unforked_zeros(shape, dtype=self.dtypes[key])
            for key, shape in self.shapes(param).items()
        }


@dataclass(frozen=True)
class PlainMoments(_Moments):
    """Both moments as tensors of one floating-point type, shaped as the parameter."""

    dtype: torch.dtype

    keys: ClassVar = ('exp_avg', 'exp_avg_sq')

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The type of each state tensor."""
        return dict.fromkeys(self.keys, self.dtype)

    def shapes(self, param: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the shape of each state tensor of a parameter."""
        return {key: tuple(param.shape) for key in self.keys}

    def chunks(self, state: Mapping) -> Iterable[tuple[Tensor, ...]]:
        """Return the tensors of each ``CHUNK`` elements in turn, as views."""
        tensors = (state[key].reshape(-1).split(CHUNK) for key in self.keys)
        return zip(*tensors, strict=True)

    def decode(
        self, chunk: tuple[Tensor, ...], exp_avg: Tensor, exp_avg_sq: Tensor
    ) -> None:
        """Write a chunk into two fp32 buffers, whole blocks long."""
        for stored, buffer in zip(chunk, (exp_avg, exp_avg_sq), strict=True):
            buffer[: len(stored)].copy_(stored)

    def encode(
        self,
        chunk: tuple[Tensor, ...],
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        index: int,
        step: int,
        decay: float,
    ) -> None:
        """Store a chunk, back from two fp32 buffers, which are used up.

        Args:
            chunk: Where to store it.
            exp_avg: First moment.
            exp_avg_sq: Second moment.
            index: Number of the chunk in its tensor and
            step: number of the step, for the random rounding.
            decay: ``beta2``, by which the second moment shrank at this step.
        """
        if self.dtype == torch.bfloat16:
            # bf16 is the upper half of fp32, so noise added to the lower half carries
            # with the right probability. The first moment changes by a tenth a step
            # and needs no such care.
            bits = exp_avg_sq.view(torch.int32)
            bits += _noise_bits[_noise_span(index, step, len(bits))]
            bits &= -(1 << 16)
        for stored, buffer in zip(chunk, (exp_avg, exp_avg_sq), strict=True):
            stored.copy_(buffer[: len(stored)])


class Int8Moments(_Moments):
    """Both moments as eight-bit codes with an fp32 scale for every ``BLOCK`` of them.

    The second moment is held as its fourth root, code 1 to 255 times the scale, which
    spans nine decades and never decodes to zero. Its scale shrinks with the moment, so
    that the codes only have the new gradients to take up, and is fitted anew when a
    code outgrows it. (Fitted anew at every step, each code would be rounded at every
    step, and drift.)

    The first moment is held relative to the root of the second, as an update uses it.
    Elements of large and of small gradients are then alike, and keep their precision
    within one block.
    """

    dtypes: ClassVar = dict(
        exp_avg_int8=torch.int8,
        exp_avg_scale=torch.float32,
        exp_avg_sq_uint8=torch.uint8,
        exp_avg_sq_scale=torch.float32,
    )
    """The type of each state tensor."""

    _SPAN = 126.5  # of the codes of the first moment to either side, before rounding
    _TOP = 254.5  # of the codes of the second
    _FITTED = 240.0  # code of the largest in a block whose scale has just been fitted
    _TINY = 1e-30  # stands in for the zero of a block without gradients
    # fp32 numbers of this size are whole, and their lowest byte is the whole number's.
    _WHOLE = 1.5 * 2**23

    def shapes(self, param: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the shape of each state tensor of a parameter."""
        blocks = -(-param.numel() // BLOCK)
        return {
            'exp_avg_int8': (blocks, BLOCK),
            'exp_avg_scale': (blocks, 1),
            'exp_avg_sq_uint8': (blocks, BLOCK),
            'exp_avg_sq_scale': (blocks, 1),
        }

    def chunks(self, state: Mapping) -> Iterable[tuple[Tensor, ...]]:
        """Return the tensors of each ``CHUNK`` elements in turn, as views."""
        tensors = (state[key].split(CHUNK // BLOCK) for key in self.dtypes)
        return zip(*tensors, strict=True)

    def decode(
        self, chunk: tuple[Tensor, ...], exp_avg: Tensor, exp_avg_sq: Tensor
    ) -> None:
        """Write a chunk into two fp32 buffers, whole blocks long."""
        codes, scale, root_codes, root_scale = chunk
        first, second = exp_avg.view(-1, BLOCK), exp_avg_sq.view(-1, BLOCK)
        second.copy_(root_codes).mul_(root_scale)
        torch.mul(second, second, out=second)
        first.copy_(codes).mul_(scale).mul_(second)
        torch.mul(second, second, out=second)

    def encode(
        self,
        chunk: tuple[Tensor, ...],
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        index: int,
        step: int,
        decay: float,
    ) -> None:
        """Store a chunk, back from two fp32 buffers, which are used up."""
        codes, scale, root_codes, root_scale = chunk
        first, second = exp_avg.view(-1, BLOCK), exp_avg_sq.view(-1, BLOCK)

        # Reciprocal roots cost less than roots: v^-1/2, and of that once more, v^1/4.
        first.mul_(second.clamp_min_(self._TINY).rsqrt_())
        torch.maximum(
            first.amax(1, keepdim=True), -first.amin(1, keepdim=True), out=scale
        )
        scale.div_(self._SPAN).clamp_min_(self._TINY)
        first.mul_(scale.reciprocal())
        self._store(codes, first, index, 2 * step)

        largest = second.rsqrt_().amax(1, keepdim=True)
        root_scale.mul_(decay**0.25)
        outgrown = largest > root_scale * self._TOP
        torch.where(outgrown, largest / self._FITTED, root_scale, out=root_scale)
        second.mul_(root_scale.reciprocal()).clamp_min_(1)
        self._store(root_codes, second, index, 2 * step + 1)

    def _store(self, codes: Tensor, values: Tensor, index: int, draw: int) -> None:
        """Round, up with the probability of the fraction, and keep the lowest byte."""
        noise = _noise[_noise_span(index, draw, values.numel())]
        values.add_(noise.view_as(values)).add_(self._WHOLE)
        codes.copy_(values.view(torch.int32))


Encoding = PlainMoments | Int8Moments

ENCODINGS = {
    'float32': PlainMoments(torch.float32),
    'bfloat16': PlainMoments(torch.bfloat16),
    'int8': Int8Moments(),
}


def get_encoding(moment_dtype: str) -> Encoding:
    """Return the encoding of this name.

    Raises:
        InputError: There is none.
    """
    if moment_dtype not in ENCODINGS:
        raise InputError(
            f'moment_dtype={moment_dtype!r} is not one of {", ".join(ENCODINGS)}: the '
            'type in which AdamW keeps its two moments.'
        )
    return ENCODINGS[moment_dtype]


def encoding_of(state: Mapping) -> Encoding:
    """Return the encoding that the state of a parameter was written in."""
    if 'exp_avg_int8' in state:
        return ENCODINGS['int8']
    return PlainMoments(state['exp_avg'].dtype)


def moment_bytes(numel: int, moment_dtype: str) -> int:
    """Return the bytes that the moments of a parameter of ``numel`` elements take.

    Raises:
        InputError: There is no such ``moment_dtype``.
    """
    encoding = get_encoding(moment_dtype)
    shapes = encoding.shapes(torch.empty(numel, device='meta'))
    return sum(
        math.prod(shape) * encoding.dtypes[key].itemsize
        for key, shape in shapes.items()
    )
