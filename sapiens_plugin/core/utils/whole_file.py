"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def part_of(path: Path) -> Path:
    """Return the name under which a file is written until it is whole."""
    return path.with_name(path.name + '.part')


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """Give the name to write a file under, which gets its own only if all goes well.

    An earlier file of its name is replaced; a failure leaves it, and nothing else.
    """
    part = part_of(path)
    # Not written over: it may be a second name of a file that is somebody else's.
    part.unlink(missing_ok=True)
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, in binary, at :func:`whole_path`."""
    with whole_path(path) as part, open(part, 'xb') as file:
        yield file


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8, in the place of an earlier one.

    Raises:
        OSError: The disk is full, say, or another program holds the file.
    """
    with whole_file(path) as file:
        file.write(text.encode())
