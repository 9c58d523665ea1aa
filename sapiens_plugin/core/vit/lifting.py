"""Lift published weights into an eager backbone, whole or not at all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sapiens_plugin.core.utils.mapped import release_pages
from sapiens_plugin.core.weight_files.checkpoint import LazyTensor, open_weights
from sapiens_plugin.core.weight_files.sampling import sample
from sapiens_plugin.errors import InputError

from .architectures import name_of
from .model import SapiensViT
from .pos_embed import resize_pos_embed

# Parts of the published files that are no part of a backbone: the masked
# autoencoder's decoder, input normalisation, and the head of a fine-tuned model.
_OTHER_PARTS = ('neck.', 'data_preprocessor.', 'head.')
_MAX_LISTED = 12


@dataclass(frozen=True)
class LiftReport:
    """What :func:`load_backbone` did."""

    path: Path
    num_loaded: int
    num_dropped: int
    source_grid: tuple[int, int]
    target_grid: tuple[int, int]

    def __str__(self):
        resized = (
            'positions as they are'
            if self.source_grid == self.target_grid
            else 'positions resized from {}×{} to {}×{}'.format(
                *self.source_grid, *self.target_grid
            )
        )
        return (
            f'{self.num_loaded} backbone tensors loaded from {self.path} ({resized}; '
            f'{self.num_dropped} tensors of other parts left out)'
        )


def load_backbone(vit: SapiensViT, path: str | Path) -> LiftReport:
    """Copy a weight file into a backbone, in place, tensor by tensor.

    Names may carry a ``backbone.`` prefix (TorchScript archives, training checkpoints)
    or not (``_clean.pth``). The cls position is dropped where the model has no cls
    token, and positions are resized to the model's patch grid. All names and shapes
    are checked before the first value is written, so a refused file leaves the model
    as it was. Extra memory is that of the largest tensor.

    Args:
        vit: The model to fill.
        path: A TorchScript archive, a ``.pth`` or a safetensors file.

    Raises:
        InputError: The file cannot be read (:func:`~.checkpoint.open_weights`), is of
            another size, or a backbone tensor is missing, left over or of another
            shape; the message lists the names.
    """
    path = Path(path)
    file = open_weights(path)
    tensors, source_grid = _match(vit, file, path)
    target = vit.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = tensor.read()
            if name == 'pos_embed':
                value = _fit_positions(value, source_grid, vit)
            target[name].copy_(value)
            release_pages(value)
    return LiftReport(
        path, len(tensors), len(file) - len(tensors), source_grid, vit.grid
    )


def check_backbone(vit: SapiensViT, path: str | Path) -> None:
    """Check, by names and shapes alone, that a file can be lifted into a backbone.

    No value is read: a file of any size takes about as long as a small one. So damage
    inside a tensor is not found.

    Args:
        vit: A backbone as the file should fill it; it may be on the meta device.
        path: As :func:`load_backbone` takes it.

    Raises:
        InputError: As :func:`load_backbone`.
    """
    path = Path(path)
    _match(vit, open_weights(path), path)


def compare_backbone(vit: SapiensViT, path: str | Path) -> tuple[int, list[str]]:
    """Compare a backbone with the file that was lifted into it.

    Returns:
        The number of tensors compared, and the names of those that are not as
        :func:`load_backbone` leaves them.

    Raises:
        InputError: As :func:`load_backbone`.
    """
    path = Path(path)
    tensors, grid = _match(vit, open_weights(path), path)
    expected = _fit_positions(tensors.pop('pos_embed').read(), grid, vit)
    # Resized once more, perhaps by another number of threads.
    positions_kept = torch.allclose(vit.pos_embed.detach().cpu(), expected, atol=1e-6)
    wrong = differing(vit.state_dict(), tensors)
    return len(tensors) + 1, wrong if positions_kept else ['pos_embed', *wrong]


def differing(state: Mapping[str, Tensor], file: Mapping[str, LazyTensor]) -> list[str]:
    """Return the names of a file's tensors that are not what a model has.

    Up to 1024 values of each are compared, spread over the tensor.

    Args:
        state: The model's; may be on any device.
        file: Some of the same names, and of the same shapes.
    """
    return [
        name
        for name, tensor in file.items()
        if not torch.equal(sample(state[name]), tensor.sample().to(state[name].dtype))
    ]


def _match(
    vit: SapiensViT, file: Mapping[str, LazyTensor], path: Path
) -> tuple[dict[str, LazyTensor], tuple[int, int]]:
    """Return what goes into a backbone, and the patch grid its positions are for."""
    tensors = _backbone_part(file)
    has_cls = 'cls_token' in tensors
    if not vit.num_extra_tokens:
        tensors.pop('cls_token', None)
    _check_size(vit, tensors, path)
    _check_names(tensors, vit.state_dict(), path)
    return tensors, _grid_of(tensors['pos_embed'], has_cls, vit.grid, path)


def _backbone_part(file: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return the backbone's tensors, named relative to it."""
    names = {name.removeprefix('module.'): name for name in file}  # saved from DDP
    if any(name.startswith('backbone.') for name in names):
        return {
            name.removeprefix('backbone.'): file[original]
            for name, original in names.items()
            if name.startswith('backbone.')
        }
    return {
        name: file[original]
        for name, original in names.items()
        if not name.startswith(_OTHER_PARTS)
    }


def _check_size(vit: SapiensViT, tensors: Mapping[str, LazyTensor], path: Path) -> None:
    norm = tensors.get('ln1.weight')
    layers = {name.split('.')[1] for name in tensors if name.startswith('layers.')}
    if norm is None or not layers:
        return  # not this family at all: the list of names will say so
    own = (vit.arch.embed_dims, vit.arch.num_layers)
    found = (norm.shape[0], len(layers))
    if found != own:
        raise InputError(
            f'{path} holds {name_of(embed_dims=found[0], num_layers=found[1])}, but '
            f'the config builds {name_of(embed_dims=own[0], num_layers=own[1])}. Set '
            'model.backbone.arch to the size of the file, or name the file of that '
            'size in model.backbone.init_cfg.checkpoint.'
        )


def _check_names(
    tensors: Mapping[str, LazyTensor], target: Mapping[str, Tensor], path: Path
) -> None:
    problems = []
    for title, names in (
        ('missing from the file', target.keys() - tensors.keys()),
        ('left over in the file', tensors.keys() - target.keys()),
        (
            'of another shape',
            {
                f'{name} {tensors[name].shape} instead of {tuple(target[name].shape)}'
                for name in tensors.keys() & target.keys() - {'pos_embed'}
                if tensors[name].shape != tuple(target[name].shape)
            },
        ),
    ):
        if names:
            listed = sorted(names)[:_MAX_LISTED]
            more = len(names) - len(listed)
            problems.append(
                f'{len(names)} {title}: {", ".join(listed)}'
                + (f' and {more} more' if more else '')
            )
    if problems:
        raise InputError(
            f'{path} does not fit the backbone that the config builds, and training '
            'from it would start from random weights in part or whole. '
            f'{"; ".join(problems)}. Nothing was loaded.'
        )


def _grid_of(
    table: LazyTensor, has_cls: bool, own_grid: tuple[int, int], path: Path
) -> tuple[int, int]:
    """Infer the patch grid that a position table was made for.

    A table does not say its own aspect. Published ones are square (pre-training) or
    4:3 (pose: 1024×768, 384×288, 256×192).
    """
    count = table.shape[1] - has_cls
    if count == own_grid[0] * own_grid[1]:
        return own_grid
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    unit = math.isqrt(count // 12)
    if 12 * unit * unit == count:
        return 4 * unit, 3 * unit
    raise InputError(
        f'pos_embed in {path} has {count} patch positions, which is neither the '
        f'{own_grid[0]}×{own_grid[1]} grid of img_size, nor a square, nor 4:3, so it '
        'cannot be resized. Set img_size to the size that file was trained at.'
    )


def _fit_positions(table: Tensor, source: tuple[int, int], vit: SapiensViT) -> Tensor:
    num_extra = table.shape[1] - source[0] * source[1]
    patches = resize_pos_embed(table[:, num_extra:].float(), source, vit.grid)
    return torch.cat([table[:, : vit.num_extra_tokens].float(), patches], dim=1)
