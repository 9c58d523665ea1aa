"""Seconds and memory of a training step, streamed and in other ways."""

import os
import statistics

import torch
from measuring.device import fresh_peak, memory_facts, set_cap
from measuring.part_report import Report
from measuring.step_times import profile_step, step_timer
from measuring.work import make_work, subjects
from tree_memory import own_peak_mib


def run(spec: dict, report: Report) -> None:
    """Measure subjects one after another."""
    cores = spec.get('cores')
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    for i, name in enumerate(spec['runs']):
        title = f'{name}, {cores} cores' if cores else name
        with report.part(title):
            _measure(name, title, spec, report, profiled=i < spec.get('profiled', 0))


def _measure(
    name: str, title: str, spec: dict, report: Report, *, profiled: bool
) -> None:
    device = torch.device(spec['device'])
    subject, precision = name.rsplit(', ', 1)
    capped = subject.startswith('streamed') and 'no limit' not in subject
    cap = spec['cap'] if capped else None
    warm_up = spec.get('warm_up', 2)
    fresh_peak(device)
    set_cap(device, cap)
    with step_timer(device) as time_step:
        try:
            work = make_work(spec, precision=precision, cap=cap)
            step, info = subjects()[subject](work)
        except ImportError as error:
            report.add(**{title: dict(skipped=f'not installed: {error}')})
            return
        timings = [time_step(step) for _ in range(warm_up + spec.get('steps', 3))]
    seconds = [timing['seconds'] for timing in timings[warm_up:]]
    found = dict(
        seconds=seconds,
        median=statistics.median(seconds),
        all=timings,
        cap=cap,
        host=own_peak_mib(),
        threads=torch.get_num_threads(),
        **memory_facts(device),
        **info,
    )
    report.add(**{title: found})
    if profiled and device.type == 'cuda':
        report.add(**{title: dict(found, profile=profile_step(step, device))})
