"""What a weight file of unknown origin could do to the computer, found beforehand.

That nothing is executed is the loaders' part (:mod:`.checkpoint`). This is about memory
and names: a file of a kilobyte can ask for all memory there is.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO
from unittest.mock import patch

from torch import _weights_only_unpickler

# Operations of a pickle. Each may make an object of a few hundred bytes; a checkpoint
# of 1B with its optimizer takes 58,000.
_MAX_OPERATIONS = 2_000_000


def what_is_wrong(members: Sequence[zipfile.ZipInfo], size: int) -> str | None:
    """Tell what of an archive's table of contents PyTorch would never have written.

    Args:
        members: The table.
        size: Of the archive, in bytes.

    Returns:
        A clause for a message, or None.
    """
    seen = set()
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or '..' in name.parts or set(r'\:') & set(str(name)):
            return f'it has a member of the name {member.filename!r}'
        # PyTorch does not tell upper case from lower.
        if member.filename.lower() in seen:
            return f'it has two members of the name {member.filename}'
        seen.add(member.filename.lower())
    trees = [name for name in seen if name.partition('/')[2] == 'data.pkl']
    if len(trees) > 1:
        return f'it has two trees, {" and ".join(sorted(trees))}'
    stored = [m for m in members if m.compress_type == zipfile.ZIP_STORED]
    for member in stored:
        if member.file_size != member.compress_size:
            return f'its member {member.filename} says that it has two sizes'
    if sum(member.file_size for member in stored) > size:
        return 'its members are larger than itself'
    return None


def check_pickle(file: BinaryIO) -> None:
    """Read a pickle's operations, doing none of them.

    Args:
        file: It stands after the pickle in the end.

    Raises:
        pickle.UnpicklingError: There are far too many of them for a checkpoint, or
            something is none.
    """
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            # Unpicklers keep a table as long as the largest number.
            is_far = operation.name in ('PUT', 'LONG_BINPUT') and (
                argument > _MAX_OPERATIONS
            )
            if count > _MAX_OPERATIONS or is_far:
                raise pickle.UnpicklingError(
                    f'it takes more than {_MAX_OPERATIONS:,} operations to unpickle'
                )
    except (ValueError, IndexError, OverflowError, EOFError) as error:
        raise pickle.UnpicklingError(f'its pickle is cut or no pickle: {error}') from (
            error
        )


@contextmanager
def narrow_unpickling() -> Iterator[None]:
    """Take from PyTorch's restricted unpickler what makes much out of little.

    It allows ``bytearray``, which takes a size, and all encodings of text and bytes,
    some of which double what they are given. Bytes are pickled as text in Latin-1.
    """
    table = _weights_only_unpickler._get_allowed_globals()
    allowed = {k: v for k, v in table.items() if k != 'builtins.bytearray'}
    allowed['_codecs.encode'] = _encode
    with patch.dict(table, allowed, clear=True):
        yield


def _encode(text: str, encoding: str) -> bytes:
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError(
            f'Unsupported global: GLOBAL _codecs.encode to {encoding!r}'
        )
    return text.encode(encoding)
