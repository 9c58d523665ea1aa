"""Schedules that do not fit the epochs of their job."""

import pytest
from mmengine.config import Config

from sapiens_plugin.jobs.schedule import schedule_notes

REDUCE = dict(type='ReduceOnPlateauLR', monitor='coco/AP', rule='greater')


def job(max_epochs, *schedulers, warmup=None):
    hooks = [dict(type='sapiens_plugin.ImageCheckHook')]
    if warmup is not None:
        name = 'sapiens_plugin.PhaseSwitchHook'
        hooks.append(dict(type=name, warmup_epochs=warmup))
    return Config(
        dict(
            train_cfg=dict(max_epochs=max_epochs),
            param_scheduler=list(schedulers),
            custom_hooks=hooks,
        )
    )


def cosine(end, *, begin=0, **more):
    return dict(type='CosineAnnealingLR', begin=begin, end=end, eta_min=0, **more)


def multi_step(*milestones):
    return dict(type='MultiStepLR', milestones=list(milestones), gamma=0.1)


def warmup_lr(begin):
    return dict(
        type='sapiens_plugin.WarmupLR',
        begin=begin,
        optimizer_steps=500,
        start_factor=1e-3,
        convert_to_iter_based=True,
    )


LINEAR = dict(type='LinearLR', begin=0, end=500, start_factor=0.001, by_epoch=False)
RESTARTS = dict(
    type='CosineRestartLR', periods=[10, 10], restart_weights=[1, 1], eta_min=0
)
FITTING = {
    'cosine': (110, [cosine(110, begin=10, convert_to_iter_based=True)]),
    'cosine without an end': (30, [dict(type='CosineAnnealingLR', eta_min=0)]),
    'steps of MMPose': (210, [LINEAR, multi_step(170, 200)]),
    'nothing': (10, []),
    'constant': (10, [dict(type='ConstantLR', factor=1.0)]),
    'short': (1, [cosine(1)]),
    'exponential': (10, [dict(type='ExponentialLR', gamma=0.9)]),
    'polynomial': (20, [dict(type='PolyLR', power=1.0)]),
    'by result': (20, [REDUCE]),
    'restarts': (20, [RESTARTS]),
    'one cycle': (20, [dict(type='OneCycleLR', eta_max=0.1, total_steps=20)]),
    'a warm-up at once': (20, [warmup_lr(0), cosine(20)]),
}


@pytest.mark.parametrize('case', FITTING)
def test_what_fits_is_not_spoken_of(case):
    max_epochs, schedulers = FITTING[case]
    assert schedule_notes(job(max_epochs, *schedulers), epoch_length=1000) == []


def low(epochs, of):
    return f'The last {epochs} of {of} epochs train at less than 1% of the highest'


def cut(at, percent, until):
    return (
        f'The job ends after epoch {at} with the learning rate at {percent}% of its '
        f'highest: param_scheduler lowers it until epoch {until}.'
    )


STEPPED = dict(type='CosineAnnealingLR', T_max=50, end=50, eta_min=0)  # between epochs
ODD = {
    'more epochs': (200, [cosine(110, convert_to_iter_based=True)], low(97, 200)),
    'few enough to be no matter': (114, [cosine(110, convert_to_iter_based=True)], ''),
    'a short T_max': (100, [STEPPED], low(53, 100)),
    'early steps': (210, [multi_step(17, 20, 30)], low(180, 210)),
    'steps near the end': (100, [multi_step(20, 40, 80)], low(20, 100)),
    'a small step that never comes': (
        100,
        [dict(type='MultiStepLR', milestones=[150], gamma=0.6)],
        '',
    ),
    'fewer epochs': (50, [cosine(110)], cut(50, 59, 110)),
    'so few less that it is no matter': (109, [cosine(110)], ''),
    'late steps': (100, [multi_step(170, 200)], cut(100, 100, 201)),
    'a long T_max': (50, [dict(type='CosineAnnealingLR', T_max=110)], cut(50, 59, 110)),
    'iterations': (50, [cosine(20_000, by_epoch=False, T_max=20_000)], low(31, 50)),
    'more iterations': (10, [cosine(20_000, by_epoch=False)], cut(10, 58, 20)),
    'periods': (
        100,
        [dict(RESTARTS, convert_to_iter_based=True, periods=[40, 20])],
        low(41, 100),
    ),
    'no end at all': (10, [dict(type='ConstantLR', factor=0.1, end=10**9)], ''),
}


@pytest.mark.parametrize('case', ODD)
def test_what_does_not_fit_is_told(case):
    max_epochs, schedulers, text = ODD[case]
    notes = schedule_notes(job(max_epochs, *schedulers), epoch_length=1000)
    assert len(notes) == bool(text)
    assert text in ' '.join(notes)


@pytest.mark.parametrize(('lr', 'is_low'), [(4e-4, False), (1.0, True)])
def test_the_lowest_rate_is_compared_with_the_optimizers(lr, is_low):
    cfg = job(100, dict(type='CosineAnnealingLR', T_max=50, end=50, eta_min=2e-4))
    cfg.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=lr))
    assert bool(schedule_notes(cfg)) == is_low


def test_few_iterations_end_where_they_do():
    schedulers = [cosine(2, begin=1, convert_to_iter_based=True)]
    cfg = job(30, *schedulers)
    assert schedule_notes(cfg, epoch_length=4) == []  # the rate stays at 15%
    assert low(28, 30) in schedule_notes(cfg, epoch_length=400)[0]


def test_iterations_need_the_length_of_an_epoch():
    cfg = job(50, cosine(20_000, by_epoch=False, T_max=20_000))
    assert schedule_notes(cfg) == []


def test_a_phase_that_no_hook_begins():
    warm = dict(type='sapiens_plugin.WarmupLR', optimizer_steps=9)
    schedulers = [warm, dict(warm, begin=10), cosine(100, begin=10)]
    assert schedule_notes(job(100, *schedulers, warmup=10)) == []
    (note,) = schedule_notes(job(100, *schedulers))
    assert note.startswith('param_scheduler warms up again after epoch 10, and no Phas')


def test_a_job_that_saves_nothing():
    cfg = job(100, cosine(100))
    cfg.default_hooks = dict(checkpoint=None)
    assert schedule_notes(cfg) == [
        'Nothing will be saved: default_hooks.checkpoint is None.'
    ]


@pytest.mark.parametrize('warmup', [1, 9, 11, 50])
def test_a_phase_that_the_schedules_do_not_know(warmup):
    cfg = job(*(110, warmup_lr(0), warmup_lr(10), cosine(110, begin=10)), warmup=warmup)
    (note,) = schedule_notes(cfg)
    assert f'after epoch {warmup} ' in note and 'after epoch 10' in note


def test_a_phase_that_they_know():
    schedulers = warmup_lr(0), warmup_lr(10), cosine(110, begin=10)
    assert schedule_notes(job(110, *schedulers, warmup=10)) == []
    assert schedule_notes(job(110, cosine(110), warmup=10)) == []  # one for both
    assert schedule_notes(job(110, *schedulers, warmup=110)) == []  # no second phase


def test_a_warm_up_that_never_ends_is_told():
    cfg = job(110, warmup_lr(0), warmup_lr(10), cosine(110, begin=10), warmup=10)
    assert schedule_notes(cfg, epoch_length=50) == []
    (note,) = schedule_notes(cfg, epoch_length=49)
    assert 'begin=0) takes 500 optimizer steps, and there are 490' in note
    half = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500)
    assert schedule_notes(job(10, half), epoch_length=50) == []
    (note,) = schedule_notes(job(10, half), epoch_length=49)
    assert 'takes 500 iterations, and there are 490' in note
    cfg.optim_wrapper = dict(accumulative_counts=16)
    assert schedule_notes(cfg, epoch_length=16 * 50) == []
    assert len(schedule_notes(cfg, epoch_length=16 * 4)) == 2


def test_validations_that_never_come_are_told():
    cfg = job(10)
    cfg.train_cfg.val_begin = 11
    assert schedule_notes(cfg) == []  # it has none
    cfg.val_dataloader = dict(batch_size=1)
    (note,) = schedule_notes(cfg)
    assert 'no validation' in note and 'val_begin=11' in note
    cfg.train_cfg.val_begin = 10
    assert schedule_notes(cfg) == []
