"""The plan of a job against what its run was measured to do."""

from dataclasses import dataclass

from .run_log import RunLog


@dataclass(frozen=True)
class Phase:
    """Epochs that are alike, counted from 1."""

    name: str
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many epochs."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Measured:
    """What the log says of some epochs.

    Attributes:
        epochs: How many were trained, the last perhaps in part.
        seconds_per_step: Mean time of an optimizer step, loading included.
        hours_per_epoch: What an epoch takes at that pace.
        hours: What was spent.
    """

    epochs: float
    seconds_per_step: float
    hours_per_epoch: float
    hours: float


def planned_phases(plan: dict) -> list[Phase]:
    """Return a plan's phases, one after the other."""
    phases, before = [], 0
    for phase in plan['phases']:
        last = before + phase['epochs']
        phases.append(Phase(str(phase['name']), before + 1, last))
        before = last
    return phases


def configured_phases(max_epochs: int, warmup_epochs: int) -> list[Phase]:
    """Return the phases of a job's config."""
    if not 0 < warmup_epochs < max_epochs:
        return [Phase('everything', 1, max_epochs)]
    return [
        Phase('head alone', 1, warmup_epochs),
        Phase('everything', warmup_epochs + 1, max_epochs),
    ]


def measured(
    log: RunLog, phase: Phase, *, trained: float, accumulation: int
) -> Measured | None:
    """Return what a phase took so far; None if nothing of it was logged.

    Args:
        log: Of the run.
        phase: The epochs.
        trained: How many epochs the run has behind it, from its first.
        accumulation: Iterations that make an optimizer step.
    """
    pace = log.seconds_per_iteration(phase.first, phase.last)
    if pace is None:
        return None
    # The last iterations of an epoch are often not logged, but were trained.
    epochs = min(trained - (phase.first - 1), phase.length)
    hours_per_epoch = pace * log.epoch_length / 3600
    return Measured(
        epochs=epochs,
        seconds_per_step=pace * accumulation,
        hours_per_epoch=hours_per_epoch,
        hours=epochs * hours_per_epoch,
    )
