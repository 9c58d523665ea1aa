"""Reading the lists of a large JSON file in little memory.

The standard library's own parser runs over a window of the file, so what is read, and
what is refused, is just what ``json.load`` reads and refuses; NaN included.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from sapiens_plugin.errors import InputError

from .json_file import json_errors

_WINDOW = 1 << 20  # characters
# Nothing that is decided by so few characters before the window's end is believed: a
# number, a word or an escape may be cut there.
_EDGE = 16
_SPACE = re.compile(r'[ \t\n\r]*')


def read_lists(
    path: str | Path, *names: str, window: int = _WINDOW
) -> Iterator[tuple[str, int, dict]]:
    """Read lists of objects out of a JSON file whose top level is an object.

    Memory is that of one window and one element, however large the file is.

    Args:
        path: The file.
        names: Top-level keys, such as ``'annotations'``; other keys are skipped.
        window: How much to look at at a time, in characters.

    Yields:
        ``(name, index, element)``, in the order of the file.

    Raises:
        InputError: The file is not there, is not JSON to its very end, has a list not
            or twice, or an element is not an object.
    """
    path = Path(path)
    with json_errors(path), path.open(encoding='utf-8') as file:
        yield from _lists(_Reader(file, path, window), set(names))


def _lists(reader: '_Reader', missing: set[str]) -> Iterator[tuple[str, int, dict]]:
    wanted = frozenset(missing)
    if reader.peek() != '{':
        raise reader.error('an object with lists was looked for, "{"')
    for name in _keys(reader):
        if name not in wanted:
            _skip(reader)
            continue
        if name not in missing:
            raise reader.error(f'"{name}" is there for the second time')
        missing.remove(name)
        if reader.peek() != '[':
            raise reader.error(f'"{name}" is not a list')
        for index in _positions(reader):
            if reader.peek() != '{':
                raise reader.error(f'{name}[{index}] is not an object')
            yield name, index, reader.value()
    if reader.peek():
        raise reader.error('there is more after the end')
    if missing:
        names = ' and '.join(f'"{name}"' for name in sorted(missing))
        raise InputError(
            f'{reader.path} has no {names}, so it is not an annotation file in COCO '
            'form. Is it the right file?'
        )


def _keys(reader: '_Reader') -> Iterator[str]:
    """Go through an object; the caller reads the value of each key."""
    reader.take('{')
    if reader.peek() == '}':
        reader.take('}')
        return
    while True:
        if reader.peek() != '"':
            raise reader.error('a key was looked for, in double quotes')
        key = reader.value()
        reader.take(':')
        yield key
        if reader.take(',}') == '}':
            return


def _positions(reader: '_Reader') -> Iterator[int]:
    """Go through a list; the caller reads the value at each position."""
    reader.take('[')
    if reader.peek() == ']':
        reader.take(']')
        return
    index = 0
    while True:
        yield index
        index += 1
        if reader.take(',]') == ']':
            return


def _skip(reader: '_Reader') -> None:
    if reader.peek() == '[':
        for _ in _positions(reader):
            reader.value()
    else:
        reader.value()


class _Reader:
    """A place in a JSON text, and the window of the text around it."""

    def __init__(self, file: TextIO, path: Path, window: int):
        self.path = path
        self._file = file
        self._window = window
        self._decoder = json.JSONDecoder()
        self._text = ''
        self._at = 0
        self._ended = False
        self._line, self._column = 1, 1  # of the window's start

    def peek(self) -> str:
        """The next character that is not space; '' at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ''
            self._read_more()

    def take(self, accepted: str) -> str:
        """Step over the next character, which must be one of ``accepted``."""
        char = self.peek()
        if not char or char not in accepted:
            raise self.error(
                ' or '.join(f'"{one}"' for one in accepted) + ' was looked for'
            )
        self._at += 1
        return char

    def value(self) -> object:
        """Read a value of any kind and step over it."""
        self.peek()
        while True:
            failure = None
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                failure, end = error, error.pos
                if error.msg.startswith('Unterminated string'):
                    end = len(self._text)
            except (RecursionError, ValueError) as error:
                raise self.error(f'{error}, in the value that starts') from None
            if self._ended or end + _EDGE <= len(self._text):
                break
            self._read_more()
        if failure:
            self._at = failure.pos
            raise self.error(failure.msg)
        self._at = end
        return value

    def error(self, what: str) -> InputError:
        """Say what is wrong at the present place."""
        if self._at >= len(self._text) and self._ended:
            return InputError(
                f'{self.path} is cut short: it ends at {self._place()}, where {what}. '
                'Fetch or export it again.'
            )
        return InputError(
            f'{self.path} is broken at {self._place()}: {what}; there is '
            f'{self._text[self._at : self._at + 20]!r}. Fetch or export it again.'
        )

    def _place(self) -> str:
        line, column = self._after(self._at)
        return f'line {line}, column {column}'

    def _after(self, length: int) -> tuple[int, int]:
        """Line and column so many characters into the window."""
        lines = self._text.count('\n', 0, length)
        if not lines:
            return self._line, self._column + length
        return self._line + lines, length - self._text.rfind('\n', 0, length)

    def _read_more(self) -> None:
        """Drop what lies before the place, and at least double what lies behind."""
        self._line, self._column = self._after(self._at)
        rest = self._text[self._at :]
        more = self._file.read(max(self._window, len(rest)))
        self._text, self._at = rest + more, 0
        self._ended = not more
