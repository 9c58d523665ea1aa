"""Amounts, counts and lists of names as a reader wants them.

What lies in memory, or is planned beside it, is told in MiB and GiB, as tools for GPUs
tell it; what is fetched, and the room for files, in MB and GB, as servers and disks
are sold.
"""

from collections.abc import Iterable

_MIB, _GIB = 2**20, 2**30


def size(count: float) -> str:
    """Write bytes of memory: ``'1.2 GiB'``, ``'98 MiB'``, ``'0.4 MiB'``."""
    if count >= _GIB:
        return f'{count / _GIB:,.1f} GiB'
    mib = count / _MIB
    return f'{mib:.1f} MiB' if 0 < mib < 10 else f'{mib:.0f} MiB'


def gigabytes(count: int) -> str:
    """Write bytes of files that travel: ``'18.0 GB'``, ``'252.9 MB'``."""
    unit, name = (1e9, 'GB') if count >= 1e9 else (1e6, 'MB')
    return f'{count / unit:.1f} {name}'


def duration(hours: float) -> str:
    """Write a time that was computed: ``'9,494 h'``, ``'12 min'``, ``'8.10 s'``."""
    if hours >= 2:
        return f'{number(hours)} h'
    if hours * 60 >= 2:
        return f'{hours * 60:.0f} min'
    return f'{number(hours * 3600)} s'


def time_left(seconds: float) -> str:
    """Write a time to wait with its two leading units: ``'2 d 4 h'``, ``'12 min'``."""
    if seconds < 99.5:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 100:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f'{hours} h {minutes:02d} min'
    days, hours = divmod(round(seconds / 3600), 24)
    return f'{days} d {hours} h'


def number(value: float) -> str:
    """Write a number with three digits or more."""
    if value >= 100:
        return f'{value:,.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def counted(number: int, noun: str) -> str:
    """Write a number of things: ``'1 file'``, ``'2,000 files'``."""
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def some(names: Iterable[object], *, most: int = 3) -> str:
    """Write the first names by alphabet: ``'1.jpg, 2.jpg, 3.jpg, …'``."""
    texts = sorted(map(str, names))
    return ', '.join(texts[:most]) + (', …' if texts[most:] else '')
