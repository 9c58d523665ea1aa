"""Other ways to train a model that the GPU's memory does not hold, for comparison.

Each takes a model on the CPU, whose ``forward`` returns the loss of a micro-batch and
recomputes its blocks, and returns a function that makes one optimizer step over all
micro-batches, with products in ``dtype``. torchao and DeepSpeed have their weights in
that type, as both recommend; this spares them memory and time. What a library misses or
does not support it says in an exception. In float16 the loss is not scaled, which
changes values but no times.
"""

import os
import socket
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[], None]
Batch = Sequence[tuple[Tensor, Tensor]]  # images and heatmaps of each micro-batch
MAX_NORM = 1.0


def torchao_accumulating(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Train with the CPUOffloadOptimizer of torchao over micro-batches.

    It sends gradients to the host as they are accumulated, so they cannot be clipped,
    and keeps them on the GPU as well.
    """
    return _torchao(model, batch, dtype=dtype, adamw=adamw, offload_gradients=False)


def torchao_whole_batch(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Keep no gradients on the GPU, which takes the batch as a whole."""
    images, heatmaps = (torch.cat(tensors) for tensors in zip(*batch, strict=True))
    whole = [(images, heatmaps)]
    return _torchao(model, whole, dtype=dtype, adamw=adamw, offload_gradients=True)


def _torchao(model, batch, *, dtype, adamw, offload_gradients) -> Step:
    from torchao.optim import CPUOffloadOptimizer

    device = batch[0][0].device
    model.to(device, dtype)
    optimizer = CPUOffloadOptimizer(
        model.parameters(),
        torch.optim.AdamW,
        offload_gradients=offload_gradients,
        fused=True,
        **adamw,
    )

    def step() -> None:
        for images, heatmaps in batch:
            loss = model(images.to(dtype), heatmaps)
            (loss / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def deepspeed_zero_2(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Train with ZeRO-Offload: gradients and optimizer on the host."""
    zero = dict(stage=2)
    return _deepspeed(model, batch, zero, dtype=dtype, adamw=adamw)


def deepspeed_zero_3(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Have the weights on the host as well, fetched for every micro-batch."""
    zero = dict(
        stage=3,
        offload_param=dict(device='cpu', pin_memory=True),
        stage3_prefetch_bucket_size=30_000_000,  # elements; one block of 1B is 28 M
        stage3_max_live_parameters=60_000_000,
        stage3_max_reuse_distance=60_000_000,
    )
    return _deepspeed(model, batch, zero, dtype=dtype, adamw=adamw)


def _deepspeed(model, batch, zero: dict, *, dtype, adamw) -> Step:
    import deepspeed

    announce_one_process(batch[0][0].device)
    config = dict(
        train_micro_batch_size_per_gpu=len(batch[0][0]),
        gradient_accumulation_steps=len(batch),
        gradient_clipping=MAX_NORM,
        bf16=dict(enabled=dtype == torch.bfloat16),
        # A scale that is sought would leave out the first steps.
        fp16=dict(enabled=dtype == torch.float16, loss_scale=1),
        optimizer=dict(type='AdamW', params=adamw),
        zero_optimization=dict(
            offload_optimizer=dict(device='cpu', pin_memory=True),
            # Elements: the defaults of 500 M are buffers of a GB each.
            reduce_bucket_size=50_000_000,
            allgather_bucket_size=50_000_000,
            **zero,
        ),
        steps_per_print=2**31,
    )
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config
    )

    def step() -> None:
        for images, heatmaps in batch:
            engine.backward(engine(images.to(dtype), heatmaps))
            engine.step()  # counts: every len(batch)-th time it is one

    return step


def fsdp2_offload(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Train with PyTorch's FSDP2 in one process, its weights in pinned host memory."""
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
    )

    device = batch[0][0].device
    announce_one_process(device)
    if not dist.is_initialized():
        dist.init_process_group(
            'cpu:gloo,cuda:nccl' if device.index is not None else 'gloo'
        )
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    kwargs = dict(
        mesh=dist.device_mesh.init_device_mesh(device.type, (1,)),
        offload_policy=CPUOffloadPolicy(pin_memory=device.type == 'cuda'),
        mp_policy=policy,
    )
    for layer in model.backbone.layers:
        fully_shard(layer, **kwargs)
    fully_shard(model, **kwargs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **adamw)

    def step() -> None:
        for images, heatmaps in batch:
            (model(images, heatmaps) / len(batch)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ramtorch(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Stream the stages with RamTorch, each micro-batch for itself."""
    from ramtorch import OffloadModel

    device = batch[0][0].device
    stem, blocks, tail = model.stages()
    chunks = [_Chunk(stage, stage.run) for stage in (stem, *blocks)]
    streamed = OffloadModel(
        [*chunks, _Chunk(tail, model.predict)],
        device=device,
        keep_activations='checkpoint',  # the fastest way to recompute, it says
    )
    params = list(streamed.parameters())
    optimizer = torch.optim.AdamW(params, fused=True, **adamw)

    def step() -> None:
        for images, heatmaps in batch:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                streamed.step(images, targets=heatmaps, loss_fn=F.mse_loss)
        streamed.flush_grads(scale=1 / len(batch))
        nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Chunk(nn.Module):
    """A stage as a module that owns its parameters, which RamTorch exchanges."""

    def __init__(self, stage, run: Callable[[Tensor], Tensor]):
        super().__init__()
        self.weights = nn.ParameterList(stage.params)
        self._stage, self._run = stage, run

    def forward(self, x: Tensor) -> Tensor:
        with self._stage.running_on(list(self.weights)):
            return self._run(x)


def trainstream(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype, adamw: dict
) -> Step:
    """Let TrainStream plan what stays on the GPU."""
    from trainstream import wrap

    device = batch[0][0].device
    model, optimizer = wrap(
        model,
        torch.optim.AdamW(model.parameters(), **adamw),
        device=device,
        blocks=list(model.backbone.layers),
        offload=True,
        max_grad_norm=MAX_NORM,
        accumulation_steps=len(batch),
    )

    def step() -> None:
        for images, heatmaps in batch:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(images, heatmaps) / len(batch)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def announce_one_process(device: torch.device) -> None:
    """Set what a launcher would have set."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    os.environ.update(
        RANK='0',
        LOCAL_RANK=str(device.index or 0),
        WORLD_SIZE='1',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )


RIVALS = {
    'torchao, accumulating': torchao_accumulating,
    'torchao, whole batch': torchao_whole_batch,
    'DeepSpeed ZeRO-2 offload': deepspeed_zero_2,
    'DeepSpeed ZeRO-3 offload': deepspeed_zero_3,
    'FSDP2 offload': fsdp2_offload,
    'RamTorch': ramtorch,
    'TrainStream': trainstream,
}
