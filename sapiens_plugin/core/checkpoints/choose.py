"""Which checkpoint to resume from."""

from collections.abc import Iterable
from logging import Logger
from pathlib import Path

from sapiens_plugin.errors import InputError

from .loading import load_from_local
from .run_files import BY_EPOCH, last_of, resumable
from .run_identity import Origin, Run, is_same, origin_of
from .sealed import Damaged


def choose_for(
    run: Run,
    folder: Path,
    *,
    logger: Logger,
    named: str | None = None,
    filename_tmpl: str = BY_EPOCH,
) -> str | None:
    """Choose what a run goes on from, and tell of what was passed over.

    Damaged checkpoints that would have been taken are renamed to ``NAME.damaged``.

    Args:
        run: The run.
        folder: Where its checkpoints go now.
        logger: Gets a warning for each that is passed over.
        named: The checkpoint that was asked for: that one or none.
        filename_tmpl: What checkpoints of epochs are called.

    Returns:
        A whole checkpoint, or what ``last_checkpoint`` names on another backend; None
        if there are none.

    Raises:
        InputError: The one asked for is not whole, or none is; or there is none but
            that of another run.
        OSError: A directory or ``last_checkpoint`` cannot be read.
    """
    if named:
        path = Path(named)
        _check(path, resumable(path.parent, filename_tmpl))
        return named
    work_dir = Path(run.work_dir)
    text = last_of(work_dir)
    if text and '://' in text:
        return text
    last = Path(text) if text else None
    candidates = _candidates(run, folder, last, filename_tmpl)
    logger.info('Reading the last checkpoint to see that it is whole.')
    chosen, passed_over, damaged = _first_whole(candidates)
    is_here = last is None or last.name in {path.name for path in candidates}
    if not is_here and not last.exists():
        passed_over.insert(0, f'{last}, the last checkpoint, does not exist.')
    if chosen is None:
        if passed_over:
            raise InputError(
                'There is no whole checkpoint to resume from. '
                + ' '.join(passed_over)
                + ' A best_*.pth beside them may be whole: its weights are taken by '
                '--cfg-options load_from=PATH with another --work-dir.'
            )
        if last is not None:
            raise InputError(
                f'There is no checkpoint of this run in {folder}. last_checkpoint '
                f'names {last}, which lies in no directory of this run and does not '
                f'say that it is its own. To go on from it: --resume {last}'
            )
        logger.warning(
            f'There is no checkpoint in {folder} to resume from: the run starts anew.'
        )
        return None
    for problem in passed_over:
        logger.warning(f'{problem} The run goes on from {chosen}.')
    for path in damaged:
        if str(path) == run.adopted:  # the file of another run
            continue
        # Or it would count as one of those by time that are kept.
        try:
            path.replace(path.with_name(f'{path.name}.damaged'))
            logger.info(f'{path} is called {path.name}.damaged from now on.')
        except OSError as error:
            logger.warning(
                f'{path} could not be renamed: {error.strerror or error}. Delete it '
                'when you can.'
            )
    return str(chosen)


def _candidates(
    run: Run, folder: Path, last: Path | None, filename_tmpl: str
) -> list[Path]:
    """List what a run may go on from, the newest first."""
    work_dir = Path(run.work_dir)
    places = [work_dir]
    # They may have gone elsewhere before: out_dir is what to change on a full disk.
    for place in (folder, *([last.parent] if last else [])):
        if not any(is_same(place, other) for other in places):
            places.append(place)
    found = {path for place in places for path in resumable(place, filename_tmpl)}
    if last is not None and not any(is_same(last, path) for path in found):
        found |= {last} if last.is_file() else set()  # whatever it is called
    origins = {path: origin_of(path) for path in found}

    def may_be_taken(path: Path) -> bool:
        run_id = origins[path].run_id
        if is_same(path.parent, work_dir) or str(path) == run.adopted:
            return True
        if is_same(path.parent, folder):
            return run_id in (None, run.id)
        return run_id == run.id and not run.shares(path.parent)

    def age(path: Path) -> tuple:
        origin, saved = origins[path], path.stat().st_mtime_ns
        # First, so that a warning names it and it is renamed.
        is_spoilt = path == last and origin == Origin()
        if str(path) == run.adopted:  # before all that was saved before that start
            return is_spoilt, True, True, run.starts, -1, saved
        is_own = run.claims(origin, path.parent)
        return is_spoilt, is_own, not run.gave_up(origin), *origin.place, saved

    return sorted(filter(may_be_taken, origins), key=age, reverse=True)


def _first_whole(paths: list[Path]) -> tuple[Path | None, list[str], list[Path]]:
    """Return it, what is wrong with those before it, and which of them are damaged."""
    passed_over: list[str] = []
    damaged: list[Path] = []
    for path in paths:
        try:
            load_from_local(path)
        except InputError as error:
            passed_over.append(str(error))
            if isinstance(error, Damaged):
                damaged.append(path)
        else:
            return path, passed_over, damaged
    return None, passed_over, damaged


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


def _progress(path: Path) -> tuple[int, int]:
    """Return the iteration a checkpoint was saved at, and when, to sort by."""
    return origin_of(path).iteration, path.stat().st_mtime_ns
