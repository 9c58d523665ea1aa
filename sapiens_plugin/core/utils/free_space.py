"""Room on the disk, asked for before the first byte, and what the disk refuses."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sapiens_plugin.errors import InputError

from .amounts import gigabytes

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
    free = shutil.disk_usage(nearest(path)).free
    needed += _MARGIN
    if free < needed:
        raise InputError(
            f'{what} needs {gigabytes(needed)} in {path}, where {gigabytes(free)} are '
            f'free. Make room for {gigabytes(needed - free)} more, or choose a folder '
            'on another disk.'
        )


def nearest(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(parent for parent in [path, *path.parents] if parent.exists())


def is_full_disk(error: OSError) -> bool:
    """Tell whether an error says that the disk, or the user's quota of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the disk into what the user can do about them.

    Raises:
        InputError: In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise InputError(
                f'The disk of {root} is full. What has arrived is whole and stays; '
                'make room and run the command again.'
            ) from None
        raise InputError(
            f'{error.filename or root}: {error.strerror or error}. Mend that and run '
            'the command again; what has arrived stays.'
        ) from None
