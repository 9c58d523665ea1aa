"""The Sapiens backbone as an ordinary eager module, for any input size.

A plain pre-norm ViT. Parameter names are those of the published checkpoints, relative
to ``backbone.``: ``pos_embed``, ``patch_embed.projection``, ``layers.N.{ln1,ln2}``,
``layers.N.attn.{qkv,proj}``, ``layers.N.ffn.layers.{0.0,1}``, ``ln1``.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sapiens_plugin.errors import InputError

from .architectures import PATCH_SIZE, Architecture, get_architecture
from .pos_embed import resize_pos_embed

NORM_EPS = 1e-6  # published value; PyTorch's default is 1e-5


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Return the patch grid (rows, columns) of an image of this size in px.

    Raises:
        InputError: A side is not a positive multiple of the patch size; the message
            names the nearest sizes that are.
    """
    if height > 0 and width > 0 and height % PATCH_SIZE == 0 == width % PATCH_SIZE:
        return height // PATCH_SIZE, width // PATCH_SIZE
    below, above = (
        tuple(
            max(side + step, PATCH_SIZE) // PATCH_SIZE * PATCH_SIZE
            for side in (height, width)
        )
        for step in (0, PATCH_SIZE - 1)
    )
    raise InputError(
        f'An input of {height}×{width} px (height×width) does not divide into '
        f'{PATCH_SIZE} px patches. The nearest sizes that do are '
        f'{below[0]}×{below[1]} and {above[0]}×{above[1]}: resized(height, '
        'width) of sapiens_plugin.recipe sets one of them everywhere.'
    )


class PatchEmbed(nn.Module):
    """Cut an image into 16 px patches and project each, (B, 3, H, W) to (B, N, D)."""

    def __init__(self, embed_dims: int, *, padding: int):
        super().__init__()
        self.projection = nn.Conv2d(
            3, embed_dims, kernel_size=PATCH_SIZE, stride=PATCH_SIZE, padding=padding
        )

    def forward(self, x: Tensor) -> Tensor:
        """Project the patches of (B, 3, H, W) to tokens (B, N, D)."""
        # Laid out by tokens: every layer adds to this stream, and every norm would copy
        # it first.
        return self.projection(x).flatten(2).transpose(1, 2).contiguous()


class Attention(nn.Module):
    """Multi-head self-attention through PyTorch's fused kernel."""

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among tokens (B, N, D)."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class FFN(nn.Module):
    """Two linear layers around an exact GELU, nested as the checkpoints name them."""

    def __init__(self, embed_dims: int, feedforward_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(embed_dims, feedforward_channels), nn.GELU()),
            nn.Linear(feedforward_channels, embed_dims),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        return self.layers(x)


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples while training.

    Kept branches are scaled by 1 / keep probability, so that expectations agree
    (https://arxiv.org/abs/1603.09382).
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Scale or drop each sample of a branch (B, N, D)."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """Show the rate when a model is printed."""
        return f'rate={self.rate:.3g}'


class Block(nn.Module):
    """One pre-norm transformer layer on tokens (B, N, D)."""

    def __init__(self, arch: Architecture, *, drop_path: float = 0.0):
        super().__init__()
        self.ln1 = nn.LayerNorm(arch.embed_dims, eps=NORM_EPS)
        self.attn = Attention(arch.embed_dims, arch.num_heads)
        self.ln2 = nn.LayerNorm(arch.embed_dims, eps=NORM_EPS)
        self.ffn = FFN(arch.embed_dims, arch.feedforward_channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        x = x + self.drop_path(self.attn(self.ln1(x)))
        return x + self.drop_path(self.ffn(self.ln2(x)))


class SapiensViT(nn.Module):
    """The Sapiens backbone.

    Pose models differ from the pre-trained ones in two ways: no cls token, and patches
    cut with a padding of 2 px (pre-training: 0). The defaults are those of pose.

    Args:
        arch: A published name, or a mapping as :func:`get_architecture` takes it.
        img_size: Input (height, width) in px that ``pos_embed`` is made for. Another
            input size runs too, with the positions resampled on the way.
        patch_padding: Padding of the patch convolution in px, 0 to 7 (more would
            change the number of patches).
        with_cls_token: Keep a cls token in attention. It is left out of the output.
        drop_path_rate: Stochastic depth of the last layer; earlier ones scale linearly.
        with_cp: Recompute each layer in backward instead of keeping its activations
            (a third more time, a small fraction of the activation memory).

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping | Architecture,
        *,
        img_size: tuple[int, int],
        patch_padding: int = 2,
        with_cls_token: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ):
        super().__init__()
        if not 0 <= patch_padding < PATCH_SIZE // 2:
            raise InputError(
                f'patch_padding={patch_padding} px is not in 0–{PATCH_SIZE // 2 - 1}. '
                'Sapiens pose models use 2, the pre-trained ones 0.'
            )
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'drop_path_rate={drop_path_rate} is not in [0, 1).')
        self.arch = get_architecture(arch)
        self.grid = patch_grid(*img_size)
        self.with_cp = with_cp

        dims, depth = self.arch.embed_dims, self.arch.num_layers
        self.num_extra_tokens = int(with_cls_token)
        if with_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        num_tokens = self.num_extra_tokens + self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, dims))
        self.patch_embed = PatchEmbed(dims, padding=patch_padding)
        self.layers = nn.ModuleList(
            Block(self.arch, drop_path=drop_path_rate * i / max(depth - 1, 1))
            for i in range(depth)
        )
        self.ln1 = nn.LayerNorm(dims, eps=NORM_EPS)

    def init_weights(self) -> None:
        """Fill every parameter from ViT's usual random start (truncated normal)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.num_extra_tokens:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into positioned tokens (B, N, D)."""
        positions = self._positions(patch_grid(*x.shape[2:]))
        x = self.patch_embed(x)
        if self.num_extra_tokens:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + positions

    def to_map(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalise tokens (B, N, D) and lay them out as a map (B, D, *grid)."""
        x = self.ln1(x)[:, self.num_extra_tokens :]
        return x.transpose(1, 2).unflatten(2, grid).contiguous()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Extract features.

        Args:
            x: Images (B, 3, H, W), sides in px divisible by 16.

        Returns:
            A tuple of one feature map, (B, D, H / 16, W / 16).

        Raises:
            InputError: A side does not divide into patches.
        """
        grid = patch_grid(*x.shape[2:])
        x = self.embed(x)
        for layer in self.layers:
            x = self._run(layer, x)
        return (self.to_map(x, grid),)

    def _run(self, layer: Block, x: Tensor) -> Tensor:
        # A layer that nothing will be differentiated through has nothing to recompute.
        needs_grad = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in layer.parameters())
        )
        if self.with_cp and needs_grad:
            return checkpoint(layer, x, use_reentrant=False)
        return layer(x)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.pos_embed
        extra = self.pos_embed[:, : self.num_extra_tokens]
        table = self.pos_embed[:, self.num_extra_tokens :]
        return torch.cat([extra, resize_pos_embed(table, self.grid, grid)], dim=1)
