"""The four published Sapiens sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sapiens_plugin.errors import InputError

PATCH_SIZE = 16


@dataclass(frozen=True)
class Architecture:
    """The numbers that fix a Sapiens ViT's parameter shapes."""

    embed_dims: int
    num_layers: int
    num_heads: int
    feedforward_channels: int

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise InputError(
                    f'arch: {field.name}={value!r} is not a positive whole number.'
                )
        if self.embed_dims % self.num_heads:
            raise InputError(
                f'arch: embed_dims {self.embed_dims} cannot be shared among '
                f'{self.num_heads} heads; choose num_heads that divides embed_dims.'
            )


# Meta's model cards, https://github.com/facebookresearch/sapiens.
ARCHITECTURES = {
    'sapiens_0.3b': Architecture(1024, 24, 16, 4096),
    'sapiens_0.6b': Architecture(1280, 32, 16, 5120),
    'sapiens_1b': Architecture(1536, 40, 24, 6144),
    'sapiens_2b': Architecture(1920, 48, 32, 7680),
}


def get_architecture(arch: str | Mapping | Architecture) -> Architecture:
    """Resolve ``arch`` as a config gives it.

    Args:
        arch: A published name such as ``'sapiens_1b'``, or a mapping with
            ``embed_dims``, ``num_layers``, ``num_heads``, ``feedforward_channels``.

    Raises:
        InputError: The name is unknown, or a number is missing or impossible.
    """
    if isinstance(arch, Architecture):
        return arch
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            raise InputError(
                f'arch={arch!r} is not a Sapiens size. Choose one of '
                f'{", ".join(ARCHITECTURES)}, or give a dict with '
                f'{_field_names()}.'
            )
        return ARCHITECTURES[arch]
    try:
        return Architecture(**arch)
    except TypeError:
        raise InputError(
            f'arch={arch!r} must be one of {", ".join(ARCHITECTURES)}, or a dict with '
            f'just {_field_names()}.'
        ) from None


def name_of(*, embed_dims: int, num_layers: int) -> str:
    """Describe a size for an error message, by its published name where it has one."""
    for name, arch in ARCHITECTURES.items():
        if (arch.embed_dims, arch.num_layers) == (embed_dims, num_layers):
            return f'{name} ({embed_dims} dims, {num_layers} layers)'
    return f'a ViT of {embed_dims} dims and {num_layers} layers'


def _field_names() -> str:
    return ', '.join(field.name for field in fields(Architecture))
