"""Measure what narrow boundaries, gradients and moments change, against fp32.

First in training: a small Sapiens ViT with a heatmap head learns to point at coloured
dots, with ``beta2 = 0.999``, warm-up, weight decay and gradient clipping. Every run
starts from the same weights and sees the same images. Compared per tensor is how far
its weights ended from those of the fp32 run, relative to how far that run moved them.
Three more fp32 runs show what such a figure means, because training amplifies any
difference: one sums its micro-batches otherwise, two have small random errors in their
gradients.

Then in the moments alone, over more steps: gradients of one size, then of a tenth. How
far is exp_avg / sqrt(exp_avg_sq), the direction of the update, from that of exact
moments? The larger spread, of gradients within a tensor, is three decades.

Last in one gradient: what it changes that the activations between blocks are kept in 16
bit until backward.
"""

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapiens_plugin.core.streaming import moments
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.core.vit.model import SapiensViT

ARCH = dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384)
SIZE = 64  # px
DOTS = 4
BATCH = 16
PEAK_LR = 1e-3
WARM_UP = 50  # steps
BF16 = torch.bfloat16
RUNS = {
    'fp32, micro-batches of 4 summed': dict(micro_batch=4),
    'fp32, gradients off by 1e-5': dict(grad_error=1e-5),
    'fp32, gradients off by 1e-3': dict(grad_error=1e-3),
    'bf16 gradients': dict(grad_dtype=BF16),
    'bf16 moments': dict(moment_dtype='bfloat16'),
    'bf16 moments, to nearest': dict(moment_dtype='bfloat16', nearest=True),
    'int8 moments': dict(moment_dtype='int8'),
    'int8 moments, to nearest': dict(moment_dtype='int8', nearest=True),
    'bf16 gradients, bf16 moments': dict(moment_dtype='bfloat16', grad_dtype=BF16),
    'bf16 gradients, int8 moments': dict(moment_dtype='int8', grad_dtype=BF16),
}


class Pointer(nn.Module):
    """A ViT with a heatmap head, (B, 3, H, W) to (B, DOTS, H / 4, W / 4)."""

    def __init__(self):
        super().__init__()
        self.backbone = SapiensViT(ARCH, img_size=(SIZE, SIZE))
        self.backbone.init_weights()
        self.head = nn.Sequential(
            nn.ConvTranspose2d(ARCH['embed_dims'], 48, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(48, 48, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, DOTS, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the heatmaps of images."""
        return self.head(self.backbone(images)[0])


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Return images with dots and noise, and the heatmaps of the dots."""
    generator = torch.Generator().manual_seed(step)
    places = torch.rand(BATCH, DOTS, 2, generator=generator) * (SIZE - 16) + 8  # px
    noise = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    dots = _blobs(places, SIZE, sigma=3.0)
    images = 3 * torch.einsum('bdhw,dc->bchw', dots, colours) + 0.3 * noise
    return images, _blobs(places / 4, SIZE // 4, sigma=1.5)


def _blobs(places: Tensor, size: int, *, sigma: float) -> Tensor:
    pixels = torch.arange(size) + 0.5
    across = torch.exp(-((pixels - places[..., None]) ** 2) / (2 * sigma**2))
    return across[:, :, 0, :, None] * across[:, :, 1, None, :]


def train(
    steps: int,
    *,
    moment_dtype: str = 'float32',
    grad_dtype: torch.dtype = torch.float32,
    micro_batch: int = BATCH,
    grad_error: float = 0.0,
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Return the weights before and after, and the mean loss of the last 50 steps."""
    torch.manual_seed(0)
    model = Pointer()
    params = list(model.parameters())
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for param in params:
        param.grad_dtype = grad_dtype
    groups = [
        dict(params=[p for p in params if p.ndim > 1], weight_decay=0.1),
        dict(params=[p for p in params if p.ndim <= 1], weight_decay=0.0),
    ]
    optimizer = HostAdamW(groups, moment_dtype=moment_dtype)
    losses = []
    for step in range(steps):
        sums, loss = None, 0.0
        for images, heatmaps in zip(
            *(tensor.split(micro_batch) for tensor in batch_of(step)), strict=True
        ):
            part = 1000 * F.mse_loss(model(images), heatmaps) * len(images) / BATCH
            grads = torch.autograd.grad(part, params)
            sums = grads if sums is None else torch._foreach_add(sums, grads)
            loss += part.item()
        for param, grad in zip(params, sums, strict=True):
            error = grad_error * torch.randn_like(grad)
            param.grad = (grad * (1 + error)).to(grad_dtype)
        norm = nn.utils.get_total_norm([param.grad.float() for param in params])
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group['lr'] = PEAK_LR * min((step + 1) / WARM_UP, 1.0) * cosine
        optimizer.schedule(grad_factor=torch.clamp(1 / (norm + 1e-6), max=1.0))
        optimizer.flush()
        losses.append(loss)
    end = {name: p.detach() for name, p in model.named_parameters()}
    return start, end, statistics.fmean(losses[-50:])


def track(moment_dtype: str, *, spread: float, steps: int) -> dict[str, float]:
    """Return the error of the update's direction from moments held in this type."""
    encoding = moments.get_encoding(moment_dtype)
    numel = 64 * moments.BLOCK
    generator = torch.Generator().manual_seed(1)
    sizes = torch.exp(spread * torch.randn(numel, generator=generator))
    state = encoding.allocate(sizes)
    (chunk,) = encoding.chunks(state)
    exact, held = torch.zeros(2, numel), torch.zeros(2, numel)
    figures = {}
    for step in range(1, 2 * steps + 1):
        grad = torch.randn(numel, generator=generator) * sizes
        grad *= 1.0 if step <= steps else 0.1
        encoding.decode(chunk, *held)
        for exp_avg, exp_avg_sq in (exact, held):
            exp_avg.lerp_(grad, 0.1)
            exp_avg_sq.mul_(0.999).addcmul_(grad, grad, value=0.001)
        if step in (100, steps, 2 * steps):
            updates = [m / v.sqrt() for m, v in (exact, held)]
            error = (updates[1] - updates[0]).norm() / updates[0].norm()
            figures[f'step {step}'] = error.item()
        encoding.encode(chunk, *held, index=0, step=step, decay=0.999)
    return figures


@contextlib.contextmanager
def rounding(*, nearest: bool) -> Iterator[None]:
    """Round to nearest instead of at random in here, if asked to."""
    noise, bits = moments._noise, moments._noise_bits
    if nearest:
        moments._noise = torch.zeros_like(noise)
        moments._noise_bits = torch.full_like(bits, 1 << 15)
    try:
        yield
    finally:
        moments._noise, moments._noise_bits = noise, bits


def compare_training(steps: int) -> dict[str, dict]:
    """Run every kind of training and print how far from fp32 it ends."""
    start, reference, loss = train(steps)
    print(f'fp32: loss {loss:.4f}\n\n| run | median | max | loss |\n|---|---|---|---|')
    results = {'fp32': dict(loss=loss)}
    for title, kwargs in RUNS.items():
        settings = {key: value for key, value in kwargs.items() if key != 'nearest'}
        with rounding(nearest=kwargs.get('nearest', False)):
            _, end, loss = train(steps, **settings)
        errors = {
            name: ((end[name] - weight).norm() / (weight - start[name]).norm()).item()
            for name, weight in reference.items()
        }
        median, largest = statistics.median(errors.values()), max(errors.values())
        print(f'| {title} | {median:.4f} | {largest:.4f} | {loss:.4f} |', flush=True)
        results[title] = dict(errors=errors, loss=loss)
    return results


def compare_moments(steps: int) -> dict[str, dict[str, float]]:
    """Follow moments over thousands of steps and print the error of the update."""
    results = {}
    for spread in (0.5, 1.5):
        for nearest in (False, True):
            for moment_dtype in ('bfloat16', 'int8'):
                title = f'{moment_dtype}{", to nearest" if nearest else ""}, {spread}'
                with rounding(nearest=nearest):
                    results[title] = track(moment_dtype, spread=spread, steps=steps)
    columns = list(results[title])
    print(
        f'\n| moments, spread | {" | ".join(columns)} |\n|---|{"---|" * len(columns)}'
    )
    for title, figures in results.items():
        print(f'| {title} |', *(f'{figures[column]:.3f} |' for column in columns))
    return results


def compare_boundaries() -> dict[str, dict[str, float]]:
    """Print how far gradients are off with boundaries of 16 bit."""
    torch.manual_seed(0)
    model = Pointer()
    backbone = model.backbone
    blocks = [Stage(layer, owners_of(layer)) for layer in backbone.layers]
    stem = [(backbone, 'pos_embed'), *owners_of(backbone.patch_embed)]
    images, heatmaps = batch_of(0)

    def loss_of(x: Tensor, j: int) -> Tensor:
        features = backbone.to_map(x, (SIZE // 16, SIZE // 16))
        return 1000 * F.mse_loss(model.head(features), heatmaps[2 * j : 2 * j + 2])

    def gradients(dtype: torch.dtype) -> dict[str, Tensor]:
        chain = StreamedChain(
            Stage(backbone.embed, stem),
            blocks,
            Stage(model.head, owners_of(backbone.ln1, model.head)),
            device=torch.device('cpu'),
            placement=Placement(boundary_dtype=dtype),
        )
        chain.accumulate(images.split(2), loss_of, seed=0)
        return {name: param.grad for name, param in model.named_parameters()}

    reference = gradients(torch.float32)
    print('\n| boundaries | median | max |\n|---|---|---|')
    results = {}
    for dtype in (torch.float16, torch.bfloat16):
        errors = [
            ((grad - reference[name]).norm() / reference[name].norm()).item()
            for name, grad in gradients(dtype).items()
        ]
        results[str(dtype)] = dict(median=statistics.median(errors), max=max(errors))
        print('| {} | {median:.1e} | {max:.1e} |'.format(dtype, **results[str(dtype)]))
    return results


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=300, help='of training')
    parser.add_argument(
        '--moment-steps', type=int, default=3000, help='with gradients of either size'
    )
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    results = dict(
        training=compare_training(args.steps),
        moments=compare_moments(args.moment_steps),
        boundaries=compare_boundaries(),
    )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
