"""The checkpoint files of a run: what they are called, and which was the last."""

import re
from collections.abc import Iterator
from pathlib import Path

from sapiens_plugin.core.utils.whole_file import part_of

from .saving import write_pointer

BY_TIME = 'iter_{}.pth'
BY_EPOCH = 'epoch_{}.pth'  # MMEngine's default for filename_tmpl
_FIELD = re.compile(r'\{.*?\}')
_IS_BY_TIME = re.compile(r'iter_\d+\.pth')
_POINTER = 'last_checkpoint'


def folder_of(work_dir: str | Path, out_dir: str | None) -> Path:
    """Return where checkpoints go: into the working directory, or to another disk.

    Args:
        work_dir: Of the run.
        out_dir: An argument of ``CheckpointHook``: a folder for the checkpoints of many
            runs. Those that need a disk do not go to another backend, such as
            ``'s3://...'``.
    """
    work_dir = Path(work_dir)
    # Texts, as MMEngine compares them.
    if out_dir is None or '://' in str(out_dir) or str(out_dir) == str(work_dir):
        return work_dir
    return Path(out_dir, work_dir.name)


def resumable(folder: Path, filename_tmpl: str = BY_EPOCH) -> set[Path]:
    """Return the checkpoints of a folder that could be resumed from.

    Args:
        folder: It need not exist.
        filename_tmpl: What those of epochs are called, with ``{}`` or the like for the
            number.
    """
    return {
        path
        for name in (BY_TIME, filename_tmpl)
        for path in folder.glob(_FIELD.sub('*', name))
    }


def best(folder: Path) -> set[Path]:
    """Return the checkpoints of the best validations of a folder."""
    return set(folder.glob('best_*.pth'))


def by_time(folder: Path) -> list[Path]:
    """Return the checkpoints by time of a folder."""
    return [path for path in resumable(folder) if is_by_time(path.name)]


def is_by_time(name: str) -> bool:
    """Tell whether a file has the name of a checkpoint by time."""
    return _IS_BY_TIME.fullmatch(name) is not None


def unfinished(work_dir: Path, folder: Path) -> Iterator[Path]:
    """Yield what is left of saves that were cut short."""
    for place in {work_dir, folder}:  # another disk was named when this one was full
        yield from place.glob(part_of(Path('*.pth')).name)
    yield from work_dir.glob(part_of(Path(_POINTER)).name)


def forget_last(work_dir: str | Path) -> None:
    """Have ``last_checkpoint`` name none.

    Raises:
        OSError: It cannot be removed.
    """
    Path(work_dir, _POINTER).unlink(missing_ok=True)


def last_of(work_dir: str | Path) -> str | None:
    """Return what ``last_checkpoint`` names, if anything."""
    pointer = Path(work_dir, _POINTER)
    if not pointer.is_file():
        return None
    return pointer.read_text('utf-8', errors='replace').strip() or None


def set_last(work_dir: str | Path, path: str | Path) -> None:
    """Name a checkpoint in ``last_checkpoint``, as MMEngine does.

    Raises:
        CheckpointNotWritten: The disk did not take it.
    """
    write_pointer(Path(work_dir, _POINTER), str(path))
