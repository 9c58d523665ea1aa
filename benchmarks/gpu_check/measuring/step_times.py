"""Where the time of a step goes: on the host, and on the GPU."""

import contextlib
import json
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sapiens_plugin.core.streaming.courier import Courier
from sapiens_plugin.core.streaming.gradients import GradientReturn
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.weights import SlotWeights

from .device import done_at

Spans = list[tuple[float, float]]  # (begin, end) in seconds
WATCHED = (
    (SlotWeights, 'arrive', 'main waits for weights'),
    (GradientReturn, 'send', 'main in send'),
    (GradientReturn, 'finish', 'main in finish'),
    (Courier, '_upload', 'uploading thread'),
    (Courier, '_download', 'downloading thread'),
    (HostAdamW, '_update', 'updates'),
)


@contextlib.contextmanager
def step_timer(device: torch.device) -> Iterator[Callable[[Callable], dict]]:
    """Give a function that runs a step and returns its times in seconds.

    Inside this context the methods of a streamed step measure themselves. The times:
    ``seconds`` until the device is done, ``returned`` until the call returned,
    ``cpu_seconds`` of all threads, and those of ``WATCHED``.
    """
    watched: dict[str, float] = {}

    def watch(title: str, method: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                watched[title] = watched.get(title, 0.0) + spent

        return timed

    def time_step(step: Callable) -> dict:
        watched.clear()
        cpu = time.process_time()
        start = time.perf_counter()
        step()
        returned = time.perf_counter()
        return dict(
            seconds=done_at(device) - start,
            returned=returned - start,
            cpu_seconds=time.process_time() - cpu,
            **{title: round(value, 4) for title, value in watched.items()},
        )

    with contextlib.ExitStack() as undo:
        for owner, name, title in WATCHED:
            method = getattr(owner, name)
            undo.callback(setattr, owner, name, method)
            setattr(owner, name, watch(title, method))
        yield time_step


def profile_step(step: Callable, device: torch.device) -> dict:
    """Profile a step on the GPU. All times are in seconds."""
    start = done_at(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        wall = done_at(device) - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    spans: defaultdict[str, Spans] = defaultdict(list)
    totals, counts = Counter(), Counter()
    for event in events:
        kind, name = event.get('cat'), event.get('name', '')
        if kind == 'cuda_runtime' and 'Launch' in name:
            counts['launches'] += 1
        elif kind in ('kernel', 'gpu_memcpy'):
            copy = 'up' if 'HtoD' in name else 'down' if 'DtoH' in name else 'other'
            begin, took = event['ts'] / 1e6, event['dur'] / 1e6
            spans[kind if kind == 'kernel' else copy].append((begin, begin + took))
            if kind == 'kernel':
                name = re.sub(r'<.*|\(.*', '', name)[:70]
                totals[name] += took
                counts[name] += 1
    busy = {name: _union(spans[name]) for name in ('kernel', 'up', 'down')}
    kernels, up = busy['kernel'], busy['up']
    either = _union(up + kernels)
    gaps = [
        (round(end - kernels[0][0], 4), round(begin - end, 4))
        for (_, end), (begin, _) in pairwise(kernels)
    ]
    return dict(
        wall=wall,
        span=kernels[-1][1] - kernels[0][0] if kernels else 0,
        busy={name: _length(parts) for name, parts in busy.items()},
        up_beside_kernels=_length(up) + _length(kernels) - _length(either),
        launches=counts['launches'],
        kernels=len(spans['kernel']),
        largest_gaps=sorted(gaps, key=lambda gap: -gap[1])[:15],  # when, how long
        gaps_over_1ms=sum(gap for _, gap in gaps if gap > 1e-3),
        gaps_under_1ms=sum(gap for _, gap in gaps if gap <= 1e-3),
        top_kernels=[(n, round(s, 4), counts[n]) for n, s in totals.most_common(12)],
    )


def _union(spans: Spans) -> Spans:
    """Merge spans that overlap; the result is in order."""
    merged: Spans = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged


def _length(spans: Spans) -> float:
    return sum(end - begin for begin, end in spans)
