"""The nearest jobs, and the best inside limits."""

import re
from dataclasses import replace

import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.planning.alternatives import (
    best_within,
    epochs_within,
    nearest_jobs,
    one_at_a_time,
)
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.planning.limits import Limits
from sapiens_plugin.workbench.planning.plan import make_plan

MAX_Q = get_card('gtx1650-maxq')


def search(planned, hours=None, vram_mib=None, card=MAX_Q, **changes):
    job = planned.job.changed(**changes)
    limits = Limits(hours=hours, vram_mib=vram_mib)
    return best_within(job, card, planned.measure, limits=limits)


def test_the_user_s_ladder_is_there(shipped):
    planned = shipped('sapiens1b_gtx1650')
    plan = make_plan(planned.job, MAX_Q, planned.measure)
    found = {a.name: a for a in nearest_jobs(plan, planned.measure)}
    assert list(found) == [
        'micro-batch 1 × 32', '320×240', '256×192', 'no loader workers',
        'sapiens_0.6b', 'sapiens_0.3b', '1 + 1 epochs', 'last 16 of 40 layers',
    ]  # fmt: skip
    for alternative in found.values():
        assert alternative.cost
        assert alternative.plan.floor_hours <= alternative.plan.total_hours
    hours = {name: a.plan.total_hours for name, a in found.items()}
    assert hours['256×192'] < hours['320×240'] < plan.total_hours
    assert hours['sapiens_0.3b'] < hours['sapiens_0.6b'] < plan.total_hours
    assert hours['last 16 of 40 layers'] < 0.6 * plan.total_hours
    assert hours['1 + 1 epochs'] <= 168
    assert hours['no loader workers'] > plan.total_hours
    host = found['no loader workers'].plan.host
    assert sum(plan.host.values()) - sum(host.values()) == 400_000_000
    assert '79.6' in found['sapiens_0.3b'].cost and '82.1' in found['sapiens_0.3b'].cost
    job = found['micro-batch 1 × 32'].plan.job
    assert (job.micro_batch, job.effective_batch) == (1, 32)
    assert {name for name, a in found.items() if not a.helps(plan)} == {
        'micro-batch 1 × 32', 'no loader workers',
    }  # fmt: skip


def test_a_card_that_holds_the_model_need_not_stream(shipped):
    planned = shipped('sapiens1b_gtx1650')
    plan = make_plan(planned.job, get_card('h100'), planned.measure)
    found, *_ = nearest_jobs(plan, planned.measure)
    assert found.name == 'weights on the GPU' and found.helps(plan)
    assert 'sapiens1b_a100' in found.cost
    assert found.plan.job.streaming is None


def test_smaller_inputs_save_nothing_where_a_step_waits_for_the_loader(shipped):
    planned = shipped('sapiens1b_gtx1650')
    h100 = get_card('h100')
    fast = {dtype: 10 * speed for dtype, speed in h100.tflops.items()}
    card = replace(h100, tflops=fast, host_threads=160)
    for workers, helps in ((1, False), (16, True)):
        job = planned.job.changed(loading=dict(train=workers))
        plan = make_plan(job, card, planned.measure)
        (found,) = (
            each
            for each in nearest_jobs(plan, planned.measure)
            if each.name == '256×192'
        )
        assert found.helps(plan) is helps


def test_a_budget_above_the_card_is_cut(shipped):
    planned = shipped('sapiens1b_gtx1650')
    plan = make_plan(planned.job, MAX_Q.limited(2048), planned.measure)
    assert not plan.fits
    found, *_ = nearest_jobs(plan, planned.measure)
    assert found.name == 'vram_budget 1598' and found.helps(plan)


def test_fewer_epochs_end_in_the_hours_that_are_given(shipped):
    planned = shipped('sapiens1b_gtx1650')
    plan = make_plan(planned.job, MAX_Q, planned.measure)
    found = {a.name: a for a in nearest_jobs(plan, planned.measure, hours=1000)}
    assert found['1 + 10 epochs'].plan.total_hours <= 1000
    assert 'within 1,000 h' in found['1 + 10 epochs'].cost


def test_streaming_is_named_where_nothing_else_fits(shipped):
    planned = shipped('sapiens1b_a100')
    plan = make_plan(planned.job, MAX_Q, planned.measure)
    found = nearest_jobs(plan, planned.measure)
    assert [a.name for a in found if a.helps(plan)] == ['weights streamed']
    assert 'configs/sapiens1b_gtx1650.py' in found[0].cost
    assert found[0].plan.job.effective_batch == planned.job.effective_batch
    fits = make_plan(planned.job, get_card('a100'), planned.measure)
    names = [a.name for a in nearest_jobs(fits, planned.measure)]
    assert 'weights streamed' not in names


def test_one_at_a_time(shipped):
    one = one_at_a_time(shipped('sapiens1b_a100').job)
    assert (one.batch, one.micro_batch, one.accumulation) == (1, 1, 32)
    one = one_at_a_time(shipped('sapiens1b_gtx1650').job)
    assert (one.batch, one.micro_batch, one.accumulation) == (32, 1, 1)


def test_the_week_jobs_are_found(shipped):
    week = shipped('sapiens1b_gtx1650_week').job
    found = search(shipped('sapiens1b_gtx1650'), 176, 4096).job
    for field in ('arch', 'img_size', 'frozen_stages', 'warmup_epochs', 'max_epochs'):
        assert getattr(found, field) == getattr(week, field), field
    assert search(shipped('sapiens1b_gtx1650_week'), 176).job == week
    small = shipped('sapiens0.3b_gtx1650_week')
    assert search(small, 176, max_epochs=100).job == small.job


def test_what_is_inside_already_stays_as_it_is(shipped):
    planned = shipped('sapiens1b_gtx1650')
    assert search(planned, hours=10_000).job == planned.job
    # Only the budget is named, where there was none.
    assert search(planned, vram_mib=3937).job == planned.job


def test_a_smaller_card_gets_a_smaller_budget(shipped):
    vram_mib = 3000
    plan = search(shipped('sapiens1b_gtx1650'), vram_mib=vram_mib)
    assert plan.vram_peak <= vram_mib * 2**20
    assert plan.job.streaming.vram_budget == vram_mib - 450
    assert plan.job.arch.embed_dims == 1536  # streaming makes room for 1B
    assert plan.job.max_epochs == 110


def test_more_time_never_buys_a_worse_plan(shipped):
    planned = shipped('sapiens1b_gtx1650')
    rank = []
    for hours in (60, 600):
        plan = search(planned, hours=hours)
        assert plan.total_hours <= hours
        job = plan.job
        rank.append(
            (job.arch.embed_dims, job.img_size, job.trained_blocks, job.max_epochs)
        )
        assert job.max_epochs - job.warmup_epochs >= 6
    assert rank == sorted(rank)
    assert [row[0] for row in rank] == [1024, 1536]


def test_nothing_fits(shipped):
    planned = shipped('sapiens0.3b_gtx1650_week')
    with pytest.raises(InputError, match=r'20.0 h .*sapiens_0.3b.* at 256×192') as seen:
        search(planned, hours=20)
    hours = int(re.search(r'takes (\d+) hours', str(seen.value))[1])
    search(planned, hours=hours)
    with pytest.raises(InputError):
        search(planned, hours=hours - 1)
    with pytest.raises(InputError, match='600 MiB'):
        search(planned, vram_mib=600)
    tiny = shipped('sapiens_tiny_demo')
    with pytest.raises(InputError, match='streams its weights'):
        search(tiny, vram_mib=460)


def test_as_many_epochs_as_end_in_time(shipped):
    planned = shipped('sapiens1b_gtx1650')
    job = epochs_within(planned.job, MAX_Q, planned.measure, 1000)
    assert job.warmup_epochs == 1
    assert job.checkpoints.interval == 1  # as it is written
    plan = make_plan(job, MAX_Q, planned.measure)
    more = make_plan(job.changed(max_epochs=job.max_epochs + 1), MAX_Q, planned.measure)
    assert plan.total_hours <= 1000 < more.total_hours
    assert epochs_within(planned.job, MAX_Q, planned.measure, 50) is None
