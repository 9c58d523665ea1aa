"""The probe of this machine."""

import itertools
import time

import pytest
import torch

from sapiens_plugin.core.streaming.courier import Courier
from sapiens_plugin.workbench.planning import machine_probe
from sapiens_plugin.workbench.planning.machine_probe import probe_machine


def test_a_cpu(monkeypatch):
    monkeypatch.setattr(machine_probe.torch.cuda, 'is_available', lambda: False)
    start = time.process_time()
    card = probe_machine(time.process_time)
    assert time.process_time() - start < 10
    assert card.name == 'cpu' and card.vram_mib is None
    assert 1e-3 < card.tflops['float32'] < 100
    assert 0.1 < card.memory_gb_s < 10_000
    assert 0.1 < card.host_gb_s < 10_000
    assert 0.1 < card.bus_gb_s < card.host_gb_s  # by way of the ring: copied twice
    assert 'float32' in card.precision('auto').reason
    assert 'measured now' in card.source


def test_time_comes_from_the_clock_that_is_given(monkeypatch):
    """Each run seems to take a second: so speeds are the work itself."""
    monkeypatch.setattr(machine_probe.torch.cuda, 'is_available', lambda: False)
    ticks = iter(range(1000))
    card = probe_machine(lambda: next(ticks))
    assert card.tflops['float32'] == 2 * 432 * 1024 * 4096 / 1e12
    assert card.host_gb_s == 2 * 64 * 2**20 / 1e9
    assert card.bus_gb_s == 4 * 64 * 2**20 / 1e9
    tokens = 4 * 432 * 1024 * 4
    assert card.memory_gb_s == 3 * (10 * tokens + 2 * 4 * tokens) / 1e9


def test_the_bus_is_timed_as_weights_and_gradients_travel(monkeypatch):
    """Pageable tensors, by the courier; the slower way counts."""
    carried = []

    class Slow(Courier):
        def _upload(self, pairs, after, prepare):
            carried.append(('up', pairs[0][0].is_pinned()))
            return super()._upload(pairs, after, prepare)

        def _download(self, pairs, after):
            carried.append(('down', pairs[0][1].is_pinned()))
            super()._download(pairs, after)

    monkeypatch.setattr(machine_probe, 'Courier', Slow)
    ticks = itertools.accumulate(itertools.cycle([1] * 12 + [9] * 10))
    speed = machine_probe._bus_gb_s(torch.device('cpu'), lambda: next(ticks))
    assert carried == [('up', False)] * 6 + [('down', False)] * 6
    assert speed == pytest.approx(4 * 64 * 2**20 / 1e9 / 9)
