"""How long a training has still to go, from the steps it has made."""

from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from sapiens_plugin.core.utils.amounts import time_left

# Steps are judged in chunks: their means even out what repeats within a chunk (bursts
# of a data loader, accumulation), and the median of those means ignores single stalls.
_CHUNK = 10
_CHUNKS = 10


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs whose steps all do the same work.

    Attributes:
        name (str): What trains.
        end (int): Epochs trained when it is over.
        step_work (float): Arithmetic of a step, in a unit that all phases and the
            validation share.
    """

    name: str
    end: int
    step_work: float


@dataclass(frozen=True)
class TimeLeft:
    """A time to come.

    Attributes:
        seconds (float): How long.
        measured (bool): False where a part of it has not been done yet in this run and
            is estimated from its arithmetic.
    """

    seconds: float
    measured: bool

    def __str__(self):
        return f'{"" if self.measured else "~"}{time_left(self.seconds)}'


class JobClock:
    """Tells from measured steps how long a phase and the whole job will take.

    Phases and validations that this run has not been through are estimated: a step of
    theirs takes as much longer as it has more arithmetic.

    Args:
        phases: In their order; the last one ends with the job. Empty if they are not
            known: then no time is told.
        steps_per_epoch: Steps of the training loop, micro-batches if it accumulates.
        validation_epochs: Numbers of the epochs (from 1) that a validation follows.
        validation_work: Arithmetic of a validation, in the unit of the phases.
        period: Steps after which fast and slow ones repeat, such as the micro-batches
            of an optimizer step.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        steps_per_epoch: int,
        validation_epochs: Container[int],
        validation_work: float,
        period: int = 1,
    ):
        self._phases = phases
        self._steps_per_epoch = steps_per_epoch
        self._validation_epochs = validation_epochs
        self._validation_work = validation_work
        self._chunk = -(-_CHUNK // period) * period
        self._epoch = self._step = 0
        self._phase: Phase | None = None
        self._before: tuple[float, float] | None = None  # step's seconds and work
        self._steps: deque[tuple[float, int]] = deque(maxlen=_CHUNKS * self._chunk)
        # Between epochs, with a validation and without.
        self._pauses = {flag: deque[float](maxlen=5) for flag in (True, False)}

    @property
    def phase(self) -> Phase | None:
        """The phase of the epoch under way, if phases are known."""
        return self._phase

    @property
    def phase_number(self) -> int:
        """Its number, from 1; phases have to be known."""
        return self._phases.index(self._phase) + 1

    def begin_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Note that an epoch begins, or goes on.

        Args:
            epoch: Epochs trained before it, also by earlier starts of the job.
            done: Steps of it that an earlier start has made.
        """
        phase = next((phase for phase in self._phases if epoch < phase.end), None)
        if phase is not self._phase and self._steps:
            self._before = self._step_seconds(), self._phase.step_work
            self._steps.clear()
        self._phase, self._epoch, self._step = phase, epoch, done

    def step(self, seconds: float, *, persons: int) -> None:
        """Note a step.

        Args:
            seconds: Its time, waiting for data included.
            persons: Crops it trained on, in all processes.
        """
        self._step += 1
        self._steps.append((seconds, persons))

    def pause(self, seconds: float, *, validated: bool) -> None:
        """Note the time between the last step of an epoch and the next epoch."""
        self._pauses[validated].append(seconds)

    @property
    def persons_per_second(self) -> float:
        """What the latest steps typically made."""
        return fmean(persons for _, persons in self._steps) / self._step_seconds()

    def left(self) -> tuple[TimeLeft, TimeLeft] | None:
        """Return the time left for the phase and for the whole job.

        Validations are included. None before the first step of this run, and if
        phases are not known.
        """
        if not self._phases or (not self._steps and self._before is None):
            return None
        parts = [self._left_of(p) for p in self._phases if self._epoch < p.end]
        job = TimeLeft(
            sum(part.seconds for part in parts), all(part.measured for part in parts)
        )
        return parts[0], job

    def _left_of(self, phase: Phase) -> TimeLeft:
        """Return the time left for the present phase, or a coming one as a whole."""
        is_present = phase is self._phase
        begin = self._epoch if is_present else self._begin_of(phase)
        steps = (phase.end - begin) * self._steps_per_epoch - is_present * self._step
        measured = is_present and bool(self._steps)
        seconds_per_work = self._seconds_per_work()
        if measured:
            seconds = steps * self._step_seconds()
        else:
            seconds = steps * phase.step_work * seconds_per_work
        for epoch in range(begin + 1, phase.end + 1):
            validates = epoch in self._validation_epochs
            if self._pauses[validates]:
                seconds += median(self._pauses[validates])
            elif validates:
                seconds += self._validation_work * seconds_per_work
                measured = False
        return TimeLeft(seconds, measured or seconds == 0)

    def _begin_of(self, phase: Phase) -> int:
        index = self._phases.index(phase)
        return self._phases[index - 1].end if index else 0

    def _seconds_per_work(self) -> float:
        if self._steps:
            return self._step_seconds() / self._phase.step_work
        seconds, work = self._before
        return seconds / work

    def _step_seconds(self) -> float:
        """Return the typical time of a step of the present phase."""
        times = [seconds for seconds, _ in self._steps]
        if len(times) < self._chunk:
            # The first step loads kernels and waits for the data loader to start.
            return fmean(times[1:] or times)
        means = [
            fmean(times[end - self._chunk : end])
            for end in range(len(times), self._chunk - 1, -self._chunk)
        ]
        return median(means)
