"""A plan for people and for programs."""

import textwrap
from collections.abc import Sequence

from .alternatives import Alternative
from .footprint import DeviceUse
from .plan import Plan

_WIDTH = 80
_GIB = 2**30
_MIB = 2**20


def as_dict(plan: Plan, alternatives: Sequence[Alternative]) -> dict:
    """Return a plan as JSON has it: memory in MiB and GiB, times in hours."""
    return dict(
        config=plan.job.name,
        card=plan.card.name,
        card_source=plan.card.source,
        computed_not_measured=True,
        precision=str(plan.precision.dtype).removeprefix('torch.'),
        fits=plan.fits,
        vram_available_mib=plan.card.vram_mib,
        vram_peak_mib=_ceil(plan.vram_peak, _MIB),
        vram_parts_mib=_scaled(plan.largest.parts, _MIB),
        host_ram_gib=_gib(plan.host),
        host_ram_parts_gib=_scaled(plan.host, _GIB),
        disk_gib=_gib(plan.disk),
        disk_parts_gib=_scaled(plan.disk, _GIB),
        phases=[
            dict(
                name=phase.name,
                epochs=phase.epochs,
                tflop_per_step=phase.step.tflop,
                seconds_per_step=phase.step.seconds,
                floor_seconds_per_step=phase.step.floor,
                bound=phase.step.bound,
                steps_per_epoch=phase.steps_per_epoch,
                hours_per_epoch=phase.hours_per_epoch,
                hours=phase.hours,
                vram_peak_mib=_ceil(phase.memory.total, _MIB),
                vram_parts_mib=_scaled(phase.memory.parts, _MIB),
                layout=_layout(phase.memory),
            )
            for phase in plan.phases
        ],
        validation_hours=plan.validation_hours,
        total_hours=plan.total_hours,
        floor_hours=plan.floor_hours,
        test_hours=plan.test.hours,
        test_persons=plan.test.persons,
        test_vram_mib=_ceil(plan.test.memory.total, _MIB),
        alternatives=[
            dict(
                name=alternative.name,
                cost=alternative.cost,
                fits=alternative.plan.fits,
                vram_peak_mib=_ceil(alternative.plan.vram_peak, _MIB),
                host_ram_gib=_gib(alternative.plan.host),
                total_hours=alternative.plan.total_hours,
                floor_hours=alternative.plan.floor_hours,
            )
            for alternative in alternatives
        ],
        notes=list(plan.job.persons.notes),
    )


def as_text(plan: Plan, alternatives: Sequence[Alternative]) -> str:
    """Return a plan as a text of 80 columns."""
    job, card = plan.job, plan.card
    height, width = job.img_size
    lines = [
        f'{job.name} on {card.name}: computed, not measured',
        '',
        f'{"":26}{"epochs":>7}{"TFLOP":>9}{"seconds":>9}{"at":>9}{"hours":>9}'
        f'{"hours":>11}',
        f'{"":26}{"":7}{"a step":>9}{"a step":>9}{"least":>9}{"an epoch":>9}',
    ]
    for phase in plan.phases:
        step = phase.step
        lines.append(
            f'{phase.name:26}{phase.epochs:7}{_n(step.tflop):>9}{_n(step.seconds):>9}'
            f'{_n(step.floor):>9}{_n(phase.hours_per_epoch):>9}{_n(phase.hours):>11}'
        )
    lines += [
        f'{"validation, each":26}{plan.validation.times:7}{"":27}'
        f'{_n(plan.validation.hours):>9}{_n(plan.validation_hours):>11}',
        f'{f"together ({_days(plan.total_hours)})":69}{_n(plan.total_hours):>11}',
        f'{f"at least, by arithmetic ({_days(plan.floor_hours)})":69}'
        f'{_n(plan.floor_hours):>11}',
        '',
        *_sentences(
            f'A step is {job.effective_batch} images of {height}×{width}, '
            f'{job.micro_batch} at a time; an epoch {job.persons.train:,} persons, a '
            f'validation {job.persons.val:,}. What a step waits for: '
            + '; '.join(f'{p.step.bound} ({p.name})' for p in plan.phases)
            + '.',
            f'tools/test.py takes {_n(plan.test.hours)} h more for '
            f'{plan.test.persons:,} persons'
            + (', each also mirrored.' if plan.test.flip else '.'),
        ),
        '',
        _fit(plan),
        *(
            line
            for phase in plan.phases
            for line in _parts(phase.name, phase.memory.parts, _MIB, 'MiB')
        ),
        *_parts('test', plan.test.memory.parts, _MIB, 'MiB'),
        f'Host memory: {_gib(plan.host):.1f} GiB',
        *_parts('', plan.host, _GIB, 'GiB'),
        f'Disk for checkpoints: {_gib(plan.disk):.1f} GiB',
        *_parts('', plan.disk, _GIB, 'GiB'),
    ]
    if alternatives:
        lines += ['', f'{"Instead":26}{"hours":>9}{"MiB":>8}{"host GiB":>10}']
    for alternative in alternatives:
        other = alternative.plan
        too_large = '' if other.fits else '  does not fit'
        lines += [
            f'{alternative.name:26}{_n(other.total_hours):>9}'
            f'{_ceil(other.vram_peak, _MIB):>8,}{_gib(other.host):>10.1f}{too_large}',
            *_wrapped(alternative.cost, indent=4),
        ]
    return '\n'.join(
        [
            *lines,
            '',
            *_sentences(
                f'{card.name}: {card.source}.',
                f'Precision: {str(plan.precision.dtype).removeprefix("torch.")}.',
                *job.persons.notes,
            ),
        ]
    )


def _fit(plan: Plan) -> str:
    peak = f'GPU memory: {_ceil(plan.vram_peak, _MIB):,} MiB'
    if plan.card.vram_mib is None:
        return f'{peak} on a GPU; on this CPU it is host memory'
    verdict = 'fits' if plan.fits else 'DOES NOT FIT'
    return f'{peak} of {plan.card.vram_mib:,}: {verdict}'


def _parts(name: str, parts: dict[str, int], unit: int, symbol: str) -> list[str]:
    precise = 0 if unit == _MIB else 1
    listed = ', '.join(
        f'{part.replace("_", " ")} {size / unit:,.{precise}f}'
        for part, size in parts.items()
        if size
    )
    head = f'{name} {_ceil(sum(parts.values()), unit):,} {symbol}: ' if name else ''
    return _wrapped(f'{head}{listed}', indent=4)


def _layout(use: DeviceUse) -> str | None:
    if use.layout is None:
        return None
    place = 'host' if use.layout.boundaries_on_host else 'device'
    return (
        f'{use.layout.slots} of {use.job.num_blocks} blocks, boundaries every '
        f'{use.layout.spacing} on the {place}'
    )


def _sentences(*sentences: str) -> list[str]:
    return [line for sentence in sentences for line in _wrapped(sentence)]


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    pad = ' ' * indent
    return textwrap.wrap(
        text, _WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
    )


def _n(value: float) -> str:
    """Write a number with three digits or more."""
    if value >= 100:
        return f'{value:,.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def _days(hours: float) -> str:
    days = hours / 24
    return f'{days:,.0f} days' if days >= 10 else f'{days:.1f} days'


def _ceil(size: int, unit: int) -> int:
    return -(-size // unit)


def _gib(parts: dict[str, int]) -> float:
    return sum(parts.values()) / _GIB


def _scaled(parts: dict[str, int], unit: int) -> dict[str, float]:
    return {name: size / unit for name, size in parts.items()}
