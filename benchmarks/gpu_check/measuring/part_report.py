"""The results of a task, in a JSON file that is whole at any moment."""

import contextlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

from sapiens_plugin.core.utils.whole_file import write_whole

TRACEBACK_CHARACTERS = 3000
FAILED = ' FAILED'


class Report:
    """The results of a task; the file is written again after every change.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._data: dict[str, Any] = {}

    def add(self, **parts: object) -> None:
        """Add results, or replace those of the same name."""
        self._data.update(parts)
        write_json(self.path, self._data)

    def part(self, name: str) -> contextlib.AbstractContextManager:
        """Return a context that keeps an error to this part of the task.

        A GPU on which this has never run may fail in any way. So every ``Exception``
        is written to the file and goes no further; Ctrl-C and ``sys.exit`` do.
        """
        start = time.perf_counter()

        def end(_: object, error: BaseException | None, __: object) -> bool:
            took = round(time.perf_counter() - start, 1)
            self.add(**{f'{name} took s': took})
            if not isinstance(error, Exception):
                return False
            text = ''.join(traceback.format_exception(error))
            self.add(**{name + FAILED: text[-TRACEBACK_CHARACTERS:]})
            return True

        context = contextlib.ExitStack()
        context.push(end)
        return context


def failed_parts(results: dict) -> list[str]:
    """Name the parts that failed in the results of a task."""
    return [key.removesuffix(FAILED) for key in results if key.endswith(FAILED)]


def write_json(path: Path, data: dict) -> None:
    """Write a JSON file; whoever reads it sees the old one or the new one, whole."""
    write_whole(path, json.dumps(data, indent=1, default=str))
