"""What the table of benchmarks/streaming.py says, also of what does not run."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture
def streaming(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
    import streaming

    return streaming


RAN = dict(cap=None, host=1.5)


def test_time_and_memory_are_in_one_table(streaming, capsys):
    streaming.print_results(
        {
            'resident': RAN | dict(seconds=[2.0, 4.0, 3.0], reserved=2000.0),
            'streamed': RAN
            | dict(seconds=[4.5], cap=3500, reserved=3000.4, predicted=3090.0)
            | dict(layout='8 slots'),
            'rival': dict(skipped='ImportError: none', cap=None, host=0.2),
        }
    )
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.count('|') == line.count('|')
    assert rows == [
        '| resident | – | 3.000 | 1.000 | 2000 | – | – | 1.5 |  |',
        '| streamed | 3500 | 4.500 | 1.500 | 3000 | 3090 | 1.030 | 1.5 | 8 slots |',
        '| rival | – | – | – | – | – | – | – | ImportError: none |',
    ]
    assert all(row.count('|') == head.count('|') for row in rows)


@pytest.mark.parametrize(
    'error, skipped, full',
    [
        (ValueError('why\nand more'), 'ValueError: why', False),
        (torch.OutOfMemoryError('tried'), 'OutOfMemoryError: tried', True),
        (RuntimeError('CUDA error: out of memory'), 'RuntimeError: CUDA error: ', True),
        (KeyError(), 'KeyError: ', False),
    ],
)
def test_a_failure_says_why(streaming, capsys, error, skipped, full):
    streaming._tell_failure(type(error), error, None)
    told = json.loads(capsys.readouterr().out)
    assert told['skipped'].startswith(skipped)
    assert '\n' not in told['skipped']
    assert told['out_of_memory'] is full


def test_caps_are_of_those_that_are_to_have_one(streaming, monkeypatch, work):
    done = []

    def run(task, work):
        done.append((task, work.cap))
        if task == 'RamTorch':
            return dict(skipped='no')
        return dict(seconds=[1.0], reserved=5.0, host=0.1)

    monkeypatch.setattr(streaming, 'in_fresh_process', run)
    monkeypatch.setattr(streaming, 'smallest_cap', lambda name, *_, **__: 900)
    names = ['resident', 'streamed exact', 'FSDP2 offload']
    found = streaming.measure_all(work, names, repeats=2, cap=3487, highest=8000)
    caps = [('resident', None), ('streamed exact', 3487), ('FSDP2 offload', None)]
    assert done == [*caps, ('FSDP2 offload', 900)] * 2
    assert list(found) == [*names, 'FSDP2 offload, smallest cap']
    assert all(result['seconds'] == [1.0, 1.0] for result in found.values())

    # What does not run is tried once, and nothing is capped on a CPU.
    done.clear()
    found = streaming.measure_all(work, ['RamTorch', 'resident'], repeats=2)
    assert done == [('RamTorch', None), ('resident', None), ('resident', None)]
    assert found['RamTorch']['skipped'] == 'no'


@pytest.fixture
def work(streaming):
    return streaming.Work(
        device='cpu',
        arch=dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=128),
        img_size=(64, 48),
        batch=2,
        micro_batch=1,
        precision='float32',
        budget=100,
        steps=1,
    )


def test_loops_recompute_what_they_say(streaming, work, monkeypatch):
    monkeypatch.setattr(streaming, 'HEAD_WIDTH', 32)
    seen = []
    monkeypatch.setattr(
        streaming,
        'checkpoint',
        lambda layer, x, **_: seen.append(layer) or layer(x),
    )
    counts = {}
    for name, make in (streaming.CPU_SUBJECTS | streaming.ENGINE_COST).items():
        seen.clear()
        step, _ = make(work)
        step()
        counts[name] = len(seen) / 2  # micro-batches
    assert counts == {
        'resident': 2,
        'resident, nothing recomputed': 0,
        'streamed in place': 0,  # recomputes in a way of its own
        'resident, all but the last recomputed': 1,
    }
