"""A table that grows by a row at a time and survives being cut off."""

import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from sapiens_plugin.core.utils.whole_file import write_whole


class CsvLog:
    """Appends rows to a CSV file, under columns that keep their places.

    A row with a new name widens the table by a column at its end; what a row lacks
    stays empty. Every row is on disk when :meth:`append` returns, unless the disk is
    full or another program holds the file, as spreadsheets on Windows do: then rows
    wait for the next one. A file that is there already is continued, without the half
    of a row that a killed program left.

    Args:
        path: The file; its directory is made with the first row.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._columns: list[str] | None = None
        self._waiting: deque[Mapping[str, object]] = deque()

    def append(self, row: Mapping[str, object]) -> OSError | None:
        """Write a row, after those that wait; return what hindered it."""
        self._waiting.append(row)
        return self.flush()

    def flush(self) -> OSError | None:
        """Write the rows that wait; return what hindered it.

        A run of days does not end because somebody looks at its table.
        """
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._columns = None  # half a row may be there: the file is opened anew
            return error
        return None

    def _write(self, row: Mapping[str, object]) -> None:
        if self._columns is None:
            self._columns = self._open()
        new = [name for name in row if name not in self._columns]
        if new:
            self._widen(new)
        with open(self._path, 'a', encoding='utf-8', newline='') as file:
            writer = csv.DictWriter(file, self._columns, lineterminator='\n')
            writer.writerow(row)

    def _open(self) -> list[str]:
        """Return the columns of the file, made ready for another row."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            return []
        with open(self._path, 'rb+') as file:
            file.truncate(file.read().rfind(b'\n') + 1)
        return next(self._rows(), [])

    def _widen(self, new: list[str]) -> None:
        rows = list(self._rows())[1:] if self._columns else []
        columns = [*self._columns, *new]
        table = io.StringIO(newline='')
        writer = csv.writer(table, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(row + [''] * len(new) for row in rows)
        write_whole(self._path, table.getvalue())
        self._columns = columns

    def _rows(self) -> Iterator[list[str]]:
        with open(self._path, encoding='utf-8', newline='') as file:
            yield from csv.reader(file)
