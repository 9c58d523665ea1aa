"""Files of ``torch.save`` with a seal: a checksum of the whole file, at its end.

Such a file is a zip archive, and the seal is the archive's comment: PyTorch and stock
MMPose open a sealed file as any other. The hash is BLAKE2b, whose speed does not
depend on what the processor has instructions for (benchmarks/checkpoint_hash.py).
"""

import contextlib
import os
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sapiens_plugin.core.utils.whole_file import whole_file
from sapiens_plugin.errors import InputError

_MAGIC = b'Sealed. BLAKE2b of this archive: '
_DIGEST_BYTES = 32
_SEAL_BYTES = len(_MAGIC) + 2 * _DIGEST_BYTES
# A zip archive ends with a record of 22 bytes, the last two of them the length of the
# comment that follows. torch.save writes none.
_END_BYTES = 22
_END_MAGIC = b'PK\x05\x06'
_NO_COMMENT = b'\0\0'
_COMMENT = struct.pack('<H', _SEAL_BYTES)
# Below this, handing a piece to another thread costs more than hashing it.
_LARGE = 2**20
_CHUNK = 2**24
_SYNC = 2**26


def save_sealed(content: Any, path: Path) -> str:
    """Save to a sealed file that has its name when it is whole and on the disk.

    Nothing is copied in memory. A file of that name stays until it is replaced.

    Args:
        content: Anything that ``torch.save`` saves.
        path: File to write, in a directory that exists.

    Returns:
        The digest in the seal, in hexadecimal.

    Raises:
        OSError: It could not be written; torch.save may make a RuntimeError of it.
    """
    with whole_file(path) as file:
        digest = _save_hashing(content, file)
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(_COMMENT + _MAGIC + digest.encode())
        sync(file)
    sync_directory(path.parent)
    return digest


def digest_of(content: Any) -> str:
    """Return the digest that :func:`save_sealed` would return, writing nothing."""
    return _save_hashing(content, None)


def verify(path: Path) -> str | None:
    """Read a whole file and compare it with its seal.

    What was verified once is not read again while its size and time stay.

    Args:
        path: A file that exists.

    Returns:
        The digest in the seal; None for a file without one, as others write them.

    Raises:
        Damaged: A byte is not what was written, or bytes are missing.
        InputError: It cannot be read.
    """
    status = path.stat()
    return _verify(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


def sync(file: BinaryIO) -> None:
    """Wait until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Wait until a directory's names are on the disk, where the system can say."""
    with contextlib.suppress(OSError):  # Windows opens no directories
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Damaged(InputError):
    """A file whose bytes are not those that were written."""


class _HashingFile:
    """A file for torch.save: its bytes are hashed while they are on their way to disk.

    Args:
        file: Where they go; None only hashes them.
        pool: Two threads.
    """

    def __init__(self, file: BinaryIO | None, pool: ThreadPoolExecutor):
        self._file, self._pool = file, pool
        self._waiting = 0  # bytes that the disk has not been asked to take
        self._syncing: Future | None = None
        self.hash = blake2b(digest_size=_DIGEST_BYTES)

    def write(self, data: memoryview) -> int:
        hashing = None
        if len(data) < _LARGE:
            self.hash.update(data)
        else:
            hashing = self._pool.submit(self.hash.update, data)
        try:
            if self._file is not None:
                self._file.write(data)
                self._sync_behind(len(data))
        finally:
            if hashing is not None:  # the memory is not ours after this call
                hashing.result()
        return len(data)

    def flush(self) -> None:
        """Wait for the disk; torch.save calls it at the end."""
        if self._syncing is not None:
            self._syncing.result()

    def _sync_behind(self, size: int) -> None:
        """Have the disk work, which would else idle until the system's memory fills."""
        self._waiting += size
        if self._waiting < _SYNC or (self._syncing and not self._syncing.done()):
            return
        self.flush()  # an error is told but once
        self._waiting = 0
        self._syncing = self._pool.submit(os.fsync, self._file.fileno())


def _save_hashing(content: Any, file: BinaryIO | None) -> str:
    with ThreadPoolExecutor(2) as pool:
        hashing = _HashingFile(file, pool)
        torch.save(content, hashing)
    return hashing.hash.hexdigest()


@lru_cache(maxsize=64)
def _verify(path: Path, size: int, *_times: int) -> str | None:
    way_out = 'Take another one, or copy it again from where it is whole.'
    try:
        with open(path, 'rb') as file:
            seal = _read_seal(file, size)
            if seal is None:
                return None
            archive = size - _SEAL_BYTES - len(_COMMENT)
            if seal and _digest_of_file(file, archive) == seal:
                return seal
    except OSError as error:
        raise InputError(
            f'The checkpoint {path} cannot be read: {error.strerror or error}. '
            f'{way_out}'
        ) from None
    problem = (
        f'its {size:,} bytes are not those that were written'
        if seal
        else f'it is cut short, or its end is not what was written ({size:,} bytes)'
    )
    raise Damaged(f'The checkpoint {path} is damaged: {problem}. {way_out}')


def _read_seal(file: BinaryIO, size: int) -> str | None:
    """Return the digest of a seal, None if no seal is due, '' if it is spoilt."""
    head = file.read(2)
    file.seek(max(0, size - _END_BYTES - _SEAL_BYTES))
    tail = file.read()
    end, seal = tail[:-_SEAL_BYTES], tail[-_SEAL_BYTES:]
    if end.endswith(_COMMENT) and seal.startswith(_MAGIC):
        return seal.removeprefix(_MAGIC).decode('ascii', 'replace')
    plain = tail[-_END_BYTES:]
    if plain.startswith(_END_MAGIC) and plain.endswith(_NO_COMMENT):
        return None
    return '' if head == b'PK' else None


def _digest_of_file(file: BinaryIO, size: int) -> str:
    """Hash ``size`` bytes of a file as they were before the comment was added."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(digest.update, b'')
        while piece := file.read(min(_CHUNK, size)):
            size -= len(piece)
            hashing.result()
            hashing = pool.submit(digest.update, piece)
        hashing.result()
    digest.update(_NO_COMMENT)
    return digest.hexdigest()
