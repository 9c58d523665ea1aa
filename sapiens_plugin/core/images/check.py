"""Are files on the disk what they should be? As fast as the disk reads them."""

import io
import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

# Two threads keep Python busy where files are in memory; a disk wants some more.
_WORKERS = 4
_BATCH = 64  # files that a thread takes at a time
_BLOCK = 1024**2  # bytes
_FLAGS = os.O_RDONLY | getattr(os, 'O_BINARY', 0)  # the latter on Windows
_FORMATS = ('JPEG', 'PNG')


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that should be there.

    Attributes:
        name: Its name in the directory.
        size: Bytes; None where that is not known.
        crc: CRC-32 of its bytes; None where that is not known. Then it must be an image
            and decode.
    """

    name: str
    size: int | None
    crc: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is not there, or not right.

    Attributes:
        name: Its name.
        reason: What is wrong, to be read after the name: ``'is missing'``.
    """

    name: str
    reason: str


def check_images(
    directory: Path,
    expected: Iterable[Expected],
    *,
    workers: int = _WORKERS,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Fault]:
    """Read every file, and yield what is wrong.

    With its CRC known, any change of a file is found. Without, a file that was cut or
    whose tail is not JPEG is found, and data that make no sense; but of single bits
    inside an image that have changed, next to none.

    Args:
        directory: Where the files are.
        expected: What should be there; taken as it is needed, and not kept.
        workers: Threads that read.
        on_bytes: Told, from the calling thread, how many more bytes were read.

    Yields:
        The faults, in the order of ``expected``.
    """
    files = iter(expected)
    pending: deque[Future[tuple[list[Fault], int]]] = deque()

    def settle() -> list[Fault]:
        faults, count = pending.popleft().result()
        if on_bytes is not None:
            on_bytes(count)
        return faults

    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(files, _BATCH)):
            pending.append(pool.submit(_check_batch, f'{directory}{os.sep}', batch))
            if len(pending) > 2 * workers:
                yield from settle()
        while pending:
            yield from settle()


def jpeg_has_end(data: bytes) -> bool:
    """Whether a JPEG goes on to its end mark.

    What was cut off, and a tail of zeros, pass for image data with most decoders.
    Behind the end there may be anything: phones put short films there.
    """
    if data.endswith(b'\xff\xd9'):
        return True
    # A thumbnail has an end of its own, inside a segment before the image data.
    place = 2
    while data[place : place + 1] == b'\xff' and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xDA:
            return data.find(b'\xff\xd9', place) > 0
        if marker == 0xFF:  # padding
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    return False


def _check_batch(prefix: str, files: list[Expected]) -> tuple[list[Fault], int]:
    """Check files; return the faults and how many bytes were read."""
    faults, total = [], 0
    for file in files:
        try:
            descriptor = os.open(prefix + file.name, _FLAGS)
            try:
                reason, count = _check(descriptor, file)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            reason, count = 'is missing', 0
        except (OSError, ValueError) as error:  # ValueError: no system has such a name
            what = getattr(error, 'strerror', None) or error
            reason, count = f'cannot be read: {what}', 0
        total += count
        if reason:
            faults.append(Fault(file.name, reason))
    return faults, total


def _check(descriptor: int, file: Expected) -> tuple[str, int]:
    """Say what is wrong with an open file ('' for nothing), and how much was read."""
    blocks, count, crc = [], 0, 0
    end = math.inf if file.size is None else file.size
    ask = min(_BLOCK, end + 1)  # one byte more than there should be: it may have grown
    while block := os.read(descriptor, ask):
        count += len(block)
        if file.crc is None:
            blocks.append(block)
        else:
            crc = zlib.crc32(block, crc)
        # Less came than was asked for: it ends here. To ask again costs a quarter.
        if count > end or (count == end and len(block) < ask):
            break
    if count == 0 and end:
        return 'is empty', count
    if file.size not in (None, count):
        size = os.fstat(descriptor).st_size
        return f'has {size:,} bytes, not {file.size:,}', count
    if file.crc is None:
        return _why_not_decoded(b''.join(blocks)), count
    if file.crc != crc:
        return f'is damaged: its CRC-32 is {crc:08x}, not {file.crc:08x}', count
    return '', count


def _why_not_decoded(data: bytes) -> str:
    """Say why bytes are not a whole image; '' if they are."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # An eighth of the size and no colour: all of the file is still decoded, a
            # good third faster. OpenCV is hardly faster, and overlooks more.
            image.draft('L', (1, 1))
            image.load()
            is_png = image.format == 'PNG'
    except UnidentifiedImageError:
        return 'is not an image'
    except (
        OSError,
        SyntaxError,
        ValueError,
        ArithmeticError,
        LookupError,
        Image.DecompressionBombError,
    ) as error:
        return f'does not decode: {error}'
    # A tail of zeros may pass for image data.
    if not (b'IEND' in data if is_png else jpeg_has_end(data)):
        return 'does not decode: the end of the image is missing'
    return ''
