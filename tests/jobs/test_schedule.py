"""Schedules that do not fit the epochs of their job."""

import re

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


LOW = r'The last {} of {} epochs train at less than 1% of'
CUT = r'ends after epoch {} with the learning rate at {}% of its highest.*epoch {}\.'
ODD = {
    'more epochs': (200, [cosine(110)], LOW.format(97, 200)),
    'a short T_max': (100, [dict(type='CosineAnnealingLR', T_max=50, end=50)], LOW),
    'early steps': (210, [multi_step(17, 20, 30)], LOW.format(180, 210)),
    'fewer epochs': (50, [cosine(110)], CUT.format(50, 59, 110)),
    'late steps': (100, [multi_step(170, 200)], CUT.format(100, 100, 201)),
    'a long T_max': (50, [dict(type='CosineAnnealingLR', T_max=110)], CUT),
    'iterations': (50, [cosine(20_000, by_epoch=False, T_max=20_000)], LOW),
    'more iterations': (10, [cosine(20_000, by_epoch=False)], CUT),
}


@pytest.mark.parametrize('case', ODD)
def test_what_does_not_fit_is_told(case):
    max_epochs, schedulers, pattern = ODD[case]
    if '{}' in pattern:
        pattern = pattern.split('{}')[0]
    (note,) = schedule_notes(job(max_epochs, *schedulers), epoch_length=1000)
    assert re.search(pattern, note), note


def test_iterations_need_the_length_of_an_epoch():
    cfg = job(50, cosine(20_000, by_epoch=False, T_max=20_000))
    assert schedule_notes(cfg) == []


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
