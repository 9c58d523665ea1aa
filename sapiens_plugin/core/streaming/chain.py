"""Block-major micro-batching: every micro-batch passes a block before the next comes.

The gradient of a step over many micro-batches is computed with few weights on the
device at a time, and each block's weights cross the bus twice a step instead of twice a
micro-batch. Sums run over the micro-batches in order, as in ordinary accumulation, so
the gradients are the same bit for bit (L2L, https://arxiv.org/abs/2002.05645, has the
schedule; ``docs/streaming.md`` the measurements).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sapiens_plugin.errors import InputError

from .boundaries import DeviceBoundaries, HostBoundaries
from .gradients import GradientReturn
from .randomness import kept_generators, seed_at, seed_generators
from .stage import Stage
from .weights import BeforeUse, InPlaceWeights, SlotWeights

LossOf = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a chain uses the memory of its device.

    Args:
        spacing: Blocks between two boundaries. Their activations for one micro-batch,
            their weights and their gradients are on the device together.
        slots: Blocks whose weights the device holds, at least ``2 * spacing`` or all
            blocks. None computes on the parameters where they are, for a device that
            is the host.
        boundaries_on_host: Keep boundaries in host memory.
        boundary_dtype: float32 is exact; float16 and bfloat16 take half the memory.
        gradient_dtype: What gradients are kept in at home, float32 or bfloat16.
        compute_dtype: Matrix products in 16 bit run under ``torch.autocast``.
    """

    spacing: int = 1
    slots: int | None = None
    boundaries_on_host: bool = False
    boundary_dtype: torch.dtype = torch.float32
    gradient_dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype = torch.float32


class StreamedChain:
    """A stem, equal blocks and a tail, trained and run with little device memory.

    Args:
        stem: Maps inputs (b, ...) to activations (b, ...).
        blocks: Each maps activations to activations of the same shape.
        tail: The parameters of what comes after; its callable is given with each call.
        device: Where to compute.
        placement: How to use its memory.

    Raises:
        InputError: Stages share parameters, or a stage that is computed twice has
            buffers, which would be updated twice.
    """

    def __init__(
        self,
        stem: Stage,
        blocks: Sequence[Stage],
        tail: Stage,
        *,
        device: torch.device,
        placement: Placement,
    ):
        self._stages = [stem, *blocks, tail]
        self._last = len(blocks) + 1
        self._device = device
        self._placement = placement
        _check_stages(self._stages)

        travels = placement.slots is not None
        if travels:
            at_least = min(2 * placement.spacing, len(blocks))
            if placement.slots < at_least:
                raise InputError(
                    f'{placement.slots} slots are too few for boundaries every '
                    f'{placement.spacing} blocks: {at_least} are needed.'
                )
            self._weights = SlotWeights(
                self._stages,
                device=device,
                slots=placement.slots,
                # One more for the tail, which comes with the last blocks.
                lookahead=placement.spacing + 1,
            )
        else:
            self._weights = InPlaceWeights(self._stages)
        self._gradients = GradientReturn(
            device, dtype=placement.gradient_dtype, travels=travels
        )
        if placement.boundaries_on_host:
            self._boundaries = HostBoundaries(placement.boundary_dtype, device=device)
        else:
            self._boundaries = DeviceBoundaries(placement.boundary_dtype)

    def before_use(self, callback: BeforeUse) -> None:
        """Have parameters announced before they are read, perhaps from a thread."""
        self._weights.before_use = callback

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run stem and blocks without gradients.

        Args:
            inputs: Micro-batches, (b, ...) each, on the device.

        Returns:
            The activations after the last block.
        """
        live = list(inputs)
        self._weights.start(range(self._last))
        with self._settled():
            for index in range(self._last):
                self._forward(index, live)
        return live

    @contextmanager
    def tail_in_place(self) -> Iterator[None]:
        """Put the tail's weights on the device while its modules are called."""
        self._weights.start([self._last])
        with self._settled(), self._visit([self._last]):
            self._weights.arrive(self._last)
            yield

    def accumulate(
        self,
        inputs: Sequence[Tensor],
        loss_of: LossOf,
        *,
        seed: int,
        norm_type: float = 2.0,
        loss_scale: float = 1.0,
    ) -> dict[nn.Parameter, Tensor]:
        """Compute the gradient of the mean loss over the samples of all micro-batches.

        Equal micro-batches contribute their loss divided by their number, as in
        MMEngine's accumulation; others in proportion to their samples.

        Args:
            inputs: Micro-batches, (b, ...) each, on the device.
            loss_of: Runs the tail: maps the activations of a micro-batch and its index
                to a scalar loss, the mean over its samples.
            seed: Of what is random in the step (:mod:`.randomness`).
            norm_type: Order of the gradient norms that are returned.
            loss_scale: Power of two on the loss that keeps 16-bit gradients from
                vanishing; it is taken out of the gradients again.

        Returns:
            The norm of every gradient. The gradients are in ``param.grad``.

        Raises:
            torch.OutOfMemoryError: The device is full. No ``param.grad`` was set, and
                the step can be tried again.
            InputError: No parameter takes a gradient.
        """
        first = self._first_trainable()
        *inner, last = self._segments(first)
        sweep = range(self._last + 1)
        back = [index for segment in reversed(inner) for index in segment]
        shares = _shares([len(x) for x in inputs])
        step = _Step(first, seed, norm_type, loss_scale)

        def loss_backward(y: Tensor, j: int) -> None:
            self._prepare(self._last, j, seed)
            loss = shares[j](loss_of(y, j)) * loss_scale
            self._backward(loss)

        def activation_backward(y: Tensor, j: int) -> None:
            self._backward(y, upstream[j])
            upstream[j] = None  # each is needed once

        self._weights.start([*sweep, *back])
        self._gradients.start()
        with self._settled(), kept_generators(self._device):
            live = list(inputs)
            for index in range(first):
                self._forward(index, live, seed)
            for segment in inner:
                if segment[0] > 0:  # the stem's inputs stay at hand
                    self._boundaries.put(live)
                # One by one: the next block's weights travel meanwhile.
                for index in segment:
                    self._forward(index, live, seed)
            self._boundaries.rewind()
            # Nothing comes between forward and backward of the last segment.
            upstream = self._differentiate(last, live, loss_backward, step)
            for segment in reversed(inner):
                xs = self._boundaries.take() if segment[0] > 0 else list(inputs)
                upstream = self._differentiate(segment, xs, activation_backward, step)
            norms = self._gradients.finish()
        self._weights.invalidate(sweep[first:])
        return norms

    def close(self) -> None:
        """End the threads."""
        for part in (self._weights, self._gradients, self._boundaries):
            part.close()

    def _first_trainable(self) -> int:
        for index, stage in enumerate(self._stages):
            if stage.trains:
                return index
        raise InputError('No parameter takes a gradient: there is nothing to train.')

    def _segments(self, first: int) -> list[list[int]]:
        """Group the stages from ``first`` on; the tail joins the last blocks."""
        spacing = self._placement.spacing
        blocks = range(max(first, 1), self._last)
        segments = [
            list(blocks[i : i + spacing]) for i in range(0, len(blocks), spacing)
        ]
        if first == 0:
            segments.insert(0, [0])
        if not blocks:
            segments.append([])
        segments[-1].append(self._last)
        return segments

    def _forward(self, index: int, live: list[Tensor], seed: int | None = None) -> None:
        """Run a stage on all micro-batches, each exchanged for its result."""
        with torch.no_grad(), self._visit([index]):
            for j, x in enumerate(live):
                live[j] = self._run(index, x, j, seed)

    def _differentiate(
        self,
        segment: Sequence[int],
        xs: list[Tensor],
        backward: Callable[[Tensor, int], None],
        step: '_Step',
    ) -> list[Tensor | None]:
        """Run a segment and its backward, and send its parameters' gradients home.

        Returns:
            The gradients with respect to ``xs``, in the same list.
        """
        wants_gradient = segment[0] > step.first
        with self._visit(segment) as leaves:
            for j, x in enumerate(xs):
                x = x.detach().float().requires_grad_(wants_gradient)
                xs[j] = None
                if wants_gradient:
                    # As it comes: x.grad would be laid out like x, and sums further up
                    # would run in another order than in an unbroken graph.
                    x.register_hook(partial(xs.__setitem__, j))
                y = x
                for index in segment:
                    if index != self._last:
                        y = self._run(index, y, j, step.seed)
                backward(y, j)
        self._gradients.send(
            [self._stages[index] for index in segment],
            [leaves[index] for index in segment],
            norm_type=step.norm_type,
            unscale=1 / step.loss_scale,
        )
        return xs

    def _run(self, index: int, x: Tensor, j: int, seed: int | None) -> Tensor:
        self._prepare(index, j, seed)
        return self._stages[index].run(x)

    def _prepare(self, index: int, j: int, seed: int | None) -> None:
        if j == 0:  # not before: the stages ahead of it compute while it travels
            self._weights.arrive(index)
        if seed is not None:
            seed_generators(self._device, seed_at(seed, index, j))

    def _backward(self, y: Tensor, gradient: Tensor | None = None) -> None:
        # Backward runs outside of autocast, which it was not made for. The outer
        # context stays: it holds the weights' 16-bit copies.
        with torch.autocast(self._device.type, enabled=False):
            y.backward(gradient)

    @contextmanager
    def _visit(self, group: Sequence[int]) -> Iterator[dict[int, list[Tensor]]]:
        """Have the weights of some stages in place; yields them as autograd leaves."""
        leaves = dict(zip(group, self._weights.enter(group), strict=True))
        dtype = self._placement.compute_dtype
        with ExitStack() as stack:
            for index in group:
                stack.enter_context(self._stages[index].running_on(leaves[index]))
            if dtype != torch.float32:
                stack.enter_context(torch.autocast(self._device.type, dtype))
                # Within another autocast, its 16-bit copies would stay until that ends.
                stack.callback(torch.clear_autocast_cache)
            yield leaves

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Leave nothing under way behind an error."""
        try:
            yield
        except BaseException:
            for part in (self._weights, self._gradients, self._boundaries):
                part.abort()
            raise


@dataclass(frozen=True)
class _Step:
    first: int  # stage that trains
    seed: int
    norm_type: float
    loss_scale: float


def _shares(sizes: Sequence[int]) -> list[Callable[[Tensor], Tensor]]:
    """Weigh the mean loss of each micro-batch.

    A division by the number of equal ones, since l / 3 and l · (2 / 6) differ in the
    last bit.
    """
    if len(set(sizes)) == 1:
        return [lambda loss: loss / len(sizes)] * len(sizes)
    total = sum(sizes)
    return [lambda loss, share=size / total: loss * share for size in sizes]


def _check_stages(stages: Sequence[Stage]) -> None:
    seen: set[int] = set()
    for index, stage in enumerate(stages):
        ids = {id(param) for param in stage.params}
        if ids & seen or len(ids) != len(stage.params):
            raise InputError(
                f'Stage {index} of the chain shares a parameter with another place. '
                'Tied weights cannot be streamed.'
            )
        seen |= ids
        buffers = [
            f'{type(module).__name__}.{name}'
            for module, _ in stage.owners
            for name in module._buffers
        ]
        if buffers and index < len(stages) - 1:
            raise InputError(
                f'Stage {index} of the chain has a buffer ({buffers[0]}). Running '
                'statistics would be updated twice, since the stage is computed '
                'again in backward. Use a norm without them, such as LayerNorm.'
            )
