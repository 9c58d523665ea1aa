"""Reads the scalars that MMEngine writes while it trains."""

import json
from dataclasses import dataclass
from pathlib import Path

from sapiens_plugin.errors import InputError


@dataclass(frozen=True)
class Start:
    """A start of a training, from scratch or resumed.

    Attributes:
        folder (Path): ``work_dir/<timestamp>``, which it wrote its log into.
        epochs_before (int): How many epochs were trained when it started.
    """

    folder: Path
    epochs_before: int


@dataclass(frozen=True)
class RunLog:
    """The scalars of one training, in the order they were logged.

    Attributes:
        train (list[dict]): Records of training iterations, each with ``epoch`` and
            ``iter`` (both counted from 1) and scalars such as ``loss`` and ``lr``.
        validation (list[dict]): Records of validations, each with ``step``, the number
            of epochs trained before it, and metrics such as ``coco/AP``.
        starts (tuple[Start, ...]): Where the records come from, in their order.
    """

    train: list[dict]
    validation: list[dict]
    starts: tuple[Start, ...] = ()

    def train_series(self, name: str) -> list[tuple[float, float]]:
        """Return (epochs trained, value) of every training record with ``name``."""
        length = self.epoch_length
        return [(r['iter'] / length, r[name]) for r in self.train if name in r]

    def validation_series(self, name: str) -> list[tuple[float, float]]:
        """Return (epochs trained, value) of every validation record with ``name``."""
        return [(float(r['step']), r[name]) for r in self.validation if name in r]

    def seconds_per_iteration(self, first: int, last: int) -> float | None:
        """Return the mean time of an iteration in epochs ``first`` to ``last``, s.

        Epochs are counted from 1. A record's time is a mean, loading included; it
        stands for the iterations of its epoch since the record before. None if nothing
        of these epochs was logged.
        """
        iterations = seconds = before = 0.0
        for record in self.train:
            if first <= record['epoch'] <= last and 'time' in record:
                begin = max(before, (record['epoch'] - 1) * self.epoch_length)
                iterations += record['iter'] - begin
                seconds += (record['iter'] - begin) * record['time']
            before = record['iter']
        return seconds / iterations if iterations else None

    @property
    def epoch_length(self) -> float:
        """How many iterations an epoch has.

        That is not logged, but MMEngine logs at the same places in every epoch: the
        first records of two epochs are whole epochs apart. Of a training that is still
        in its first epoch, the last record stands for that epoch's end.
        """
        first: dict[int, int] = {}
        for record in self.train:
            first.setdefault(record['epoch'], record['iter'])
        start, end = min(first), max(first)
        if start == end:
            return self.train[-1]['iter'] / end
        return (first[end] - first[start]) / (end - start)


def read_run_log(work_dir: Path) -> RunLog:
    """Read what a training logged, through all its resumptions.

    A work directory holds a folder ``<timestamp>/vis_data`` for every start. A later
    start replaces what earlier ones logged from its first iteration on: a resumption
    continues the record, a training from scratch begins it anew.

    Args:
        work_dir (Path): The ``work_dir`` of the training.

    Returns:
        RunLog: Its records.

    Raises:
        InputError: Nothing was logged there, or a log does not parse.
    """
    train: list[dict] = []
    validation: list[dict] = []
    starts: tuple[Start, ...] = ()
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        records = _read_records(path)
        new = [r for r in records if 'epoch' in r]
        if not new:
            continue  # a test, or a start that ended before its first log line
        first = new[0]
        train = [r for r in train if r['iter'] < first['iter']] + new
        validation = [r for r in validation if r['step'] < first['epoch']] + [
            r for r in records if 'epoch' not in r
        ]
        start = Start(path.parents[1], epochs_before=first['epoch'] - 1)
        earlier = (s for s in starts if s.epochs_before < start.epochs_before)
        starts = (*earlier, start)
    if not train:
        raise InputError(_why_nothing(Path(work_dir)))
    return RunLog(train=train, validation=validation, starts=starts)


def _why_nothing(work_dir: Path) -> str:
    """Say why there is no training log, and what may be meant."""
    if not work_dir.exists():
        return f'{work_dir} does not exist. Name the work directory of a training.'
    if not work_dir.is_dir():
        return f'{work_dir} is a file. Name the work directory of a training.'
    whole = work_dir.absolute()
    for start in (whole, whole.parent):
        if (start / 'vis_data').is_dir():
            return (
                f'{work_dir} belongs to one start of a training. Name the work '
                f'directory above it: {start.parent}.'
            )
    runs = sorted({p.parents[2] for p in work_dir.glob('*/*/vis_data/scalars.json')})
    if runs:
        return (
            f'{work_dir} holds several work directories. Name one of them: '
            f'{", ".join(map(str, runs))}.'
        )
    return (
        f'{work_dir} has no training log (TIMESTAMP/vis_data/scalars.json). Name the '
        'work directory of a training that got past its first log line.'
    )


def _read_records(path: Path) -> list[dict]:
    lines = path.read_text(encoding='utf-8').splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # the run was killed while it wrote this line
            raise InputError(
                f'{path}, line {number}, is not JSON ({error}). Delete the line or the '
                f'folder of that start.'
            ) from error
    return records
