"""A lock that keeps a second process out."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sapiens_plugin.errors import InputError


@contextmanager
def alone(path: Path, *, refusal: str) -> Iterator[None]:
    """Hold a lock; the system frees it when the process ends, however that is.

    Args:
        path: A file for nothing else, gone afterwards unless an error came; its folder
            is made where missing.
        refusal: What to tell the user when another process holds it.

    Raises:
        InputError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(refusal) from None
    try:
        yield
    finally:
        lock.release()
    # On Windows another process that has just come may hold it.
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
