"""A bar below the log of a terminal."""

import atexit
import io
import logging
import sys
from collections.abc import Iterable
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

_SECONDS_BETWEEN_DRAWINGS = 0.5


class StatusBar:
    """Shows how far a loop is, while log lines scroll by above it.

    It is drawn by whoever calls :meth:`show`, not by a thread of its own: data loaders
    fork, and a lock that such a thread held would stay locked in their workers.

    Args:
        handlers: Log handlers; those that write to the terminal have to take the bar
            into account while it is there.
        console: Where to draw; the standard output, if None.
    """

    def __init__(
        self, handlers: Iterable[logging.Handler], *, console: Console | None = None
    ):
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn('{task.fields[note]}'),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None
        self._handlers = [
            handler
            for handler in handlers
            if getattr(handler, 'stream', None) is sys.stdout
        ]
        self._stdout = sys.stdout
        self._drawn = -_SECONDS_BETWEEN_DRAWINGS

    @property
    def is_due(self) -> bool:
        """Whether what is shown is old enough to be drawn anew."""
        return monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWINGS

    def start(self) -> None:
        """Take the terminal's last line."""
        self._progress.start()
        for handler in self._handlers:
            handler.setStream(_LinesAbove(self._progress.console))
        # A run that ends by an error must not leave the terminal without its cursor.
        atexit.register(self.stop)

    def show(self, title: str, *, done: int, total: int, note: str) -> None:
        """Draw.

        Args:
            title: What is going on.
            done: Steps that are made, of ``total``.
            total: How many there are.
            note: Comes after the bar.
        """
        self._drawn = monotonic()
        if self._task is None:
            self._task = self._progress.add_task('', note='', visible=False)
        self._progress.update(
            self._task,
            description=title,
            completed=done,
            total=total,
            note=note,
            visible=True,
        )
        self._progress.refresh()

    def stop(self) -> None:
        """Give the line back."""
        self._progress.stop()
        for handler in self._handlers:
            handler.setStream(self._stdout)
        atexit.unregister(self.stop)


class _LinesAbove(io.TextIOBase):
    """Where a log handler writes while there is a bar: lines of any length, whole."""

    def __init__(self, console: Console):
        self._console = console

    def write(self, text: str) -> int:
        self._console.print(Text.from_ansi(text.rstrip('\n')), soft_wrap=True)
        return len(text)
