"""The activations between segments, kept from forward to backward.

Backward takes them in the reverse order, so both kinds are stacks: ``put`` one set a
segment, ``rewind`` when forward is over, then ``take`` them.
"""

from collections.abc import Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from sapiens_plugin.core.utils.unforked import unforked_zeros

from .courier import Courier, now_on


class DeviceBoundaries:
    """Boundaries in device memory.

    Args:
        dtype: What they are kept in. Those of that type already are not copied.
    """

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype
        self._kept: list[list[Tensor]] = []

    def put(self, activations: Sequence[Tensor]) -> None:
        """Keep the activations of all micro-batches, (b, ...) each."""
        self._kept.append([x.to(self._dtype) for x in activations])

    def rewind(self) -> None:
        """Note that the sets will be taken now."""

    def take(self) -> list[Tensor]:
        """Hand over the set that was put last."""
        return self._kept.pop()

    def abort(self) -> None:
        """Forget all."""
        self._kept.clear()

    def close(self) -> None:
        """End the transfers: there are none."""


class HostBoundaries:
    """Boundaries in host memory: on the device are just those that travel or are used.

    Args:
        dtype: What they are kept in.
        device: Where they are made and used.
    """

    def __init__(self, dtype: torch.dtype, *, device: torch.device):
        self._dtype = dtype
        self._device = device
        self._api = torch.get_device_module(device)
        self._outbound, self._inbound = Courier(device), Courier(device)
        self._homes: list[list[Tensor]] = []  # kept from step to step
        self._height = 0
        self._departure: Future | None = None
        self._arrival: tuple[Future, list[Tensor]] | None = None

    def put(self, activations: Sequence[Tensor]) -> None:
        """Keep the activations of all micro-batches, (b, ...) each."""
        sources = [x.to(self._dtype).contiguous() for x in activations]
        pairs = list(zip(sources, self._home(sources), strict=True))
        self._height += 1
        before = self._departure
        self._departure = self._outbound.download(pairs, after=now_on(self._device))
        if before is not None:
            before.result()  # no more than two sets on the device

    def rewind(self) -> None:
        """Start the return of the set that will be taken first."""
        if self._departure is not None:
            self._departure.result()
            self._departure = None
        self._fetch()

    def take(self) -> list[Tensor]:
        """Hand over the set that was put last, and start the return of the next."""
        arrival, targets = self._arrival
        self._height -= 1
        arrival.result().wait(self._api.current_stream(self._device))
        self._fetch()
        return targets

    def abort(self) -> None:
        """Let what is under way arrive, and forget all."""
        self._outbound.settle()
        self._inbound.settle()
        self._departure = self._arrival = None
        self._height = 0

    def close(self) -> None:
        """End the transfers."""
        self._outbound.close()
        self._inbound.close()

    def _fetch(self) -> None:
        self._arrival = None
        if self._height:
            home = self._homes[self._height - 1]
            targets = [torch.empty_like(x, device=self._device) for x in home]
            pairs = list(zip(home, targets, strict=True))
            self._arrival = (
                self._inbound.upload(pairs, after=now_on(self._device)),
                targets,
            )

    def _home(self, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the room of the set on top, made anew when shapes have changed."""
        if self._height == len(self._homes):
            self._homes.append([])
        home = self._homes[self._height]
        if [x.shape for x in home] != [x.shape for x in like]:
            home[:] = [unforked_zeros(x.shape, dtype=x.dtype) for x in like]
        return home
