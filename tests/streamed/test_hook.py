import copy
from types import SimpleNamespace

import psutil
import pytest
import torch
from mmengine.hooks import Hook

from sapiens_plugin import recipe
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.errors import InputError
from sapiens_plugin.streamed import hook
from sapiens_plugin.streamed.hook import StreamingHook
from sapiens_plugin.streamed.optim_wrapper import StreamedOptimWrapper

GOOD = [torch.tensor(1.0)]


@pytest.fixture
def job(demo_config):
    cfg = demo_config
    recipe.streamed(micro_batch=4)(cfg)
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = []
    return cfg


@pytest.mark.parametrize(
    'change, complaint',
    [
        (lambda cfg: cfg.update(custom_hooks=[dict(type='EMAHook')]), 'EMAHook'),
        (lambda cfg: cfg.update(compile=True), 'compile=True'),
        (
            lambda cfg: cfg.update(activation_checkpointing=['backbone']),
            'activation_checkpointing',
        ),
        (
            lambda cfg: cfg.optim_wrapper.update(accumulative_counts=3),
            '3 times what it was, and model.micro_batch',
        ),
        (
            lambda cfg: cfg.optim_wrapper.update(
                clip_grad=dict(type='value', clip_value=1)
            ),
            'clips by norm',
        ),
        (
            lambda cfg: cfg.optim_wrapper.optimizer.update(type='AdamW'),
            'optimizer is AdamW',
        ),
        (
            lambda cfg: cfg.optim_wrapper.update(type='OptimWrapper'),
            'not OptimWrapper',
        ),
        (
            lambda cfg: (
                cfg.model.update(type='TopdownPoseEstimator')
                or [cfg.model.pop(name) for name in ('micro_batch', 'mode')]
            ),
            'not TopdownPoseEstimator',
        ),
    ],
    ids=['ema', 'compile', 'cp', 'counts', 'clip', 'adamw', 'wrapper', 'model'],
)
def test_what_does_not_go_with_streaming_is_refused(
    job, make_runner, change, complaint
):
    change(job)
    with pytest.raises(InputError, match=complaint):
        make_runner(job).train()


def test_host_memory_too_small_names_the_moments_that_fit(
    job, make_runner, monkeypatch
):
    runner = make_runner(job)
    model = runner.model
    model.moment_dtype = 'float32'
    params = sum(p.numel() for p in model.parameters())
    staging = 96 * 2**20
    hook = StreamingHook()

    def with_free(size):
        free = SimpleNamespace(available=0.5 * 2**30 + staging + size)
        monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)
        hook._check_host_memory(model, boundary_bytes=0)

    with_free((2 + 8) * params)
    with pytest.raises(InputError, match="moment_dtype='bfloat16', which fits"):
        with_free((2 + 8) * params - 1)
    with pytest.raises(InputError, match="moment_dtype='int8', which fits"):
        with_free((2 + 4) * params - 1)
    with pytest.raises(InputError, match='Close other programs'):
        with_free((2 + 1) * params)
    model.gradient_dtype = torch.float32
    with pytest.raises(InputError, match=r"model.mode='compact', which fits"):
        with_free((2 + 3) * params)


def test_a_budget_too_small_is_refused_before_anything_is_loaded(
    job, make_runner, monkeypatch
):
    job.model.vram_budget = 86
    job.default_hooks.phase_switch.warmup_epochs = 1  # phase 1 would need less
    runner = make_runner(job)
    monkeypatch.setattr(runner, '_init_model_weights', pytest.fail)
    with pytest.raises(InputError, match='smallest that works'):
        runner.train()


def test_without_the_hook_training_is_refused(job, make_runner):
    job.default_hooks.streaming = None
    with pytest.raises(InputError, match=r'StreamingHook.* is missing'):
        make_runner(job).train()


def test_the_optimizer_gets_the_moments_of_the_mode(job, make_runner):
    runner = make_runner(job)
    runner.train()
    runner.optim_wrapper.state_dict()
    states = runner.optim_wrapper.optimizer.state.values()
    assert states and all('exp_avg_int8' in state for state in states)


def test_the_end_of_an_epoch_sees_all_updates(job, make_runner):
    seen = []

    class Look(Hook):
        priority = 'HIGH'

        def after_train_epoch(self, runner):
            seen.append(runner.optim_wrapper.optimizer.has_pending)

        def after_train_iter(self, runner, *args, **kwargs):
            seen.append(runner.optim_wrapper.optimizer.has_pending)

    runner = make_runner(job)
    runner.register_hook(Look(), 'HIGH')  # before CheckpointHook, which flushes, too
    runner.train()
    assert seen == [True, True, True, False]


def make_wrapper(*shapes, **settings):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    return params, StreamedOptimWrapper(HostAdamW(params, lr=0.1), **settings)


@pytest.mark.parametrize('max_norm', [0.5, 100.0])
@pytest.mark.parametrize('norm_type', [2, 1, float('inf')])
def test_clipping_has_the_bits_of_the_stock_one(max_norm, norm_type):
    clip = dict(max_norm=max_norm, norm_type=norm_type)
    params, wrapper = make_wrapper((7, 5), (11,), (3, 2, 2), clip_grad=clip)
    twins = copy.deepcopy(params)
    stock = torch.optim.AdamW(twins, lr=0.1, weight_decay=1e-2, fused=True)
    for _ in range(5):
        for param, twin in zip(params, twins, strict=True):
            param.grad = torch.randn_like(param)
            twin.grad = param.grad.clone()
        norms = {p: torch.linalg.vector_norm(p.grad, norm_type) for p in params[::-1]}
        wrapper.update(norms, GOOD, micro_batch=2, scaled=False)
        assert wrapper.optimizer.has_pending
        wrapper.optimizer.flush()
        torch.nn.utils.clip_grad_norm_(twins, **clip)
        stock.step()
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)


def test_the_loss_scale_learns_and_is_saved():
    params, wrapper = make_wrapper((3,))
    start = wrapper.loss_scale.scale
    params[0].grad = torch.tensor([1.0, float('inf'), 0.0])
    norms = {params[0]: torch.linalg.vector_norm(params[0].grad)}
    wrapper.update(norms, GOOD, micro_batch=2, scaled=True)
    assert wrapper.loss_scale.scale == start / 2
    assert params[0].grad is None and not wrapper.optimizer.has_pending
    # That is no fault, and a bad loss has nothing to do with the scale.
    assert wrapper.guard.state['skipped'] == 0
    before = wrapper.loss_scale.state_dict()
    params[0].grad = torch.ones(3)
    norms, bad = {params[0]: torch.ones(())}, [torch.tensor(float('nan'))]
    wrapper.update(norms, bad, micro_batch=2, scaled=True)
    assert wrapper.loss_scale.state_dict() == before
    assert wrapper.guard.state['skipped'] == 1 and not wrapper.optimizer.has_pending
    _, other = make_wrapper((3,))
    other.load_state_dict(wrapper.state_dict())
    assert other.loss_scale.scale == start / 2


def test_schedulers_see_that_the_optimizer_steps(job, make_runner, recwarn):
    job.param_scheduler = [dict(type='MultiStepLR', milestones=[2], by_epoch=False)]
    runner = make_runner(job)
    runner.train()
    assert not [w for w in recwarn if 'optimizer.step()' in str(w.message)]
    groups = runner.optim_wrapper.optimizer.param_groups
    assert groups[0]['lr'] == pytest.approx(0.1 * groups[0]['initial_lr'])


def test_forked_processes_have_the_weights_but_while_it_trains(
    job, make_runner, monkeypatch
):
    told = []
    monkeypatch.setattr(
        hook, 'set_forked', lambda params, forked: told.append((len([*params]), forked))
    )
    runner = make_runner(job)
    assert told == []
    every = len([*runner.model.parameters()])

    class First(Hook):
        def before_train_epoch(self, runner):
            assert told == [(every, False)]

    runner.register_hook(First(), 'HIGHEST')
    runner.train()
    assert told == [(every, False), (every, True)]
