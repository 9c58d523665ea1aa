"""What every command of this project does with the ways it can end."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sapiens_plugin.core.utils.home import expand_word
from sapiens_plugin.errors import InputError


class Interrupted(BaseException):
    """A training that was asked to leave, and does, its work saved.

    Args:
        signum: The signal that asked.
        saved: The checkpoint to go on from; None if none could be written.
    """

    def __init__(self, signum: int, *, saved: Path | None):
        super().__init__(signum, saved)
        self.signum = signum
        self.saved = saved


def run(tool: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit: 0 or what it returns, 2 on bad input, 130 on Ctrl-C.

    Args:
        tool: The command as the user knows it, such as ``'tools/download_coco.py'``.
        main: What to do; it returns the exit code, or nothing for 0.
    """
    prepare()
    try:
        code = main()
    except InputError as error:
        print(f'\n{tool}: {error}', file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(
            f'\n{tool}: interrupted. No file is broken; the same command goes on.',
            file=sys.stderr,
        )
        code = 130
    sys.exit(code or 0)


def prepare(*, outlives_full_disk: bool = False) -> None:
    """Expand ``~`` in this program's arguments, and outlive who reads what it prints.

    Args:
        outlives_full_disk: As of :class:`OutlivingStream`.
    """
    sys.argv[1:] = map(expand_word, sys.argv[1:])
    for name in ('stdout', 'stderr'):
        # There is none where it was closed from the start.
        stream = getattr(sys, name) or open(os.devnull, 'w', encoding='utf-8')
        setattr(sys, name, OutlivingStream(stream, outlives_full_disk))


class OutlivingStream:
    """A stream whose reader may go: a terminal that is closed, ``tee`` on Ctrl-C.

    From then on it writes nowhere; what is being done goes on.

    Args:
        stream: ``sys.stdout`` or ``sys.stderr``.
        outlives_full_disk: Whether a full disk, too, is no reason to stop. What it
            does not take is lost.
    """

    def __init__(self, stream: TextIO, outlives_full_disk: bool = False):
        self._stream = stream
        self._outlives_full_disk = outlives_full_disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, to somebody or nobody."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Flush, to somebody or nobody."""
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO, errno.EBADF, errno.EINVAL):
            write_nowhere(self._stream.fileno())
        elif not self._outlives_full_disk:
            raise error


def write_nowhere(*descriptors: int) -> None:
    """Have what is written to these go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
