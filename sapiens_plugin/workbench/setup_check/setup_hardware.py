"""Does this machine do: its GPU, its memory, its processors?"""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.core.streaming.precision import (
    CHOICES,
    capability_of,
    choose_precision,
)
from sapiens_plugin.core.utils.amounts import size
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.planning.footprint import CONTEXT, program_memory

from .gpu_probe import (
    CUDA_BUILD,
    MIN_DRIVER,
    NvidiaGpu,
    cuda_fault,
    cuda_torch,
    driver_fault,
    nvidia_gpus,
)
from .setup_job import SetupJob
from .setup_report import Check, Commands

_SHARED_MEMORY = Path('/dev/shm')  # where loaders of PyTorch hand batches over on Linux
_RESERVE = int(0.5 * 2**30)  # left to the rest of the system, as StreamingHook does
_SHARE_OF_FREE = 0.9  # as in StreamedTopdownPoseEstimator
_BESIDE_IT = f"CUDA's context {CONTEXT // MIB} beside it (computed)"
_WITHOUT_GPU = (
    'none found. Without one: the demo, the tests, planning, bringing and checking data'
)


def check_hardware(
    job: SetupJob | None,
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


def _has_budget(job: SetupJob) -> bool:
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
    job: SetupJob,
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

    usable = None if free is None else int(_SHARE_OF_FREE * free)
    budget = job.streaming.vram_budget
    if budget is None:
        budget, source = usable, f'{_SHARE_OF_FREE:.0%} of what is free'
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
    mend = job.train_command(commands, f'model.vram_budget={offered}')
    if budget >= least:
        mend = f'close other programs that use it, or: {mend}'
    return Check('GPU memory', 'fail', detail, mend)


def _free(free: int, total: int) -> str:
    return f'{free:,} of {total:,} MiB free'


def check_precision(
    device: torch.device, job: SetupJob | None
) -> tuple[Check, torch.dtype | None]:
    """Say what matrix products will be computed in, and why.

    On a GPU this is measured, as the job will do it.

    Returns:
        What was found, and the type; None where the job's own does not work.
    """
    requested = 'auto' if job is None else job.precision
    if device.type == 'cpu' and requested in CHOICES and requested != 'float32':
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
    available: int, job: SetupJob | None, commands: Commands, *, on_gpu: bool
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
    program = program_memory(job.persons) + job.worker_memory
    for_gpu = 0
    if job.streaming is None:
        least = most = program + 4 * job.num_params
        if not on_gpu:
            for_gpu = job.resident_bytes - 4 * job.num_params
    else:
        boundaries = job.streamed_memory(boundary_bytes=job.boundary_bytes)
        most = program + boundaries.total
        # Without a GPU they are in host memory in any case.
        least = program + job.streamed_memory().total if on_gpu else most
    detail = f'{found}; the job takes {size(least)}'
    if most > least:
        detail += f' to {size(most)}, by how the GPU lays it out'
    if for_gpu:
        detail += (
            f', and {size(for_gpu)} before activations because no GPU holds that here'
        )
    detail += f'; {size(_RESERVE)} should stay free'
    beside = for_gpu + _RESERVE
    if most + beside <= available:
        return Check('host memory', 'ok', detail)
    if job.streaming is None:
        mend = 'close other programs, or take a smaller model'
        return Check('host memory', 'fail', detail, mend)
    if least + beside <= available:
        detail += '; the job decides before it loads anything'
        return Check('host memory', 'warn', detail)
    others = least - job.streamed_memory().total
    mend = _narrower(available - beside - others, job, commands)
    return Check('host memory', 'fail', detail, mend)


def _narrower(available: int, job: SetupJob, commands: Commands) -> str:
    """Name the widest setting that fits, as StreamingHook does."""
    for setting, dtypes in (
        ('model.moment_dtype=bfloat16', dict(moment_dtype='bfloat16')),
        ('model.moment_dtype=int8', dict(moment_dtype='int8')),
        ('model.mode=compact', dict(moment_dtype='int8', gradient_dtype='bfloat16')),
    ):
        if job.streamed_memory(**dtypes).total <= available:
            return job.train_command(commands, setting)
    return (
        'close other programs, train fewer layers (model.backbone.frozen_stages), or '
        'take a smaller model'
    )


def check_workers(cores: int, job: SetupJob | None, commands: Commands) -> Check:
    """Compare loader processes with the cores that this process may use."""
    found = 'one core' if cores == 1 else f'{cores} cores'
    if job is None or not job.loaders:
        return Check('processors', 'ok', found)
    loader = max(job.loaders, key=lambda loader: loader.workers)
    detail = f'{found}; the {loader.split} loader starts {loader.workers} worker'
    detail += 's' if loader.workers > 1 else ''
    if loader.workers <= cores:
        return Check('processors', 'ok', detail)
    option = f'{loader.split}_dataloader.num_workers={cores}'
    mend = job.train_command(commands, option)
    return Check('processors', 'warn', detail, mend)


def check_shared_memory(free: int, job: SetupJob | None, commands: Commands) -> Check:
    """Compare shared memory with what loader processes put there.

    Args:
        free: Bytes that are free.
        job: The job, or None.
        commands: Those of this checkout.
    """
    found = f'{size(free)} free in {_SHARED_MEMORY}'
    busy = [loader for loader in job.loaders if loader.workers] if job else []
    if not busy:
        return Check('shared memory', 'ok', found)
    loader = max(busy, key=lambda loader: loader.shared_bytes)
    detail = (
        f'{found}; the {loader.split} loader fills up to {size(loader.shared_bytes)}'
    )
    if loader.shared_bytes <= free:
        return Check('shared memory', 'ok', detail)
    option = f'{loader.split}_dataloader.num_workers=0'
    mend = job.train_command(commands, option)
    return Check(
        'shared memory', 'fail', detail, f'docker run --shm-size=1g …, or: {mend}'
    )
