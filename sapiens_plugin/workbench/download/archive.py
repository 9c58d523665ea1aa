"""Take members out of zip archives, near or far, and let no wrong byte through.

An archive is its table of contents and a way to read its bytes from one position to
another, so that a part of a file on a server does as well as a file on the disk.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sapiens_plugin.core.utils.whole_file import whole_file

from .transfer import BLOCK, RemoteFile, SourceError

_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, lengths of name and extra field
_ENCRYPTED = 0x1  # flag bit
_LARGEST_TABLE = 32 * 1024**2  # bytes; that of train2017.zip has 11 MB
# One folder deep, and nothing that a file system could take for something else.
_PLAIN_NAME = re.compile(
    r'\w[\w.-]*/(?!(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))\w[\w.-]*(?<!\.)(?<!\.part)',
    re.ASCII,
)

ReadBytes = Callable[[int, int], Iterator[bytes]]
"""Yields all the bytes from a position to before another in blocks, or raises."""


class Damaged(Exception):
    """A member's bytes are not those that its archive promises."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: Its name without the folder.
        start: Where its record begins in the archive.
        end: Where the next record begins.
        packed_size: Bytes in the archive.
        size: Bytes of the file.
        crc: CRC-32 of the file.
        method: How it is packed, as :mod:`zipfile` numbers the ways.
    """

    name: str
    start: int
    end: int
    packed_size: int
    size: int
    crc: int
    method: int


class Archive:
    """A zip archive whose members all lie in one folder.

    Args:
        name: Where it lies, as the user knows it.
        folder: The folder in it whose files are wanted, such as ``'train2017'``.
        size: Bytes of the archive.
        read: Yields its bytes from one position to before another.

    Attributes:
        members: Its files, in the order of their places.

    Raises:
        SourceError: It is no zip archive or a damaged one, or it holds what such an
            archive has no business to hold: files elsewhere, links, a name twice.
    """

    def __init__(self, name: str, *, folder: str, size: int, read: ReadBytes):
        self.name = name
        self.read = read
        self.members = _members(name, folder, size, read)

    @classmethod
    def local(cls, path: Path, *, folder: str) -> 'Archive':
        """Open an archive on the disk."""

        def read(start: int, end: int) -> Iterator[bytes]:
            with open(path, 'rb') as file:
                file.seek(start)
                while start < end:
                    block = file.read(min(BLOCK, end - start))
                    if not block:
                        raise SourceError(f'{path} was cut short while it was read.')
                    yield block
                    start += len(block)

        return cls(str(path), folder=folder, size=path.stat().st_size, read=read)

    @classmethod
    def remote(cls, file: RemoteFile, *, folder: str) -> 'Archive':
        """Open an archive on a server that has ranges."""
        return cls(file.url, folder=folder, size=file.size, read=file.stream)


def runs(members: Sequence[Member], *, limit: int) -> Iterator[list[Member]]:
    """Group members that lie side by side, so that one request brings a group.

    Args:
        members: Those that are wanted, in the order of their places.
        limit: Bytes that a group of more than one member may have.
    """
    group: list[Member] = []
    for member in members:
        if group and (
            member.start != group[-1].end or member.end - group[0].start > limit
        ):
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def extract(
    archive: Archive,
    members: Sequence[Member],
    directory: Path,
    *,
    on_bytes: Callable[[int], None],
) -> list[Member]:
    """Write members into a directory; each appears when its last byte is checked.

    Args:
        archive: Where they are.
        members: Neighbours, as :func:`runs` groups them.
        directory: Where they go.
        on_bytes: Told the number of bytes of the archive as they come.

    Returns:
        list[Member]: Those whose bytes do not match their CRC; nothing of them is left.
    """
    start, end = members[0].start, members[-1].end
    reader = _Reader(_counted(archive.read(start, end), on_bytes), start)
    broken = []
    for member in members:
        # Places are those of the table of contents: damage ends where a member ends.
        reader.skip_to(member.start)
        try:
            with whole_file(directory / member.name) as file:
                for block in _unpack(reader, member):
                    file.write(block)
        except Damaged:
            broken.append(member)
    reader.skip_to(end)  # so that the connection can be used again
    return broken


def damaged(
    archive: Archive,
    members: Sequence[Member],
    *,
    on_bytes: Callable[[int], None],
) -> list[Member]:
    """Read members and return those whose bytes do not match their CRC.

    Args:
        archive: Where they are.
        members: Any, in the order of their places.
        on_bytes: As for :func:`extract`.
    """
    found = []
    for member in members:
        blocks = _counted(archive.read(member.start, member.end), on_bytes)
        try:
            for _ in _unpack(_Reader(blocks, member.start), member):
                pass
        except Damaged:
            found.append(member)
    return found


class _Reader:
    """Blocks of bytes, cut anew at the places that are asked for."""

    def __init__(self, blocks: Iterator[bytes], position: int):
        self._blocks = blocks
        self._rest = memoryview(b'')
        self._position = position

    def take(self, count: int) -> bytes:
        return b''.join(self.up_to(self._position + count))

    def skip_to(self, end: int) -> None:
        for _ in self.up_to(end):
            pass

    def up_to(self, end: int) -> Iterator[memoryview]:
        """Yield what lies between the position and ``end``, which moves with it."""
        while self._position < end:
            if not self._rest:
                self._rest = memoryview(next(self._blocks))
            piece = self._rest[: end - self._position]
            self._rest = self._rest[len(piece) :]
            self._position += len(piece)
            yield piece

    def packed(self, member: Member) -> Iterator[memoryview]:
        """Yield a member's bytes as they are packed, without its header."""
        signature, name_size, extra_size = _LOCAL_HEADER.unpack(
            self.take(_LOCAL_HEADER.size)
        )
        end = self._position + name_size + extra_size + member.packed_size
        # A record that reaches into the next one is how zip bombs are built.
        if signature != b'PK\x03\x04' or end > member.end:
            raise Damaged
        self.take(name_size + extra_size)
        return self.up_to(end)


def _unpack(reader: _Reader, member: Member) -> Iterator[bytes]:
    """Yield a member's bytes; raise at the end if they are not what they should be."""
    size = crc = 0
    for block in _inflated(reader.packed(member), member.method):
        size += len(block)
        if size > member.size:
            raise Damaged
        crc = zlib.crc32(block, crc)
        yield block
    if (size, crc) != (member.size, member.crc):
        raise Damaged


def _inflated(blocks: Iterator[bytes], method: int) -> Iterator[bytes]:
    if method == zipfile.ZIP_STORED:
        yield from blocks
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw, as zip archives have it
    for packed in blocks:
        while packed or not inflater.eof:
            try:
                block = inflater.decompress(packed, BLOCK)
            except zlib.error:
                raise Damaged from None
            yield block
            packed = inflater.unconsumed_tail
            if inflater.unused_data:
                raise Damaged
            if not packed and len(block) < BLOCK:
                break
    if not inflater.eof:
        raise Damaged


def _counted(
    blocks: Iterator[bytes], on_bytes: Callable[[int], None]
) -> Iterator[bytes]:
    for block in blocks:
        on_bytes(len(block))
        yield block


class _RangeFile(io.RawIOBase):
    """A seekable file over a way to read from one position to another."""

    def __init__(self, size: int, read: ReadBytes):
        self._size, self._read, self._position = size, read, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = base[whence] + offset
        if self._position < 0:
            raise OSError(f'position {self._position}')
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._position + count, self._size)
        if end - self._position > _LARGEST_TABLE:
            raise zipfile.BadZipFile('its table of contents is absurdly large')
        content = b''.join(self._read(self._position, end))
        self._position = end
        return content


def _members(name: str, folder: str, size: int, read: ReadBytes) -> list[Member]:
    try:
        with zipfile.ZipFile(_RangeFile(size, read)) as archive:
            infos, table_start = archive.infolist(), archive.start_dir
        infos.sort(key=lambda info: info.header_offset)
        ends = [info.header_offset for info in infos[1:]] + [table_start]
        for info, end in zip(infos, ends, strict=True):
            if not 0 <= info.header_offset <= end - _LOCAL_HEADER.size:
                raise zipfile.BadZipFile(f'{info.filename!r} lies where it cannot')
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise SourceError(
            f'{name} ({size} bytes) is not a whole zip archive: {error}.'
        ) from None
    members = []
    for info, end in zip(infos, ends, strict=True):
        if info.is_dir():
            continue
        _refuse_hostile(name, info)
        parent, _, file_name = info.filename.partition('/')
        if parent == folder:
            members.append(
                Member(
                    name=file_name,
                    start=info.header_offset,
                    end=end,
                    packed_size=info.compress_size,
                    size=info.file_size,
                    crc=info.CRC,
                    method=info.compress_type,
                )
            )
    # Some file systems tell no small letters from capitals.
    if len({member.name.lower() for member in members}) < len(members):
        raise SourceError(f'{name} was refused: it holds a file twice.')
    return members


def _refuse_hostile(archive: str, info: zipfile.ZipInfo) -> None:
    if not _PLAIN_NAME.fullmatch(info.orig_filename):
        reason = 'its name could mean something else to a file system'
    elif stat.S_ISLNK(info.external_attr >> 16):
        reason = 'it is a link'
    elif info.flag_bits & _ENCRYPTED:
        reason = 'it is encrypted'
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f'it is packed by method {info.compress_type}, not by 0 or 8'
    else:
        return
    raise SourceError(
        f'{archive} was refused for its member {info.orig_filename!r}: {reason}. '
        'Nothing of it was written.'
    )
