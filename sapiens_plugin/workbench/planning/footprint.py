"""How much memory and disk a job takes.

Streamed jobs are counted by :mod:`sapiens_plugin.core.streaming.memory`, as they count
themselves. For the others, which hold everything on the GPU, a closed form stands
around the same measured stages.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.core.streaming.moments import moment_bytes

from .job import TrainingJob

CONTEXT = 450 * MIB
"""A CUDA context: users report 290 to 450 MB, by driver and card."""

_PROGRAM = int(0.45e9)  # bytes of a training process without annotations (measured)
_ANNOTATION = 5_500  # bytes that a person of the annotations adds (measured)

_FRAGMENTATION = 0.1  # of all else, where no layout is planned to the MiB
_SHARE_OF_FREE = 0.9  # as in StreamedTopdownPoseEstimator
_FLOAT = 4  # bytes

# Describes a pass of a job to the memory model: in the warm-up or after it, a training
# step or a test batch, computing in some type. It builds the model, without weights.
Measure = Callable[..., memory.Job]


def program_memory(persons: int) -> int:
    """Return the bytes of the training process itself.

    Args:
        persons: Those of the annotations that it reads: 1.3 GB with COCO's.
    """
    return _PROGRAM + persons * _ANNOTATION


@dataclass(frozen=True)
class DeviceUse:
    """The device memory of a pass.

    Attributes:
        parts: Bytes by name.
        layout: How a streamed pass uses them, else None.
        job: The pass, as the memory model sees it.
    """

    parts: dict[str, int]
    layout: memory.Layout | None
    job: memory.Job

    @property
    def total(self) -> int:
        """The sum of all parts, a GPU's context included."""
        return sum(self.parts.values())

    @property
    def recomputed_blocks(self) -> int:
        """Blocks of a streamed training step that are computed again in backward."""
        if self.layout is None:
            return 0
        blocks = self.job.trainable_blocks
        last = blocks % self.layout.spacing or self.layout.spacing
        return max(blocks - last, 0)


def device_use(
    job: TrainingJob,
    measure: Measure,
    *,
    warmup: bool,
    training: bool,
    dtype: torch.dtype,
    vram_mib: int | None,
    capability: tuple[int, int] | None = None,
) -> DeviceUse:
    """Return what a training step or a test batch takes of the device.

    Args:
        job: The job.
        measure: Measures its stages.
        warmup: Whether the head trains alone.
        training: A step, or else a test batch.
        dtype: What matrix products are computed in.
        vram_mib: What the card has, for streamed jobs without a budget; None: a CPU.
        capability: The card's, for cuBLAS's workspaces; None: not known.

    Raises:
        InputError: A streamed job's budget is too small.
    """
    seen = replace(
        measure(job, warmup=warmup, training=training, dtype=dtype),
        workspace_bytes=memory.workspace_bytes(capability),
    )
    context = 0 if vram_mib is None else CONTEXT
    if job.streaming is None:
        parts = dict(context=context) | _resident(job, seen, training, dtype)
        return DeviceUse(parts, None, seen)
    budget = job.streaming.vram_budget
    if budget is None and vram_mib is not None:
        budget = int(_SHARE_OF_FREE * (vram_mib - CONTEXT // MIB))
    if budget is None:  # a CPU, where weights stay in place
        layout = memory.Layout(spacing=1, slots=seen.num_blocks)
    else:
        layout = memory.plan_layout(seen, budget_mib=budget, training=training)
    predict = memory.training_memory if training else memory.inference_memory
    use = predict(seen, layout)
    parts = dict(
        context=context,
        weights=use.weights,
        gradients=use.gradients + use.leaving_gradients,
        boundaries=use.boundaries,
        working_set=use.inputs + use.activations + use.work,
        workspace=use.workspace + use.fragmentation,
    )
    return DeviceUse(parts, layout, seen)


def trained_parameters(seen: memory.Job, job: TrainingJob) -> int:
    """Return how many parameters take gradients in a pass."""
    blocks = max(seen.trainable_blocks, 0) * seen.block_bytes
    stem = seen.stem_bytes if seen.first_trainable == 0 else 0
    # The last norm trains with the backbone: not in the warm-up, nor where all of the
    # backbone is frozen.
    alone = seen.first_trainable > seen.num_blocks
    norm = 2 * job.arch.embed_dims * _FLOAT if alone else 0
    return (stem + blocks + seen.tail_bytes - norm) // _FLOAT


def all_parameters(seen: memory.Job) -> int:
    """Return how many parameters the model has."""
    blocks = seen.num_blocks * seen.block_bytes
    return (seen.stem_bytes + blocks + seen.tail_bytes) // _FLOAT


def _resident(
    job: TrainingJob, seen: memory.Job, training: bool, dtype: torch.dtype
) -> dict[str, int]:
    """Count a pass with everything on the device; AdamW, perhaps under autocast."""
    total, trained = all_parameters(seen), trained_parameters(seen, job)
    blocks = seen.trainable_blocks if training else 0
    tokens = seen.batch * seen.token_bytes
    gradients = moments = boundaries = update = 0
    if not training:
        work = max(seen.stem.forward, seen.block.forward, seen.tail.forward)
    else:
        gradients, moments = _FLOAT * trained, 2 * _FLOAT * trained
        update = _FLOAT * trained  # AdamW's roots, of all parameters at once
        boundaries = blocks * (tokens if job.with_cp else seen.block.saved)
        last = seen.block.peak - (0 if job.with_cp else seen.block.saved)
        work = max(seen.tail.peak, last if blocks else seen.block.forward)
        if job.with_cp and dtype != torch.float32:
            boundaries += dtype.itemsize * blocks * seen.block_bytes // _FLOAT
    # The update comes when the activations are gone.
    working_set = seen.batch * seen.input_bytes + 2 * tokens + work
    parts = dict(
        weights=_FLOAT * total,
        gradients=gradients,
        moments=moments,
        boundaries=boundaries,
        working_set=max(working_set, update - boundaries),
        workspace=seen.workspace_bytes,
    )
    gaps = int(_FRAGMENTATION * (boundaries + parts['working_set']))
    return parts | dict(workspace=seen.workspace_bytes + gaps)


def host_use(job: TrainingJob, use: DeviceUse, *, on_cpu: bool) -> dict[str, int]:
    """Return what training takes of the host's memory, bytes by name.

    Args:
        job: The job.
        use: Its larger phase.
        on_cpu: Whether the host computes as well, and so holds what a GPU would.
    """
    program = program_memory(job.persons.train + job.persons.val)
    parts = dict(program=program) | job.worker_memory
    total = all_parameters(use.job)
    if job.streaming is None:
        parts['weights'] = _FLOAT * total  # as loaded, before they go to the GPU
        if on_cpu:
            parts |= use.parts
        return parts
    host = memory.host_memory(
        num_params=total,
        num_trainable=trained_parameters(use.job, job),
        gradient_dtype=getattr(torch, job.streaming.gradient_dtype),
        moment_dtype=job.streaming.moment_dtype,
        boundary_bytes=memory.host_boundary_bytes(use.job, use.layout),
    )
    parts |= vars(host)
    if on_cpu:
        # Weights and gradients have no copies.
        own = [use.parts[name] for name in use.parts.keys() - {'weights', 'gradients'}]
        parts['what_a_gpu_would_hold'] = sum(own)
    return parts


def disk_use(job: TrainingJob, use: DeviceUse) -> dict[str, int]:
    """Return what checkpoints take of the disk at most, bytes by name."""
    weights = _FLOAT * all_parameters(use.job)
    dtype = job.streaming.moment_dtype if job.streaming else 'float32'
    moments = moment_bytes(trained_parameters(use.job, job), dtype)
    return job.checkpoints.disk(
        max_epochs=job.max_epochs, weights=weights, full=weights + moments
    )
