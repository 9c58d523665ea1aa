"""Saving checkpoints, and what the disk may have against it."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sapiens_plugin.core.utils.amounts import gigabytes
from sapiens_plugin.core.utils.free_space import is_full_disk
from sapiens_plugin.core.utils.whole_file import whole_file
from sapiens_plugin.errors import InputError

from .sealed import save_sealed, sync, sync_directory

# Bytes to be left on a disk: for the histories of the log in a checkpoint, which are
# no tensors, and for what else a run writes.
RESERVE = 256 * 1024**2
_reserve = RESERVE


class CheckpointNotWritten(InputError):
    """A checkpoint that the disk did not take.

    Args:
        path: The file.
        reason: What is wrong, as a clause.
        lacks: The bytes of room that would mend it, as far as they are known; None if
            none would.
    """

    def __init__(self, path: Path, reason: str, *, lacks: int | None = None):
        super().__init__(
            f'The checkpoint {path} could not be written: {reason}. Older checkpoints '
            'are as they were. Make room, or name another disk with '
            '--cfg-options default_hooks.checkpoint.out_dir=PATH, and go on with '
            '--resume.'
        )
        self.path, self.reason, self.lacks = path, reason, lacks


def save_to_local(checkpoint: Any, path: str | Path) -> None:
    """Save a checkpoint to a sealed file, which has its name only when it is whole.

    Takes no memory beside the checkpoint's own. A file of that name stays as it is
    until it is replaced.

    Args:
        checkpoint: Anything that ``torch.save`` saves.
        path: File to write; its directory is made where there is none.

    Raises:
        CheckpointNotWritten: The disk has no room, or the file cannot be written or
            replaced.
    """
    path = Path(path)
    needed = _bytes_of(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed + _reserve:
            raise OSError(errno.ENOSPC, 'No space left on device')
        save_sealed(checkpoint, path)
    except (OSError, RuntimeError) as error:
        # torch.save follows up a failed write with a complaint of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason, lacks = cause.strerror or str(cause), None
        if is_full_disk(cause):
            free = shutil.disk_usage(path.parent).free
            lacks = max(0, needed + _reserve - free)
            reason += (
                f' (it needs {gigabytes(needed)}'
                + (f', and {gigabytes(_reserve)} are left free' if _reserve else '')
                + f'; there are {gigabytes(free)})'
            )
        raise CheckpointNotWritten(path, reason, lacks=lacks) from error


@contextmanager
def to_the_last_byte() -> Iterator[None]:
    """Let checkpoints take the reserve, of a run that writes nothing else any more."""
    global _reserve
    _reserve, kept = 0, _reserve
    try:
        yield
    finally:
        _reserve = kept


def write_pointer(path: Path, target: str) -> None:
    """Write the name of a checkpoint into a file such as ``last_checkpoint``.

    Raises:
        CheckpointNotWritten: The disk did not take it.
    """
    try:
        with whole_file(path) as file:
            file.write(target.encode())
            sync(file)
        sync_directory(path.parent)
    except OSError as error:
        raise CheckpointNotWritten(
            path, error.strerror or str(error), lacks=0 if is_full_disk(error) else None
        ) from error


def _bytes_of(content: Any) -> int:
    """Add up the pieces of memory that a checkpoint's tensors lie in."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(content)
    }
    return sum(storages.values())


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)
