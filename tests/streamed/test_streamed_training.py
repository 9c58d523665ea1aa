"""Streamed jobs in the stock Runner, against the same jobs unstreamed."""

import copy
import math

import pytest
import torch
from mmengine.hooks import Hook

from sapiens_plugin import recipe
from sapiens_plugin.core.streaming.chain import Placement
from sapiens_plugin.core.utils import unforked
from sapiens_plugin.errors import InputError
from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator

MICRO, COUNTS = 2, 16


class StepSchedule(Hook):
    """A cosine over optimizer steps, the same float in every job."""

    def __init__(self, total: int):
        self.total = total

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        wrapper = runner.optim_wrapper
        step = wrapper.inner_count // wrapper._accumulative_counts
        rate = 1e-3 * (0.1 + 0.9 * math.cos(math.pi * step / self.total) ** 2)
        for group in wrapper.optimizer.param_groups:
            group['lr'] = rate * group['lr_scale']


class Losses(Hook):
    """Collects the loss of every iteration."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].clone())


class GradientAddresses(Hook):
    """Collects where gradients lie between two steps."""

    def __init__(self):
        self.seen = []  # not a set: an address that is free again is taken again

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        buffers = runner.model._chain._gradients._buffers.values()
        self.seen += [buffer.data_ptr() for buffer in buffers]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    from sapiens_plugin.workbench.demo.make_demo import make_demo

    return make_demo(tmp_path_factory.mktemp('demo'), num_train=32, num_val=4)


@pytest.fixture
def job(demo_config):
    """32 persons an epoch, in another order each, augmented, over a phase switch."""
    cfg = demo_config
    cfg.model.backbone.arch.num_layers = 4
    cfg.train_dataloader.dataset.indices = 32
    cfg.train_dataloader.sampler.shuffle = True
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='RandomBBoxTransform', rotate_factor=15)
    )
    cfg.param_scheduler = []
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.05)
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.85)
    cfg.train_cfg.max_epochs = 4
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = 10
    cfg.default_hooks.phase_switch.warmup_epochs = 2
    return cfg


def unstreamed(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.train_dataloader.batch_size = MICRO
    cfg.optim_wrapper.accumulative_counts = COUNTS
    cfg.optim_wrapper.optimizer.fused = True
    cfg.work_dir += '_unstreamed'
    return cfg


def streamed(cfg, **settings):
    cfg = copy.deepcopy(cfg)
    recipe.streamed(micro_batch=MICRO)(cfg)
    cfg.train_dataloader.batch_size = MICRO * COUNTS
    cfg.model.update(settings)
    cfg.work_dir += '_streamed'
    return cfg


def train(make_runner, cfg, *hooks):
    losses = Losses()
    runner = make_runner(cfg, losses, *hooks)
    runner.train()
    return runner, losses.values


def assert_same_state(one, other):
    for runner in (one, other):
        runner.optim_wrapper.state_dict()  # makes the updates that are to come
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    first, second = (r.optim_wrapper.optimizer.state_dict() for r in (one, other))
    assert first['state'].keys() == second['state'].keys()
    for key, state in first['state'].items():
        assert state.keys() == second['state'][key].keys()
        for name, value in state.items():
            assert torch.equal(value, second['state'][key][name]), (key, name)


def test_twenty_steps_are_those_of_accumulation(job, make_runner, monkeypatch):
    job.train_cfg.update(max_epochs=20)
    job.default_hooks.phase_switch.warmup_epochs = 7
    schedule = StepSchedule(20)
    reference, expected = train(make_runner, unstreamed(job), schedule)
    means = [
        sum(loss * (MICRO / (MICRO * COUNTS)) for loss in expected[i : i + COUNTS])
        for i in range(0, len(expected), COUNTS)
    ]
    assert means[-1] < means[0]
    for placement in (Placement(), Placement(slots=2, boundaries_on_host=True)):
        monkeypatch.setattr(
            StreamedTopdownPoseEstimator, '_placement', lambda *_, p=placement, **__: p
        )
        cfg = streamed(job, mode='exact')
        runner, losses = train(make_runner, cfg, schedule)
        assert len(losses) == len(means) == 20
        assert losses == means
        assert_same_state(runner, reference)


@pytest.mark.parametrize('mode, stop', [('exact', 1), ('compact', 3)])
def test_resumed_run_is_the_uninterrupted_one(job, make_runner, mode, stop):
    job.model.backbone.drop_path_rate = 0.4
    job.train_dataloader.sampler.shuffle = False
    del job.train_dataloader.dataset.pipeline[2]  # nor other randomness in the data
    cfg = streamed(job, mode=mode)
    whole, _ = train(make_runner, cfg)

    cfg.work_dir += '_again'
    part = copy.deepcopy(cfg)
    part.train_cfg.max_epochs = stop
    train(make_runner, part)
    cfg.resume = True
    resumed, _ = train(make_runner, cfg)
    assert resumed.epoch == whole.epoch
    assert_same_state(resumed, whole)


class EpochSchedule(StepSchedule):
    """The same where an epoch is one step: iterations differ between the two kinds."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['lr'] = 1e-3 / (1 + runner.epoch) * group['lr_scale']


@pytest.fixture
def whole(job, make_runner):
    job.train_dataloader.sampler.shuffle = False
    del job.train_dataloader.dataset.pipeline[2]  # nor other randomness in the data
    return train(make_runner, unstreamed(job), EpochSchedule(4))[0]


def resume(make_runner, cfg, path):
    cfg.resume, cfg.load_from = True, str(path)
    cfg.work_dir += '_resumed'
    return train(make_runner, cfg, EpochSchedule(4))[0]


def recount(path, iterations):
    """Set the iterations of a checkpoint, which the two kinds count differently."""
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['iter'] = iterations
    torch.save(checkpoint, path)


def test_a_streamed_run_goes_on_from_an_unstreamed_checkpoint(job, make_runner, whole):
    path = f'{whole.work_dir}/epoch_2.pth'
    recount(path, 2)
    resumed = resume(make_runner, streamed(job, mode='exact'), path)
    assert_same_state(resumed, whole)


def test_an_unstreamed_run_goes_on_from_a_streamed_checkpoint(job, make_runner, whole):
    first = streamed(job, mode='exact')
    first.train_cfg.max_epochs = 2
    path = f'{first.work_dir}/epoch_2.pth'
    train(make_runner, first, EpochSchedule(4))
    recount(path, 2 * COUNTS)
    assert_same_state(resume(make_runner, unstreamed(job), path), whole)


def test_narrow_moments_take_over_and_are_not_taken_for_others(job, make_runner, whole):
    path = f'{whole.work_dir}/epoch_2.pth'
    recount(path, 2)
    resumed = resume(make_runner, streamed(job, mode='compact'), path)
    saved = f'{resumed.work_dir}/epoch_4.pth'
    moved = total = 0
    for name, value in resumed.model.state_dict().items():
        moved += (value - whole.model.state_dict()[name]).square().sum().item()
        total += (whole.model.state_dict()[name]).square().sum().item()
    assert 0 < (moved / total) ** 0.5 < 1e-2
    again = unstreamed(job)
    again.train_cfg.max_epochs = 5
    with pytest.raises(InputError, match='int8'):
        resume(make_runner, again, saved)


def test_workers_never_touch_what_they_do_not_have(job, make_runner, monkeypatch):
    """Weights, gradients and moments, however small, are left out of every fork."""
    job.train_cfg.update(max_epochs=2, val_interval=1)
    job = streamed(job)
    alone, _ = train(make_runner, job)
    monkeypatch.setattr(unforked, '_SMALL', 1)
    job.work_dir += '_workers'
    for loader in (job.train_dataloader, job.val_dataloader):
        loader.update(num_workers=2, persistent_workers=True)
    gradients = GradientAddresses()
    runner, _ = train(make_runner, job, gradients)
    assert_same_state(alone, runner)
    moments = [
        tensor.data_ptr()
        for state in runner.optim_wrapper.optimizer.state.values()
        for name, tensor in state.items()
        if name != 'step'
    ]
    weights = [param.data_ptr() for param in runner.model.parameters()]
    assert len(gradients.seen) > 10 and len(moments) > 20
    for address in (*weights, *moments, *gradients.seen):
        assert address % 4096 == 0
