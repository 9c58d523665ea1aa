"""Seconds that the optimizer takes on this host for 100 million parameters."""

import time

import torch
from measuring.part_report import Report
from torch import nn

from sapiens_plugin.core.streaming.host_adamw import HostAdamW


def run(spec: dict, report: Report) -> None:
    """Report the best of five updates for each kind of moments and gradients.

    The environment variable OMP_NUM_THREADS says how many threads there are.
    """
    shapes = [(4608, 1536), (1536, 1536), (6144, 1536), (1536, 6144)]
    if spec['device'] == 'cpu':  # the dry run
        shapes = [(512, 512)]
    found = {}
    for moments in ('int8', 'bfloat16', 'float32'):
        dtype = torch.float32 if moments == 'float32' else torch.bfloat16
        params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        count = sum(param.numel() for param in params)
        optimizer = HostAdamW(params, lr=1e-4, moment_dtype=moments)
        seconds = []
        for _ in range(5):
            for param in params:
                param.grad_dtype = dtype
                param.grad = torch.full_like(param, 1e-3, dtype=dtype)
            optimizer.schedule(grad_factor=0.999)
            start = time.perf_counter()
            optimizer.flush()
            seconds.append(time.perf_counter() - start)
        found[f'{moments} moments, {dtype} gradients'] = min(seconds) / count * 1e8
        report.add(threads=torch.get_num_threads(), seconds_for_100M=found)
