"""What every command of this project does with the ways it can end."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

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
