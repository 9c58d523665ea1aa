"""What GPU there is, and whether this PyTorch can use it."""

import shutil
import subprocess
import sys
import warnings

import torch

CUDA_BUILD = 'cu130'  # runs on Turing and later, with driver 580 or newer


def find_nvidia_gpu() -> str | None:
    """Name the first NVIDIA GPU that the driver knows, without CUDA in this process."""
    command = shutil.which('nvidia-smi')
    if command is None:
        return None
    try:
        answer = subprocess.run(
            [command, '--query-gpu=name', '--format=csv,noheader'],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = answer.stdout.strip().splitlines()
    return names[0].strip() if answer.returncode == 0 and names else None


def warn_if_gpu_unused() -> None:
    """Warn when an NVIDIA GPU sits beside a PyTorch that was built without CUDA.

    This is how things stand on Windows after a plain ``pip install torch``.
    """
    if torch.version.cuda is not None:
        return
    name = find_nvidia_gpu()
    if name is None:
        return
    torch_version = torch.__version__.partition('+')[0]
    warnings.warn(
        f'This PyTorch ({torch.__version__}) was built without CUDA, so the {name} in '
        'this machine will stay idle and training will be many times slower. Install '
        f'the CUDA build: {sys.executable} -m pip install '
        f'torch=={torch_version}+{CUDA_BUILD} '
        f'--index-url https://download.pytorch.org/whl/{CUDA_BUILD}',
        stacklevel=2,
    )
