"""Does this machine do: its GPU, its memory, its processors?"""

import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch

from sapiens_plugin.core.coco.layout import TRAIN, VAL
from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.core.streaming.modes import CHOICES
from sapiens_plugin.core.streaming.precision import capability_of, choose_precision
from sapiens_plugin.core.utils.amounts import size
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.job import Job
from sapiens_plugin.workbench.planning.footprint import CONTEXT, host_account, host_use

from .gpu_probe import (
    CUDA_BUILD,
    MIN_DRIVER,
    NvidiaGpu,
    cuda_fault,
    cuda_torch,
    driver_fault,
    nvidia_gpus,
)
from .setup_report import Check, Commands

_SHARED_MEMORY = Path('/dev/shm')  # where loaders of PyTorch hand batches over on Linux
_PERSON_BYTES = 1_590  # that COCO's annotation files have for each person of a job
_FLOAT = 4  # bytes
_BESIDE_IT = f"CUDA's context {CONTEXT // MIB} beside it (computed)"
_WITHOUT_GPU = (
    'none found. Without one: the demo, the tests, planning, bringing and checking data'
)


def check_hardware(
    job: Job | None,
    commands: Commands,
    least_memory: Callable[..., int] | None = None,
) -> list[Check]:
    """Look at the GPU, at both memories, and at the processors.

    Args:
        job: The job, or None.
        commands: Those of this checkout.
        least_memory: Tells what the job needs of a GPU at least, in MiB, by what it
            computes in and the GPU's capability; needed with a job. Slow, so called
            only where there is a GPU or a budget to compare with.
    """
    gpus = nvidia_gpus()
    checks = check_gpu(gpus, commands)
    works = not any(check.status == 'fail' for check in checks) and _cuda_is_there()
    if works:
        free, total = (size // MIB for size in torch.cuda.mem_get_info(0))
    elif gpus:
        free, total = gpus[0].free_mib, gpus[0].total_mib
    else:
        free, total = None, None
    device = torch.device('cuda' if works else 'cpu')
    precision, dtype = check_precision(device, job)
    if job is None or dtype is None:
        if free is not None:
            checks.append(Check('GPU memory', 'ok', _free(free, total)))
    elif free is not None or _has_budget(job):
        try:
            least = least_memory(dtype, capability_of(device))
        except InputError as error:
            checks.append(Check('GPU memory', 'fail', str(error)))
        else:
            checks.append(check_gpu_memory(free, total, least, job, commands))
    checks.append(precision)
    checks.append(
        check_host_memory(
            psutil.virtual_memory().available, job, commands, on_gpu=works
        )
    )
    checks.append(check_workers(num_cores(), job, commands))
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        checks.append(check_shared_memory(free, job, commands))
    return checks


def _has_budget(job: Job) -> bool:
    return job.streaming is not None and job.streaming.vram_budget is not None


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_gpu(gpus: list[NvidiaGpu], commands: Commands) -> list[Check]:
    """Check that PyTorch can use the GPU, if there is one.

    Args:
        gpus: What the driver knows.
        commands: Those of this checkout.
    """
    version = torch.__version__
    build = f'built for CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA'
    pytorch = f'{version} ({build})'
    if not gpus and not _cuda_is_there():
        fault = driver_fault()
        if fault is None:
            gpu = Check('GPU', 'warn', _WITHOUT_GPU)
        else:
            mend = 'reinstall the driver: https://www.nvidia.com/drivers'
            gpu = Check('GPU', 'warn', f'its driver does not answer: {fault}', mend)
        return [gpu, Check('PyTorch', 'ok', f'{pytorch}, computing on the CPU')]

    if gpus:
        more = f' and {len(gpus) - 1} more' if gpus[1:] else ''
        name = f'{gpus[0].name}, driver {gpus[0].driver}{more}'
    else:  # a container without the driver's tool
        name = torch.cuda.get_device_name(0)
    gpu = Check('GPU', 'ok', name)
    if torch.version.cuda is None and not _cuda_is_there():
        detail = f'{version} was built without CUDA: the GPU would stay idle'
        mend = commands.pip(*cuda_torch(version))
        return [gpu, Check('PyTorch', 'fail', detail, mend)]
    fault = cuda_fault()
    if fault is None:
        return [gpu, Check('PyTorch', 'ok', pytorch)]
    return [
        gpu,
        Check(
            'PyTorch',
            'fail',
            f'{pytorch} cannot use the GPU: {fault}',
            _way_to_cuda(gpus, commands),
        ),
    ]


def _cuda_is_there() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # an old driver is warned of, and reported here
        return torch.cuda.is_available()


def _way_to_cuda(gpus: list[NvidiaGpu], commands: Commands) -> str:
    if 'CUDA_VISIBLE_DEVICES' in os.environ:
        return (
            'correct CUDA_VISIBLE_DEVICES='
            f'{os.environ["CUDA_VISIBLE_DEVICES"]}, or unset it'
        )
    major = gpus[0].driver.partition('.')[0] if gpus else ''
    if major.isdecimal() and int(major) < MIN_DRIVER:
        return (
            f'install driver {MIN_DRIVER} or newer, which {CUDA_BUILD} needs: '
            'https://www.nvidia.com/drivers'
        )
    return commands.pip(
        '--force-reinstall', '--no-deps', *cuda_torch(torch.__version__)
    )


def check_gpu_memory(
    free: int | None,
    total: int | None,
    least: int,
    job: Job,
    commands: Commands,
) -> Check:
    """Compare a GPU's free memory, and a budget of it, with what the job needs.

    Args:
        free: MiB that are free beside the context of CUDA; None without a GPU.
        total: MiB in all; None without a GPU.
        least: MiB that the job needs.
        job: The job; without a GPU, one with a budget.
        commands: Those of this checkout.
    """
    found = '' if free is None else f'{_free(free, total)}; '
    if job.streaming is None:
        detail = f'{found}the job takes {least:,} MiB, {_BESIDE_IT}'
        if least <= free:
            return Check('GPU memory', 'ok', detail)
        mend = 'take a config that streams: configs/sapiens1b_gtx1650.py'
        return Check('GPU memory', 'fail', detail, mend)

    usable = None if free is None else int(memory.SHARE_OF_FREE * free)
    budget = job.streaming.vram_budget
    if budget is None:
        budget, source = usable, f'{memory.SHARE_OF_FREE:.0%} of what is free'
    else:
        source = 'model.vram_budget'
    detail = (
        f'{found}the job needs {least:,} MiB at least and uses up to {budget:,} '
        f'({source}), {_BESIDE_IT}'
    )
    if least <= budget and (free is None or budget <= free):
        return Check('GPU memory', 'ok', detail)
    if free is not None and least > free:
        mend = (
            'close other programs that use it, or need less: a smaller '
            'model.micro_batch, image size or model'
        )
        return Check('GPU memory', 'fail', detail, mend)
    offered = least if budget < least else max(least, usable)
    mend = commands.train(job, f'model.vram_budget={offered}')
    if budget >= least:
        mend = f'close other programs that use it, or: {mend}'
    return Check('GPU memory', 'fail', detail, mend)


def _free(free: int, total: int) -> str:
    return f'{free:,} of {total:,} MiB free'


def check_precision(
    device: torch.device, job: Job | None
) -> tuple[Check, torch.dtype | None]:
    """Say what matrix products will be computed in, and why.

    On a GPU this is measured, as the job will do it.

    Returns:
        What was found, and the type; None where the job's own does not work.
    """
    requested = 'auto' if job is None else job.precision
    if (
        device.type == 'cpu'
        and requested in CHOICES['precision']
        and requested != 'float32'
    ):
        detail = f'{requested}; what suits a GPU is measured on one'
        dtype = torch.float32 if requested == 'auto' else getattr(torch, requested)
        return Check('precision', 'ok', detail), dtype
    try:
        chosen = choose_precision(device, requested)
    except InputError as error:
        setting = 'model.precision' if job.streaming else 'optim_wrapper.dtype'
        return Check('precision', 'fail', str(error), f'change {setting}'), None
    return Check('precision', 'ok', chosen.reason.rstrip('.')), chosen.dtype


def check_host_memory(
    available: int, job: Job | None, commands: Commands, *, on_gpu: bool
) -> Check:
    """Compare free host memory with what training keeps in it.

    Args:
        available: Bytes that can be had.
        job: The job, or None.
        commands: Those of this checkout.
        on_gpu: Whether a GPU computes; else its share lies in host memory as well.
    """
    found = f'{size(available)} free'
    if job is None:
        return Check('host memory', 'ok', found)
    use = partial(host_use, job, persons=_persons(job))
    least = most = sum(use().values())
    for_gpu = 0
    if job.streaming is not None:
        most = sum(use(boundary_bytes=_boundary_bytes(job)).values())
        # Without a GPU they are in host memory in any case.
        least = least if on_gpu else most
    elif not on_gpu:
        moments = 2 * _FLOAT * job.num_trained()
        held = dict(gradients=_FLOAT * job.num_trained(), moments=moments)
        for_gpu = sum(use(computing=held).values()) - least
    detail = f'{found}; the job takes {size(least)}'
    if most > least:
        detail += f' to {size(most)}, by how the GPU lays it out'
    if for_gpu:
        detail += (
            f', and {size(for_gpu)} before activations because no GPU holds that here'
        )
    detail += f'; {size(memory.HOST_RESERVE)} should stay free'
    available -= for_gpu + memory.HOST_RESERVE
    if most <= available:
        return Check('host memory', 'ok', detail)
    if job.streaming is None:
        mend = 'close other programs, or take a smaller model'
        return Check('host memory', 'fail', detail, mend)
    if least <= available:
        detail += '; the job decides before it loads anything'
        return Check('host memory', 'warn', detail)
    account = host_account(job)
    beside = least - memory.host_memory(**account).total
    if setting := memory.narrower_setting(available - beside, **account):
        mend = commands.train(job, 'model.{}={}'.format(*setting))
    else:
        mend = (
            'close other programs, train fewer layers (model.backbone.frozen_stages), '
            'or take a smaller model'
        )
    return Check('host memory', 'fail', detail, mend)


def _persons(job: Job) -> int:
    """Return the persons of the annotations that training reads, about: by their size.

    COCO's, where a file is not there yet.
    """
    parts = dict(train=TRAIN, val=VAL)
    files = {s.annotations: parts[s.split] for s in job.sources if s.split in parts}
    return sum(
        path.stat().st_size // _PERSON_BYTES if path.is_file() else part.persons
        for path, part in files.items()
    )


def _boundary_bytes(job: Job) -> int:
    """Return what the activations between all blocks of a streamed step take.

    How many of them are kept, and where, follows from the GPU as the job starts.
    """
    tokens = job.patches + job.extra_tokens
    width = getattr(torch, job.streaming.boundary_dtype).itemsize
    return job.arch.num_layers * job.batch * tokens * job.arch.embed_dims * width


def check_workers(cores: int, job: Job | None, commands: Commands) -> Check:
    """Compare loader processes with the cores that this process may use."""
    found = 'one core' if cores == 1 else f'{cores} cores'
    if job is None:
        return Check('processors', 'ok', found)
    split = max(job.loading, key=job.loading.get)
    workers = job.loading[split]
    detail = f'{found}; the {split} loader starts {workers} worker'
    detail += 's' if workers > 1 else ''
    if workers <= cores:
        return Check('processors', 'ok', detail)
    mend = commands.train(job, f'{split}_dataloader.num_workers={cores}')
    return Check('processors', 'warn', detail, mend)


def check_shared_memory(free: int, job: Job | None, commands: Commands) -> Check:
    """Compare shared memory with what loader processes put there.

    Args:
        free: Bytes that are free.
        job: The job, or None.
        commands: Those of this checkout.
    """
    found = f'{size(free)} free in {_SHARED_MEMORY}'
    busy = [split for split, workers in job.loading.items() if workers] if job else []
    if not busy:
        return Check('shared memory', 'ok', found)
    split = max(busy, key=job.shared_bytes)
    needed = job.shared_bytes(split)
    detail = f'{found}; the {split} loader fills up to {size(needed)}'
    if needed <= free:
        return Check('shared memory', 'ok', detail)
    mend = commands.train(job, f'{split}_dataloader.num_workers=0')
    return Check(
        'shared memory', 'fail', detail, f'docker run --shm-size=1g …, or: {mend}'
    )
