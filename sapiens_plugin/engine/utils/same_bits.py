"""Why a resumed run may not have the bits of one that was not interrupted."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log


def warn_of_other_bits(why: str) -> None:
    """Warn that a run goes on with other bits."""
    print_log(
        f'{why} From here on, numbers can differ in their last bits from those of a '
        'run without interruptions and changes.',
        logger='current',
        level=logging.WARNING,
    )


def warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Warn of what differs in both, and tell whether anything does."""
    changed = ', '.join(
        f'{name} is {value} and was {before[name]}'
        for name, value in now.items()
        if name in before and before[name] != value
    )
    if changed:
        warn_of_other_bits(f'Since the checkpoint was written: {changed}.')
    return bool(changed)


def device_name(device: torch.device) -> str:
    """Name a device as far as its results go."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{device.type} ({torch.backends.cpu.get_cpu_capability()})'


def surroundings(device: torch.device) -> dict[str, str | int]:
    """Return what bits depend on beside a job and its config."""
    found = {
        'the device': device_name(device),
        'PyTorch': str(torch.__version__),
        'the number of processes': get_world_size(),
    }
    if device.type == 'cpu':  # as many partial sums as threads
        found['the number of threads (OMP_NUM_THREADS)'] = torch.get_num_threads()
    return found
