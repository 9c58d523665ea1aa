"""Checks of what a job names on disk, before anything slow starts.

Each check raises :class:`~sapiens_plugin.errors.InputError` with the way out, or
returns nothing. They read a few bytes, never a whole file.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sapiens_plugin.core.utils.free_space import nearest
from sapiens_plugin.errors import InputError


def check_image_directory(path: str | Path, *, way_out: str) -> None:
    """Check that a directory of images is there and not empty.

    Raises:
        InputError: It is missing or empty.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f'The image directory {path} does not exist. {way_out}')
    with os.scandir(path) as entries:
        if next(entries, None) is None:
            raise InputError(f'The image directory {path} is empty. {way_out}')


def check_writable(path: str | Path, *, way_out: str) -> None:
    """Check, by writing a byte, that a directory exists or can be made and written.

    Raises:
        InputError: It cannot.
    """
    with _said_of(path, way_out):
        Path(path).mkdir(parents=True, exist_ok=True)
        _write_a_byte(path)


def check_can_write(path: str | Path, *, way_out: str) -> None:
    """Check that a directory could be made and written, and leave nothing behind.

    Raises:
        InputError: It could not.
    """
    with _said_of(path, way_out):
        _write_a_byte(nearest(Path(path)))


@contextmanager
def _said_of(path: str | Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f'The directory {Path(path).absolute()} cannot be written: '
            f'{error.strerror or error}. {way_out}'
        ) from None


def _write_a_byte(directory: str | Path) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b'\0')
