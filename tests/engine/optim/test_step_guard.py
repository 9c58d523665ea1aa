"""Which steps are taken, and what is said of the images of the others."""

import sys

import pytest
import torch

from sapiens_plugin.engine.optim import step_guard
from sapiens_plugin.engine.optim.step_guard import StepGuard, Verdict

NAN = float('nan')


def test_the_median_is_of_steps_that_were_taken():
    guard = StepGuard(spike_factor=2.0, window=3)

    def judge(loss, norm=1.0):
        return guard.judge([torch.tensor(loss)], torch.tensor(norm))

    for loss in (1.0, 50.0, 3.0):  # any of the first three
        assert judge(loss) is Verdict.STEP
    assert judge(6.5) is Verdict.SKIP  # the median is 3
    assert judge(6.5) is Verdict.SKIP and guard.state['skipped_in_a_row'] == 2
    assert judge(1.0, norm=NAN) is Verdict.SKIP
    assert judge(6.0) is Verdict.STEP and guard.state['skipped_in_a_row'] == 0
    assert guard.state['losses'] == [50.0, 3.0, 6.0]
    assert judge(12.5) is Verdict.SKIP and judge(11.9) is Verdict.STEP


@pytest.mark.parametrize(
    'batches, micro_batch, bad, named',
    [
        ([['a', 'b'], ['c']], None, [1], 'c'),
        ([['a', 'b', 'c', 'd', 'e']], 4, [1], 'e'),
        ([['a', 'b', 'c', 'd', 'e']], 2, [0, 2], 'a, b, e'),
        ([['a'], ['b']], None, [0, 2], 'a, b'),  # a model that updates in its own way
        ([], 2, [0], 'StepGuardHook would know them'),
    ],
)
def test_images_of_bad_micro_batches_are_named(
    batches, micro_batch, bad, named, monkeypatch
):
    said = []
    monkeypatch.setattr(step_guard, 'print_log', lambda text, **_: said.append(text))
    guard = StepGuard()
    guard.images = batches
    losses = [torch.tensor(NAN if i in bad else 1.0) for i in range(max(bad) + 1)]
    guard.judge(losses, torch.tensor(1.0), micro_batch=micro_batch)
    assert said[0].endswith(f'Images: {named}')
    assert not guard.images  # the next step has others


PROCESS = """
import os
import sys
import torch
import torch.multiprocessing as mp
import sapiens_plugin.registry
from sapiens_plugin.engine.optim import step_guard
from sapiens_plugin.engine.optim.step_guard import StepGuard

def run(rank, place):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{place}', rank=rank, world_size=2)
    said = []
    step_guard.print_log = lambda message, **_: said.append(message)
    guard = StepGuard(spike_factor=2.0, window=2)
    def judge(*losses, norm=1.0):
        guard.images = [[f'{rank}{i}'] for i in range(len(losses[rank]))]
        return guard.judge([*map(torch.tensor, losses[rank])], torch.tensor(norm)).name
    got = [
        judge((1.0, 2.0), (3.0, 4.0)),
        judge((1.0, 2.0), (3.0, float('nan'))),
        judge((1.0, 2.0), (3.0, 4.0)),
        judge((1.0, 2.0), (3.0, 90.0)),
        judge((1.0, 2.0), (3.0, 4.0), norm=float('inf')),
    ]
    images = [message.partition('Images: ')[2] for message in said]
    line = f'\\n{rank} {got} {guard.state} {images}\\n'
    os.write(1, line.encode())  # at once, or the lines of two would mingle

mp.start_processes(run, (sys.argv[1],), nprocs=2, start_method='fork')
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='it forks')
def test_two_processes_decide_as_one(two_processes, tmp_path):
    first, second = two_processes(PROCESS, tmp_path / 'store')
    assert first[1:] == second[1:]
    assert "['STEP', 'SKIP', 'STEP', 'SKIP', 'SKIP']" in first
    assert "'losses': [2.5, 2.5]" in first and "'skipped_in_a_row': 2" in first
    assert "['11', '11', '00, 01, 10, 11']" in first
