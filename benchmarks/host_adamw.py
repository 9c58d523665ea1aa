"""Time HostAdamW beside PyTorch's fused AdamW on the parameters of Sapiens layers.

The kinds take steps in turn. Prints the median seconds a step takes for 100 M
parameters, and the median over the rounds of its ratio to the stock optimizer's step.
Rows with clipping compare multiplying the gradients and stepping, in both. Meaningful
only on a machine that does nothing else.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from arch_option import add_arch
from torch import nn

from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.moments import moment_bytes
from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import Block

STOCK = 'torch.optim.AdamW(fused=True)'
CLIPPING = 0.999  # a factor that takes many steps to make the gradients denormal


def make_params(
    arch: str | dict, layers: int, grad_dtype: torch.dtype
) -> list[nn.Parameter]:
    """Return the parameters of some layers, with gradients."""
    made = [Block(get_architecture(arch)) for _ in range(layers)]
    params = [param for layer in made for param in layer.parameters()]
    for param in params:
        param.grad_dtype = grad_dtype
        param.grad = (torch.randn_like(param) * 1e-3).to(grad_dtype)
    return params


def make_steps(
    arch: str | dict, layers: int
) -> dict[tuple[str, str, str], Callable[[], None]]:
    """Return what to time, by optimizer, gradient type and clipping."""
    steps = {}
    stock_params = make_params(arch, layers, torch.float32)
    stock = torch.optim.AdamW(stock_params, fused=True)
    grads = [param.grad for param in stock_params]

    def stock_clipped() -> None:
        torch._foreach_mul_(grads, CLIPPING)  # as clip_grad_norm_
        stock.step()

    steps[STOCK, 'fp32', 'no'] = stock.step
    steps[STOCK, 'fp32', 'yes'] = stock_clipped
    for moment_dtype, grad_dtype in (
        ('float32', torch.float32),
        ('bfloat16', torch.bfloat16),
        ('int8', torch.bfloat16),
    ):
        params = make_params(arch, layers, grad_dtype)
        optimizer = HostAdamW(params, moment_dtype=moment_dtype)
        title = f'HostAdamW, {moment_dtype} moments'
        grad_title = 'fp32' if grad_dtype == torch.float32 else 'bf16'
        for clipped in (False, True):
            steps[title, grad_title, 'yes' if clipped else 'no'] = _deferred(
                optimizer, params, CLIPPING if clipped else None
            )
    return steps


def _deferred(
    optimizer: HostAdamW, params: list[nn.Parameter], factor: float | None
) -> Callable[[], None]:
    grads = [param.grad for param in params]

    def step() -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.schedule(grad_factor=factor)
        optimizer.flush()

    return step


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arch(parser, default='sapiens_1b')
    parser.add_argument(
        '--layers', type=int, default=2, help='of 1B: 28 M parameters each'
    )
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()

    steps = make_steps(args.arch, args.layers)
    block = Block(get_architecture(args.arch))
    count = args.layers * sum(param.numel() for param in block.parameters())
    seconds = {key: [] for key in steps}
    for round_number in range(args.rounds + 1):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            if round_number:  # the first allocates the moments
                elapsed = time.perf_counter() - start
                seconds[key].append(elapsed * 1e8 / count)

    print(f'{torch.get_num_threads()} threads, {args.layers} layers\n')
    print('| optimizer | gradients | clipping | s / 100 M | ratio | bytes of moments |')
    print('|---|---|---|---|---|---|')
    figures = []
    for (title, grads, clipped), times in seconds.items():
        stock = seconds[STOCK, 'fp32', clipped]
        ratio = statistics.median(a / b for a, b in zip(times, stock, strict=True))
        name = next((d for d in ('bfloat16', 'int8') if d in title), 'float32')
        size = moment_bytes(10**6, name) / 10**6
        print(
            f'| {title} | {grads} | {clipped} | {statistics.median(times):.3f} '
            f'| {ratio:.2f} | {size:.2f} |'
        )
        figures.append(
            dict(optimizer=title, grads=grads, clipped=clipped, seconds=times)
            | dict(ratio=ratio)
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
