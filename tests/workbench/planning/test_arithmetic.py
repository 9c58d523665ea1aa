"""Counted operations against those PyTorch counts in a real step."""

from dataclasses import replace

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sapiens_plugin.core.vit.architectures import Architecture
from sapiens_plugin.workbench.planning.arithmetic import (
    block_work,
    head_work,
    person_work,
    training_work,
    trunk_work,
)

ARCH = Architecture(96, 3, 3, 200)


@pytest.fixture(scope='module')
def build(shipped):
    def build(**backbone):
        from mmpose.registry import MODELS

        init_default_scope('mmpose')
        job = shipped('sapiens_tiny_demo').job
        model = shipped('sapiens_tiny_demo').cfg.model.copy()
        model['backbone'] = dict(
            model.backbone, arch=vars(ARCH), init_cfg=None, **backbone
        )
        model['head'] = dict(model.head, in_channels=96)
        job = job.changed(arch=ARCH, frozen_stages=backbone.get('frozen_stages', -1))
        return MODELS.build(model), job

    return build


def counted(run) -> int:
    # Fused attention is not counted on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def test_forward(build):
    model, job = build()
    images = torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        flop = counted(lambda: model.head(model.backbone(images)))
    assert flop == 2 * person_work(job, flip=False).flop
    assert person_work(job, flip=True).flop == flop


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen, warmup', [(-1, False), (-1, True), (0, False),
                                            (1, False), (3, False)])  # fmt: skip
def test_training(build, frozen, warmup, with_cp):
    model, job = build(frozen_stages=frozen, with_cp=with_cp)
    model.backbone.set_frozen(warmup)
    images = torch.randn(1, 3, 128, 96)

    def step():
        model.head(model.backbone(images)).sum().backward()

    trained = 0 if warmup else 3 - max(frozen, 0)
    work = training_work(job, warmup=warmup, recomputed=trained * with_cp)
    assert counted(step) == work.flop


def test_sapiens_1b_is_as_large_as_published(shipped):
    job = shipped('sapiens1b_gtx1650').job
    assert trunk_work(job).flop / 2e12 == pytest.approx(0.513, abs=0.001)
    assert head_work(job).flop / 1e12 == pytest.approx(0.065, abs=0.001)
    small = job.changed(img_size=(256, 192))
    assert trunk_work(small).flop / 1e12 == pytest.approx(0.455, rel=0.03)
    # The passes between products: norms, sums and the FFN's activation.
    passes = 432 * 4 * (10 * 1536 + 2 * 6144)
    assert block_work(job).passes == passes


def test_a_cls_token_is_a_token(shipped):
    job = shipped('sapiens1b_gtx1650').job
    more = block_work(replace(job, extra_tokens=1)).flop / block_work(job).flop
    assert 433 / 432 < more < (433 / 432) ** 2
