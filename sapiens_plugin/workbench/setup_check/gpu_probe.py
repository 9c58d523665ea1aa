"""What GPU there is, and whether this PyTorch can use it."""

import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass

CUDA_BUILD = 'cu130'  # runs on Turing and later
MIN_DRIVER = 580  # what that build needs


@dataclass(frozen=True)
class NvidiaGpu:
    """A GPU, as its driver describes it.

    Attributes:
        name: Such as ``'NVIDIA GeForce GTX 1650'``.
        driver: The driver's version.
        total_mib: Its memory, MiB.
        free_mib: What no program has taken of that, MiB.
    """

    name: str
    driver: str
    total_mib: int
    free_mib: int


def find_nvidia_gpu() -> str | None:
    """Name the first NVIDIA GPU that the driver knows, without CUDA in this process."""
    names = _ask_driver('name')
    return names[0][0] if names else None


def nvidia_gpus() -> list[NvidiaGpu]:
    """List the NVIDIA GPUs that the driver knows, without CUDA in this process."""
    return [
        NvidiaGpu(name, driver, _number(total), _number(free))
        for name, driver, total, free in _ask_driver(
            'name', 'driver_version', 'memory.total', 'memory.free'
        )
    ]


def cuda_torch(version: str) -> list[str]:
    """Return what to give ``pip install`` for the CUDA build of PyTorch.

    Args:
        version: Such as ``'2.13.0'``; a build's name after it is left out.
    """
    return [
        f'torch=={version.partition("+")[0]}+{CUDA_BUILD}',
        '--index-url',
        f'https://download.pytorch.org/whl/{CUDA_BUILD}',
    ]


def cuda_fault() -> str | None:
    """Say why PyTorch cannot use the GPU, by using it; None if it can."""
    import torch

    try:
        torch.ones(1, device='cuda').add(1).item()
    except (RuntimeError, AssertionError) as error:  # the latter from builds for a CPU
        return str(error).strip().splitlines()[0].rstrip('.')
    return None


def warn_if_gpu_unused() -> None:
    """Warn when an NVIDIA GPU sits beside a PyTorch that was built without CUDA.

    This is how things stand on Windows after a plain ``pip install torch``.
    """
    import torch

    if torch.version.cuda is not None:
        return
    name = find_nvidia_gpu()
    if name is None:
        return
    warnings.warn(
        f'This PyTorch ({torch.__version__}) was built without CUDA, so the {name} in '
        'this machine will stay idle and training will be many times slower. Install '
        f'the CUDA build: {sys.executable} -m pip install '
        f'{" ".join(cuda_torch(torch.__version__))}',
        stacklevel=2,
    )


def driver_fault() -> str | None:
    """Say what the driver's own tool complains of; None where it is well or absent."""
    answer = _run_driver_tool()
    if answer is None or answer.returncode == 0:
        return None
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    return lines[0].strip().rstrip('.') if lines else f'exit code {answer.returncode}'


def _ask_driver(*fields: str) -> list[list[str]]:
    """Return what the driver says of each GPU; nothing without one."""
    answer = _run_driver_tool(
        f'--query-gpu={",".join(fields)}', '--format=csv,noheader,nounits'
    )
    if answer is None or answer.returncode:
        return []
    rows = [line.split(',') for line in answer.stdout.strip().splitlines()]
    return [[value.strip() for value in row] for row in rows if len(row) == len(fields)]


def _run_driver_tool(*arguments: str) -> subprocess.CompletedProcess | None:
    command = shutil.which('nvidia-smi')
    if command is None:
        return None
    try:
        return subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0  # '[N/A]' where memory is shared
