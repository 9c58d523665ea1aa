"""Is there room on the disk, asked before the first byte is written."""

import shutil
from pathlib import Path

from sapiens_plugin.errors import InputError

_MARGIN = 64 * 1024**2  # bytes: what file systems need for small files of their own


def require_space(path: str | Path, needed: int, *, what: str) -> None:
    """Check that a file system has room.

    Args:
        path: Where it will be written; it need not exist yet.
        needed: Bytes.
        what: What the room is for, such as ``'train2017'``.

    Raises:
        InputError: There is less; the message says how much is missing.
    """
    path = Path(path).absolute()
    there = next(parent for parent in [path, *path.parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed + _MARGIN:
        raise InputError(
            f'{what} needs {gigabytes(needed)} in {path}, where {gigabytes(free)} are '
            f'free. Make room for {gigabytes(needed + _MARGIN - free)} more, or choose '
            'a folder on another disk.'
        )


def gigabytes(count: int) -> str:
    """Write a number of bytes for a reader: ``'18.0 GB'``, ``'252.9 MB'``."""
    unit, name = (1e9, 'GB') if count >= 1e9 else (1e6, 'MB')
    return f'{count / unit:.1f} {name}'
