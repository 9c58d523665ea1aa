import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_chain import CPU, Net, batch

from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.memory import (
    MIB,
    Layout,
    StageWork,
    Step,
    host_boundary_bytes,
    host_memory,
    inference_memory,
    measure_stage,
    plan_layout,
    track_peak,
    training_memory,
    workspace_bytes,
)
from sapiens_plugin.core.streaming.moments import moment_bytes
from sapiens_plugin.core.vit.architectures import ARCHITECTURES, get_architecture
from sapiens_plugin.core.vit.model import Block, SapiensViT
from sapiens_plugin.errors import InputError

KIB = 2**10
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
TINY = get_architecture(
    dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256)
)


# ---- tracking


def test_memory_is_tracked_until_the_last_view_dies():
    before = torch.zeros(256, 256)
    with track_peak() as memory:
        a = torch.ones(256, 256)  # 256 KiB
        assert (memory.live, memory.peak) == (256 * KIB, 256 * KIB)
        a.add_(before)
        before.add_(1)
        before.view(-1).t()
        assert memory.peak == 256 * KIB  # in place, and views of what was there
        b = (a + 1)[0]
        del a
        assert (memory.live, memory.peak) == (256 * KIB, 512 * KIB)
    del b
    assert (memory.live, memory.peak) == (0, 512 * KIB)


def test_memory_is_counted_in_the_allocator_s_units():
    with track_peak() as memory:
        tensors = [torch.ones(1), torch.ones(129)]
    assert memory.live == 512 + 1024
    del tensors


def test_nothing_of_what_came_before_is_counted():
    a = torch.ones(1000)
    with track_peak() as memory:
        del a
    assert (memory.live, memory.peak) == (0, 0)


# Measured before, with PyTorch's own MemTracker: weights, gradients, input and
# output gradient included; the first micro-batch, before gradients are added up.
@pytest.mark.parametrize('m, mib', [(2, 262), (4, 367), (8, 590), (16, 1036)])
def test_one_block_of_sapiens_1b(m, mib):
    with FakeTensorMode(), track_peak() as memory:
        block = Block(ARCHITECTURES['sapiens_1b'])
        x = torch.empty(m, 432, 1536, requires_grad=True)
        block(x).backward(torch.empty(m, 432, 1536))
    assert memory.peak / MIB == pytest.approx(mib, rel=0.01)


# ---- what a stage allocates


def test_a_small_mlp_by_hand():
    rows, dims, hidden = 64, 128, 512
    mlp = nn.Sequential(
        nn.Linear(dims, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, dims, bias=False),
    )
    narrow, wide, weight = (4 * n for n in (rows * dims, rows * hidden, dims * hidden))
    x = torch.empty(rows, dims, requires_grad=True)
    assert measure_stage(mlp, x) == StageWork(
        forward=2 * wide,  # around the ReLU
        saved=wide + narrow,  # what the ReLU made, and the output
        # In the second layer's backward: its input's gradient and its weight's.
        peak=(wide + narrow) + wide + weight,
    )


@pytest.mark.parametrize('trains', [True, False])
def test_fake_tensors_take_what_real_ones_do(trains):
    block = Block(TINY, drop_path=0.1).requires_grad_(trains)
    x, upstream = torch.randn(2, 4, 48, 64)
    x.requires_grad_()
    block(x).backward(upstream)  # from the second time on, gradients are added to
    x.grad = None
    with track_peak() as training:
        y = block(x)
        saved = training.live
        y.backward(upstream)
    with torch.no_grad(), track_peak() as inference:
        block(x)
    fake = torch.empty(4, 48, 64, requires_grad=True)
    work = measure_stage(block, fake)
    assert work == StageWork(inference.peak, saved, training.peak)
    assert measure_stage(block, fake, backward=False) == StageWork(work.forward, 0, 0)


def test_measuring_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout())
    state = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    work = measure_stage(net, torch.empty(4, 3, 32, 32))
    assert work.peak > work.saved > 0
    assert all(param.grad is None for param in net.parameters())
    assert type(net[0].weight) is nn.Parameter
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key])


def test_stages_that_differentiate_nothing():
    frozen = nn.Linear(128, 128, bias=False).requires_grad_(False)
    x = torch.empty(32, 128)
    one = 4 * x.numel()
    assert measure_stage(frozen, x) == StageWork(forward=one, saved=0, peak=one)
    x.requires_grad_()
    assert measure_stage(frozen, x) == StageWork(forward=one, saved=one, peak=2 * one)


def test_gradients_of_inputs_stay():
    a, b = torch.empty(2, 64, 128)
    inputs = a.requires_grad_(), b.requires_grad_()
    work = measure_stage(lambda a, b: (b * 2 * 2 * 2).sum() + a.exp().sum(), *inputs)
    # That of a, and two on the way to that of b; the rest is scalars.
    assert 0 <= work.peak - 3 * a.nbytes < 8 * 512


def test_inputs_may_be_nested_and_on_the_meta_device():
    def loss(features, targets):
        return (features - targets['heatmaps'][0]).square().mean()

    x = torch.empty(64, 128, device='meta', requires_grad=True)
    work = measure_stage(loss, x, {'heatmaps': [torch.empty(64, 128)]})
    assert work.saved == x.nbytes + 512  # the difference and the loss


def test_copies_of_the_weights_under_autocast_are_counted():
    layer = nn.Linear(512, 512, bias=False)
    x = torch.empty(64, 512, requires_grad=True)
    narrow = measure_stage(layer, x, compute_dtype=BF16)
    weights, rows = 2 * 512 * 512, 2 * 64 * 512
    assert narrow.saved == weights + rows + rows  # the input's copy and the output
    assert measure_stage(layer, x).saved == 2 * rows


@pytest.mark.parametrize('length', [2, 3])
def test_what_blocks_allocate_adds_up(length):
    x = torch.empty(2, 48, 64, requires_grad=True)
    blocks = nn.Sequential(*(Block(TINY) for _ in range(length)))
    one, all_ = measure_stage(blocks[0], x), measure_stage(blocks, x)
    assert all_.saved == length * one.saved
    assert all_.peak == (length - 1) * one.saved + one.peak


@pytest.mark.parametrize('trains', [True, False])
def test_a_convolution_may_copy_what_it_reads(trains):
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False).requires_grad_(trains)
    x = torch.empty(2, 64, 32, 24, requires_grad=True)
    assert layer.weight.nbytes < x.nbytes
    work = measure_stage(layer, x)
    assert work.forward == x.nbytes + (x.nbytes + layer.weight.nbytes)
    # The output, the gradients, and copies of the output's, the input and the weight.
    gradients = x.nbytes + layer.weight.nbytes * trains
    copies = 2 * x.nbytes + layer.weight.nbytes
    assert work.peak == x.nbytes + gradients + copies


@pytest.mark.parametrize(
    'capability, config, mib',
    [
        ((7, 5), None, 10),  # 2 × 4 MiB and 8 × 16 KiB
        ((8, 9), None, 10),
        ((9, 0), None, 32),
        ((12, 0), None, 32),
        (None, None, 32),
        ((7, 5), ':4096:8', 32),
        ((9, 0), ':16:8', 0.125),
        ((8, 0), ':4096:2:16:8', 10),
    ],
)
def test_workspaces_by_the_kind_of_gpu(monkeypatch, capability, config, mib):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    if config is not None:
        monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', config)
    assert workspace_bytes(capability) == 2 * mib * MIB


# ---- closed form

TOY = Step(
    batch=8,
    micro_batch=2,
    input_bytes=3 * MIB,
    token_bytes=MIB,
    stem_bytes=5 * MIB,
    block_bytes=20 * MIB,
    tail_bytes=7 * MIB,
    num_blocks=10,
    first_trainable=0,
    stem=StageWork(forward=11 * MIB, saved=0, peak=15 * MIB),
    block=StageWork(forward=10 * MIB, saved=30 * MIB, peak=70 * MIB),
    tail=StageWork(forward=9 * MIB, saved=12 * MIB, peak=13 * MIB),
    boundary_dtype=FP16,
    gradient_dtype=BF16,
)


def in_mib(memory):
    return {
        name: value // MIB
        for name, value in vars(memory).items()
        if name not in ('phase', 'workspace', 'fragmentation') and value
    }


def test_the_parts_of_a_step():
    layout = Layout(spacing=3, slots=7)  # 3 + 3 + 3 + 1 blocks
    memory = training_memory(TOY, layout)
    assert memory.phase == 'inner segments'
    assert in_mib(memory) == dict(
        inputs=8 * 3,
        activations=8 + 2,
        boundaries=3 * 8 // 2,
        weights=6 + 7 * 20 + 8,  # in multiples of 2 MiB
        gradients=3 * 20,
        leaving_gradients=3 * 20 // 2,
        work=2 * 30 + 70,
    )
    others = [value for value in vars(memory).values() if isinstance(value, int)]
    assert memory.total == sum(others)
    assert memory.fragmentation == 20 * MIB  # what is taken at a time
    large = training_memory(replace(TOY, input_bytes=MIB << 8), layout)
    rest = large.total - large.fragmentation
    assert large.fragmentation == int(0.02 * rest) > 20 * MIB
    odd = replace(TOY, block_bytes=19 * MIB + 4, stem_bytes=MIB, tail_bytes=5)
    weights = training_memory(odd, layout).weights
    assert weights == MIB + 7 * 20 * MIB + 512


@pytest.mark.parametrize(
    'changes, spacing, phase, gradients, leaving, work, boundaries',
    [
        # The tail's peak stands on what the last blocks saved.
        (dict(tail=StageWork(0, 0, 99 * MIB)), 5, 'last segment', 107, 0, 249, 4),
        # One segment: nothing is kept, nothing computed twice.
        (dict(), 10, 'last segment', 207, 0, 340, 0),
        (dict(stem=StageWork(0, 0, 999 * MIB)), 5, 'stem', 5, 50, 999, 4),
        (dict(stem=StageWork(999 * MIB, 0, 0)), 5, 'forward sweep', 0, 0, 999, 4),
        # What was sent before may still be leaving, the tail's with the last blocks'.
        (dict(), 5, 'inner segments', 100, (100 + 7) / 2, 190, 4),
        (dict(stem=StageWork(0, 0, 999 * MIB)), 10, 'stem', 5, (200 + 7) / 2, 999, 0),
        # A frozen prefix keeps nothing: blocks 5 to 10 train, in 3 segments.
        (dict(first_trainable=5), 2, 'inner segments', 40, (40 + 7) / 2, 100, 8),
        (dict(first_trainable=5, stem=StageWork(0, 0, 999 * MIB)), 6, 'last segment',
         127, 0, 220, 0),
        # The tail alone.
        (dict(first_trainable=11), 1, 'last segment', 7, 0, 13, 0),
    ],
)  # fmt: skip
def test_phases(changes, spacing, phase, gradients, leaving, work, boundaries):
    memory = training_memory(replace(TOY, **changes), Layout(spacing=spacing, slots=10))
    assert memory.phase == phase
    assert memory.gradients == gradients * MIB
    assert memory.leaving_gradients == leaving * MIB
    assert memory.work == work * MIB
    assert memory.boundaries == boundaries * MIB


def test_boundaries_on_the_host_leave_two_sets_on_the_device():
    layout = Layout(spacing=1, slots=2, boundaries_on_host=True)
    assert training_memory(TOY, layout).boundaries == 2 * 8 * MIB // 2
    assert host_boundary_bytes(TOY, layout) == 9 * 8 * MIB // 2
    assert host_boundary_bytes(TOY, replace(layout, boundaries_on_host=False)) == 0
    pair = replace(layout, spacing=5, slots=10)
    assert training_memory(TOY, pair).boundaries == 8 * MIB // 2


def test_inference():
    memory = inference_memory(TOY, Layout(spacing=3, slots=4))
    assert in_mib(memory) == dict(
        inputs=24, activations=10, weights=6 + 4 * 20 + 8, work=11
    )


@pytest.mark.parametrize('frozen', [0, 1, 4, 9])
@pytest.mark.parametrize(
    'spacing, on_host, boundary_dtype, gradient_dtype',
    [
        (1, False, FP32, FP32),
        (2, False, FP16, BF16),
        (3, False, FP32, BF16),
        (8, False, FP32, FP32),
        (1, True, FP16, FP32),
    ],
)
def test_a_real_step_takes_what_the_model_says(
    frozen, spacing, on_host, boundary_dtype, gradient_dtype
):
    sizes, tokens, dims = [4] * 4, 32, 64
    net = Net(8, dims=dims)
    net.freeze(frozen)
    inputs, targets = batch(sizes, tokens=tokens)
    stem, blocks, tail = net.stages()
    dtypes = dict(boundary_dtype=boundary_dtype, gradient_dtype=gradient_dtype)
    layout = Layout(
        spacing=spacing, slots=min(2 * spacing, 8), boundaries_on_host=on_host
    )
    chain = StreamedChain(
        stem, blocks, tail, device=CPU, placement=Placement(**vars(layout), **dtypes)
    )
    try:
        # What lives at home is made in the first step and used again in the second.
        for seed in range(2):
            with track_peak() as memory:
                chain.accumulate(
                    inputs, lambda x, j: net.loss(x, targets[j]), seed=seed
                )
    finally:
        chain.close()

    x = torch.empty(4, tokens, dims, requires_grad=True)
    weights = [sum(p.nbytes for p in stage.params) for stage in (stem, blocks[0], tail)]
    job = Step(
        batch=16,
        micro_batch=4,
        input_bytes=0,
        token_bytes=4 * tokens * dims,
        stem_bytes=weights[0],
        block_bytes=weights[1],
        tail_bytes=weights[2],
        num_blocks=8,
        first_trainable=frozen,
        stem=measure_stage(net.stem, inputs[0]),
        block=measure_stage(net.blocks[-1], x),
        tail=measure_stage(net.loss, x, targets[0]),
        **dtypes,
    )
    model = training_memory(job, layout)
    model = model.total - model.weights - model.workspace - model.fragmentation
    # Whether gradients are still leaving, and how many boundaries, is up to the
    # transfers; the model allows for the most.
    uncertain = spacing * weights[1] + 2 * x.nbytes
    if on_host:
        uncertain += 2 * 16 * job.token_bytes
    # Random states, norms and the like, in the allocator's units.
    assert model - uncertain <= memory.peak <= model + 128 * 512


def test_host_memory():
    memory = host_memory(
        num_params=1000,
        num_trainable=600,
        gradient_dtype=BF16,
        moment_dtype='int8',
        boundary_bytes=77,
    )
    assert memory.weights == 4000
    assert memory.gradients == 1200
    assert memory.moments == moment_bytes(600, 'int8')
    assert memory.boundaries == 77
    without = host_memory(
        num_params=1000,
        num_trainable=600,
        gradient_dtype=FP32,
        moment_dtype='float32',
    )
    assert (without.gradients, without.moments) == (2400, 4800)
    assert memory.staging == 2 * without.staging == 192 * MIB
    assert memory.total == sum(vars(memory).values())


# ---- planning


def test_without_a_budget_everything_stays_and_nothing_is_computed_twice():
    assert plan_layout(TOY, budget_mib=None) == Layout(spacing=10, slots=10)


def test_a_large_budget_is_as_good_as_none():
    assert plan_layout(TOY, budget_mib=10_000) == Layout(spacing=10, slots=10)


def test_segments_are_no_longer_than_what_trains():
    for first_trainable, spacing in ((0, 10), (1, 10), (2, 9), (10, 1), (11, 1)):
        job = replace(TOY, first_trainable=first_trainable)
        layout = Layout(spacing=spacing, slots=10)
        assert plan_layout(job, budget_mib=10_000) == layout


def test_a_larger_budget_never_plans_worse():
    smallest = smallest_budget(TOY)
    plans = [plan_layout(TOY, budget_mib=budget) for budget in range(smallest, 1000, 5)]
    ranks = [(not p.boundaries_on_host, p.spacing, p.slots) for p in plans]
    assert ranks == sorted(ranks)
    assert {p.spacing for p in plans} == {1, 2, 4, 8, 10}
    for budget, plan in zip(range(smallest, 1000, 5), plans, strict=True):
        assert training_memory(TOY, plan).total <= budget * MIB
        assert min(2 * plan.spacing, 10) <= plan.slots <= 10


def smallest_budget(job, **kwargs):
    with pytest.raises(InputError) as info:
        plan_layout(job, budget_mib=10, **kwargs)
    return int(re.search(r'smallest that works is (\d+) MiB', str(info.value))[1])


@pytest.mark.parametrize('first_trainable', [0, 5, 11])
@pytest.mark.parametrize('training', [True, False])
def test_the_smallest_budget_that_is_named_is_the_smallest(first_trainable, training):
    job = replace(TOY, first_trainable=first_trainable)
    smallest = smallest_budget(job, training=training)
    plan_layout(job, budget_mib=smallest, training=training)
    with pytest.raises(InputError):
        plan_layout(job, budget_mib=smallest - 1, training=training)


def test_a_budget_too_small_is_refused_with_the_way_out():
    with pytest.raises(InputError) as info:
        plan_layout(TOY, budget_mib=123)
    message = str(info.value)
    for part in ('123 MiB', 'weights 54', 'micro_batch', 'img_size', 'vram_budget'):
        assert part in message
    assert 'boundary_dtype' not in message  # they are narrow already
    with pytest.raises(InputError, match="boundary_dtype='float16'"):
        plan_layout(replace(TOY, boundary_dtype=FP32), budget_mib=123)


def test_boundaries_go_to_the_host_only_where_they_must():
    wide = replace(TOY, token_bytes=20 * MIB)
    on_device = min(
        training_memory(wide, Layout(spacing=k, slots=min(2 * k, 10))).total
        for k in (1, 2, 4, 8, 10)
    )
    enough = -(-on_device // MIB)
    assert not plan_layout(wide, budget_mib=enough).boundaries_on_host
    assert plan_layout(wide, budget_mib=enough - 1).boundaries_on_host


def test_a_spacing_is_kept_wherever_it_fits():
    for spacing in (1, 2, 4, 8, 10):
        roomy = plan_layout(TOY, budget_mib=10_000, spacing=spacing)
        assert roomy == Layout(spacing=spacing, slots=10)
        least = training_memory(
            TOY, Layout(spacing=spacing, slots=min(2 * spacing, 10))
        ).total
        enough = -(-least // MIB)
        assert plan_layout(TOY, budget_mib=enough, spacing=spacing).spacing == spacing
    wide = replace(TOY, token_bytes=20 * MIB)
    on_host = Layout(spacing=1, slots=2, boundaries_on_host=True)
    enough = -(-training_memory(wide, on_host).total // MIB)
    assert plan_layout(wide, budget_mib=enough, spacing=1) == on_host
    # Where it does not, another is found.
    smallest = smallest_budget(TOY)
    anew = plan_layout(TOY, budget_mib=smallest)
    assert anew.spacing < 8
    assert plan_layout(TOY, budget_mib=smallest, spacing=8) == anew


def test_inference_plans_as_many_slots_as_fit():
    smallest = smallest_budget(TOY, training=False)
    least = inference_memory(TOY, Layout(spacing=1, slots=2)).total
    assert smallest == -(-least // MIB)
    assert plan_layout(TOY, budget_mib=smallest, training=False).slots == 2
    plan = plan_layout(TOY, budget_mib=smallest + 62, training=False)
    assert plan.slots == 5  # of 20 MiB each, and 2 % more
    assert plan_layout(TOY, budget_mib=10_000, training=False).slots == 10


@pytest.fixture(scope='module')
def sapiens_1b():
    """A step of Sapiens-1B with the published head: 384×288 px, 2 × 16, float32."""
    with torch.device('meta'):
        vit = SapiensViT('sapiens_1b', img_size=(384, 288))
        stages = [
            nn.Sequential(
                (nn.ConvTranspose2d if i < 2 else nn.Conv2d)(
                    1536 if i == 0 else 768, 768, *((4, 2, 1) if i < 2 else (1,))
                ),
                nn.InstanceNorm2d(768),
                nn.SiLU(inplace=True),
            )
            for i in range(4)
        ]
        head = nn.Sequential(*stages, nn.Conv2d(768, 17, 1))
        images = torch.empty(2, 3, 384, 288)
        tokens = torch.empty(2, 432, 1536, requires_grad=True)
        heatmaps = torch.empty(2, 17, 96, 72)

    def loss(x, targets):
        return nn.functional.mse_loss(head(vit.to_map(x, vit.grid)), targets)

    def size(*parts):
        return sum(p.nbytes for part in parts for p in part.parameters())

    return Step(
        batch=32,
        micro_batch=2,
        input_bytes=(images.nbytes + heatmaps.nbytes) // 2,
        token_bytes=tokens.nbytes // 2,
        stem_bytes=size(vit.patch_embed) + vit.pos_embed.nbytes,
        block_bytes=size(vit.layers[0]),
        tail_bytes=size(vit.ln1, head),
        num_blocks=40,
        first_trainable=0,
        stem=measure_stage(vit.embed, images),
        block=measure_stage(vit.layers[0], tokens),
        tail=measure_stage(loss, tokens, heatmaps),
        workspace_bytes=workspace_bytes((7, 5)),
    )


@pytest.mark.parametrize(
    'boundary_dtype, gradient_dtype',
    [(FP32, FP32), (FP16, BF16)],
    ids=['exact', 'compact'],
)
def test_sapiens_1b_fits_4_gb(sapiens_1b, boundary_dtype, gradient_dtype):
    job = replace(
        sapiens_1b, boundary_dtype=boundary_dtype, gradient_dtype=gradient_dtype
    )
    layout = plan_layout(job, budget_mib=3400)
    assert (layout.spacing, layout.boundaries_on_host) == (4, False)
    assert training_memory(job, layout).total > 3200 * MIB  # and the budget is used
    head_alone = plan_layout(replace(job, first_trainable=41), budget_mib=3400)
    assert head_alone.slots > layout.slots
    assert inference_memory(job, layout).total < 3400 * MIB
