"""Which checkpoint to resume from."""

from collections.abc import Iterable
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

from sapiens_plugin.core.weight_files.checkpoint import load_pickle
from sapiens_plugin.errors import InputError

from .loading import load_from_local
from .run_files import BY_EPOCH, last_of, resumable
from .sealed import Damaged


def choose_for(
    work_dir: Path,
    folder: Path,
    *,
    logger: Logger,
    named: str | None = None,
    filename_tmpl: str = BY_EPOCH,
) -> str | None:
    """Choose what a run goes on from, and tell of what was passed over.

    Damaged checkpoints that would have been taken are renamed to ``NAME.damaged``.

    Args:
        work_dir: Of the run.
        folder: Where its checkpoints go now.
        logger: Gets a warning for each that is passed over.
        named: The checkpoint that was asked for: that one or none.
        filename_tmpl: What checkpoints of epochs are called.

    Returns:
        A whole checkpoint, or what ``last_checkpoint`` names on another backend; None
        if there are none.

    Raises:
        InputError: The one asked for is not whole, or none is.
        OSError: A directory or ``last_checkpoint`` cannot be read.
    """
    if named:
        path = Path(named).expanduser()
        _check(path, resumable(path.parent, filename_tmpl))
        return named
    text = last_of(work_dir)
    if text and '://' in text:
        return text
    last = Path(text) if text else None
    # They may have gone elsewhere before: out_dir is what to change on a full disk.
    folders = {folder, work_dir, *([last.parent] if last else [])}
    others = set().union(*(resumable(each, filename_tmpl) for each in folders))
    logger.info('Reading the last checkpoint to see that it is whole.')
    choice = choose(last, others)
    if choice is None:
        logger.warning(
            f'There is no checkpoint in {folder} to resume from: the run starts anew.'
        )
        return None
    for problem in choice.passed_over:
        logger.warning(f'{problem} The run goes on from {choice.path}.')
    for path in choice.damaged:
        # Or it would count as one of those by time that are kept.
        try:
            path.replace(path.with_name(f'{path.name}.damaged'))
            logger.info(f'{path} is called {path.name}.damaged from now on.')
        except OSError as error:
            logger.warning(
                f'{path} could not be renamed: {error.strerror or error}. Delete it '
                'when you can.'
            )
    return str(choice.path)


@dataclass(frozen=True)
class Choice:
    """A checkpoint to resume from.

    Attributes:
        path: The file; it is whole.
        passed_over: What was wrong with files that would have come before it.
        damaged: Those of them that will never do.
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
            if isinstance(error, Damaged):
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


def _check(named: Path, others: set[Path]) -> None:
    try:
        if not named.is_file():
            raise InputError(f'The checkpoint {named} does not exist.')
        load_from_local(named)
    except InputError as error:
        beside = ' and '.join(map(str, whole_ones(others - {named}, at_most=2)))
        way_out = f'Whole ones beside it: {beside}.' if beside else ''
        raise InputError(f'{error} {way_out}'.strip()) from error


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
