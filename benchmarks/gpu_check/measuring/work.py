"""The training step that several tasks make, and other ways to make it."""

from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.distributed as dist
from streaming import ADAMW, MAX_NORM, RIVALS, SUBJECTS, Pose, Work, draw_batch, rival
from streaming_rivals import _announce_one_process
from torch import Tensor, nn

from sapiens_plugin.core.vit.architectures import get_architecture


def make_work(spec: dict, *, precision: str, cap: int | None = None) -> Work:
    """Describe a step of the model that a task was given."""
    return Work(
        **{key: spec[key] for key in ('device', 'batch', 'micro_batch', 'budget')},
        arch=asdict(get_architecture(spec['arch'])),
        img_size=tuple(spec['img_size']),
        precision=precision,
        cap=cap,
        steps=0,  # is not looked at
    )


def accumulate(model: Pose, work: Work, batch: list[tuple[Tensor, Tensor]]) -> None:
    """Accumulate gradients in the ordinary way, with nothing recomputed."""
    for images, heatmaps in batch:
        with work.autocast():
            x = model.backbone.embed(images)
            for layer in model.backbone.layers:
                x = layer(x)
            loss = model.loss(x, heatmaps) / len(batch)
        loss.backward()


def nothing_recomputed(work: Work) -> tuple[Callable, dict]:
    """Train with all on the device: the fastest step, where memory does not matter."""
    batch = draw_batch(work)
    model = Pose(work).to(work.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)

    def step() -> None:
        accumulate(model, work, batch)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step, {}


def fsdp2_offload(work: Work) -> tuple[Callable, dict]:
    """Train with PyTorch's FSDP2 in one process, its weights in pinned host memory."""
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
    )

    _announce_one_process(torch.device(work.device))
    if not dist.is_initialized():
        dist.init_process_group('cpu:gloo,cuda:nccl')
    batch = draw_batch(work)
    model = Pose(work)
    policy = MixedPrecisionPolicy()
    if work.compute_dtype != torch.float32:
        policy = MixedPrecisionPolicy(
            param_dtype=work.compute_dtype, reduce_dtype=torch.float32
        )
    kwargs = dict(offload_policy=CPUOffloadPolicy(), mp_policy=policy)
    for layer in model.backbone.layers:
        fully_shard(layer, **kwargs)
    fully_shard(model, **kwargs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)

    def step() -> None:
        for images, heatmaps in batch:
            (model(images, heatmaps) / len(batch)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step, {}


def subjects() -> dict[str, Callable[[Work], tuple[Callable, dict]]]:
    """Return every way to make a step, by name."""
    rivals = {name: lambda work, n=name: rival(work, n) for name in RIVALS}
    rivals['FSDP2 offload'] = fsdp2_offload
    return SUBJECTS | rivals | {'resident, nothing recomputed': nothing_recomputed}
