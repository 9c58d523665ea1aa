"""Where the weights of a stage are while it computes."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .courier import Courier, now_on
from .memory import ROUNDING
from .stage import Stage

# Told which parameters are about to be read: an optimizer that defers its updates
# applies theirs now.
BeforeUse = Callable[[Sequence[nn.Parameter]], None]


def as_leaves(stage: Stage, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Make autograd leaves that share the memory of ``tensors``."""
    return [
        tensor.detach().requires_grad_(param.requires_grad)
        for tensor, param in zip(tensors, stage.params, strict=True)
    ]


def _in_one_piece(like: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Make tensors of these shapes and types that share one allocation.

    The allocator takes memory in multiples of 2 MiB, which one after the other would
    cost 2% of a block. Each starts where one of its own would.
    """
    starts = [0]
    for tensor in like:
        starts.append(starts[-1] + -(-tensor.nbytes // ROUNDING) * ROUNDING)
    piece = torch.empty(starts.pop(), dtype=torch.uint8, device=device)
    return [
        piece[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for start, tensor in zip(starts, like, strict=True)
    ]


class InPlaceWeights:
    """Weights that are in the memory of the device as they are.

    Args:
        stages: The stages of the chain.
    """

    def __init__(self, stages: Sequence[Stage]):
        self._stages = stages
        self.before_use: BeforeUse = lambda params: None

    def start(self, order: Sequence[int]) -> None:
        """Announce the stages of a sweep, in the order in which they are entered."""

    def enter(self, group: Sequence[int]) -> list[list[Tensor]]:
        """Return autograd leaves for the parameters of the next stages."""
        leaves = []
        for index in group:
            stage = self._stages[index]
            self.before_use(stage.params)
            leaves.append(as_leaves(stage, stage.params))
        return leaves

    def arrive(self, index: int) -> None:
        """Have the weights of a stage in place: they are."""

    def invalidate(self, indices: Sequence[int]) -> None:
        """Note that an optimizer will change these stages."""

    def abort(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """End the transfers: there are none."""


@dataclass
class _Slot:
    """Device memory for the parameters of one stage."""

    tensors: list[Tensor]
    holds: int | None = None
    versions: list[int] = field(default_factory=list)
    arrival: Future | None = None


class SlotWeights:
    """Weights that live in host memory and visit the device.

    Stages of equal shapes share slots. Since a sweep's order is known, and the next
    will be like it, a slot is given up by whoever is needed last (Belady's rule, which
    no other beats): with as many slots as stages nothing is ever given up, and weights
    travel only when they have changed.

    Args:
        stages: The stages of the chain.
        device: Where to compute.
        slots: Slots for the shapes that most stages have; the stem and the tail, where
            they differ, have one of their own.
        lookahead: Stages that are fetched before they are entered.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        device: torch.device,
        slots: int,
        lookahead: int,
    ):
        self._stages = stages
        self._device = device
        self._api = torch.get_device_module(device)
        self._courier = Courier(device)
        self._lookahead = lookahead
        self._order: Sequence[int] = ()
        self._ahead: deque[int] = deque()
        self.before_use: BeforeUse = lambda params: None

        self._shapes = [tuple(p.shape for p in stage.params) for stage in stages]
        self._pools: dict[tuple, list[_Slot]] = {}
        for stage, shapes in zip(stages, self._shapes, strict=True):
            pool = self._pools.setdefault(shapes, [])
            if len(pool) < slots:
                pool.append(_Slot(_in_one_piece(stage.params, device)))

    def start(self, order: Sequence[int]) -> None:
        """Announce the stages of a sweep, in the order in which they are entered."""
        self._order, self._ahead = order, deque(order)
        for pool in self._pools.values():
            for slot in pool:
                if slot.holds is not None and slot.versions != self._versions(slot):
                    slot.holds = None

    def enter(self, group: Sequence[int]) -> list[list[Tensor]]:
        """Return autograd leaves for the parameters of the next stages.

        They and what comes after them start travelling: before a stage computes,
        :meth:`arrive` must have been called.
        """
        for index in group:
            expected = self._ahead.popleft()
            if index != expected:
                raise RuntimeError(f'stage {index} entered, {expected} was announced')
        # The targets of all that starts now were last used by work already queued.
        now = now_on(self._device)
        soon = list(dict.fromkeys((*group, *self._ahead)))
        soon = soon[: len(group) + self._lookahead]
        for shapes, pool in self._pools.items():
            indices = [index for index in soon if self._shapes[index] == shapes]
            self._fill(pool, indices[: len(pool)], now)
        return [
            as_leaves(self._stages[index], self._slot(index).tensors) for index in group
        ]

    def arrive(self, index: int) -> None:
        """Have the compute stream wait for the weights of a stage."""
        arrival = self._slot(index).arrival.result()
        arrival.wait(self._api.current_stream(self._device))

    def invalidate(self, indices: Sequence[int]) -> None:
        """Note that an optimizer will change these stages."""
        for pool in self._pools.values():
            for slot in pool:
                if slot.holds in indices:
                    slot.holds = None

    def abort(self) -> None:
        """Let what is under way arrive, and trust none of it."""
        self._courier.settle()
        for pool in self._pools.values():
            for slot in pool:
                slot.holds = slot.arrival = None

    def close(self) -> None:
        """End the transfers."""
        self._courier.close()

    def _fill(self, pool: list[_Slot], indices: Sequence[int], now) -> None:
        """Have stages on their way into a pool, in the place of those needed last."""
        next_use: dict[int, int] = {}
        for time, index in enumerate((*indices, *self._ahead, *self._order)):
            next_use.setdefault(index, time)
        held = {slot.holds for slot in pool}
        free = sorted(
            (slot for slot in pool if slot.holds not in indices),
            key=lambda slot: next_use.get(slot.holds, math.inf),
        )
        for index in indices:
            if index not in held:
                self._fetch(index, free.pop(), now)

    def _fetch(self, index: int, slot: _Slot, now) -> None:
        params = self._stages[index].params

        def prepare() -> None:
            self.before_use(params)
            slot.versions = [param._version for param in params]

        slot.holds = index
        slot.arrival = self._courier.upload(
            list(zip(params, slot.tensors, strict=True)), after=now, prepare=prepare
        )

    def _slot(self, index: int) -> _Slot:
        pool = self._pools[self._shapes[index]]
        return next(slot for slot in pool if slot.holds == index)

    def _versions(self, slot: _Slot) -> list[int]:
        return [param._version for param in self._stages[slot.holds].params]
