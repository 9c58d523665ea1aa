"""What PyTorch's CUDA kernels do: which are chosen, how exact and repeatable."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import Block

from .device import MIB

MODES = {False: 'default', True: 'deterministic'}


def workspaces() -> dict[str, float]:
    """Return the MiB in use before and after the first matrix products.

    The backward pass runs in another thread and so has a workspace of its own.
    """
    torch.cuda.empty_cache()
    steps = dict(before=torch.cuda.memory_allocated() / MIB)
    x = torch.ones(64, 64, device='cuda', requires_grad=True)
    y = nn.Linear(64, 64, device='cuda')(x)
    steps['after forward'] = torch.cuda.memory_allocated() / MIB
    y.sum().backward()
    steps['after backward'] = torch.cuda.memory_allocated() / MIB
    return steps


def attention_kernels() -> dict[str, str]:
    """Return the attention kernel for heads as in Sapiens-1B (64) and 2B (60)."""
    members = torch.nn.attention.SDPBackend.__members__
    names = {int(member): name for name, member in members.items()}
    dtypes = torch.float32, torch.bfloat16, torch.float16
    chosen = {}
    for dims, dtype, strict in product((64, 60), dtypes, MODES):
        q = torch.randn(2, 24, 432, dims, device='cuda', dtype=dtype)
        q = q.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        torch.use_deterministic_algorithms(strict)
        choice = int(torch._fused_sdp_choice(q, q, q))
        chosen[f'{dims} {dtype} {MODES[strict]}'] = names.get(choice, str(choice))
    torch.use_deterministic_algorithms(False)
    return chosen


def float32_errors() -> dict[str, float]:
    """Return relative errors of float32 products, which show whether TF32 is on."""
    generator = torch.Generator().manual_seed(0)
    shapes = (512, 1536), (512, 1536), (2, 768, 24, 18), (64, 768, 1, 1)
    a, w, image, kernel = (torch.randn(s, generator=generator) for s in shapes)
    errors = {}
    for name, run, inputs in (
        ('linear', F.linear, (a, w)),
        ('conv', F.conv2d, (image, kernel)),
    ):
        exact = run(*(x.double() for x in inputs))
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            got = run(*(x.cuda() for x in inputs)).double().cpu()
            error = (got - exact).norm() / exact.norm()
            errors[f'{name}, cudnn.allow_tf32={allowed}'] = error.item()
    torch.backends.cudnn.allow_tf32 = True
    return errors


def repeated_gradients() -> dict[str, bool]:
    """Say whether four backward passes of a block give the same gradients."""
    same = {}
    for name in ('sapiens_1b', 'sapiens_2b'):
        arch = get_architecture(name)
        block = Block(arch).cuda()
        x = torch.randn(2, 432, arch.embed_dims, device='cuda')
        for dtype, strict in product((torch.float32, torch.bfloat16), MODES):
            torch.use_deterministic_algorithms(strict)
            runs = [_gradients(block, x, dtype) for _ in range(4)]
            same[f'{name} {dtype} {MODES[strict]}'] = all(
                torch.equal(grad, other)
                for run in runs[1:]
                for grad, other in zip(runs[0], run, strict=True)
            )
        torch.use_deterministic_algorithms(False)
    return same


def _gradients(block: Block, x: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    block.zero_grad()
    with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
        y = block(x)
    y.float().square().mean().backward()
    return [param.grad.clone() for param in block.parameters()]
