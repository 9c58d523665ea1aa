"""What a streamed model may be set to; docs/streaming.md has each mode's errors."""

from dataclasses import dataclass

from sapiens_plugin.errors import InputError

MODES = {
    'exact': dict(
        boundary_dtype='float32', gradient_dtype='float32', moment_dtype='float32'
    ),
    'compact': dict(
        boundary_dtype='float16', gradient_dtype='bfloat16', moment_dtype='int8'
    ),
}
"""What each mode keeps its numbers in."""

CHOICES = dict(
    mode=tuple(MODES),
    boundary_dtype=('float32', 'float16', 'bfloat16'),
    gradient_dtype=('float32', 'bfloat16'),
    moment_dtype=('float32', 'bfloat16', 'int8'),
    precision=('auto', 'float32', 'float16', 'bfloat16'),
    on_oom=('raise', 'retry'),
)
"""What each setting may be."""


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a model streams its weights; the names of types are those of PyTorch.

    Attributes:
        boundary_dtype: What activations between blocks are kept in.
        gradient_dtype: What gradients are kept in at home.
        moment_dtype: What the optimizer's moments are kept in.
        vram_budget: MiB for PyTorch; None takes a share of what is free.
    """

    boundary_dtype: str
    gradient_dtype: str
    moment_dtype: str
    vram_budget: int | None


def check_choice(name: str, value: object, *, of: str = '') -> None:
    """Check a setting.

    Args:
        name: A key of :data:`CHOICES`.
        value: What was given.
        of: What stands before the name in a message, such as ``'model.'``.

    Raises:
        InputError: The setting cannot be that.
    """
    if value not in CHOICES[name]:
        raise InputError(
            f'{of}{name}={value!r} is not one of {", ".join(CHOICES[name])}.'
        )


def read_streaming(
    *,
    mode: str = 'compact',
    vram_budget: int | None = None,
    precision: str = 'auto',
    on_oom: str = 'raise',
    **dtypes: str | None,
) -> Streaming:
    """Check the settings of a streamed model.

    Args:
        mode: A key of :data:`MODES`.
        vram_budget: MiB for PyTorch, or None.
        precision: What it computes in.
        on_oom: What it does where the GPU is full.
        **dtypes: What overrules the mode, by the names of :class:`Streaming`; None
            does not.

    Raises:
        InputError: One of them cannot be that.
    """
    check_choice('mode', mode, of='model.')
    given = MODES[mode] | {name: kept for name, kept in dtypes.items() if kept}
    for name, value in (given | dict(precision=precision, on_oom=on_oom)).items():
        check_choice(name, value, of='model.')
    if vram_budget is not None and (
        not isinstance(vram_budget, int) or vram_budget < 1
    ):
        raise InputError(
            f'model.vram_budget={vram_budget!r} is not a number of MiB, such as 3000, '
            'or None for what is free.'
        )
    return Streaming(**given, vram_budget=vram_budget)
