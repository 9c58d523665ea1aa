"""The section of a report that holds the plan against what happened."""

from collections.abc import Sequence
from dataclasses import dataclass

from sapiens_plugin.core.utils.amounts import duration, size

from .charts import shown
from .markup import Markup, element, join
from .plan_and_run import (
    Measured,
    Phase,
    measured,
    planned_phases,
)
from .report_parts import missing, table
from .run_log import RunLog
from .work_dir import PLAN_NAME

_UNKNOWN = '–'


@dataclass(frozen=True)
class Row:
    """A quantity as planned and as it came.

    Attributes:
        name: What it is.
        unit: Of both; ``'hours'`` are written as a reader wants them.
        planned: None without a plan.
        found: None if it was not measured.
        comparable: Whether their ratio means something: not while one is growing.
    """

    name: str
    unit: str
    planned: float | None
    found: float | None
    comparable: bool = True

    def cells(self, *, with_plan: bool) -> tuple[str, ...]:
        """Return the row's texts."""
        found = _text(self.found, self.unit)
        if not with_plan:
            return self.name, found
        ratio = ''
        if self.comparable and self.planned and self.found is not None:
            ratio = f'{self.found / self.planned:.2f} ×'
        return self.name, _text(self.planned, self.unit), found, ratio


def plan_against_run(
    plan: dict | None,
    log: RunLog,
    phases: Sequence[Phase],
    *,
    problem: str | None,
    trained: float,
    accumulation: int,
    checkpoint_bytes: int,
    validation_seconds: float | None,
) -> Markup:
    """Hold a plan's numbers against those of the log.

    Args:
        plan: What ``tools/plan.py --json`` said; without it, the run stands alone.
        log: Of the run.
        phases: Of the job's config, for want of a plan.
        problem: What makes the file of the plan unusable.
        trained: How many epochs the run has behind it.
        accumulation: Iterations that make an optimizer step.
        checkpoint_bytes: Size of all checkpoints that lie there.
        validation_seconds: What a validation takes, if that was measured.
    """
    wanted = plan or {}
    if plan:
        phases = planned_phases(plan)
    found = [
        measured(log, phase, trained=trained, accumulation=accumulation)
        for phase in phases
    ]
    rows = []
    for number, phase in enumerate(phases):
        of_plan = plan['phases'][number] if plan else {}
        rows += _phase_rows(phase, of_plan, found[number])
    spent = sum(each.hours for each in found if each)
    projected = None
    if all(found):
        projected = spent + sum(
            max(0.0, phase.length - each.epochs) * each.hours_per_epoch
            for phase, each in zip(phases, found, strict=True)
        )
    validations = None
    if validation_seconds is not None:
        validations = len(log.validation) * validation_seconds / 3600
    without_validation = None
    if wanted.get('total_hours') is not None:
        without_validation = wanted['total_hours'] - (wanted['validation_hours'] or 0)
    rows += [
        Row(
            'All training, to its end at the measured pace',
            'hours',
            without_validation,
            projected,
        ),
        Row(
            f'Validations ({len(log.validation)} so far)',
            'hours',
            wanted.get('validation_hours'),
            validations,
            comparable=False,
        ),
        Row(
            'Training and validations so far',
            'hours',
            wanted.get('total_hours'),
            spent + (validations or 0.0),
            comparable=False,
        ),
        Row(
            'GPU memory, peak',
            'MiB',
            wanted.get('vram_peak_mib'),
            _peak(log, 'vram_peak_mib') or _peak(log, 'memory'),
        ),
        Row(
            'Host memory, peak',
            'GiB',
            wanted.get('host_ram_gib'),
            _peak(log, 'host_memory_mib', scale=1 / 1024),
        ),
        Row(
            'Checkpoints on the disk',
            'GiB',
            wanted.get('disk_gib'),
            checkpoint_bytes / 2**30,
            comparable=False,
        ),
    ]
    if plan is None:
        note = missing(
            problem
            or f'No {PLAN_NAME} lies in the work directory, so there is no plan to '
            'compare with. What `python3 tools/plan.py CONFIG --json` prints is one, '
            'if it is kept there under that name.'
        )
        heads = ('What', 'Measured')
    else:
        card = f' for {plan["card"]}' if 'card' in plan else ''
        note = element(
            'p',
            f'The plan{card} was computed, not measured. By arithmetic alone the job '
            f'takes {_text(plan["floor_hours"], "hours")} at the speed it assumes.',
        )
        heads = ('What', 'Planned', 'Measured', 'Ratio')
    return join(
        note,
        table(
            heads,
            [row.cells(with_plan=plan is not None) for row in rows],
            caption='Times are means of the log, loading included. Validations are '
            'taken to last as long as the best one. GPU memory is what PyTorch '
            'reserved (in older logs: allocated); a plan adds what the driver takes. '
            'Host memory is the resident set of the training process; a plan adds its '
            'workers.',
            numbers=True,
        ),
    )


def _phase_rows(phase: Phase, planned: dict, found: Measured | None) -> list[Row]:
    def value(name: str) -> float | None:
        return getattr(found, name) if found else None

    epochs = found.epochs if found else 0.0
    done = found is not None and found.epochs >= phase.length
    return [
        Row(f'{phase.name} · epochs', '', phase.length, epochs, comparable=False),
        Row(
            f'{phase.name} · an optimizer step',
            's',
            planned.get('seconds_per_step'),
            value('seconds_per_step'),
        ),
        Row(
            f'{phase.name} · an epoch',
            'hours',
            planned.get('hours_per_epoch'),
            value('hours_per_epoch'),
        ),
        Row(
            f'{phase.name} · all its epochs' + ('' if done else ', so far'),
            'hours',
            planned.get('hours'),
            value('hours'),
            comparable=done,
        ),
    ]


def _peak(log: RunLog, name: str, *, scale: float = 1.0) -> float | None:
    values = [record[name] for record in log.train if name in record]
    return max(values) * scale if values else None


def _text(value: float | None, unit: str) -> str:
    if value is None:
        return _UNKNOWN
    if unit == 'hours':
        return duration(value)
    if unit == 'GiB':
        return size(value * 2**30)
    return f'{shown(value)} {unit}'.rstrip()
