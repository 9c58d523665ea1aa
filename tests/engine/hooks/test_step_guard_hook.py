import itertools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from sapiens_plugin import recipe
from sapiens_plugin.engine.hooks.step_guard_hook import StepGuardHook
from sapiens_plugin.engine.optim.guarded_optim_wrapper import GuardedOptimWrapper
from sapiens_plugin.engine.optim.step_guard import StepGuard
from sapiens_plugin.errors import InputError

NAN, INF = float('nan'), float('inf')


def stock(cfg):
    cfg.train_dataloader.batch_size = 4
    cfg.optim_wrapper.accumulative_counts = 2
    return cfg


def streamed(cfg):
    recipe.streamed(micro_batch=4)(cfg)
    return cfg


kinds = pytest.mark.parametrize('kind', [stock, streamed])


def guarded(cfg, **settings):
    kind = 'sapiens_plugin.StepGuardHook'
    cfg.default_hooks.step_guard = dict(type=kind, **settings)
    return cfg


@pytest.fixture
def job(demo_config):
    """Nothing but steps, nine of them."""
    cfg = demo_config
    cfg.default_hooks.step_guard = None
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[name] = None
    for name in ('status', 'pictures', 'report'):
        del cfg.default_hooks[name]
    cfg.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook', interval=1, max_keep_ckpts=9
    )
    return cfg


class Watch(Hook):
    """Makes some steps bad, and keeps the weights after each step."""

    def __init__(self, bad=(), factor=NAN):
        self.bad = bad
        self.factor = factor
        self.weights = []
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        samples = data_batch['data_samples']
        steps_of = runner.optim_wrapper._accumulative_counts
        if runner.iter % steps_of == 0:
            self.images.append([])
        # The second micro-batch of a step is the bad one.
        half = samples if steps_of == 2 else samples[4:]
        self.images[-1].append([str(sample.img_id) for sample in half])
        if len(self.images) - 1 in self.bad and (runner.iter + 1) % steps_of == 0:
            for sample in half:
                sample.gt_fields.heatmaps.mul_(self.factor)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.optim_wrapper.should_update():
            state = runner.model.state_dict()
            self.weights.append({name: v.clone() for name, v in state.items()})

    def took(self) -> list[bool]:
        """Tell of each step but the first whether it moved the head."""
        heads = [weights['head.final_layer.weight'] for weights in self.weights]
        return [not torch.equal(a, b) for a, b in itertools.pairwise(heads)]


def warnings_of(runner) -> list[str]:
    (log,) = Path(runner.work_dir).rglob(f'{runner.timestamp}.log')
    return [
        line.partition(' - ')[2]
        for line in log.read_text(encoding='utf-8').splitlines()
        if 'is skipped' in line
    ]


def same_run(one, other):
    for runner in (one, other):
        runner.optim_wrapper.state_dict()
    for a, b in (
        (one.model.state_dict(), other.model.state_dict()),
        *zip(
            one.optim_wrapper.optimizer.state_dict()['state'].values(),
            other.optim_wrapper.optimizer.state_dict()['state'].values(),
            strict=True,
        ),
    ):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert torch.equal(value, b[name]), name


@kinds
def test_good_steps_have_the_bits_of_a_run_without_the_hook(kind, job, make_runner):
    cfg = kind(job)
    runners = []
    for settings in ({}, dict(window=2)):
        if settings:
            guarded(cfg, **settings)
        runners.append(make_runner(cfg))
        runners[-1].train()
    same_run(*runners)
    state = runners[1].message_hub.get_info('step_guard')
    assert len(state['losses']) == 2 and state['skipped_in_a_row'] == 0


@kinds
def test_a_step_with_a_loss_that_is_not_finite_is_skipped_whole(kind, job, make_runner):
    watch = Watch(bad=[2, 3, 5])
    runner = make_runner(guarded(kind(job)), watch)
    runner.train()
    assert watch.took() == [True, False, False, True, False, True, True, True]
    assert all(value.isfinite().all() for value in watch.weights[-1].values())
    said = warnings_of(runner)
    counts = [re.search(r'\((\d) in a row, (\d) in all\)', line) for line in said]
    assert [count.groups() for count in counts] == [('1', '1'), ('2', '2'), ('1', '3')]
    assert 'The loss of a step is not finite' in said[0]
    bad_ones = ', '.join(sorted(set(watch.images[2][-1])))
    assert said[0].endswith(f'Images: {bad_ones}')
    # Schedules have gone on.
    micro_batches = 9 * runner.optim_wrapper._accumulative_counts
    assert runner.param_schedulers[0]._global_step == micro_batches


def test_a_gradient_that_is_not_finite_skips_the_step(job, make_runner):
    watch = Watch()
    runner = make_runner(guarded(stock(job)), watch)
    param = runner.model.head.final_layer.bias
    param.register_hook(lambda grad: grad * (INF if runner.iter == 5 else 1))
    runner.train()
    assert watch.took() == [True, False] + 6 * [True]
    (said,) = warnings_of(runner)
    assert 'The gradient of a step is not finite' in said
    images = sorted({name for part in watch.images[2] for name in part})
    assert said.endswith(f'Images: {", ".join(images)}')


@kinds
def test_a_loss_far_above_the_usual_skips_the_step_once_it_is_known(
    kind, job, make_runner
):
    # The first one comes too early: one step is known.
    watch = Watch(bad=[1, 4, 5], factor=100)
    runner = make_runner(guarded(kind(job), window=3, spike_factor=50.0), watch)
    runner.train()
    assert watch.took() == [True, True, True, False, False, True, True, True]
    said = warnings_of(runner)
    assert len(said) == 2
    assert 'more than 50 times the median of the last 3' in said[0]
    bad_ones = ', '.join(sorted(set(watch.images[4][-1])))
    assert said[0].endswith(f'Images: {bad_ones}')

    job.default_hooks.step_guard.spike_factor = None
    watch = Watch(bad=[1, 4, 5], factor=100)
    make_runner(job, watch).train()
    assert all(watch.took())


@kinds
def test_too_many_in_a_row_end_the_run_with_a_checkpoint(kind, job, make_runner):
    cfg = guarded(kind(job), max_skips=3)
    watch = Watch(bad=range(2, 99))
    runner = make_runner(cfg, watch)
    with pytest.raises(InputError, match=r'3 steps in a row were skipped') as caught:
        runner.train()
    assert len(watch.weights) == 5 - 1  # the hook comes last but for this one
    path = re.search(r'Its state is in (\S+\.pth)\.', str(caught.value))[1]
    saved = torch.load(path, weights_only=False)
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
    done = 5 * runner.optim_wrapper._accumulative_counts
    assert saved['meta']['iter'] == done
    # All that belongs to the last iteration is in it.
    assert saved['param_schedulers'][0]['_global_step'] == done

    # A resumed run has as many tries again, and knows the losses.
    cfg.resume, cfg.load_from = True, path
    cfg.work_dir += '_again'  # the log of the same second is the same file
    again = make_runner(cfg, Watch(bad=[0, 1]))
    again.train()
    assert len(warnings_of(again)) == 2
    state = again.message_hub.get_info('step_guard')
    before = saved['message_hub']['runtime_info']['step_guard']
    assert len(before['losses']) == 2
    assert state['losses'][:2] == before['losses'] and len(state['losses']) == 4


def test_losses_and_skips_are_counted_through_a_resumption(job, make_runner):
    cfg = guarded(stock(job), window=5)
    whole = make_runner(cfg, Watch(bad=[1, 5, 6]))
    whole.train()
    cfg.resume, cfg.load_from = True, f'{cfg.work_dir}/epoch_2.pth'
    cfg.work_dir += '_again'  # the log of the same second is the same file
    resumed = make_runner(cfg, Watch(bad=[0]))
    resumed.train()
    assert '(2 in a row, 3 in all)' in warnings_of(resumed)[0]
    state = whole.message_hub.get_info('step_guard')
    assert len(state['losses']) == 5
    assert resumed.message_hub.get_info('step_guard') == state
    same_run(whole, resumed)


def test_another_loop_is_told_that_its_steps_are_not_looked_at(job, make_runner):
    cfg = guarded(job)
    cfg.train_cfg = ConfigDict(by_epoch=True, max_epochs=3)
    cfg.train_dataloader.sampler.type = 'DefaultSampler'
    cfg.default_hooks.checkpoint.interval_minutes = None
    runner = make_runner(cfg)
    runner.train()
    (log,) = Path(runner.work_dir).rglob('*.log')
    said = log.read_text(encoding='utf-8')
    assert 'this job has EpochBasedTrainLoop and OptimWrapper' in said


@pytest.mark.parametrize(
    'settings, complaint',
    [
        (dict(max_skips=0), 'max_skips=0'),
        (dict(window=0), 'window=0'),
        (dict(spike_factor=1.0), 'spike_factor=1.0'),
        (dict(spike_factor=NAN), 'spike_factor=nan'),
    ],
)
def test_refusals(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        StepGuardHook(**settings)


class Toy:
    """A linear model under a wrapper for mixed precision, on the CPU."""

    def __init__(self, monkeypatch, loss_scale='dynamic', scale=2.0**16):
        module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
        monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
        monkeypatch.setattr(
            f'{module}.GradScaler',
            lambda init_scale=scale: torch.amp.GradScaler('cpu', init_scale=init_scale),
        )
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.wrapper = AmpOptimWrapper(
            loss_scale=loss_scale,
            optimizer=torch.optim.AdamW(self.model.parameters(), lr=0.1),
            clip_grad=dict(max_norm=0.1),
            accumulative_counts=2,
        )
        self.guard = StepGuard()
        self.guarded = GuardedOptimWrapper(self.wrapper, self.guard)
        self.inputs = 20 * torch.randn(40, 5, 3)

    @property
    def scale(self) -> float:
        return self.wrapper.loss_scaler.get_scale()

    def step(self, wrapper, i, factor=1.0) -> bool:
        before = self.model.weight.detach().clone()
        for j in (2 * i, 2 * i + 1):
            with wrapper.optim_context(self.model):
                loss = self.model(self.inputs[j]).square().mean().float() * factor
            wrapper.update_params(loss)
        assert all(param.grad is None for param in self.model.parameters())
        return not torch.equal(before, self.model.weight)


def test_mixed_precision_has_the_bits_of_the_stock_wrapper(monkeypatch):
    ends = []
    for name in ('wrapper', 'guarded'):
        toy = Toy(monkeypatch, scale=2.0**127)  # no gradient can bear it
        took = [toy.step(getattr(toy, name), i) for i in range(20)]
        assert took[-1] and took.count(False) > 2
        ends.append((took, toy.scale, toy.model.state_dict()))
    assert ends[0][:2] == ends[1][:2]
    assert all(torch.equal(ends[0][2][k], ends[1][2][k]) for k in ends[0][2])
    assert toy.guard.state['skipped_in_a_row'] == 0
    assert toy.guard.left_out == took.count(False)


def test_a_bad_loss_has_nothing_to_do_with_the_loss_scale(monkeypatch):
    toy = Toy(monkeypatch)
    assert toy.step(toy.guarded, 0) and not toy.step(toy.guarded, 1, NAN)
    assert toy.scale == 2.0**16 and toy.guard.state['skipped_in_a_row'] == 1
    assert toy.step(toy.guarded, 2) and toy.guard.state['skipped_in_a_row'] == 0


@pytest.mark.parametrize(
    'settings', [dict(scale=1.0), dict(loss_scale=8.0)], ids=['at 1', 'constant']
)
def test_gradients_overflow_where_no_lower_scale_can_help(monkeypatch, settings):
    toy = Toy(monkeypatch, **settings)
    toy.model.weight.register_hook(lambda grad: grad * INF)
    assert not toy.step(toy.guarded, 0)
    assert toy.guard.state['skipped_in_a_row'] == 1


def test_other_attributes_are_those_of_the_wrapper():
    model = nn.Linear(2, 1)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
    guarded = GuardedOptimWrapper(wrapper, StepGuard())
    assert guarded.inner_count == 0 and guarded.optimizer is wrapper.optimizer
