"""GPUs by name: what they have and what they do in a second.

Nothing in this table was measured for this project. Speeds are *sustained* ones: what
large matrix products reach, not what the data sheet promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sapiens_plugin.errors import InputError

if TYPE_CHECKING:
    import torch

    from sapiens_plugin.core.streaming.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU (or a CPU) and the host it sits in.

    Attributes:
        name: What the user calls it.
        driver_name: What its driver calls it.
        capability: CUDA's compute capability; None for a CPU.
        vram_mib: What programs can have of its memory, MiB; None for a CPU.
        tflops: Sustained matrix products by type (``'float32'``, …).
        memory_gb_s: Sustained passes over its own memory.
        bus_gb_s: Copies between host and device, each way.
        host_gb_s: The host's memory.
        host_threads: Threads that the host has for the optimizer.
        source: Where the figures come from.
    """

    name: str
    driver_name: str
    capability: tuple[int, int] | None
    vram_mib: int | None
    tflops: Mapping[str, float]
    memory_gb_s: float
    bus_gb_s: float
    host_gb_s: float
    host_threads: int
    source: str

    def precision(self, requested: str) -> Precision:
        """Choose the type to compute in, as the probe of a job would here.

        Raises:
            InputError: ``requested`` gives wrong values on this card.
        """
        # Imported late: a list of names needs no PyTorch, which takes seconds to load.
        import torch

        from sapiens_plugin.core.streaming.precision import Figure, decide

        figures = {
            getattr(torch, name): Figure(tflops, error=0.0)
            for name, tflops in self.tflops.items()
        }
        return decide(
            requested,
            name=self.driver_name,
            capability=self.capability,
            figures=figures,
        )

    def limited(self, vram_mib: float | None) -> Card:
        """Return the card with no more memory than this; a CPU as it is."""
        if vram_mib is None or self.vram_mib is None:
            return self
        return replace(self, vram_mib=min(int(vram_mib), self.vram_mib))

    def speed(self, dtype: torch.dtype) -> float:
        """Return FLOPS of matrix products in a type."""
        return self.tflops[str(dtype).removeprefix('torch.')] * 1e12


def _card(name, driver_name, capability, vram_mib, tflops, gb_s, source) -> Card:
    memory, bus, host, threads = gb_s
    return Card(
        name=name,
        driver_name=driver_name,
        capability=capability,
        vram_mib=vram_mib,
        tflops=MappingProxyType(
            dict(zip(('float32', 'float16', 'bfloat16'), tflops, strict=True))
        ),
        memory_gb_s=memory,
        bus_gb_s=bus,
        host_gb_s=host,
        host_threads=threads,
        source=source,
    )


# Memory bandwidths are 80% of the data sheets', where nothing else is said; hosts are
# what such cards usually sit in.
_LIST = (
    _card(
        *('gtx1650-maxq', 'NVIDIA GeForce GTX 1650 with Max-Q Design', (7, 5), 3937),
        *((2.0, 0.3, 1.4), (90, 11, 22, 4)),
        'float32 assumed: 78–87% of the 2.3–2.55 TFLOPS of its data sheets; 16-bit '
        'types in the ratio users report for a GTX 1650 for laptops',
    ),
    _card(
        *('gtx1650', 'NVIDIA GeForce GTX 1650', (7, 5), 3937),
        *((2.26, 0.34, 1.63), (102, 11, 25, 4)),
        'users report 2.26 (float32), 0.34 (float16) and 1.63 (bfloat16) TFLOPS for '
        'the laptop version; the desktop version may reach 2.3',
    ),
    _card(
        *('rtx3050-4gb', 'NVIDIA GeForce RTX 3050 Laptop GPU', (8, 6), 3937),
        *((4.0, 8.0, 8.0), (150, 11, 30, 6)),
        'assumed: 70% of the data sheet at a clock of 1.4 GHz (5.7 float32, 11.4 '
        'tensor TFLOPS); versions from 35 to 80 W differ by half',
    ),
    _card(
        *('rtx3060', 'NVIDIA GeForce RTX 3060', (8, 6), 11900),
        *((9.0, 18.0, 18.0), (288, 22, 30, 6)),
        'assumed: 70% of the data sheet (12.7 float32, 25.4 tensor TFLOPS)',
    ),
    _card(
        *('rtx4090', 'NVIDIA GeForce RTX 4090', (8, 9), 24100),
        *((57.0, 115.0, 115.0), (806, 22, 60, 8)),
        'assumed: 70% of the data sheet (82.6 float32, 165 tensor TFLOPS)',
    ),
    _card(
        *('t4', 'Tesla T4', (7, 5), 14900),
        *((4.5, 25.0, 2.0), (240, 11, 40, 4)),
        'assumed: its 70 W hold it to some 40–55% of the data sheet (8.1 float32, 65 '
        'tensor TFLOPS); it has no native bfloat16',
    ),
    _card(
        *('a100', 'NVIDIA A100-SXM4-80GB', (8, 0), 80600),
        *((17.0, 170.0, 170.0), (1630, 22, 120, 16)),
        'assumed: 55% of the data sheet in 16 bit (312), 87% in float32 (19.5)',
    ),
    _card(
        *('h100', 'NVIDIA H100 80GB HBM3', (9, 0), 80600),
        *((50.0, 400.0, 400.0), (2680, 50, 250, 16)),
        'assumed: 40% of the data sheet in 16 bit (989), 75% in float32 (67)',
    ),
)
CARDS = {card.name: card for card in _LIST}


def get_card(name: str) -> Card:
    """Return a card of the table.

    Raises:
        InputError: It is not in the table.
    """
    card = CARDS.get(name.lower().replace(' ', '').replace('_', '-'))
    if card is None:
        raise InputError(
            f'--gpu {name} is not in the table of cards. There are {", ".join(CARDS)}. '
            'For the GPU of this machine leave --gpu out: it is then measured.'
        )
    return card
