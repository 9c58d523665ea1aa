"""How much memory and disk a job takes.

Streamed jobs are counted by :mod:`sapiens_plugin.core.streaming.memory`, as they count
themselves. For the others, which hold everything on the GPU, a closed form stands
around the same measured stages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.workbench.job.job import Job

CONTEXT = 450 * MIB
"""A CUDA context: users report 290 to 450 MB, by driver and card."""

_PROGRAM = int(0.45e9)  # bytes of a training process without annotations (measured)
_ANNOTATION = 5_500  # bytes that a person of the annotations adds (measured)

_FRAGMENTATION = 0.1  # of all else, where no layout is planned to the MiB
_FLOAT = 4  # bytes

# Describes a pass of a job to the memory model: in the warm-up or after it, a training
# step or a test batch, computing in some type. It builds the model, without weights.
Measure = Callable[..., memory.Step]


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
        step: The pass, as the memory model sees it.
    """

    parts: dict[str, int]
    layout: memory.Layout | None
    step: memory.Step

    @property
    def total(self) -> int:
        """The sum of all parts, a GPU's context included."""
        return sum(self.parts.values())

    @property
    def host_boundaries(self) -> int:
        """Bytes of the boundaries that a streamed pass keeps in host memory."""
        if self.layout is None:
            return 0
        return memory.host_boundary_bytes(self.step, self.layout)

    @property
    def recomputed_blocks(self) -> int:
        """Blocks of a streamed training step that are computed again in backward."""
        if self.layout is None:
            return 0
        blocks = self.step.trainable_blocks
        last = blocks % self.layout.spacing or self.layout.spacing
        return max(blocks - last, 0)


def with_all_params(job: Job, step: memory.Step) -> Job:
    """Return a job that knows of the parameters of its neck, or of another head."""
    built = step.stem_bytes + step.num_blocks * step.block_bytes + step.tail_bytes
    return job.changed(other_params=built // _FLOAT - job.num_params + job.other_params)


def device_use(
    job: Job,
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
    step = replace(
        measure(job, warmup=warmup, training=training, dtype=dtype),
        workspace_bytes=memory.workspace_bytes(capability),
    )
    context = 0 if vram_mib is None else CONTEXT
    if job.streaming is None:
        job = with_all_params(job, step)
        parts = _resident(job, step, warmup=warmup, training=training, dtype=dtype)
        return DeviceUse(dict(context=context) | parts, None, step)
    budget = job.streaming.vram_budget
    if budget is None and vram_mib is not None:
        budget = int(memory.SHARE_OF_FREE * (vram_mib - CONTEXT // MIB))
    if budget is None:  # a CPU, where weights stay in place
        layout = memory.Layout(spacing=1, slots=step.num_blocks)
    else:
        layout = memory.plan_layout(step, budget_mib=budget, training=training)
    predict = memory.training_memory if training else memory.inference_memory
    use = predict(step, layout)
    parts = dict(
        context=context,
        weights=use.weights,
        gradients=use.gradients + use.leaving_gradients,
        boundaries=use.boundaries,
        working_set=use.inputs + use.activations + use.work,
        workspace=use.workspace + use.fragmentation,
    )
    return DeviceUse(parts, layout, step)


def _resident(
    job: Job, step: memory.Step, *, warmup: bool, training: bool, dtype: torch.dtype
) -> dict[str, int]:
    """Count a pass with everything on the device; AdamW, perhaps under autocast."""
    trained = job.num_trained(warmup=warmup)
    blocks = step.trainable_blocks if training else 0
    tokens = step.batch * step.token_bytes
    gradients = moments = boundaries = update = 0
    if not training:
        work = max(step.stem.forward, step.block.forward, step.tail.forward)
    else:
        gradients, moments = _FLOAT * trained, 2 * _FLOAT * trained
        update = _FLOAT * trained  # AdamW's roots, of all parameters at once
        boundaries = blocks * (tokens if job.with_cp else step.block.saved)
        last = step.block.peak - (0 if job.with_cp else step.block.saved)
        work = max(step.tail.peak, last if blocks else step.block.forward)
        if job.with_cp and dtype != torch.float32:
            boundaries += dtype.itemsize * blocks * step.block_bytes // _FLOAT
    # The update comes when the activations are gone.
    working_set = step.batch * step.input_bytes + 2 * tokens + work
    parts = dict(
        weights=_FLOAT * job.num_params,
        gradients=gradients,
        moments=moments,
        boundaries=boundaries,
        working_set=max(working_set, update - boundaries),
        workspace=step.workspace_bytes,
    )
    gaps = int(_FRAGMENTATION * (boundaries + parts['working_set']))
    return parts | dict(workspace=step.workspace_bytes + gaps)


def host_use(
    job: Job,
    *,
    persons: int,
    warmup: bool = False,
    boundary_bytes: int = 0,
    computing: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return what training takes of the host's memory, bytes by name.

    Args:
        job: The job.
        persons: Those of the annotations that it reads.
        warmup: Whether the head trains alone to the end.
        boundary_bytes: Activations between blocks that come to the host.
        computing: What a GPU would hold, where the host computes as well.
    """
    parts = dict(program=program_memory(persons)) | job.worker_memory
    if job.streaming is None:
        parts['weights'] = _FLOAT * job.num_params  # before they go to the GPU
        return parts | (computing or {})
    account = host_account(job, warmup=warmup, boundary_bytes=boundary_bytes)
    parts |= vars(memory.host_memory(**account))
    if computing is not None:
        # Weights and gradients have no copies.
        own = computing.keys() - {'weights', 'gradients'}
        parts['what_a_gpu_would_hold'] = sum(computing[name] for name in own)
    return parts


def host_account(
    job: Job, *, warmup: bool = False, boundary_bytes: int = 0
) -> dict[str, object]:
    """Return what :func:`.memory.host_memory` takes of a streamed job."""
    return dict(
        num_params=job.num_params,
        num_trainable=job.num_trained(warmup=warmup),
        gradient_dtype=getattr(torch, job.streaming.gradient_dtype),
        moment_dtype=job.streaming.moment_dtype,
        boundary_bytes=boundary_bytes,
    )
