"""Random numbers that depend on where they are drawn, not on what was drawn before.

Block-major order visits (block, micro-batch) pairs in another order than ordinary
accumulation does, and visits most of them twice. Each visit therefore seeds the
generators from its place alone: a recomputed block drops the same paths, nothing is
stored, and a resumed run draws what the uninterrupted one would have drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MASK = 2**64 - 1


def seed_at(step_seed: int, stage: int, micro_batch: int) -> int:
    """Return the seed of one visit.

    Args:
        step_seed: Any integer that differs from step to step.
        stage: Index of the stage in its chain, the stem being 0.
        micro_batch: Index of the micro-batch in its step.
    """
    return mix(mix(mix(step_seed) + stage) + micro_batch)


def mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@contextmanager
def kept_generators(device: torch.device) -> Iterator[None]:
    """Give the default generators their states back at the end."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the CPU's default generator and that of the device."""
    torch.default_generator.manual_seed(seed)
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
