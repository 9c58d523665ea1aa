"""The GPU memory that a job cannot do without."""

from bisect import bisect_left
from dataclasses import replace

import torch

from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.job import Job
from sapiens_plugin.workbench.planning.footprint import Measure, device_use

_LIMIT = 2**20  # MiB; no GPU has that much


def least_memory(
    job: Job,
    measure: Measure,
    dtype: torch.dtype,
    capability: tuple[int, int] | None = None,
) -> int:
    """Return what training and validating need of a GPU at least, in MiB.

    CUDA's own context comes on top. Of a streamed job this is the smallest
    ``vram_budget`` that works, of another one all that it takes.

    Args:
        job: The job; its own budget plays no part.
        measure: Describes its passes to the memory model.
        dtype: What matrix products are computed in.
        capability: The GPU's; None: not known.
    """
    warmup = job.warmup_epochs
    passes = [(job.changed(test_batch=job.val_batch), False, False)]
    if warmup:
        passes.append((job, True, True))
    if job.max_epochs is None or warmup < job.max_epochs:
        passes.append((job, False, True))

    def use(job: Job, warmup: bool, training: bool) -> int:
        found = device_use(
            *(job, measure),
            **dict(warmup=warmup, training=training, dtype=dtype),
            **dict(vram_mib=None, capability=capability),
        )
        return -(-found.total // MIB)

    if job.streaming is None:
        return max(use(*each) for each in passes)

    def works(budget: int) -> bool:
        streaming = replace(job.streaming, vram_budget=budget)
        try:
            for each, *phase in passes:
                use(each.changed(streaming=streaming), *phase)
        except InputError:
            return False
        return True

    return bisect_left(range(_LIMIT), True, lo=1, key=works)
