"""A bar with rate and time left, on a terminal alone."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """What a transfer or a check tells of its progress; any thread may call it."""

    def __init__(self, progress: Progress, name: str, total: int):
        self._progress = progress
        self._task = progress.add_task(name, total=total)

    def advance(self, count: int) -> None:
        """Count bytes that are done."""
        self._progress.advance(self._task, count)


@contextmanager
def byte_bar(name: str, total: int) -> Iterator[Bar]:
    """Show the way through so many bytes.

    Args:
        name: What they are, such as ``'train2017'``.
        total: Their number.
    """
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        yield Bar(progress, name, total)
