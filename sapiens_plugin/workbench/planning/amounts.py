"""Amounts of memory and time as a reader wants them."""

_MIB, _GIB = 2**20, 2**30


def size(count: float) -> str:
    """Write bytes: ``'1.2 GiB'``, ``'98 MiB'``, ``'0.4 MiB'``."""
    if count >= _GIB:
        return f'{count / _GIB:,.1f} GiB'
    mib = count / _MIB
    return f'{mib:.1f} MiB' if 0 < mib < 10 else f'{mib:.0f} MiB'


def duration(hours: float) -> str:
    """Write hours: ``'9,494 h'``, ``'26.4 h'``, ``'12 min'``, ``'8.1 s'``."""
    if hours >= 2:
        return f'{number(hours)} h'
    if hours * 60 >= 2:
        return f'{hours * 60:.0f} min'
    return f'{number(hours * 3600)} s'


def number(value: float) -> str:
    """Write a number with three digits or more."""
    if value >= 100:
        return f'{value:,.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'
