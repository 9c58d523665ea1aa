"""How long a job takes: what arithmetic and copies allow, and what to expect.

The *floor* of a step is the largest of four times that may run beside each other: its
matrix products at the card's sustained speed, the bytes to and from the device, and the
optimizer's bytes in host memory. Nothing that computes these numbers on this card ends
sooner.

The *estimate* adds what comes between the matrix products (norms, activations and sums,
at the speed of the card's memory), the optimizer on the host as it was measured, and
the loader. It is a computed figure all the same.
"""

from dataclasses import dataclass

import torch

from .arithmetic import Work, person_work, training_work
from .cards import Card
from .footprint import DeviceUse, all_parameters, trained_parameters
from .job import TrainingJob

_FLOAT = 4  # bytes
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
        bound: What these are due to.
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
    trained = trained_parameters(use.job, job)
    floors, times = _computing(work, card, dtype)
    if job.streaming is None:
        # The optimizer is on the device: weights, gradients, moments.
        times['computing'] += 28 * trained / (card.memory_gb_s * 1e9)
    else:
        down = trained * getattr(torch, job.streaming.gradient_dtype).itemsize
        _travel(floors, times, card, up=_uploads(use, trained), down=down)
        moments = job.streaming.moment_dtype
        moved = trained * (2 * _FLOAT + 2 * _MOMENT_BYTES[moments]) + 2 * down
        floors['optimizer'] = moved / (card.host_gb_s * 1e9)
        times['optimizer'] = max(
            floors['optimizer'], trained * _UPDATE_SECONDS[moments] / card.host_threads
        )
    _load(times, job, images)
    return _longest(work, floors, times)


def prediction(
    job: TrainingJob, use: DeviceUse, card: Card, dtype: torch.dtype, *, flip: bool
) -> StepTime:
    """Return how long a batch of a validation or test takes; its size is ``use``'s."""
    images = use.job.batch
    work = images * person_work(job, flip=flip)
    floors, times = _computing(work, card, dtype)
    if job.streaming is not None:
        # A flip test passes twice.
        up = (2 if flip else 1) * _uploads(use, 0)
        _travel(floors, times, card, up=up, down=0)
    _load(times, job, images)
    return _longest(work, floors, times)


def _computing(work: Work, card: Card, dtype: torch.dtype) -> tuple[dict, dict]:
    products = work.flop / card.speed(dtype)
    passes = work.passes / (card.memory_gb_s * 1e9)
    return dict(computing=products), dict(computing=products + passes)


def _travel(floors: dict, times: dict, card: Card, *, up: int, down: int) -> None:
    speed = card.bus_gb_s * 1e9
    for seconds in (floors, times):
        seconds['weights on their way'] = up / speed
        seconds['gradients on their way'] = down / speed


def _load(times: dict, job: TrainingJob, images: int) -> None:
    seconds = images * LOADER_SECONDS
    if job.workers:
        times['loading images'] = seconds / job.workers
    else:  # nothing runs beside it
        times['computing'] += seconds


def _longest(work: Work, floors: dict, times: dict) -> StepTime:
    bound = max(times, key=times.get)
    return StepTime(
        tflop=work.flop / 1e12,
        floor=max(floors.values()),
        seconds=times[bound],
        bound=bound,
    )


def _uploads(use: DeviceUse, trained: int) -> int:
    """Return the bytes of weights that go to the device, at least.

    Every weight is needed once on the way up, and those that train once more on the
    way down. What lies in a slot already does not travel, unless it was changed since.
    """
    resident = use.layout.slots * use.job.block_bytes
    once = _FLOAT * (all_parameters(use.job) + trained) - 2 * resident
    return max(once, _FLOAT * trained, 0)
