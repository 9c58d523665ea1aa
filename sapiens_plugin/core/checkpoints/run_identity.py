"""Which run a directory, and a checkpoint in it, belongs to.

A working directory keeps the identity of its run in ``run.json``, and so does a folder
on another disk that a run's checkpoints go to. Every checkpoint names its run in
``meta['run']``. Directories are copied, renamed, restored and used again; a path alone
does not tell whose a file is.
"""

import json
from dataclasses import asdict, dataclass, replace
from logging import Logger
from pathlib import Path
from typing import Any
from uuid import uuid4

from sapiens_plugin.core.utils.whole_file import write_whole
from sapiens_plugin.core.weight_files.checkpoint import load_pickle
from sapiens_plugin.errors import InputError

KEY = 'run'
"""What the meta of a checkpoint calls the identity of its run."""

_FILE = 'run.json'


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from.

    Attributes:
        run_id: Of its run; None where it names none.
        start: At which start of the run it was saved; 0 where it does not say.
        iteration: The iteration it was saved at; -1 where it does not say.
    """

    run_id: str | None = None
    start: int = 0
    iteration: int = -1

    @property
    def place(self) -> tuple[int, int]:
        """(start, iteration): the higher, the later it was saved."""
        return self.start, self.iteration


@dataclass(frozen=True)
class Run:
    """A run, as ``run.json`` tells it.

    Attributes:
        id: No other run has it.
        work_dir: Its working directory, absolute.
        starts: How often it was started, this time included.
        turns: For each start that went on from a checkpoint, (start, place): what
            earlier starts saved beyond that place was given up.
        copy_of: The identities of the runs that this directory is a copy of, or a copy
            of a copy. Their files in it are its own.
        adopted: The checkpoint that the last start was told to go on from, if that is
            of another run.
    """

    id: str
    work_dir: str
    starts: int = 0
    turns: tuple[tuple[int, tuple[int, int]], ...] = ()
    copy_of: tuple[str, ...] = ()
    adopted: str | None = None

    @property
    def note(self) -> dict[str, Any]:
        """What its checkpoints say of it in their meta."""
        return dict(id=self.id, start=self.starts)

    def owns(self, path: Path) -> bool:
        """Tell whether a file in one of this run's directories is its own.

        Files that name no run are, as those of earlier versions.
        """
        return self.claims(origin_of(path), path.parent)

    def claims(self, origin: Origin, folder: Path) -> bool:
        """Tell whether a file of this origin, in one of its directories, is its own."""
        return origin.run_id in (None, self.id) or (
            origin.run_id in self.copy_of and is_same(folder, Path(self.work_dir))
        )

    def has_saved(self, path: Path, folder: Path) -> bool:
        """Tell whether a checkpoint that may lie anywhere is this run's.

        Args:
            path: The checkpoint.
            folder: Where the run's checkpoints go.
        """
        origin = origin_of(path)
        is_here = any(is_same(path.parent, p) for p in (folder, Path(self.work_dir)))
        return self.claims(origin, path.parent) if is_here else origin.run_id == self.id

    def gave_up(self, origin: Origin) -> bool:
        """Tell whether the run went on from an earlier checkpoint than this one."""
        return any(
            origin.start < start and origin.place > place for start, place in self.turns
        )

    def shares(self, folder: Path) -> bool:
        """Tell whether a folder of checkpoints is that of another run, or of a copy."""
        owner = run_of(folder)
        if owner is None or is_same(Path(owner.work_dir), Path(self.work_dir)):
            # An earlier run in this directory has a claim to what it has saved alone.
            return (
                owner is not None and owner.id != self.id and any(folder.glob('*.pth'))
            )
        return owner.id != self.id or _is_alive(owner)

    def started(self, path: Path | None, folder: Path) -> 'Run':
        """Return this run at its next start.

        Args:
            path: The checkpoint that it goes on from, if any.
            folder: Where its checkpoints go.
        """
        if path is None:
            return replace(self, starts=self.starts + 1)
        origin = origin_of(path)
        # run.json may be an older one, restored.
        saved = [origin_of(other).start for other in path.parent.glob('*.pth')]
        start = max(self.starts, *saved) + 1
        own = self.has_saved(path, folder)
        place = origin.place if own else (0, -1)  # all of its own is given up
        return replace(
            self,
            starts=start,
            turns=(*self.turns, (start, place)),
            adopted=None if own else str(path.absolute()),
        )

    def write(self, folder: Path, logger: Logger) -> None:
        """Write it into its working directory, or into a folder of its checkpoints.

        A run goes on without; a warning says so.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / _FILE, json.dumps(asdict(self)))
        except OSError as error:
            logger.warning(
                f'{folder / _FILE} could not be written: {error.strerror or error}. A '
                'copy of this directory could be taken for the run itself.'
            )


def origin_of(path: Path) -> Origin:
    """Read the origin of a checkpoint, or of a file of frozen weights."""
    try:
        meta = load_pickle(path)['meta']
        iteration, note = meta.get('iter'), meta.get(KEY)
    except (InputError, OSError, LookupError, TypeError, AttributeError):
        return Origin()
    iteration = iteration if isinstance(iteration, int) else -1
    match note:
        case {'id': str(run_id), 'start': int(start)}:
            return Origin(run_id, start, iteration)
        case {'id': str(run_id)}:
            return Origin(run_id, iteration=iteration)
    return Origin(iteration=iteration)


def run_of(folder: Path) -> Run | None:
    """Read whose a folder is; None where it does not say."""
    try:
        content = json.loads((folder / _FILE).read_text('utf-8'))
        run = Run(**content)
        return replace(
            run,
            id=str(run.id),
            work_dir=str(run.work_dir),
            starts=int(run.starts),
            turns=tuple((int(at), (int(s), int(i))) for at, (s, i) in run.turns),
            copy_of=tuple(map(str, run.copy_of)),
        )
    except (OSError, ValueError, TypeError):
        return None


def identify(
    work_dir: Path, folder: Path, *, anew: bool, logger: Logger
) -> tuple[Run, Path]:
    """Tell which run a working directory is of, and where its checkpoints go.

    A directory that was renamed or moved is the same run. One that was copied is
    another: that which it was copied from still lies there. ``run.json`` is written
    into both folders.

    Args:
        work_dir: The working directory; it need not exist.
        folder: Where its checkpoints would go: itself, or a folder on another disk.
        anew: Whether a new run begins in it.
        logger: Gets what there is to warn of.

    Returns:
        The run, and the folder; where that is another run's, one beside it with the
        beginning of this run's identity in its name.
    """
    place, new = str(work_dir.absolute()), uuid4().hex
    run = None if anew else run_of(work_dir)
    if run is None:
        # The files of a run whose run.json was lost are those of this one.
        lost = set() if anew else {origin_of(p).run_id for p in work_dir.glob('*.pth')}
        run = Run(id=new, work_dir=place, copy_of=tuple(sorted(lost - {None})))
    for other in (run, run_of(folder)):
        is_elsewhere = other and not is_same(Path(other.work_dir), work_dir)
        if is_elsewhere and other.id == run.id and _is_alive(other):
            run = replace(run, id=new, copy_of=(*run.copy_of, run.id), adopted=None)
    run = replace(run, work_dir=place)
    run.write(work_dir, logger)
    if is_same(folder, work_dir):
        return run, folder
    if run.shares(folder):
        folder = folder.with_name(f'{folder.name}_{run.id[:8]}')
    run.write(folder, logger)
    return run, folder


def is_same(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one place, which need not exist."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def _is_alive(run: Run) -> bool:
    """Tell whether a run still lies where it says."""
    there = run_of(Path(run.work_dir))
    return there is not None and there.id == run.id
