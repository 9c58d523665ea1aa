"""How long a job takes: what arithmetic and copies allow, and what to expect.

The *floor* of a step is the largest of four times that may run beside each other: its
matrix products at the card's sustained speed, the bytes to and from the device, and the
optimizer's bytes in host memory. Nothing that computes these numbers on this card ends
sooner.

The *estimate* adds what comes between the matrix products (norms, activations and sums,
at the speed of the card's memory), the optimizer on the host as it was measured, and
the loader. It also minds which of these run beside each other. The optimizer updates a
block when the next forward sweep fetches its weights, in the thread that sends them: it
hides behind that sweep alone, and behind nothing where weights stay in place, on a CPU.
It is a computed figure all the same.
"""

from dataclasses import dataclass

import torch

from .arithmetic import Work, person_work, training_work
from .cards import Card
from .footprint import DeviceUse, all_parameters, trained_parameters
from .job import TrainingJob

_FLOAT = 4  # bytes
_WEIGHTS, _GRADIENTS = 'weights on their way', 'gradients on their way'
_LOADING = 'loading images'
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
    job: TrainingJob, use: DeviceUse, card: Card, dtype: torch.dtype, *, warmup: bool
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
    forward = images * person_work(job, flip=False)
    trained = trained_parameters(use.job, job)
    floors = dict(computing=work.flop / card.speed(dtype))
    computing = _seconds(work, card, dtype)
    if job.streaming is None:
        # The optimizer is on the device: weights, gradients, moments.
        computing += 28 * trained / (card.memory_gb_s * 1e9)
        return _step(work, floors, [dict(computing=computing)], job, images)
    gradients = trained * getattr(torch, job.streaming.gradient_dtype).itemsize
    moments = job.streaming.moment_dtype
    moved = trained * (2 * _FLOAT + 2 * _MOMENT_BYTES[moments]) + 2 * gradients
    floors['optimizer'] = moved / (card.host_gb_s * 1e9)
    update = max(
        floors['optimizer'], trained * _UPDATE_SECONDS[moments] / card.host_threads
    )
    if card.vram_mib is None and job.streaming.vram_budget is None:  # all in place
        times = [dict(optimizer=update), dict(computing=computing)]
        return _step(work, floors, times, job, images)
    bus = card.bus_gb_s * 1e9
    there = _uploads(use, trained) / bus
    # What lies in a slot at the turn need not come again.
    back = max(_FLOAT * trained - _resident(use), 0) / bus
    down = gradients / bus
    floors |= {_WEIGHTS: there + back, _GRADIENTS: down}
    first = _seconds(forward, card, dtype)
    fetching = 'optimizer' if update > there else _WEIGHTS
    times = [
        {'computing': first, fetching: update + there},
        {'computing': computing - first, _WEIGHTS: back, _GRADIENTS: down},
    ]
    return _step(work, floors, times, job, images)


def prediction(
    job: TrainingJob, use: DeviceUse, card: Card, dtype: torch.dtype, *, flip: bool
) -> StepTime:
    """Return how long a batch of a validation or test takes; its size is ``use``'s."""
    images = use.job.batch
    work = images * person_work(job, flip=flip)
    floors = dict(computing=work.flop / card.speed(dtype))
    times = dict(computing=_seconds(work, card, dtype))
    if job.streaming is not None:
        # A flip test passes twice.
        up = (2 if flip else 1) * _uploads(use, 0) / (card.bus_gb_s * 1e9)
        floors[_WEIGHTS] = times[_WEIGHTS] = up
    return _step(work, floors, [times], job, images)


def _seconds(work: Work, card: Card, dtype: torch.dtype) -> float:
    return work.flop / card.speed(dtype) + work.passes / (card.memory_gb_s * 1e9)


def _step(
    work: Work, floors: dict, stretches: list[dict], job: TrainingJob, images: int
) -> StepTime:
    """Add up stretches of time, in each of which the longest of its parts counts."""
    loading = images * LOADER_SECONDS
    if not job.workers:  # nothing runs beside it
        stretches = [*stretches, {_LOADING: loading}]
    parts: dict[str, float] = {}
    for stretch in stretches:
        name = max(stretch, key=stretch.get)
        parts[name] = parts.get(name, 0) + stretch[name]
    seconds = sum(parts.values())
    if job.workers and loading / job.workers > seconds:
        seconds = loading / job.workers
        parts = {_LOADING: seconds}
    return StepTime(
        tflop=work.flop / 1e12,
        floor=max(floors.values()),
        seconds=seconds,
        bound=max(parts, key=parts.get),
    )


def _resident(use: DeviceUse) -> int:
    return use.layout.slots * use.job.block_bytes


def _uploads(use: DeviceUse, trained: int) -> int:
    """Return the bytes of weights that a forward sweep has sent, at least.

    What lies in a slot already does not travel, unless it was changed since.
    """
    return max(_FLOAT * all_parameters(use.job) - _resident(use), _FLOAT * trained)
