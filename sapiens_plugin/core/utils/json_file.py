"""JSON files: read whole, or looked at in a moment; what is wrong, in words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sapiens_plugin.errors import InputError

_TAIL = 64  # bytes; JSON ends with its bracket and perhaps some white space


def load_json(path: str | Path) -> object:
    """Load a file of JSON in UTF-8.

    Raises:
        InputError: It is none, or cannot be read.
    """
    with json_errors(path), Path(path).open(encoding='utf-8') as file:
        return json.load(file)


def check_json_file(path: str | Path, *, what: str, way_out: str) -> None:
    """Check by its first and last bytes that a JSON file is there and whole.

    Args:
        path: The file.
        what: What it is to the user, such as ``'annotation file'``.
        way_out: One sentence: how to get it.

    Raises:
        InputError: It is missing, empty, no JSON, cut short, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'The {what} {path} does not exist. {way_out}')
    with json_errors(path), path.open('rb') as file:
        head = file.read(_TAIL).lstrip()[:1]
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read().rstrip()[-1:]
    if head not in (b'{', b'['):
        raise InputError(
            f'The {what} {path} ({size} bytes) is not JSON in UTF-8 without a byte '
            f'order mark (BOM): it starts with {head!r}. {way_out}'
        )
    if tail != {b'{': b'}', b'[': b']'}[head]:
        raise InputError(
            f'The {what} {path} is cut short after {size} bytes. {way_out}'
        )


@contextmanager
def json_errors(path: str | Path) -> Iterator[None]:
    """Turn errors of reading JSON into what the user can do about them.

    Raises:
        InputError: In the place of any of them.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{path} is not JSON in UTF-8: {error}. Fetch or export it again, whole '
            'and in UTF-8 without a byte order mark (BOM).'
        ) from None
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None
