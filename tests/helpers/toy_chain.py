"""A small chain of transformer blocks, and ordinary accumulation to compare it with."""

import torch
import torch.nn.functional as F
from torch import nn

from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.randomness import (
    kept_generators,
    seed_at,
    seed_generators,
)
from sapiens_plugin.core.streaming.stage import Stage, owners_of

CPU = torch.device('cpu')


class Block(nn.Module):
    def __init__(self, dims: int, drop: float):
        super().__init__()
        self.ln1 = nn.LayerNorm(dims)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)
        self.ln2 = nn.LayerNorm(dims)
        self.fc1 = nn.Linear(dims, 4 * dims)
        self.fc2 = nn.Linear(4 * dims, dims)
        self.drop = drop

    def forward(self, x):
        q, k, v = self.qkv(self.ln1(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self._drop_path(self.proj(y))
        return x + self._drop_path(self.fc2(F.gelu(self.fc1(self.ln2(x)))))

    def _drop_path(self, y):
        if not self.training or self.drop == 0:
            return y
        keep = 1 - self.drop
        return y * (y.new_empty(len(y), 1, 1).bernoulli_(keep) / keep)


class Net(nn.Module):
    """Tokens (B, T, 8) to a scalar a sample; ``bias`` belongs to the stem's method."""

    def __init__(self, depth: int, *, drop: float = 0.0, dims: int = 32, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.drop = drop
        self.bias = nn.Parameter(torch.randn(dims))
        self.project = nn.Linear(8, dims)
        self.blocks = nn.ModuleList(Block(dims, drop) for _ in range(depth))
        self.norm = nn.LayerNorm(dims)
        self.head = nn.Linear(dims, 5)

    def stem(self, x):
        # Laid out as a patch embedding's: by channels first.
        return self.project(x).transpose(1, 2).contiguous().transpose(1, 2) + self.bias

    def loss(self, x, target):
        x = F.dropout(self.norm(x), self.drop, self.training)
        return F.mse_loss(self.head(x), target)

    def stages(self):
        return (
            Stage(self.stem, [(self, 'bias'), *owners_of(self.project)]),
            [Stage(block, owners_of(block)) for block in self.blocks],
            Stage(self.loss, owners_of(self.norm, self.head)),
        )

    def freeze(self, num_parts: int):
        """Freeze the stem (1) and the first blocks (2 and on)."""
        parts = [[self.bias, *self.project.parameters()]]
        parts += [list(block.parameters()) for block in self.blocks]
        for part in parts[:num_parts]:
            for param in part:
                param.requires_grad_(False)


def accumulate(net, inputs, targets, *, seed, compute_dtype=torch.float32):
    """Ordinary gradient accumulation, with the same keys for what is random."""
    total = sum(map(len, inputs))
    equal = len({len(x) for x in inputs}) == 1
    losses = []
    with kept_generators(CPU):
        for j, (x, target) in enumerate(zip(inputs, targets, strict=True)):
            with torch.autocast(
                'cpu', compute_dtype, enabled=compute_dtype != torch.float32
            ):
                for i, run in enumerate([net.stem, *net.blocks]):
                    seed_generators(CPU, seed_at(seed, i, j))
                    x = run(x)
                seed_generators(CPU, seed_at(seed, len(net.blocks) + 1, j))
                loss = net.loss(x, target)
            share = loss / len(inputs) if equal else loss * (len(x) / total)
            share.backward()
            losses.append(loss.detach())
    return losses


def streamed(net, inputs, targets, *, seed, **placement):
    """The same through a chain; returns losses and the norms of the gradients."""
    losses = {}
    chain = StreamedChain(*net.stages(), device=CPU, placement=Placement(**placement))
    try:

        def loss_of(x, j):
            loss = net.loss(x, targets[j])
            losses[j] = loss.detach()
            return loss

        norms = chain.accumulate(inputs, loss_of, seed=seed)
        for param in net.parameters():
            if param.grad is not None:  # as it is now, not when all has settled
                param.grad = param.grad.clone()
    finally:
        chain.close()
    return [losses[j] for j in range(len(inputs))], norms


def batch(sizes, *, tokens=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), tokens, 8, generator=generator)
    y = torch.randn(sum(sizes), tokens, 5, generator=generator)
    return x.split(sizes), y.split(sizes)
