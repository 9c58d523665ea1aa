"""Memory and disk, against the accounts of the streamed model itself."""

from dataclasses import replace

import pytest
import torch
from mmengine.registry import init_default_scope

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.memory import MIB
from sapiens_plugin.workbench.planning.footprint import (
    CONTEXT,
    device_use,
    host_use,
    program_memory,
)


def use_of(job, measure, **changes):
    settings = dict(warmup=False, training=True, dtype=torch.float32, vram_mib=3937)
    return device_use(job, measure, **(settings | changes))


def host_of(job, use, *, warmup=False, on_cpu=False):
    return host_use(
        job,
        persons=156_165,
        warmup=warmup,
        boundary_bytes=use.host_boundaries,
        computing=use.parts if on_cpu else None,
    )


@pytest.mark.parametrize('warmup', [True, False])
@pytest.mark.parametrize('name', ['sapiens1b_gtx1650', 'sapiens1b_gtx1650_week'])
def test_it_is_the_account_of_the_job_itself(shipped, name, warmup):
    from mmpose.registry import MODELS

    init_default_scope('mmpose')
    planned = shipped(name)
    with torch.device('meta'):
        model = MODELS.build(planned.cfg.model)
    model.backbone.set_frozen(warmup)
    own = model.memory_step(32, planned.job.img_size)
    layout = memory.plan_layout(own, budget_mib=model.vram_budget)

    use = use_of(planned.job, planned.measure, warmup=warmup)
    assert use.step == own
    assert use.layout == layout
    assert use.total - CONTEXT == memory.training_memory(own, layout).total
    params = list(model.parameters())
    trained = sum(p.numel() for p in params if p.requires_grad)
    assert planned.job.num_params == sum(p.numel() for p in params)
    assert planned.job.num_trained(warmup=warmup) == trained

    # As StreamingHook asks for it.
    host = memory.host_memory(
        num_params=planned.job.num_params,
        num_trainable=trained,
        gradient_dtype=model.gradient_dtype,
        moment_dtype=model.moment_dtype,
        boundary_bytes=model.check_budget(32),
    )
    parts = host_of(planned.job, use, warmup=warmup)
    program = program_memory(156_165)
    assert parts['forked_workers'] == 400_000_000  # two loaders' two
    assert sum(parts.values()) == host.total + program + parts['forked_workers']


def test_a_test_batch(shipped):
    planned = shipped('sapiens1b_gtx1650')
    use = use_of(planned.job, planned.measure, training=False)
    assert use.step.batch == planned.job.test_batch == 8
    assert use.total - CONTEXT == memory.inference_memory(use.step, use.layout).total


def test_recomputed_blocks(shipped):
    planned = shipped('sapiens1b_gtx1650')
    job, measure = planned.job, planned.measure
    use = use_of(job, measure, capability=(7, 5))
    assert (use.layout.spacing, use.recomputed_blocks) == (4, 36)
    assert use_of(job, measure, warmup=True).recomputed_blocks == 0
    frozen = use_of(job.changed(frozen_stages=33), measure)  # 7 blocks train
    assert frozen.recomputed_blocks == 7 - (7 % frozen.layout.spacing or 7)


def test_without_a_budget_90_percent_of_what_is_free_is_planned_with(shipped):
    planned = shipped('sapiens1b_gtx1650')
    free = replace(planned.job.streaming, vram_budget=None)
    job = planned.job.changed(streaming=free)
    use = use_of(job, planned.measure)
    assert 0.8 * 3487 < (use.total - CONTEXT) / MIB <= 0.9 * 3487
    in_place = use_of(job, planned.measure, vram_mib=None)
    assert in_place.layout == memory.Layout(spacing=1, slots=40)
    assert in_place.recomputed_blocks == 39


def test_a_resident_job_holds_16_bytes_a_parameter(shipped):
    planned = shipped('sapiens1b_a100')
    use = use_of(planned.job, planned.measure, dtype=torch.bfloat16)
    params = planned.job.num_params
    assert params == pytest.approx(1.165e9, rel=0.01)
    assert use.parts['weights'] == use.parts['gradients'] == 4 * params
    assert use.parts['moments'] == 8 * params
    assert use.total / 1e9 == pytest.approx(36, abs=3)  # with layer boundaries
    without = use_of(
        planned.job.changed(with_cp=False), planned.measure, dtype=torch.bfloat16
    )
    assert 45e9 < without.total - use.total < 65e9  # "takes 50 GB more"
    frozen = use_of(planned.job, planned.measure, dtype=torch.bfloat16, warmup=True)
    head = 29.5e6
    assert frozen.parts['moments'] == pytest.approx(8 * head, rel=0.01)
    assert frozen.parts['boundaries'] == 0
    tested = use_of(planned.job, planned.measure, dtype=torch.bfloat16, training=False)
    assert tested.parts['gradients'] == tested.parts['moments'] == 0


def test_a_resident_step_takes_what_is_planned(shipped):
    """A real step on the CPU, tensor by tensor, within 10%."""
    from mmpose.registry import MODELS

    init_default_scope('mmpose')
    planned = shipped('sapiens_tiny_demo')
    cfg = planned.cfg.model.copy()
    cfg['backbone'] = dict(cfg.backbone, init_cfg=None)
    model = MODELS.build(cfg).train()
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params)

    def step():
        images = torch.randn(16, 3, 128, 96)
        model.head(model.backbone(images)).square().mean().backward()

    step()  # gradients are there from now on, as with accumulation
    optimizer.step()
    with memory.track_peak() as tracked:
        step()
    use = use_of(planned.job, planned.measure)
    held = sum(use.parts[name] for name in ('boundaries', 'working_set'))
    assert tracked.peak == pytest.approx(held, rel=0.1)
    state = 4 * sum(p.numel() for p in params)
    assert use.parts['weights'] == state
    moments = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
    assert use.parts['moments'] == sum(t.nbytes for t in moments)


def test_on_a_cpu_the_host_holds_what_a_gpu_would(shipped):
    planned = shipped('sapiens1b_gtx1650')
    use = use_of(planned.job, planned.measure, vram_mib=None)
    assert use.parts['context'] == 0
    more = host_of(planned.job, use, on_cpu=True)
    twice = use.parts['weights'] + use.parts['gradients']  # the host has them anyway
    assert more['what_a_gpu_would_hold'] == use.total - twice > 0
    planned = shipped('sapiens_tiny_demo')
    use = use_of(planned.job, planned.measure, vram_mib=None)
    parts = host_of(planned.job, use, on_cpu=True)
    workers = sum(planned.job.worker_memory.values())
    assert sum(parts.values()) == use.total + program_memory(156_165) + workers


def test_the_program_grows_with_its_annotations():
    assert program_memory(156_165) == pytest.approx(1.3e9, rel=0.02)  # COCO's
    assert 0.4e9 < program_memory(0) < program_memory(2_561) < 0.5e9


def test_checkpoints_on_the_disk(shipped):
    planned = shipped('sapiens1b_gtx1650')
    job = planned.job
    weights = 4 * planned.job.num_params
    parts = job.disk_use()
    assert parts['best'] == weights
    # docs/training.md: 7 GB in compact mode; one of an epoch is kept, and two by time.
    assert parts['checkpoints'] == pytest.approx(7.06e9, rel=0.01)
    assert parts['by_time'] == 2 * parts['checkpoints']
    assert parts['being_written'] == parts['checkpoints']
    every = replace(job.checkpoints, kept=-1, by_time=0, best=False)
    parts = job.changed(checkpoints=every, max_epochs=11).disk_use()
    assert parts['checkpoints'] / 3 == pytest.approx(7.06e9, rel=0.01)
    assert parts['best'] == parts['being_written'] == 0
