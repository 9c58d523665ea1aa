"""``~`` at the beginning of a path, wherever it is given."""

import os
import re
from typing import Any

# A path, or what follows the = of --flag=PATH and of key.sub=PATH.
_WORD = re.compile(r'(-{0,2}[\w.-]+=)?(~(?:[/\\].*)?)', re.DOTALL)


def expand_word(word: str) -> str:
    """Put the home directory in the place of ``~`` in a word of a command line.

    Shells do so where a word without quotes begins with it, not in ``--flag=~/x``.

    Args:
        word: Such as ``'~/x'``, ``'--flag=~/x'`` or ``'key.sub=~/x'``; any other,
            ``'~user'`` too, is returned as it is.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        return word
    path = os.path.expanduser(found[2])  # noqa: PTH111  (keeps a slash at the end)
    return (found[1] or '') + path


def expand_texts(value: Any) -> Any:
    """Put the home directory in the place of ``~`` in the texts of a config.

    Args:
        value: A value of a config; dictionaries and lists are changed in place.

    Returns:
        The value; another one for a text or a tuple that has a ``~`` to be replaced.
    """
    if isinstance(value, str):
        return expand_word(value) if value.startswith('~') else value
    if type(value) is tuple:
        return tuple(map(expand_texts, value))
    if isinstance(value, dict):
        items = list(dict.items(value))  # ConfigDict's own imports what is lazy
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        value[key] = expand_texts(item)
    return value
