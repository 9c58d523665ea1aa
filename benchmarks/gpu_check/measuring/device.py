"""The memory of a device, and a time after which all of its work is done."""

import gc
import os
import subprocess
import time

import torch

MIB = 2**20


def done_at(device: torch.device) -> float:
    """Wait for all work on the device, and return the time."""
    torch.get_device_module(device).synchronize()
    return time.perf_counter()


def set_cap(device: torch.device, mib: int | None) -> None:
    """Limit what PyTorch takes of the GPU's memory; None: no limit."""
    if device.type == 'cuda':
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(mib * MIB / total, 1.0) if mib else 1.0
        torch.cuda.set_per_process_memory_fraction(share, device)


def fresh_peak(device: torch.device) -> None:
    """Free what is not used, and forget the peak of memory."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.init()  # or there is no peak to forget yet
        torch.cuda.reset_peak_memory_stats(device)


def memory_facts(device: torch.device) -> dict:
    """Return what was taken of the GPU's memory, in MiB; nothing on a CPU."""
    if device.type != 'cuda':
        return {}
    stats = torch.cuda.memory_stats(device)
    return dict(
        reserved=torch.cuda.max_memory_reserved(device) / MIB,
        allocated=torch.cuda.max_memory_allocated(device) / MIB,
        # For each retry the cache is emptied with cudaFree, which stops the device.
        alloc_retries=stats.get('num_alloc_retries'),
        ooms=stats.get('num_ooms'),
        inactive_split_peak=stats.get('inactive_split_bytes.all.peak', 0) / MIB,
        segments=stats.get('segment.all.current'),
        by_driver=_taken_by_driver(),
    )


def nvidia_smi(query: str) -> str | None:
    """Ask the driver; None where its tool is not there."""
    command = ['nvidia-smi', f'--query-{query}', '--format=csv,noheader']
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None


def _taken_by_driver() -> str | None:
    """Return what the driver counts for this process, the CUDA context included."""
    lines = (nvidia_smi('compute-apps=pid,used_memory') or '').splitlines()
    taken = dict(line.split(', ', 1) for line in lines if ', ' in line)
    return taken.get(str(os.getpid()))
