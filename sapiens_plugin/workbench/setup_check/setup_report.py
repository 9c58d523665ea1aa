"""What a look at the setup found: for a reader, and for programs."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # PyTorch may be what is missing
    from sapiens_plugin.workbench.job.job import Job

_MARKS = {'ok': '✔', 'warn': '!', 'fail': '✘'}
_PLAIN_MARKS = {'ok': 'ok', 'warn': '!', 'fail': 'x'}
_COLOURS = {'ok': '32', 'warn': '33', 'fail': '31'}  # green, yellow, red


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, in a word or three.
        status: ``'fail'`` keeps a job from running, ``'warn'`` does not.
        detail: What was found.
        mend: The command that mends it, or else what to do; None where nothing is
            wrong or nothing helps.
    """

    name: str
    status: Literal['ok', 'warn', 'fail']
    detail: str
    mend: str | None = None


@dataclass(frozen=True)
class Report:
    """All that was looked at.

    Attributes:
        groups: Checks under a title each.
        job: What the setup was checked for: a config, or nothing.
        next_command: What to run when all is well.
    """

    groups: Mapping[str, Sequence[Check]]
    job: str | None
    next_command: str

    @property
    def is_ready(self) -> bool:
        """Whether no check failed."""
        return not self._with('fail')

    def as_dict(self) -> dict:
        """Return what a program wants to know."""
        return {
            'ready': self.is_ready,
            'job': self.job,
            'next': self._next,
            'checks': [
                {'group': title} | asdict(check)
                for title, checks in self.groups.items()
                for check in checks
            ],
        }

    def lines(self, *, plain: bool = False, colour: bool = False) -> Iterator[str]:
        """Yield the lines for a reader.

        Args:
            plain: Whether to write the marks in ASCII.
            colour: Whether to colour them, with the terminal's escape codes.
        """
        marks = _PLAIN_MARKS if plain else _MARKS
        arrow = '->' if plain else '→'
        wide = max(len(mark) for mark in marks.values())
        everything = [check for checks in self.groups.values() for check in checks]
        indent = max((len(check.name) for check in everything), default=0) + 2
        told = None
        for title, checks in self.groups.items():
            yield title
            for check in checks:
                mark = marks[check.status].ljust(wide)
                if colour:
                    mark = f'\x1b[{_COLOURS[check.status]}m{mark}\x1b[0m'
                yield f'  {mark} {check.name:<{indent}}{check.detail}'
                if check.mend and check.mend != told:
                    told = check.mend  # one that mends several things, once
                    yield f'  {"":{wide}} {"":{indent}}{arrow} {check.mend}'
            yield ''
        yield f'{self._verdict} {self._next}'

    @property
    def _verdict(self) -> str:
        if failed := len(self._with('fail')):
            things = 'one thing' if failed == 1 else f'{failed} things'
            return f'Not ready: {things} to mend. First:'
        noted = len(self._with('warn'))
        lines = 'the line' if noted == 1 else f'the {noted} lines'
        but = f' Mind {lines} with a !.' if noted else ''
        return f'Ready.{but} Next:'

    @property
    def _next(self) -> str:
        mends = (check.mend for check in self._with('fail') if check.mend)
        return next(mends, self.next_command)

    def _with(self, status: str) -> list[Check]:
        return [
            check
            for checks in self.groups.values()
            for check in checks
            if check.status == status
        ]


@dataclass(frozen=True)
class Commands:
    """Writes commands as they can be typed here.

    Attributes:
        root: The checkout.
        python: The Python to run them with.
    """

    root: Path
    python: str = sys.executable

    def tool(self, name: str, *arguments: str | Path) -> str:
        """Write a call of one of the tools, such as ``'download_coco.py'``."""
        return self._write(self.root / 'tools' / name, *arguments)

    def train(self, job: 'Job', *changes: str, work_dir: str | None = None) -> str:
        """Write the command that trains a job, with more changes to its config."""
        keys = {change.partition('=')[0] for change in changes}
        kept = [text for text in job.options if text.partition('=')[0] not in keys]
        arguments = [job.config]
        if work_dir is not None:
            arguments += ['--work-dir', work_dir]
        if kept or changes:
            arguments += ['--cfg-options', *kept, *changes]
        return self.tool('train.py', *arguments)

    def module(self, name: str, *arguments: str | Path) -> str:
        """Write a call of a module."""
        return self._write('-m', name, *arguments)

    def pip(self, *arguments: str | Path) -> str:
        """Write an installation."""
        return self.module('pip', 'install', *arguments)

    def _write(self, *arguments: str | Path) -> str:
        parts = [
            shorten(part) if isinstance(part, Path) else part
            for part in (Path(self.python), *arguments)
        ]
        return subprocess.list2cmdline(parts) if os.name == 'nt' else shlex.join(parts)


def shorten(path: str | Path) -> str:
    """Write a path relative to the working directory where it lies in that."""
    path = Path(os.path.normpath(Path(path).absolute()))
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
