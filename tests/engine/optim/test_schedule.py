"""WarmupLR and OptimStepParamSchedulerHook: schedules in optimizer steps."""

from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import nn, optim

from sapiens_plugin.engine.optim.warmup_lr import WarmupLR
from sapiens_plugin.errors import InputError


class RatesAtUpdates(Hook):
    priority = 'VERY_HIGH'  # before the schedule moves on

    def __init__(self):
        self.rates = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.optim_wrapper.should_update():
            self.rates.append(runner.optim_wrapper.param_groups[-1]['lr'])


def rates_with(demo_config, make_runner, *, batch_size, accumulation):
    demo_config.train_dataloader.batch_size = batch_size
    demo_config.optim_wrapper.accumulative_counts = accumulation
    hook = RatesAtUpdates()
    runner = make_runner(demo_config)
    runner.register_hook(hook)
    runner.train()
    return hook.rates


def test_optimizer_steps_see_the_same_rates_however_they_are_accumulated(
    demo_config, make_runner
):
    demo_config.train_cfg.max_epochs = 6
    for scheduler in demo_config.param_scheduler[:-1]:
        scheduler.update(optimizer_steps=4)
    demo_config.param_scheduler[-1].update(end=6)
    whole = rates_with(demo_config, make_runner, batch_size=8, accumulation=1)
    parts = rates_with(demo_config, make_runner, batch_size=2, accumulation=4)
    assert len(whole) == 18  # 6 epochs of 24 pictures
    assert parts == pytest.approx(whole, rel=1e-9)
    base = 2e-3
    # Warm-up 1 is cut short by phase 2's at step 3, which starts from 1/100 again.
    assert whole[:3] == pytest.approx([base * (0.01 + 0.33 * k) for k in range(3)])
    assert whole[3] < whole[4] < whole[5] < whole[6] > whole[7] > whole[-1] > 0


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_schedule_that_the_job_cuts_off_is_told_at_the_start(
    demo_config, make_runner, by_epoch
):
    end = 60 if by_epoch else 60 * 12  # 24 pictures in batches of 2
    cosine = dict(type='CosineAnnealingLR', end=end, T_max=end, by_epoch=by_epoch)
    demo_config.train_dataloader.batch_size = 2
    demo_config.train_cfg.max_epochs = 1
    demo_config.param_scheduler = [cosine]
    runner = make_runner(demo_config)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'The job ends after epoch 1 with the learning rate at 100%' in (
        log.read_text('utf-8')
    )


def test_phase_2_starts_small_where_accumulation_runs_across_its_beginning(
    demo_config, make_runner
):
    demo_config.train_cfg = dict(by_epoch=True, max_epochs=3)  # MMEngine's own loop
    demo_config.default_hooks.checkpoint.interval_minutes = None
    demo_config.param_scheduler[-1].update(end=3)
    for scheduler in demo_config.param_scheduler[:-1]:
        scheduler.update(optimizer_steps=2, start_factor=0.01)
    # Three batches an epoch: updates come after batches 2, 4, 6 and 8 of 9, and the
    # end. The switch is after batch 3.
    rates = rates_with(demo_config, make_runner, batch_size=8, accumulation=2)
    assert rates[0] == pytest.approx(rates[1]) == pytest.approx(2e-5)
    assert rates[2] > 1e-3


def optim_wrapper(accumulation):
    return OptimWrapper(
        optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0),
        accumulative_counts=accumulation,
    )


@pytest.mark.parametrize('accumulation', [1, 16])
def test_warmup_reaches_the_full_rate_after_its_steps(accumulation):
    wrapper = optim_wrapper(accumulation)
    warmup = WarmupLR.build_iter_from_epoch(
        optimizer=wrapper,
        optimizer_steps=5,
        epoch_length=100,
        begin=1,
        end=3,
        start_factor=0.2,
    )
    rates = []
    for _ in range(100 + 6 * accumulation):
        rates.append(wrapper.param_groups[0]['lr'])
        wrapper.step()
        warmup.step()
    start = 100 // accumulation * accumulation  # the last update before epoch 1
    assert rates[:start] == [1.0] * start
    assert rates[start::accumulation][:6] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )


def test_a_warmup_of_one_step_is_refused():
    with pytest.raises(InputError, match='optimizer_steps=1'):
        WarmupLR.build_iter_from_epoch(
            optimizer=optim_wrapper(1), optimizer_steps=1, epoch_length=9, end=1
        )
