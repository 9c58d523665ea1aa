"""The host memory of a command and of all that it starts, read from Linux' /proc.

A page that several processes share counts in parts, a part for each of them: PSS, the
proportional set size. Its sum over the processes is what they take together.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Peak:
    """The look at which most was taken. All sizes are in bytes.

    Attributes:
        total: Of all processes.
        files: Of it pages of mapped files, which the system can drop and read again.
        shares: What each process has of the total, the first one's first.
    """

    total: int = 0
    files: int = 0
    shares: list[int] = field(default_factory=list)


@dataclass
class Watched:
    """What came of a command.

    Attributes:
        returncode: Its exit code.
        peaks: The peak of each stage; empty where /proc does not tell.
        missed: By how much the first process's resident set was at most larger than at
            any look: the kernel keeps the peak of that.
    """

    returncode: int
    peaks: dict[str, Peak]
    missed: int = 0

    @property
    def peak(self) -> Peak:
        """The largest of all stages."""
        return max(self.peaks.values(), key=lambda peak: peak.total, default=Peak())


def watched(
    command: list[str],
    *,
    stage: Callable[[], str] = lambda: '',
    every: float = 0.02,
    **popen,
) -> Watched:
    """Run a command and look at its processes until it ends.

    Args:
        command: What to run.
        stage: Names the peak that a look belongs to; asked before each look.
        every: Seconds from one look to the next, at least. A look itself takes about
            10 ms for each GB; between two is four times that.
        **popen: Further arguments of :class:`subprocess.Popen`.
    """
    peaks: dict[str, Peak] = {}
    seen = highest = 0
    with subprocess.Popen(command, **popen) as root:
        while root.poll() is None:
            name, start = stage(), time.monotonic()
            looks = [look for pid in tree(root.pid) if (look := _sizes(pid))]
            shares = [look['Pss'] for look in looks]
            if sum(shares) > peaks.get(name, Peak()).total:
                files = sum(look['Pss_File'] for look in looks)
                peaks[name] = Peak(sum(shares), files, shares)
            own = _sizes(root.pid, 'status')
            seen = max(seen, own.get('VmRSS', 0))
            highest = max(highest, own.get('VmHWM', 0))
            time.sleep(max(every, 4 * (time.monotonic() - start)))
    return Watched(root.returncode, peaks, highest - seen)


def tree(pid: int) -> list[int]:
    """Return a process, its children, theirs, and so on."""
    pids = [pid]
    for one in pids:  # which grows meanwhile
        # A child belongs to the thread that has started it.
        for path in Path(f'/proc/{one}/task').glob('*/children'):
            pids += map(int, _read(path).split())
    return pids


def own_peak_mib() -> float | None:
    """Return this process's largest resident set, where Linux tells."""
    peak = _sizes('self', 'status').get('VmHWM')
    return peak and peak / 2**20


def _sizes(pid: int | str, file: str = 'smaps_rollup') -> dict[str, int]:
    """Return the sizes in a file about a process; none if the process is gone."""
    fields = (line.split() for line in _read(Path(f'/proc/{pid}/{file}')).splitlines())
    return {
        words[0].rstrip(':'): 1024 * int(words[1])
        for words in fields
        if words[2:] == ['kB']
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended, or this is not Linux
        return ''
