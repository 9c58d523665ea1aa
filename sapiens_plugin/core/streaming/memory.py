"""How much memory a step takes, and how to lay it out within a budget.

What a stage allocates is found by running it on fake tensors (shapes without data);
what the schedule keeps beside it is counted in closed form. No GPU is needed.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from threading import RLock
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sapiens_plugin.errors import InputError

from .courier import CHUNK_BYTES, NUM_CHUNKS
from .moments import moment_bytes

MIB = 2**20

SHARE_OF_FREE = 0.9
"""Of a GPU's free memory, where no budget is given: the rest is for other programs."""

HOST_RESERVE = MIB * 512
"""Bytes of host memory that are left to the rest of the system."""

# CUDA's caching allocator rounds every request up to 512 bytes. It takes memory for
# those of more than 1 MiB in pieces of 20 MiB, or from 10 MiB on in multiples of 2 MiB
# (c10/cuda/CUDACachingAllocator.cpp).
ROUNDING = 512
_SMALL, _SEGMENT = MIB, 2 * MIB

# Gaps between the allocator's blocks: of all else, and no less than a piece.
_FRAGMENTATION, _PIECE = 0.02, 20 * MIB

# cuDNN may copy what it convolves into another layout. Where there is no room for it,
# PyTorch takes a kernel that needs less.
_CONVOLUTIONS = (
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
)


def workspace_bytes(capability: tuple[int, int] | None) -> int:
    """Return what PyTorch gives cuBLAS, which it has for good.

    A workspace for the thread that runs forward, and one for autograd's
    (``aten/src/ATen/cuda/CublasHandlePool.cpp``).

    Args:
        capability: The GPU's; None: not known, so that the most is counted.
    """
    config = os.environ.get('CUBLAS_WORKSPACE_CONFIG', '')
    if pairs := re.findall(r':(\d+):(\d+)', config):
        one = sum(1024 * int(size) * int(count) for size, count in pairs)
    elif capability is None or capability >= (9, 0):
        one = 32 * MIB
    else:
        one = 2 * 4 * MIB + 8 * 16 * 1024
    return 2 * _in_segments(one)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a GPU, or what can be pinned, is full.

    What cuBLAS, cuDNN and the driver cannot get (for pinned memory, for kernels that
    are loaded at their first use) comes as an ordinary error.
    """
    return isinstance(error, torch.OutOfMemoryError) or bool(
        re.search('out of memory|ALLOC_FAILED', str(error))
    )


def _in_segments(size: int) -> int:
    """Round a request up to what the allocator takes for it."""
    unit = ROUNDING if size <= _SMALL else _SEGMENT
    return -(-size // unit) * unit


class track_peak(TorchDispatchMode):
    """Track the memory of the tensors that are made within the context.

    Every tensor counts, real or fake, from the operation that makes it until its
    storage is freed, also past the end of the context. Of what kernels use inside, a
    copy of each operand of a convolution counts. Only operations of the thread that
    entered the context are seen.

    Attributes:
        live: Bytes alive now.
        peak: The most bytes that were alive at once.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, ref] = {}
        self._lock = RLock()  # a thread may drop the last reference

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        given, made = _storages((args, kwargs)), _storages(outputs)
        for key in made.keys() - given.keys():
            self._add(key, made[key])
        if func in _CONVOLUTIONS:
            copies = sum(storage.nbytes() for storage in given.values())
            with self._lock:
                self.peak = max(self.peak, self.live + copies)
        return outputs

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        size = -(-storage.nbytes() // ROUNDING) * ROUNDING

        def forget(_):
            with self._lock:
                del self._storages[key]
                self.live -= size

        with self._lock:
            self._storages[key] = ref(storage, forget)
            self.live += size
            self.peak = max(self.peak, self.live)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storages(tree) -> dict[int, torch.UntypedStorage]:
    storages = (tensor.untyped_storage() for tensor in _tensors(tree))
    return {storage._cdata: storage for storage in storages}


class StageWork(NamedTuple):
    """Bytes that a stage allocates for one micro-batch, beyond inputs and parameters.

    The gradients of its parameters are not counted, but each addend to them is.

    Attributes:
        forward: At most, forward without gradients.
        saved: After forward, kept for backward; the output included.
        peak: At most, forward and backward; the input's gradient included, the
            output's not.
    """

    forward: int
    saved: int
    peak: int


@torch.enable_grad()  # a test loop asks with gradients off
def measure_stage(
    run: Callable,
    *inputs,
    compute_dtype: torch.dtype = torch.float32,
    backward: bool = True,
) -> StageWork:
    """Find what a callable allocates, without computing anything.

    Args:
        run: Maps the inputs to tensors; it may read any parameters. What depends on
            values fails, and so does checkpointing.
        inputs: Tensors, or dicts and lists of them. Only their shapes, types and
            ``requires_grad`` count: ones on the meta device will do.
        compute_dtype: float16 and bfloat16 run under autocast, whose 16-bit copies of
            the weights are counted.
        backward: Whether there is one; without, which is quicker, ``saved`` and
            ``peak`` are 0.
    """
    cast = torch.autocast('cpu', compute_dtype, enabled=compute_dtype != torch.float32)

    def forward() -> list[Tensor]:
        with cast:
            return _tensors(run(*inputs))

    def differentiable() -> list[Tensor]:
        return [output for output in forward() if output.requires_grad]

    def inference_peak() -> int:
        with torch.no_grad(), track_peak() as inference:
            forward()
        return inference.peak

    twins = _FakeTwins()
    with FakeTensorMode() as fake:
        inputs = tree_map_only(Tensor, twins.of, inputs)
    with fake, twins:
        if not backward:
            inference_peak()  # makes the parameters' twins, which are not to count
            return StageWork(forward=inference_peak(), saved=0, peak=0)
        # Once untracked, as with the first micro-batch: from the second on, gradients
        # of parameters are there to be added to.
        outputs = differentiable()
        upstream = [torch.empty_like(output) for output in outputs]
        torch.autograd.backward(outputs, upstream)
        del outputs
        for tensor in _tensors(inputs):
            tensor.grad = None

        inference = inference_peak()
        with track_peak() as training:
            outputs = differentiable()
            saved = training.live
            torch.autograd.backward(outputs, upstream)
    return StageWork(forward=inference, saved=saved, peak=training.peak)


class _FakeTwins(TorchFunctionMode):
    """Put a fake CPU tensor in the place of every real one that an operation is given.

    So parameters, wherever a callable finds them, get no fake gradients.
    """

    def __init__(self):
        super().__init__()
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, real: Tensor) -> Tensor:
        if isinstance(real, FakeTensor):
            return real
        if id(real) not in self._twins:
            twin = torch.empty_strided(
                real.shape, real.stride(), dtype=real.dtype, device='cpu'
            ).requires_grad_(real.requires_grad)
            self._twins[id(real)] = (real, twin)  # the real one, to keep its id taken
        return self._twins[id(real)][1]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(Tensor, self.of, (args, kwargs or {}))
        return func(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step, as far as memory goes.

    Attributes:
        batch: Samples in a step.
        micro_batch: Samples that pass a stage together.
        input_bytes: Images and targets of one sample on the device.
        token_bytes: Activations of one sample between two blocks, in float32.
        stem_bytes: The stem's weights in float32.
        block_bytes: The weights of one block in float32.
        tail_bytes: The tail's weights in float32.
        num_blocks: Blocks in the chain.
        first_trainable: Index of the first stage that trains: 0 is the stem, 1 the
            first block, ``num_blocks + 1`` the tail. All after it train.
        stem: What the stem allocates for a micro-batch (:func:`measure_stage`). Of a
            stage before the first that trains, forward alone need be known.
        block: What one block allocates; one that trains, if any does.
        tail: What tail and loss allocate.
        boundary_dtype: What boundaries are kept in.
        gradient_dtype: What gradients are kept in at home.
        workspace_bytes: What cuBLAS has (:func:`workspace_bytes`).
    """

    batch: int
    micro_batch: int
    input_bytes: int
    token_bytes: int
    stem_bytes: int
    block_bytes: int
    tail_bytes: int
    num_blocks: int
    first_trainable: int
    stem: StageWork
    block: StageWork
    tail: StageWork
    boundary_dtype: torch.dtype = torch.float32
    gradient_dtype: torch.dtype = torch.float32
    workspace_bytes: int = field(default_factory=lambda: workspace_bytes(None))

    @property
    def trainable_blocks(self) -> int:
        """Blocks from the first that trains to the last."""
        return min(self.num_blocks, self.num_blocks + 1 - self.first_trainable)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a chain uses its device's memory (see :class:`.chain.Placement`)."""

    spacing: int
    slots: int
    boundaries_on_host: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The device memory of the part of a step that needs the most, in bytes.

    What PyTorch allocates; the CUDA context, 300 to 450 MiB, is not in it.
    """

    phase: str
    inputs: int
    activations: int
    boundaries: int
    weights: int
    gradients: int
    leaving_gradients: int
    work: int
    workspace: int
    fragmentation: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(size for _, size in _parts(self))

    def __str__(self) -> str:
        return f'{_in_mib(self)} in the {self.phase}'


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """What a chain and its optimizer keep in host memory, in bytes."""

    weights: int
    gradients: int
    moments: int
    boundaries: int
    staging: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(size for _, size in _parts(self))

    def __str__(self) -> str:
        return _in_mib(self)


def _parts(memory: DeviceMemory | HostMemory) -> list[tuple[str, int]]:
    values = [(field.name, getattr(memory, field.name)) for field in fields(memory)]
    return [(name, size) for name, size in values if not isinstance(size, str)]


def _in_mib(memory: DeviceMemory | HostMemory) -> str:
    parts = ', '.join(
        f'{name.replace("_", " ")} {size / MIB:.0f}'
        for name, size in _parts(memory)
        if size
    )
    return f'{-(-memory.total // MIB)} MiB ({parts})'


def training_memory(step: Step, layout: Layout) -> DeviceMemory:
    """Return the device memory that a training step takes."""
    sets = len(_segments(step, layout)) - 1  # the last segment's input is still alive
    if layout.boundaries_on_host:
        sets = min(sets, 2)  # one in use, one under way
    boundaries = sets * _narrowed(step.batch * step.token_bytes, step.boundary_dtype)
    return max(
        (
            _device_memory(step, layout.slots, boundaries=boundaries, **phase)
            for phase in _training_phases(step, layout)
        ),
        key=lambda memory: memory.total,
    )


def inference_memory(step: Step, layout: Layout) -> DeviceMemory:
    """Return the device memory that a batch takes forward, without gradients."""
    work = max(step.stem.forward, step.block.forward, step.tail.forward)
    return _device_memory(step, layout.slots, phase='forward sweep', work=work)


def _segments(step: Step, layout: Layout) -> list[int]:
    """Count the blocks in each segment; the tail is with the last, the stem in none."""
    full, rest = divmod(step.trainable_blocks, layout.spacing)
    return [layout.spacing] * full + [rest] * (rest > 0) or [0]


def _training_phases(step: Step, layout: Layout) -> Iterator[dict]:
    """Yield what differs between the phases of a step."""
    *inner, last = _segments(step, layout)
    last_gradients = last * step.block_bytes + step.tail_bytes
    inner_gradients = layout.spacing * step.block_bytes

    def leaving(gradients: int) -> int:
        # GradientReturn waits for all but the segment that it was given last.
        return _narrowed(gradients, step.gradient_dtype)

    def work(blocks: int) -> int:
        return max(blocks - 1, 0) * step.block.saved + min(blocks, 1) * step.block.peak

    yield dict(phase='forward sweep', work=max(step.stem.forward, step.block.forward))
    yield dict(
        phase='last segment',
        gradients=last_gradients,
        work=max(last * step.block.saved + step.tail.peak, work(last)),
    )
    before = [last_gradients, *[inner_gradients] * len(inner)]
    if inner:
        yield dict(
            phase='inner segments',
            gradients=inner_gradients,
            leaving_gradients=leaving(max(before[:-1])),
            work=work(layout.spacing),
        )
    if step.first_trainable == 0:
        yield dict(
            phase='stem',
            gradients=step.stem_bytes,
            leaving_gradients=leaving(before[-1]),
            work=step.stem.peak,
        )


def _device_memory(
    step: Step,
    slots: int,
    *,
    phase: str,
    work: int,
    boundaries: int = 0,
    gradients: int = 0,
    leaving_gradients: int = 0,
) -> DeviceMemory:
    parts = dict(
        inputs=step.batch * step.input_bytes,
        # Activations on the way up are exchanged for gradients on the way down; one
        # micro-batch more, because a narrow boundary is widened before use.
        activations=(step.batch + step.micro_batch) * step.token_bytes,
        boundaries=boundaries,
        # A slot is one piece (weights.py).
        weights=(
            _in_segments(step.stem_bytes)
            + slots * _in_segments(step.block_bytes)
            + _in_segments(step.tail_bytes)
        ),
        gradients=gradients,
        leaving_gradients=leaving_gradients,
        work=work,
        workspace=step.workspace_bytes,
    )
    fragmentation = max(int(_FRAGMENTATION * sum(parts.values())), _PIECE)
    return DeviceMemory(phase=phase, fragmentation=fragmentation, **parts)


def _narrowed(float32_bytes: int, dtype: torch.dtype) -> int:
    return float32_bytes * dtype.itemsize // 4


def plan_layout(
    step: Step,
    *,
    budget_mib: float | None,
    training: bool = True,
    spacing: int | None = None,
) -> Layout:
    """Choose how to use the device's memory.

    Boundaries stay on the device if they can. Then, segments are as long as fits: the
    last one is not computed again in backward. Then, as many blocks as fit stay.

    Args:
        step: What to run.
        budget_mib: What PyTorch may allocate, in MiB. None: no limit, so that all
            blocks stay and nothing is computed twice.
        training: Whether there is a backward.
        spacing: Preferred to all others, wherever boundaries must be for it.

    Raises:
        InputError: Nothing fits; the message names the smallest budget that works.
    """
    if budget_mib is None:
        return Layout(spacing=step.num_blocks, slots=step.num_blocks)
    predict = training_memory if training else inference_memory

    def fits(layout: Layout) -> bool:
        return predict(step, layout).total <= budget_mib * MIB

    candidates = sorted(
        _layouts(step, training), key=lambda layout: layout.spacing != spacing
    )
    for layout in candidates:
        if fits(layout):
            wider = (
                Layout(**{**vars(layout), 'slots': slots})
                for slots in range(step.num_blocks, layout.slots, -1)
            )
            return next(filter(fits, wider), layout)

    smallest = min(
        (predict(step, layout) for layout in candidates),
        key=lambda memory: memory.total,
    )
    narrower = training and step.boundary_dtype == torch.float32
    raise InputError(
        f'A budget of {budget_mib:.0f} MiB of GPU memory is too small for '
        f'{step.micro_batch} samples at a time out of {step.batch}. The smallest that '
        f'works is {smallest}. Raise vram_budget, or need less: a smaller micro_batch, '
        'a smaller img_size'
        + (", boundary_dtype='float16'." if narrower else ', fewer samples a step.')
    )


def _layouts(step: Step, training: bool) -> Iterator[Layout]:
    """Yield the layouts to choose from, best first, with the fewest slots for each."""
    longest = max(step.trainable_blocks, 1) if training else 1
    powers = [2**i for i in range(longest.bit_length()) if 2**i < longest]
    for on_host in (False, True) if training else (False,):
        for spacing in (longest, *reversed(powers)):
            yield Layout(
                spacing=spacing,
                slots=min(2 * spacing, step.num_blocks),
                boundaries_on_host=on_host,
            )


def host_memory(
    *,
    num_params: int,
    num_trainable: int,
    gradient_dtype: torch.dtype,
    moment_dtype: str,
    boundary_bytes: int = 0,
) -> HostMemory:
    """Return what training keeps in host memory, beside the process itself.

    Args:
        num_params: Parameters of the model.
        num_trainable: Those that take gradients.
        gradient_dtype: What gradients are kept in.
        moment_dtype: What AdamW's moments are kept in (:mod:`.moments`).
        boundary_bytes: Boundaries in host memory.
    """
    couriers = 4 if boundary_bytes else 2
    return HostMemory(
        weights=4 * num_params,
        gradients=num_trainable * gradient_dtype.itemsize,
        moments=moment_bytes(num_trainable, moment_dtype),
        boundaries=boundary_bytes,
        staging=couriers * NUM_CHUNKS * CHUNK_BYTES,
    )


def narrower_setting(available: int, **account) -> tuple[str, str] | None:
    """Name the widest setting of a streamed model with which it fits host memory.

    Args:
        available: Bytes that can be had.
        **account: What :func:`host_memory` takes, for a model that does not fit.

    Returns:
        A setting and its value; None where nothing fits.
    """
    for name, value, changes in (
        ('moment_dtype', 'bfloat16', dict(moment_dtype='bfloat16')),
        ('moment_dtype', 'int8', dict(moment_dtype='int8')),
        ('mode', 'compact', dict(moment_dtype='int8', gradient_dtype=torch.bfloat16)),
    ):
        if host_memory(**account | changes).total <= available:
            return name, value
    return None


def host_boundary_bytes(step: Step, layout: Layout) -> int:
    """Return the size of the boundaries that a layout keeps in host memory."""
    if not layout.boundaries_on_host:
        return 0
    sets = len(_segments(step, layout)) - 1
    return sets * _narrowed(step.batch * step.token_bytes, step.boundary_dtype)
