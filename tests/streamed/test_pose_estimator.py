"""The streamed estimator by itself: what it refuses, and how it meets trouble."""

import copy
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import sapiens_plugin.registry  # noqa: F401
from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.errors import InputError
from sapiens_plugin.streamed import pose_estimator
from sapiens_plugin.streamed.optim_wrapper import StreamedOptimWrapper
from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator

HEIGHT, WIDTH = 64, 48
CODEC = dict(
    type='UDPHeatmap',
    input_size=(WIDTH, HEIGHT),
    heatmap_size=(WIDTH // 4, HEIGHT // 4),
    sigma=1,
)


def build(streamed=True, *, seed=0, backbone=None, **settings):
    torch.manual_seed(seed)
    cfg = dict(
        type='mmpose.TopdownPoseEstimator',
        data_preprocessor=dict(type='mmpose.PoseDataPreprocessor'),
        backbone=dict(
            type='sapiens_plugin.SapiensBackbone',
            arch=dict(
                embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
            ),
            img_size=(HEIGHT, WIDTH),
            **(backbone or {}),
        ),
        head=dict(
            type='sapiens_plugin.SapiensHeatmapHead',
            in_channels=32,
            out_channels=17,
            deconv_out_channels=(16, 16),
            deconv_kernel_sizes=(4, 4),
            loss=dict(type='mmpose.KeypointMSELoss', use_target_weight=True),
            decoder=CODEC,
        ),
        test_cfg=dict(flip_test=False),
    )
    if streamed:
        cfg['type'] = 'sapiens_plugin.StreamedTopdownPoseEstimator'
        cfg.update(dict(micro_batch=2, mode='exact') | settings)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    return model


PLACEMENTS = [
    Placement(),
    Placement(spacing=3),
    Placement(slots=2),
    Placement(slots=4, spacing=2),
    Placement(slots=2, boundaries_on_host=True),
    Placement(slots=4, spacing=4),
]


def place(model, monkeypatch, placement):
    monkeypatch.setattr(model, '_placement', lambda *args, **kwargs: placement)


def make_data(size=6, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(size):
        sample = PoseDataSample(
            metainfo=dict(
                img_id=100 + i,
                input_size=(WIDTH, HEIGHT),
                input_center=torch.tensor([WIDTH / 2, HEIGHT / 2]).numpy(),
                input_scale=torch.tensor([float(WIDTH), float(HEIGHT)]).numpy(),
            )
        )
        sample.gt_fields = PixelData(
            heatmaps=torch.rand(17, HEIGHT // 4, WIDTH // 4, generator=generator)
        )
        sample.gt_instance_labels = InstanceData(keypoint_weights=torch.ones(1, 17))
        samples.append(sample)
    images = torch.rand(size, 3, HEIGHT, WIDTH, generator=generator)
    return dict(inputs=list(images), data_samples=samples)


def make_wrapper(model, **settings):
    settings = dict(clip_grad=dict(max_norm=1.0)) | settings
    optimizer = HostAdamW(model.parameters(), lr=1e-3, moment_dtype=model.moment_dtype)
    return StreamedOptimWrapper(optimizer, **settings)


def weights_after(model, wrapper):
    wrapper.optimizer.flush()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_it_loads_and_is_loaded_by_the_unstreamed_model():
    streamed, unstreamed = build(seed=1), build(streamed=False, seed=2)
    assert list(streamed.state_dict()) == list(unstreamed.state_dict())
    unstreamed.load_state_dict(streamed.state_dict())
    streamed.load_state_dict(unstreamed.state_dict())


@pytest.mark.parametrize('placement', PLACEMENTS, ids=str)
def test_features_and_heatmaps_are_those_of_the_unstreamed_model(
    monkeypatch, placement
):
    streamed, unstreamed = build(), build(streamed=False)
    place(streamed, monkeypatch, placement)
    for model in (streamed, unstreamed):
        model.eval()
    images = torch.stack(make_data()['inputs'])
    with torch.no_grad():
        expected = unstreamed(images, None, mode='tensor')
        got = streamed(images, None, mode='tensor')
    assert torch.allclose(got, expected, atol=1e-5)
    assert expected.std() > 1e-4


@pytest.mark.parametrize('micro_batch', [1, 3, 4, 5])  # 5: the last has 2
@pytest.mark.parametrize('placement', PLACEMENTS, ids=str)
def test_gradients_are_those_of_the_unstreamed_model(
    monkeypatch, micro_batch, placement
):
    backbone = dict(with_cls_token=True)
    streamed = build(backbone=backbone, micro_batch=micro_batch).train()
    place(streamed, monkeypatch, placement)
    unstreamed = build(streamed=False, backbone=backbone).train()
    data = make_data(12)
    wrapper = make_wrapper(streamed, clip_grad=None)
    streamed.train_step(copy.deepcopy(data), wrapper)
    whole = unstreamed.data_preprocessor(data, True)
    for start in range(0, 12, micro_batch):
        part = slice(start, start + micro_batch)
        samples = whole['data_samples'][part]
        loss = unstreamed(whole['inputs'][part], samples, mode='loss')['loss_kpt']
        equal = 12 % micro_batch == 0
        share = loss / (12 // micro_batch) if equal else loss * (len(samples) / 12)
        share.backward()
    for name, param in streamed.named_parameters():
        grad = wrapper.optimizer._pending[param][0]
        assert torch.equal(grad, unstreamed.get_parameter(name).grad), name


@pytest.mark.parametrize('placement', PLACEMENTS, ids=str)
def test_prediction_sees_updates_that_are_still_to_come(monkeypatch, placement):
    model = build()
    place(model, monkeypatch, placement)
    wrapper = make_wrapper(model)
    model.train_step(make_data(), wrapper)
    assert wrapper.optimizer.has_pending
    images = torch.stack(make_data()['inputs'])
    before = model.eval()(images, None, mode='tensor')
    wrapper.optimizer.flush()
    fresh = build(seed=3).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(before, fresh(images, None, mode='tensor'))


def test_state_dict_holds_updates_that_were_still_to_come():
    model = build()
    wrapper = make_wrapper(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train_step(make_data(), wrapper)
    assert wrapper.optimizer.has_pending
    state = model.state_dict()
    assert not wrapper.optimizer.has_pending
    assert all(not torch.equal(state[name], before[name]) for name in before)


def test_loading_weights_leaves_no_update_to_come():
    model, other = build(), build(seed=5)
    wrapper = make_wrapper(model)
    model.train_step(make_data(), wrapper)
    model.load_state_dict(other.state_dict())
    wrapper.optimizer.flush()
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_layout_is_kept_as_long_as_it_fits(monkeypatch):
    model = build().train()
    layouts = []

    def spy(inputs, *, training):
        layouts.append((len(inputs), training))
        return Placement()

    monkeypatch.setattr(model, '_placement', spy)
    wrapper = make_wrapper(model)
    for size in (6, 3, 6):  # the last batch of an epoch is smaller
        model.train_step(make_data(size), wrapper)
    assert layouts == [(6, True)]
    for size in (6, 4, 7):  # the head has them all at once: not as in training
        model(torch.zeros(size, 3, HEIGHT, WIDTH), None, mode='tensor')
    assert layouts[1:] == [(6, False), (7, False)]
    model.train_step(make_data(), wrapper)
    model(torch.zeros(2, 3, 2 * HEIGHT, WIDTH), None, mode='tensor')
    model.train_step(make_data(), wrapper)
    assert layouts[3:] == [(6, True), (2, False), (6, True)]
    model.backbone.set_frozen(True)
    model.train_step(make_data(), wrapper)
    assert layouts[6:] == [(6, True)]


def test_a_test_loop_may_be_the_first_to_ask(monkeypatch):
    """The probe and the memory model differentiate; the loop has gradients off."""
    model = build(vram_budget=119, precision='bfloat16').eval()
    with torch.no_grad():
        heatmaps = model(torch.zeros(3, 3, HEIGHT, WIDTH), None, mode='tensor')
    assert heatmaps.shape == (3, 17, HEIGHT // 4, WIDTH // 4)


def test_a_test_takes_the_memory_of_the_whole_batch_in_the_head():
    model = build(vram_budget=400)
    small, large = (
        model.memory_step(size, (HEIGHT, WIDTH), training=False).tail.forward
        for size in (2, 20)
    )
    assert large > 5 * small
    assert model.memory_step(20, (HEIGHT, WIDTH)).tail.forward < large / 5


def test_only_stages_that_a_step_goes_back_through_are_measured_there():
    model = build(vram_budget=400)
    size = (HEIGHT, WIDTH)

    def backwards(**kwargs) -> list[bool]:
        job = model.memory_step(2, size, **kwargs)
        assert all(work.forward for work in (job.stem, job.block, job.tail))
        return [work.peak > 0 for work in (job.stem, job.block, job.tail)]

    assert backwards() == [True, True, True]
    assert backwards(training=False) == [False, False, False]
    model.backbone.set_frozen(True)
    assert backwards() == [False, False, True]


def test_a_last_smaller_micro_batch_counts_by_its_size():
    streamed, unstreamed = build(), build(streamed=False)
    data = make_data(5)
    wrapper = make_wrapper(streamed, clip_grad=None)
    logs = streamed.train_step(data, wrapper)
    whole = unstreamed.data_preprocessor(data, True)
    losses = unstreamed(**whole, mode='loss')
    assert logs['loss'].item() == pytest.approx(losses['loss_kpt'].item(), rel=1e-6)
    losses['loss_kpt'].backward()
    largest = max(p.grad.norm() for p in unstreamed.parameters())
    for (name, _), other in zip(
        streamed.named_parameters(), unstreamed.parameters(), strict=True
    ):
        grad = wrapper.optimizer._pending[streamed.get_parameter(name)][0]
        scale = max(other.grad.norm(), 1e-4 * largest)
        assert (grad - other.grad).norm() <= 1e-6 * scale, name


@pytest.mark.parametrize('fails', [0, 5, 12])
def test_full_gpu_with_retry_halves_the_micro_batch(monkeypatch, fails):
    """The step comes out as if it had been that small from the start, applied once."""
    expected = build(micro_batch=2, backbone=dict(drop_path_rate=0.5)).train()
    model = build(
        micro_batch=4, on_oom='retry', backbone=dict(drop_path_rate=0.5)
    ).train()
    wrappers = make_wrapper(expected), make_wrapper(model)
    data = make_data(8)
    expected.train_step(copy.deepcopy(data), wrappers[0])
    model.micro_batch = 2
    model.train_step(copy.deepcopy(data), wrappers[1])  # pending while memory runs out
    model.micro_batch = 4

    calls = []
    forward = type(model.backbone.layers[0]).forward

    def full(self, x):
        calls.append(len(x))
        if len(calls) == fails + 1:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')
        return forward(self, x)

    expected.train_step(copy.deepcopy(data), wrappers[0])
    monkeypatch.setattr(type(model.backbone.layers[0]), 'forward', full)
    model.train_step(copy.deepcopy(data), wrappers[1])
    assert model.micro_batch == 2 and calls[0] == 4 and calls[-1] == 2
    one, other = (
        weights_after(m, w) for m, w in zip((expected, model), wrappers, strict=True)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_retry_gives_back_what_the_failed_step_held(monkeypatch):
    model = build(micro_batch=4, on_oom='retry', vram_budget=119).train()
    chains, alive = [], []
    make = StreamedChain.__init__
    forward = type(model.backbone.layers[0]).forward

    def spy(self, *args, **kwargs):
        alive.extend(chain() is not None for chain in chains)
        chains.append(weakref.ref(self))
        make(self, *args, **kwargs)

    def full(self, x):
        if len(x) == 4 and not isinstance(x, FakeTensor):  # nor in the planning
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return forward(self, x)

    monkeypatch.setattr(StreamedChain, '__init__', spy)
    monkeypatch.setattr(type(model.backbone.layers[0]), 'forward', full)
    model.train_step(make_data(8), make_wrapper(model))
    assert alive == [False]


def test_full_gpu_is_reported_with_ways_out(monkeypatch):
    model = build(vram_budget=98)

    forward = type(model.backbone.layers[0]).forward

    def full(self, x):
        if isinstance(x, FakeTensor):  # planning
            return forward(self, x)
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')

    monkeypatch.setattr(type(model.backbone.layers[0]), 'forward', full)
    with pytest.raises(InputError) as caught:
        model.train_step(make_data(), make_wrapper(model))
    for part in (
        '2 images at a time',
        'Tried to allocate 2 GiB',
        'of 98 MiB',
        'micro_batch=1',
        '320×240',
        'num_workers=0',
        "on_oom='retry'",
    ):
        assert part in str(caught.value)


def test_a_step_that_is_not_finite_is_skipped_and_names_its_images(monkeypatch):
    said = []
    monkeypatch.setattr(
        'sapiens_plugin.engine.optim.step_guard.print_log',
        lambda message, **_: said.append(message),
    )
    model = build()
    wrapper = make_wrapper(model)
    before = weights_after(model, wrapper)
    data = make_data()
    data['data_samples'][3].gt_fields.heatmaps[0, 0, 0] = float('nan')
    wrapper.guard.images.append([str(s.img_id) for s in data['data_samples']])
    model.train_step(data, wrapper)
    after = weights_after(model, wrapper)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(param.grad is None for param in model.parameters())
    assert wrapper.guard.state['skipped_in_a_row'] == 1
    assert said == [
        'The loss of a step is not finite; the step is skipped (1 in a row, 1 in all). '
        'Images: 102, 103'  # a micro-batch
    ]
    assert wrapper.inner_count == 1
    model.train_step(make_data(), wrapper)
    assert wrapper.guard.state['skipped_in_a_row'] == 0
    assert not torch.equal(
        weights_after(model, wrapper)['backbone.ln1.weight'],
        before['backbone.ln1.weight'],
    )


def test_a_loss_that_is_not_finite_is_skipped_even_if_gradients_are(monkeypatch):
    model = build()
    wrapper = make_wrapper(model)
    loss = model.head.loss

    def broken(*args, **kwargs):
        return loss(*args, **kwargs) | dict(loss_extra=torch.tensor(float('nan')))

    monkeypatch.setattr(model.head, 'loss', broken)
    model.train_step(make_data(), wrapper)
    assert wrapper.guard.state['skipped'] == 1 and not wrapper.optimizer.has_pending


def test_budget_too_small_for_a_block_names_the_smallest():
    model = build(vram_budget=80)
    with pytest.raises(InputError, match=r'80 MiB .* smallest that works is \d+ MiB'):
        model.train_step(make_data(), make_wrapper(model))


@pytest.mark.parametrize(
    'settings, complaint',
    [
        (dict(mode='small'), "model.mode='small'"),
        (dict(micro_batch=0), 'model.micro_batch=0'),
        (dict(vram_budget=0), 'model.vram_budget=0'),
        (dict(vram_budget='3GB'), "model.vram_budget='3GB'"),
        (dict(precision='fp16'), "model.precision='fp16'"),
        (dict(boundary_dtype='int8'), "model.boundary_dtype='int8'"),
        (dict(gradient_dtype='float16'), "model.gradient_dtype='float16'"),
        (dict(moment_dtype='int4'), "model.moment_dtype='int4'"),
        (dict(on_oom='ignore'), "model.on_oom='ignore'"),
        (dict(backbone=dict(with_cp=True)), 'with_cp=True'),
    ],
)
def test_refusals(settings, complaint):
    with pytest.raises(InputError) as caught:
        build(**settings)
    assert complaint in str(caught.value)


def test_more_than_one_process(monkeypatch):
    monkeypatch.setattr(
        'sapiens_plugin.streamed.pose_estimator.get_world_size', lambda: 2
    )
    with pytest.raises(InputError, match=r'one process, and this job has 2'):
        build()


def test_sync_batch_norm(monkeypatch):
    model = build()
    model.head.final_layer = nn.SyncBatchNorm(17)
    from sapiens_plugin.streamed.pose_estimator import _check_parts

    with pytest.raises(InputError, match=r'head.final_layer is a SyncBatchNorm'):
        _check_parts(model)


def test_another_backbone():
    from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator

    init_default_scope('mmpose')
    with pytest.raises(InputError, match='not ResNet'):
        StreamedTopdownPoseEstimator(
            backbone=dict(type='mmpose.ResNet', depth=18),
            head=dict(type='mmpose.HeatmapHead', in_channels=512, out_channels=17),
            data_preprocessor=dict(type='mmpose.PoseDataPreprocessor'),
        )


def test_the_stock_way_to_a_loss_is_closed():
    data = make_data()
    with pytest.raises(InputError, match='train_step only'):
        build()(torch.stack(data['inputs']), data['data_samples'], mode='loss')


def test_the_weights_stay_float32():
    with pytest.raises(InputError, match=r'stay float32, not torch.float16'):
        build().half()


def test_stock_optim_wrapper_is_refused():
    from mmengine.optim import OptimWrapper

    model = build()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
    with pytest.raises(InputError, match='not OptimWrapper'):
        model.train_step(make_data(), wrapper)


def test_a_model_that_has_trained_can_be_copied():
    model = build().train()
    wrapper = make_wrapper(model)
    model.train_step(make_data(), wrapper)
    twin = copy.deepcopy(model)
    assert not wrapper.optimizer.has_pending
    other = make_wrapper(twin)
    for one, that in ((model, wrapper), (twin, other)):
        that.optimizer.state.clear()
        one.train_step(make_data(seed=2), that)
    assert wrapper.optimizer.has_pending and other.optimizer.has_pending
    first, second = weights_after(model, wrapper), weights_after(twin, other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_on_a_cpu_nothing_travels_within_a_budget(monkeypatch):
    monkeypatch.setattr(StreamedTopdownPoseEstimator, 'travels_on_cpu', False)
    model = build(vram_budget=1).train()
    assert model.check_budget(6) == 0
    model.train_step(make_data(), make_wrapper(model))
    assert model._chain._placement.slots is None


@pytest.mark.parametrize(
    'train_cfg, logged',
    [(None, False), (dict(), False), (dict(compute_acc=True), True)],
)
def test_an_accuracy_is_computed_where_it_is_asked_for(train_cfg, logged):
    model = build(train_cfg=train_cfg).train()
    logs = model.train_step(make_data(), make_wrapper(model))
    assert ('acc_pose' in logs) == logged


@pytest.mark.parametrize(
    'message',
    [
        'CUDA error: out of memory\nCUDA kernel errors might be reported later.',
        'CUDA driver error: out of memory',
        'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`',
        'cuDNN error: CUDNN_STATUS_ALLOC_FAILED',
        'out of memory (2)',  # torch.cuda.check_error
    ],
)
def test_a_full_gpu_has_many_messages(monkeypatch, message):
    model = build(micro_batch=4, on_oom='retry').train()
    block = type(model.backbone.layers[0])
    forward = block.forward

    def full(self, x):
        if len(x) == 4:
            raise RuntimeError(message)
        return forward(self, x)

    monkeypatch.setattr(block, 'forward', full)
    model.train_step(make_data(8), make_wrapper(model))
    assert model.micro_batch == 2


def test_other_errors_are_not_taken_for_a_full_gpu(monkeypatch):
    model = build(micro_batch=4, on_oom='retry').train()

    def fail(self, x):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(type(model.backbone.layers[0]), 'forward', fail)
    with pytest.raises(RuntimeError, match='illegal memory access'):
        model.train_step(make_data(8), make_wrapper(model))


@pytest.mark.parametrize(
    'budget, free, expected',
    [
        (1000, 5000, [1000, 900, 810]),
        (1000, 800, [1000, 720, 648]),  # a budget is obeyed, until it was too much
        (None, 800, [800, 720, 648]),
    ],
)
def test_every_retry_plans_into_less(monkeypatch, budget, free, expected):
    monkeypatch.setattr(pose_estimator, '_free_memory', lambda device: free)
    model = build(micro_batch=8, on_oom='retry', vram_budget=budget).train()
    monkeypatch.setattr(type(model), '_computes_in_place', False)
    block = type(model.backbone.layers[0])
    forward, planned = block.forward, []
    plan = memory.plan_layout

    def full(self, x):
        if len(x) > 2 and not isinstance(x, FakeTensor):
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return forward(self, x)

    def spy(job, *, budget_mib, **kwargs):
        planned.append(pytest.approx(budget_mib))
        return plan(job, budget_mib=budget_mib, **kwargs)

    monkeypatch.setattr(block, 'forward', full)
    monkeypatch.setattr(memory, 'plan_layout', spy)
    model.train_step(make_data(8), make_wrapper(model))
    assert planned == expected
    # A run that goes on does not ask for more again.
    resumed = build(micro_batch=8, on_oom='retry', vram_budget=budget)
    resumed.go_on_with(model.decisions)
    assert (resumed.micro_batch, resumed._budget) == (2, pytest.approx(expected[-1]))


def test_a_retry_that_cannot_be_planned_is_halved_again(monkeypatch):
    model = build(micro_batch=8, on_oom='retry').train()
    monkeypatch.setattr(type(model), '_computes_in_place', False)
    planned = []

    def plan(job, **kwargs):
        planned.append(job.micro_batch)
        if job.micro_batch == 4:
            raise InputError('A budget of 60 MiB of GPU memory is too small.')
        return memory.Layout(spacing=1, slots=2)

    def full(self, *args, **kwargs):
        if model.micro_batch == 8:
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return accumulate(self, *args, **kwargs)

    accumulate = StreamedChain.accumulate
    monkeypatch.setattr(memory, 'plan_layout', plan)
    monkeypatch.setattr(StreamedChain, 'accumulate', full)
    model.train_step(make_data(8), make_wrapper(model))
    assert planned == [8, 4, 2]
    # Without an attempt before it, it is the budget that does not do.
    model = build(micro_batch=4, on_oom='retry').train()
    with pytest.raises(InputError, match='too small'):
        model.train_step(make_data(8), make_wrapper(model))


def test_memory_that_is_freed_goes_back(monkeypatch):
    asked = []
    monkeypatch.setattr(
        pose_estimator, 'give_back_large_memory', lambda: asked.append(True)
    )
    build()
    assert asked == [True]


@pytest.mark.parametrize('mib, share', [(3000, 0.75), (9000, 1.0), (math.inf, 1.0)])
def test_the_budget_is_what_pytorch_may_take(monkeypatch, mib, share):
    given = []
    card = SimpleNamespace(total_memory=4000 * 2**20)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: card)
    monkeypatch.setattr(
        torch.cuda, 'set_per_process_memory_fraction', lambda *args: given.append(args)
    )
    device = torch.device('cuda', 1)
    pose_estimator._limit_memory(device, mib)
    assert given == [(share, device)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_the_limit_is_there_as_long_as_the_chain():
    model = build(vram_budget=400).cuda().train()
    model.train_step(make_data(), make_wrapper(model))
    total = torch.cuda.get_device_properties(0).total_memory
    share = torch.cuda.get_per_process_memory_fraction()
    assert share == pytest.approx(400 * 2**20 / total)
    model._close_chain()
    assert torch.cuda.get_per_process_memory_fraction() == 1
