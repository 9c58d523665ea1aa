"""Which run a directory, and a checkpoint in it, belongs to.

A working directory keeps the identity of its run in ``run.json``, and so does a folder
on another disk that a run's checkpoints go to. Every checkpoint names its run in
``meta['run']``. Directories are copied, renamed, restored and used again; a path alone
does not tell whose a file is.
"""

import json
from dataclasses import asdict, dataclass, replace
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
class Run:
    """A run, as ``run.json`` tells it.

    Attributes:
        id: No other run has it.
        work_dir: Its working directory, absolute.
        starts: How often it was started, this time included.
        went_on_from: The place, (start, iteration), that this start went on from. What
            earlier starts saved beyond it was given up.
        copy_of: The identities of the runs that this directory is a copy of, or a copy
            of a copy. Their files in it are its own.
    """

    id: str
    work_dir: str
    starts: int = 0
    went_on_from: tuple[int, int] | None = None
    copy_of: tuple[str, ...] = ()

    @property
    def note(self) -> dict[str, Any]:
        """What its checkpoints say of it in their meta."""
        return dict(id=self.id, start=self.starts)

    def owns(self, path: Path) -> bool:
        """Tell whether a file in one of this run's directories is its own.

        Files that name no run are, as those of earlier versions.
        """
        run_id = origin_of(path).run_id
        return run_id in (None, self.id) or (
            run_id in self.copy_of and _is_same(path.parent, Path(self.work_dir))
        )

    def has_saved(self, path: Path, folder: Path) -> bool:
        """Tell whether a checkpoint that may lie anywhere is this run's.

        Args:
            path: The checkpoint.
            folder: Where the run's checkpoints go.
        """
        places = folder, Path(self.work_dir)
        is_here = any(_is_same(path.expanduser().parent, place) for place in places)
        return self.owns(path) if is_here else origin_of(path).run_id == self.id

    def started(self, went_on_from: Path | None) -> 'Run':
        """Return this run at its next start.

        Args:
            went_on_from: The checkpoint it goes on from, if any.
        """
        if went_on_from is None:
            return replace(self, starts=self.starts + 1)
        place = origin_of(went_on_from).place
        return replace(self, starts=max(self.starts, place[0]) + 1, went_on_from=place)

    def write(self, folder: Path | None = None) -> None:
        """Write it into its working directory, or into a folder of its checkpoints.

        Raises:
            OSError: The disk did not take it.
        """
        folder = folder or Path(self.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, json.dumps(asdict(self)))


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


def origin_of(path: Path) -> Origin:
    """Read the origin of a checkpoint, or of a file of frozen weights."""
    try:
        meta = load_pickle(path)['meta']
        iteration = meta.get('iter')
        note = meta.get(KEY)
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
        went_on_from = run.went_on_from and tuple(map(int, run.went_on_from))
        return Run(
            id=str(run.id),
            work_dir=str(run.work_dir),
            starts=int(run.starts),
            went_on_from=went_on_from,
            copy_of=tuple(map(str, run.copy_of)),
        )
    except (OSError, ValueError, TypeError):
        return None


def identify(work_dir: Path, *, anew: bool) -> Run:
    """Tell which run a working directory is of.

    A directory that was renamed or moved is the same run. One that was copied is
    another: the one it was copied from still lies there.

    Args:
        work_dir: It need not exist.
        anew: Whether a new run begins in it.
    """
    place = str(work_dir.absolute())
    run = None if anew else run_of(work_dir)
    if run is None:
        return Run(id=uuid4().hex, work_dir=place)
    original = Path(run.work_dir)
    other = run_of(original)
    if other is not None and other.id == run.id and not _is_same(original, work_dir):
        return replace(
            run, id=uuid4().hex, work_dir=place, copy_of=(*run.copy_of, run.id)
        )
    return replace(run, work_dir=place)


def take_folder(run: Run, folder: Path) -> Path:
    """Take a folder for the checkpoints of a run.

    Args:
        run: The run.
        folder: Its working directory, or a folder on another disk.

    Returns:
        The folder; where that is another run's, one beside it with the beginning of
        this run's identity in its name.

    Raises:
        OSError: The disk did not take the note of whose it is.
    """
    if _is_same(folder, Path(run.work_dir)):
        return folder
    if is_taken(folder, run, Path(run.work_dir)):
        folder = folder.with_name(f'{folder.name}_{run.id[:8]}')
    run.write(folder)
    return folder


def is_taken(folder: Path, run: Run | None, work_dir: Path) -> bool:
    """Tell whether a folder for checkpoints is another run's.

    Args:
        folder: The folder.
        run: The run that asks, if it has begun.
        work_dir: Its working directory. An earlier run in it that has saved nothing has
            no claim.
    """
    owner = run_of(folder)
    if owner is None or (run is not None and owner.id == run.id):
        return False
    return any(folder.glob('*.pth')) or not _is_same(Path(owner.work_dir), work_dir)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()
