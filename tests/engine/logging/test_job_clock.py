import itertools
import random

import pytest

from sapiens_plugin.engine.logging.job_clock import JobClock, Phase


def make_clock(*, steps_per_epoch=1000, validates=(), period=1) -> JobClock:
    """One epoch of the head, ten of everything at four times the arithmetic."""
    return JobClock(
        [Phase('head alone', 1, step_work=1), Phase('everything', 11, step_work=4)],
        steps_per_epoch=steps_per_epoch,
        validation_epochs=validates,
        validation_work=50,
        period=period,
    )


def noisy():
    rng = random.Random(0)
    return (2.0 * rng.lognormvariate(0, 0.4) for _ in itertools.count())


def with_a_slow_first_step():
    return itertools.chain([300.0], noisy())


def with_stalls():
    """A checkpoint's disk, a laptop's lid: three in a hundred steps."""
    return (2.0 + 200 * (i % 33 == 20) for i in itertools.count())


def in_bursts():
    """Four workers bring four batches at once, and then there are none."""
    return (8.0 - 7.9 * bool(i % 4) for i in itertools.count())


def accumulating():
    """The sixteenth micro-batch steps the optimizer."""
    return (1.0 + 16 * (i % 16 == 15) for i in itertools.count())


def getting_slower():
    """A laptop gets hot."""
    return (1.0 if i < 60 else 2.0 for i in itertools.count())


@pytest.mark.parametrize(
    'times, typical, steps',
    [
        (noisy, 2.0 * 1.083, 100),  # the mean of that distribution
        (with_a_slow_first_step, 2.0 * 1.083, 100),
        (with_stalls, 2.0, 100),
        (in_bursts, 2.075, 100),
        (accumulating, 2.0, 100),
        (getting_slower, 2.0, 200),
    ],
)
def test_the_time_left_is_right_within_10_percent(times, typical, steps):
    clock = make_clock(
        steps_per_epoch=10_000, period=16 if times is accumulating else 1
    )
    clock.begin_epoch(1)
    for seconds in itertools.islice(times(), steps):
        clock.step(seconds, persons=32)
    phase, job = clock.left()
    assert phase == job  # it is the last one
    assert job.measured
    assert job.seconds == pytest.approx((10 * 10_000 - steps) * typical, rel=0.1)
    assert clock.persons_per_second == pytest.approx(32 / typical, rel=0.1)


def test_few_steps_are_judged_without_the_first():
    clock = make_clock()
    assert clock.left() is None
    clock.begin_epoch(10)
    clock.step(60, persons=32)
    assert clock.left()[1].seconds == 999 * 60  # there is nothing else
    for _ in range(3):
        clock.step(2, persons=32)
    assert clock.left()[1].seconds == 996 * 2


def test_a_phase_to_come_is_estimated_by_its_arithmetic_and_then_measured():
    clock = make_clock()
    clock.begin_epoch(0)
    for _ in range(100):
        clock.step(2, persons=32)
    phase, job = clock.left()
    assert (clock.phase.name, clock.phase_number) == ('head alone', 1)
    assert (phase.seconds, phase.measured) == (900 * 2, True)
    assert (job.seconds, job.measured) == (900 * 2 + 10_000 * 8, False)

    clock.begin_epoch(1)
    phase, job = clock.left()  # before its first step
    assert phase == job
    assert (job.seconds, job.measured) == (10_000 * 8, False)
    for _ in range(10):
        clock.step(5, persons=32)
    assert (clock.phase.name, clock.phase_number) == ('everything', 2)
    assert clock.left()[1].seconds == 9_990 * 5
    assert clock.left()[1].measured


def test_validations_count_by_their_arithmetic_and_then_as_measured():
    clock = make_clock(steps_per_epoch=10, validates=(1, 3, 11))
    clock.begin_epoch(0)
    for _ in range(10):
        clock.step(2, persons=32)
    phase, job = clock.left()
    assert (phase.seconds, phase.measured) == (50 * 2, False)
    assert job.seconds == 100 * 8 + 3 * 50 * 2

    clock.pause(70, validated=True)
    clock.begin_epoch(1)
    for _ in range(10):
        clock.step(8, persons=32)
    clock.pause(5, validated=False)  # a checkpoint, say
    clock.begin_epoch(2)
    (_, job) = clock.left()
    # Nine epochs, two of them with a validation.
    assert (job.seconds, job.measured) == (90 * 8 + 2 * 70 + 7 * 5, True)


def test_a_pause_that_lasted_long_once_is_not_expected_again():
    clock = make_clock(steps_per_epoch=10, validates=range(1, 12))
    for epoch, seconds in enumerate((70, 900, 72, 71, 70)):
        clock.begin_epoch(epoch)
        for _ in range(10):
            clock.step(2, persons=32)
        clock.pause(seconds, validated=True)
    clock.begin_epoch(5)
    assert clock.left()[1].seconds == 60 * 2 + 6 * 71
    for seconds in (10, 10, 10):  # and what was long ago counts no more
        clock.pause(seconds, validated=True)
    assert clock.left()[1].seconds == 60 * 2 + 6 * 10


def test_an_epoch_taken_up_in_its_middle_has_the_rest_to_go():
    clock = make_clock(steps_per_epoch=10)
    clock.begin_epoch(10, done=7)
    clock.step(2, persons=32)
    assert [left.seconds for left in clock.left()] == [2 * 2, 2 * 2]


def test_at_the_end_nothing_is_left():
    clock = make_clock(steps_per_epoch=10)
    clock.begin_epoch(10)
    for _ in range(10):
        clock.step(2, persons=32)
    assert [left.seconds for left in clock.left()] == [0, 0]


def test_without_phases_there_is_a_pace_but_no_time_left():
    clock = JobClock([], steps_per_epoch=5, validation_epochs=(), validation_work=0)
    for epoch in range(2):
        clock.begin_epoch(epoch)
        clock.step(2.0, persons=8)
    assert clock.persons_per_second == 4
    assert clock.phase is None and clock.left() is None
