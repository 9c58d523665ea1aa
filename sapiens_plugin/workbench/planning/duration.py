"""How long a job takes: what arithmetic and copies allow, and what to expect.

The *floor* of a step is the largest of four times that may run beside each other: its
matrix products at the card's sustained speed, the bytes to and from the device, and the
optimizer's bytes in host memory. Nothing that computes these numbers on this card ends
sooner.

The *estimate* adds what comes between the matrix products (norms, activations and sums,
at the speed of the card's memory), the optimizer on the host as it was measured, and
the loader. A streamed block is updated when the next forward sweep fetches it, by the
thread that sends it: the optimizer hides behind that sweep alone, and behind nothing
where weights stay in place, on a CPU. It is a computed figure all the same.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from sapiens_plugin.workbench.job.job import Job

from .arithmetic import Work, person_work, training_work
from .cards import Card
from .footprint import DeviceUse

_FLOAT = 4  # bytes
_WEIGHTS, _GRADIENTS = 'weights on their way', 'gradients on their way'
# Seconds of a thread for a parameter (benchmarks/host_adamw.py).
_UPDATE_SECONDS = dict(float32=0.2e-8, bfloat16=0.34e-8, int8=0.7e-8)
_MOMENT_BYTES = dict(float32=8, bfloat16=4, int8=2)
LOADER_SECONDS = 0.011
"""Seconds of a worker for a person: 384×288, the 4 GB jobs' augmentation, measured on
four photographs (benchmarks/plan_time.py)."""


@dataclass(frozen=True)
class StepTime:
    """The duration of a step or a batch.

    Attributes:
        tflop: Of its matrix products.
        floor: Seconds it takes at least.
        seconds: Seconds to expect.
        bound: What most of these are due to.
    """

    tflop: float
    floor: float
    seconds: float
    bound: str


def training_step(
    job: Job, use: DeviceUse, card: Card, dtype: torch.dtype, *, warmup: bool
) -> StepTime:
    """Return how long an optimizer step takes.

    Args:
        job: The job.
        use: The step's memory: its layout says what is computed twice, and what
            travels.
        card: Where it runs.
        dtype: What matrix products are computed in.
        warmup: Whether the head trains alone.
    """
    if job.streaming is None:
        recomputed = job.trained_blocks if job.with_cp and not warmup else 0
    else:
        recomputed = use.recomputed_blocks
    images = job.effective_batch
    work = images * training_work(job, warmup=warmup, recomputed=recomputed)
    trained = job.num_trained(warmup=warmup)
    floor = work.flop / card.speed(dtype)
    computing = _seconds(work, card, dtype)
    if job.streaming is None:
        # The optimizer is on the device: weights, gradients, moments.
        computing += 28 * trained / (card.memory_gb_s * 1e9)
        return _step(job, images, work, floor, dict(computing=computing))
    gradients = trained * getattr(torch, job.streaming.gradient_dtype).itemsize
    moments = job.streaming.moment_dtype
    moved = trained * (2 * _FLOAT + 2 * _MOMENT_BYTES[moments]) + 2 * gradients
    least = moved / (card.host_gb_s * 1e9)
    update = max(least, trained * _UPDATE_SECONDS[moments] / card.host_threads)
    if card.vram_mib is None:  # all in place
        times = dict(optimizer=update), dict(computing=computing)
        return _step(job, images, work, max(floor, least), *times)
    bus = card.bus_gb_s * 1e9
    there = _uploads(use, job.num_params, changed=trained) / bus
    back, down = _uploads(use, trained) / bus, gradients / bus
    forward = _seconds(images * person_work(job, flip=False), card, dtype)
    fetching = 'optimizer' if update > there else _WEIGHTS
    times = (
        {'computing': forward, fetching: update + there},
        {'computing': computing - forward, _WEIGHTS: back, _GRADIENTS: down},
    )
    return _step(job, images, work, max(floor, least, there + back, down), *times)


def prediction(
    job: Job, use: DeviceUse, card: Card, dtype: torch.dtype, *, flip: bool
) -> StepTime:
    """Return how long a batch of a validation or test takes; its size is ``use``'s."""
    images = use.step.batch
    work = images * person_work(job, flip=flip)
    floor = work.flop / card.speed(dtype)
    times = dict(computing=_seconds(work, card, dtype))
    if job.streaming is not None:
        # A flip test passes twice.
        up = (2 if flip else 1) * _uploads(use, job.num_params)
        times[_WEIGHTS] = up / (card.bus_gb_s * 1e9)
        floor = max(floor, times[_WEIGHTS])
    return _step(job, images, work, floor, times)


def _seconds(work: Work, card: Card, dtype: torch.dtype) -> float:
    return work.flop / card.speed(dtype) + work.passes / (card.memory_gb_s * 1e9)


def _step(
    job: Job, images: int, work: Work, floor: float, *stretches: dict
) -> StepTime:
    """Add up stretches of time, in each of which the longest of its parts counts."""
    loading = {'loading images': images * LOADER_SECONDS / max(job.workers, 1)}
    parts = Counter()
    for stretch in stretches if job.workers else (*stretches, loading):
        name = max(stretch, key=stretch.get)
        parts[name] += stretch[name]
    if sum(parts.values()) < sum(loading.values()):  # which is beside all of it
        parts = loading
    return StepTime(
        tflop=work.flop / 1e12,
        floor=floor,
        seconds=sum(parts.values()),
        bound=max(parts, key=parts.get),
    )


def _uploads(use: DeviceUse, needed: int, *, changed: int = 0) -> int:
    """Return the bytes of weights that travel for a sweep, at least.

    What lies in a slot already does not, unless it was changed since.
    """
    held = use.layout.slots * use.step.block_bytes
    return max(_FLOAT * needed - held, _FLOAT * changed)
