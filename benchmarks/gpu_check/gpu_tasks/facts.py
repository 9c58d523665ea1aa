"""The machine, and what PyTorch does on it by itself."""

import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from measuring import kernels, transfers
from measuring.device import nvidia_smi
from measuring.part_report import Report

ON_CUDA = dict(
    workspaces=kernels.workspaces,
    attention=kernels.attention_kernels,
    float32_errors=kernels.float32_errors,
    repeats=kernels.repeated_gradients,
)
HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def run(spec: dict, report: Report) -> None:
    """Report versions, memory, rates of copies, and kernels."""
    device = torch.device(spec['device'])
    on_cuda = device.type == 'cuda'
    with report.part('versions'):
        report.add(**_versions(on_cuda))
    if on_cuda:  # before anything else uses the device
        with report.part('context'):
            before = nvidia_smi('gpu=memory.used')
            torch.ones(1, device=device)
            after = nvidia_smi('gpu=memory.used')
            report.add(context=dict(driver_before=before, driver_after=after))
    with report.part('copies'):
        report.add(copies=transfers.copy_rates(device))
    with report.part('couriers'):
        report.add(couriers=transfers.courier_rates(device))
    if not on_cuda:
        return
    for name, measure in ON_CUDA.items():
        with report.part(name):
            report.add(**{name: measure()})
    with report.part('probe'):
        from sapiens_plugin.core.streaming.precision import choose_precision
        from sapiens_plugin.workbench.planning.machine_probe import probe_machine

        precision = choose_precision(device).reason
        report.add(card=asdict(probe_machine()), precision=precision)
    report.add(smi_at_end=nvidia_smi('gpu=memory.used,clocks.sm,power.draw'))


def _versions(on_cuda: bool) -> dict:
    cpuinfo = Path('/proc/cpuinfo').read_text().splitlines()
    cpu = [line.split(':')[1].strip() for line in cpuinfo if 'model name' in line]
    return dict(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if on_cuda else None,
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        cpu=cpu[0] if cpu else None,
        memory_gb=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9,
        thp=HUGE_PAGES.read_text().strip() if HUGE_PAGES.is_file() else None,
        allow_tf32=dict(
            matmul=torch.backends.cuda.matmul.allow_tf32,
            cudnn=torch.backends.cudnn.allow_tf32,
        ),
        smi=nvidia_smi(
            'gpu=name,driver_version,memory.total,memory.used,pcie.link.gen.current,'
            'pcie.link.width.current,clocks.sm,clocks.mem,power.limit'
        ),
    )
