"""Other ways to train a model that the GPU's memory does not hold, for comparison.

Each takes a model on the CPU, whose ``forward`` returns the loss of a micro-batch, and
returns a function that makes one optimizer step over all micro-batches. Where their
weights are in 16 bit, as both libraries recommend, that spares them memory and time.
An ImportError says that the library is not there.
"""

import os
import socket
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Step = Callable[[], None]
Batch = Sequence[tuple[Tensor, Tensor]]  # images and heatmaps of each micro-batch


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

    _announce_one_process(batch[0][0].device)
    config = dict(
        train_micro_batch_size_per_gpu=len(batch[0][0]),
        gradient_accumulation_steps=len(batch),
        gradient_clipping=1.0,
        bf16=dict(enabled=dtype == torch.bfloat16),
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


def _announce_one_process(device: torch.device) -> None:
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
}
