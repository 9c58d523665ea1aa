"""A stand-in for a published pre-training file: the same structure, random weights.

The published files are traces of a whole masked autoencoder. So is this one: the names
and shapes are theirs (``backbone.*``, the decoder as ``neck.*``, and
``data_preprocessor.{mean,std}``), and so is the output, a tuple of one feature map.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sapiens_plugin.core.utils.whole_file import whole_path
from sapiens_plugin.core.vit.architectures import PATCH_SIZE, Architecture
from sapiens_plugin.core.vit.model import NORM_EPS, Block, SapiensViT


def make_stand_in(
    path: str | Path,
    *,
    arch: str | Mapping | Architecture,
    img_size: int = 1024,
    decoder_dims: int = 512,
    decoder_layers: int = 8,
    seed: int = 0,
) -> None:
    """Write a TorchScript archive as the published pre-training files are.

    The defaults are the published values: with ``arch='sapiens_1b'`` the archive has
    592 tensors and 4.7 GB, and takes minutes to trace on two cores.

    Args:
        path: File to write.
        arch: A published name, or the numbers of a smaller one.
        img_size: Side of the square input in px; fixed for good by the trace.
        decoder_dims: Width of the decoder, divisible by 16.
        decoder_layers: Depth of the decoder.
        seed: Of the random weights.

    Raises:
        InputError: ``arch`` or ``img_size`` is impossible.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _MaskedAutoencoder(arch, img_size, decoder_dims, decoder_layers)
    model.eval().requires_grad_(False)
    example = torch.zeros(1, 3, img_size, img_size)
    with _expected_warnings_ignored(), torch.no_grad():
        # Tracing a second time to compare would double minutes at the published size.
        traced = torch.jit.trace(model, example, check_trace=False)
        with whole_path(Path(path)) as part:
            torch.jit.save(traced, part)


def sincos_pos_embed(dims: int, side: int) -> Tensor:
    """Positions as a masked autoencoder starts with: sines along x, then along y.

    Args:
        dims: Width of a token, divisible by 4.
        side: Side of the square grid in patches.

    Returns:
        (1, 1 + side², dims); the cls token's position, the first, is zero.
    """
    frequency = 10000.0 ** -torch.linspace(0, 1, dims // 4 + 1)[:-1]
    phase = torch.arange(side)[:, None] * frequency
    along = torch.cat([phase.sin(), phase.cos()], dim=1)
    x = along.expand(side, side, -1)
    table = torch.cat([x, x.transpose(0, 1)], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(1, dims), table])[None]


class _Decoder(nn.Module):
    """The autoencoder's decoder: parameters only, as feature extraction has no use."""

    def __init__(self, encoder_dims: int, dims: int, num_layers: int, side: int):
        super().__init__()
        arch = Architecture(dims, num_layers, 16, 4 * dims)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.decoder_pos_embed = nn.Parameter(sincos_pos_embed(dims, side))
        self.decoder_embed = nn.Linear(encoder_dims, dims)
        self.decoder_blocks = nn.ModuleList(Block(arch) for _ in range(num_layers))
        self.ln1 = nn.LayerNorm(dims, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(dims, 3 * PATCH_SIZE**2)


class _Preprocessor(nn.Module):
    """Mean and deviation of ImageNet's RGB, (3, 1, 1); the caller applies them."""

    def __init__(self):
        super().__init__()
        for name, values in (
            ('mean', (123.675, 116.28, 103.53)),
            ('std', (58.395, 57.12, 57.375)),
        ):
            self.register_buffer(name, torch.tensor(values)[:, None, None])


class _MaskedAutoencoder(nn.Module):
    def __init__(
        self,
        arch: str | Mapping | Architecture,
        img_size: int,
        decoder_dims: int,
        decoder_layers: int,
    ):
        super().__init__()
        self.backbone = SapiensViT(
            arch, img_size=(img_size,) * 2, patch_padding=0, with_cls_token=True
        )
        self.backbone.init_weights()
        dims, side = self.backbone.arch.embed_dims, self.backbone.grid[0]
        self.backbone.pos_embed.data = sincos_pos_embed(dims, side)
        self.neck = _Decoder(dims, decoder_dims, decoder_layers, side)
        self.data_preprocessor = _Preprocessor()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Extract features (B, D, G, G) of images (B, 3, H, W)."""
        return self.backbone(x)


@contextmanager
def _expected_warnings_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        # TorchScript is deprecated, and it is what the published files are.
        warnings.filterwarnings(
            'ignore', r'`torch\.jit\.\w+` is deprecated', DeprecationWarning
        )
        # Sizes turn into constants of the trace, as they do in the published files.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        yield
