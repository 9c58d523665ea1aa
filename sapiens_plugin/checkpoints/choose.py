"""Which checkpoint to resume from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sapiens_plugin.errors import InputError
from sapiens_plugin.vit.checkpoint import load_pickle

from .loading import load_from_local


@dataclass(frozen=True)
class Choice:
    """A checkpoint to resume from.

    Attributes:
        path: The file; it is whole.
        passed_over: What was wrong with files that would have come before it.
        damaged: Those of them that are there.
    """

    path: Path
    passed_over: tuple[str, ...]
    damaged: tuple[Path, ...]


def choose(last: Path | None, others: Iterable[Path]) -> Choice | None:
    """Choose the last checkpoint, or else the newest whole one.

    Every file that is looked at is read as a whole.

    Args:
        last: What ``last_checkpoint`` names, if anything.
        others: Other checkpoints of the run.

    Returns:
        The first whole one; None where there are none at all.

    Raises:
        InputError: There are some, and none is whole.
    """
    passed_over: list[str] = []
    damaged: list[Path] = []
    rest = [path for path in others if path != last]
    for path in _candidates(last, rest):
        if not path.is_file():
            passed_over.append(f'{path}, the last checkpoint, does not exist.')
            continue
        try:
            load_from_local(path)
        except InputError as error:
            passed_over.append(str(error))
            damaged.append(path)
        else:
            return Choice(path, tuple(passed_over), tuple(damaged))
    if passed_over:
        raise InputError(
            'There is no whole checkpoint to resume from. '
            + ' '.join(passed_over)
            + ' A best_*.pth beside them may be whole: its weights are taken by '
            '--cfg-options load_from=PATH with another --work-dir.'
        )
    return None


def whole_ones(paths: Iterable[Path], *, at_most: int) -> list[Path]:
    """Return whole checkpoints, the furthest first."""
    whole: list[Path] = []
    for path in sorted(paths, key=_progress, reverse=True):
        if len(whole) == at_most:
            break
        try:
            load_from_local(path)
        except InputError:
            continue
        whole.append(path)
    return whole


def _candidates(last: Path | None, others: list[Path]) -> Iterable[Path]:
    if last is not None:
        yield last
    # Not before it is known that the last one will not do.
    yield from sorted(others, key=_progress, reverse=True)


def _progress(path: Path) -> tuple[int, int]:
    """Return the iteration a checkpoint was saved at, and when, to sort by."""
    try:
        iteration = load_pickle(path)['meta']['iter']
    except (InputError, KeyError, TypeError):
        return -1, 0
    if not isinstance(iteration, int):
        return -1, 0
    return iteration, path.stat().st_mtime_ns
