"""Steps and batches: floors, and estimates above them."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sapiens_plugin.core.streaming.memory import Layout, StageWork, Step
from sapiens_plugin.core.vit.architectures import Architecture
from sapiens_plugin.workbench.job.job import (
    Checkpoints,
    HeadShape,
    Job,
    Persons,
    Streaming,
)
from sapiens_plugin.workbench.planning.arithmetic import person_work
from sapiens_plugin.workbench.planning.cards import CARDS, get_card
from sapiens_plugin.workbench.planning.duration import (
    LOADER_SECONDS,
    prediction,
    training_step,
)
from sapiens_plugin.workbench.planning.footprint import DeviceUse, device_use

MODES = (
    None,
    Streaming(boundary_dtype='float32', gradient_dtype='float32',
              moment_dtype='float32', vram_budget=None),
    Streaming(boundary_dtype='float16', gradient_dtype='bfloat16',
              moment_dtype='int8', vram_budget=None),
)  # fmt: skip


def some_job(draw: random.Random) -> tuple[Job, DeviceUse, bool]:
    """Draw a job, and the memory of one of its passes."""
    heads = draw.choice([1, 4, 24])
    dims, depth = 64 * heads, draw.randint(1, 48)
    arch = Architecture(dims, depth, heads, 4 * dims)
    frozen, warmup = draw.randint(-1, depth), draw.random() < 0.3
    batch = draw.choice([1, 2, 32])
    job = Job(
        config=Path('drawn.py'),
        arch=arch,
        img_size=(16 * draw.randint(1, 64), 16 * draw.randint(1, 48)),
        extra_tokens=draw.randint(0, 1),
        head=HeadShape(deconv_channels=(256,), deconv_kernels=(4,), conv_channels=(),
                       conv_kernels=(), final_kernel=1, keypoints=17),
        batch=batch,
        accumulation=draw.choice([1, 16]),
        micro_batch=batch,
        streaming=draw.choice(MODES),
        precision='auto',
        with_cp=draw.random() < 0.5,
        frozen_stages=frozen,
        warmup_epochs=0,
        max_epochs=1,
        val_interval=1,
        val_batch=1,
        test_batch=1,
        val_flip=False,
        test_flip=True,
        loading=dict(train=draw.randint(0, 16)),
        worker_memory={},
        checkpoints=Checkpoints(interval=1, kept=1, by_time=0, best=True, last=True),
        persons=Persons(train=100, val=10, test=10),
    )  # fmt: skip
    block = 4 * (12 * dims * dims + 13 * dims)
    first = depth + 1 if warmup or frozen == depth else frozen + 1
    seen = Step(
        batch=batch, micro_batch=batch, input_bytes=1, token_bytes=4 * dims,
        stem_bytes=4 * 768 * dims, block_bytes=block, tail_bytes=10**7,
        num_blocks=depth, first_trainable=first, stem=StageWork(0, 0, 0),
        block=StageWork(0, 0, 0), tail=StageWork(0, 0, 0),
    )  # fmt: skip
    spacing = draw.randint(1, depth)
    layout = Layout(spacing=spacing, slots=draw.randint(min(2 * spacing, depth), depth))
    return job, DeviceUse({}, layout if job.streaming else None, seen), warmup


@pytest.mark.parametrize('name', CARDS)
def test_no_estimate_is_below_the_floor(name):
    draw, card = random.Random(name), CARDS[name]
    dtype = card.precision('auto').dtype
    for _ in range(200):
        job, use, warmup = some_job(draw)
        step = training_step(job, use, card, dtype, warmup=warmup)
        assert 0 < step.floor <= step.seconds
        assert step.floor >= step.tflop * 1e12 / card.speed(dtype) * (1 - 1e-9)
        batch = prediction(job, use, card, dtype, flip=draw.random() < 0.5)
        assert 0 < batch.floor <= batch.seconds


@pytest.mark.parametrize(
    'card, seconds, hidden',
    [('gtx1650-maxq', 66, 1.1), ('rtx3060', 7.3, 1.2), ('a100', 0.77, 2),
     ('h100', 0.33, 3)],
)  # fmt: skip
def test_floors_of_the_1b_job(shipped, card, seconds, hidden):
    """By hand: 131 TFLOP of blocks at 2, 18, 170 and 400 TFLOPS; the head besides."""
    planned, card = shipped('sapiens1b_gtx1650'), get_card(card)
    dtype = card.precision('auto').dtype
    use = device_use(
        planned.job, planned.measure, warmup=False, training=True, dtype=dtype,
        vram_mib=card.vram_mib,
    )  # fmt: skip
    step = training_step(planned.job, use, card, dtype, warmup=False)
    assert step.floor == pytest.approx(seconds, rel=0.05)
    assert step.seconds < hidden * step.floor


def test_what_a_step_waits_for(shipped):
    planned = shipped('sapiens1b_gtx1650')
    fast = replace(
        get_card('h100'),
        tflops=dict.fromkeys(('float32', 'float16', 'bfloat16'), 1e6),
        memory_gb_s=1e6,
    )
    job = planned.job.changed(loading=dict(train=10**6))
    use = device_use(
        job, planned.measure, warmup=False, training=True, dtype=torch.float32,
        vram_mib=None,
    )  # fmt: skip

    def step(**changes):
        card = replace(fast, host_threads=10**6, bus_gb_s=1e6, host_gb_s=1e6)
        card = replace(card, **changes)
        return training_step(job, use, card, torch.float32, warmup=False)

    params = 1.165e9
    slots = use.layout.slots * 28.33e6
    # Up for each sweep, but for what is there when it turns; gradients down.
    up = step(bus_gb_s=10)
    assert up.bound == 'weights on their way'
    assert up.floor == pytest.approx(4 * (2 * params - slots) / 10e9, rel=0.01)
    assert up.seconds == pytest.approx(up.floor, rel=0.01)
    host = step(host_gb_s=10)  # weights read and written, moments, gradients
    assert host.bound == 'optimizer'
    assert host.floor == pytest.approx((8 + 4 + 4) * params / 10e9, rel=0.01)
    slow = step(host_threads=2)  # as in docs/streaming.md: 0.35 s for 100 M
    assert slow.seconds == pytest.approx(0.35 * params / 1e8, rel=0.01)
    assert slow.floor < slow.seconds


def test_the_optimizer_hides_behind_the_next_forward_sweep_alone(shipped):
    planned = shipped('sapiens1b_gtx1650')
    card = replace(get_card('gtx1650-maxq'), bus_gb_s=1e6)
    use = device_use(
        planned.job, planned.measure, warmup=False, training=True, dtype=torch.float32,
        vram_mib=card.vram_mib,
    )  # fmt: skip

    def step(threads):
        some = replace(card, host_threads=threads)
        return training_step(planned.job, use, some, torch.float32, warmup=False)

    images = planned.job.effective_batch
    work = images * person_work(planned.job, flip=False)
    forward = work.flop / 2e12 + work.passes / (card.memory_gb_s * 1e9)
    update = 0.7e-8 * 1.165e9  # of one thread
    assert update < forward < 4 * update
    hidden = step(1)
    assert hidden.bound == 'computing' and step(10**6).seconds == hidden.seconds
    # Four times as slow, it sticks out by what the forward sweep is shorter.
    shown = step(1 / 4)
    assert shown.seconds - hidden.seconds == pytest.approx(
        4 * update - forward, rel=0.01
    )
    assert 4 * update < 0.6 * hidden.seconds  # and not by what the step is


def test_on_a_cpu_the_optimizer_hides_behind_nothing(shipped):
    planned, gpu = shipped('sapiens1b_gtx1650'), get_card('gtx1650-maxq')
    streaming = replace(planned.job.streaming, vram_budget=None)
    job = planned.job.changed(streaming=streaming)
    cpu = replace(gpu, vram_mib=None, bus_gb_s=1e-6, host_gb_s=1e6)
    use = device_use(
        job, planned.measure, warmup=False, training=True, dtype=torch.float32,
        vram_mib=None,
    )  # fmt: skip

    def seconds(threads):
        card = replace(cpu, host_threads=threads)
        return training_step(job, use, card, torch.float32, warmup=False).seconds

    assert seconds(1) - seconds(10**6) == pytest.approx(0.7e-8 * 1.165e9, rel=0.01)


def test_the_loader(shipped):
    planned, card = shipped('sapiens1b_gtx1650'), get_card('a100')
    use = device_use(
        planned.job, planned.measure, warmup=True, training=True,
        dtype=torch.bfloat16, vram_mib=card.vram_mib,
    )  # fmt: skip

    def step(workers):
        job = planned.job.changed(loading=dict(train=workers))
        return training_step(job, use, card, torch.bfloat16, warmup=True)

    assert step(1).bound == 'loading images'
    assert step(1).seconds == pytest.approx(32 * LOADER_SECONDS)
    assert step(16).bound == 'computing'
    alone = step(0)
    assert alone.seconds == pytest.approx(step(16).seconds + 32 * LOADER_SECONDS)
    assert alone.floor == step(16).floor


def test_a_flipped_prediction_has_the_weights_come_twice(shipped):
    planned = shipped('sapiens1b_gtx1650')
    card = replace(get_card('gtx1650-maxq'), bus_gb_s=1e-3)
    use = device_use(
        planned.job, planned.measure, warmup=False, training=False,
        dtype=torch.float32, vram_mib=card.vram_mib,
    )  # fmt: skip
    once, twice = (
        prediction(planned.job, use, card, torch.float32, flip=flip)
        for flip in (False, True)
    )
    assert once.bound == twice.bound == 'weights on their way'
    assert twice.floor == 2 * once.floor
