"""A plan for people and for programs."""

import textwrap
from collections.abc import Sequence

from sapiens_plugin.core.utils.amounts import duration, number, size
from sapiens_plugin.core.vit.architectures import name_of
from sapiens_plugin.workbench.job.job import Job

from .alternatives import Alternative, epochs_in_words, streamed_config
from .footprint import DeviceUse
from .limits import Limits
from .plan import Plan

_WIDTH = 80
_GIB = 2**30
_MIB = 2**20


def as_dict(
    plan: Plan,
    alternatives: Sequence[Alternative],
    *,
    limits: Limits | None = None,
    given: Job | None = None,
) -> dict:
    """Return a plan as JSON has it: memory in MiB and GiB, times in hours.

    Args:
        plan: The plan.
        alternatives: Jobs near it.
        limits: Those of the search that found it, if one did.
        given: The job that was searched from.
    """
    limits = limits or Limits()
    return dict(
        config=plan.job.name,
        job=_job(plan),
        limits=dict(hours=limits.hours, vram_mib=limits.vram_mib),
        changed=_changes(plan, given),
        card=plan.card.name,
        card_source=plan.card.source,
        computed_not_measured=True,
        precision=_precision(plan),
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
                helps=alternative.helps(plan),
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


def as_text(
    plan: Plan,
    alternatives: Sequence[Alternative],
    *,
    limits: Limits | None = None,
    given: Job | None = None,
) -> str:
    """Return a plan as a text of 80 columns; the arguments are :func:`as_dict`'s."""
    job, card = plan.job, plan.card
    lines = [
        *_title(plan, limits, given),
        '',
        f'{"":26}{"epochs":>7}{"TFLOP":>9}{"seconds":>9}{"at":>9}{"time":>9}'
        f'{"time":>11}',
        f'{"":26}{"":7}{"a step":>9}{"a step":>9}{"least":>9}{"an epoch":>9}'
        f'{"in all":>11}',
    ]
    for phase in plan.phases:
        step = phase.step
        lines.append(
            f'{phase.name:26}{phase.epochs:7}{number(step.tflop):>9}'
            f'{number(step.seconds):>9}{number(step.floor):>9}'
            f'{duration(phase.hours_per_epoch):>9}{duration(phase.hours):>11}'
        )
    lines += [
        f'{"validation, each":26}{plan.validation.times:7}{"":27}'
        f'{duration(plan.validation.hours):>9}{duration(plan.validation_hours):>11}',
        _sum('together', plan.total_hours),
        _sum('at least, by arithmetic', plan.floor_hours),
        '',
        *_sentences(
            f'A step is {job.effective_batch} images, {job.micro_batch} at a time; an '
            f'epoch {job.persons.train:,} persons, a validation {job.persons.val:,}. '
            'What a step waits for: '
            + '; '.join(f'{p.step.bound} ({p.name})' for p in plan.phases)
            + '.',
            f'tools/test.py takes {duration(plan.test.hours)} more for '
            f'{plan.test.persons:,} persons'
            + (', each also mirrored.' if plan.test.flip else '.'),
        ),
        '',
        *_fit(plan, limits),
        *(
            line
            for phase in plan.phases
            for line in _device_parts(phase.name, phase.memory)
        ),
        *_device_parts('test', plan.test.memory),
        f'Host memory: {_total(plan.host)}',
        *_parts(plan.host),
        f'Disk for checkpoints: {_total(plan.disk)}',
        *_parts(plan.disk),
        *_instead(plan, alternatives),
        '',
        *_sentences(
            f'{card.name}: {card.source}.',
            f'Precision: {_precision(plan)}.',
            *job.persons.notes,
        ),
    ]
    return '\n'.join(lines)


def _title(plan: Plan, limits: Limits | None, given: Job | None) -> list[str]:
    job = plan.job
    height, width = job.img_size
    found = f'found near {job.name}' if given else job.name
    lines = _sentences(
        f'{found} on {plan.card.name}: computed, not measured',
        f'{_model_name(job)}, {height}×{width}, {job.effective_batch} images a step '
        f'({job.micro_batch} at a time), {epochs_in_words(job)} epochs: '
        + ', then '.join(phase.name for phase in plan.phases)
        + (
            '. Weights in host memory, streamed.'
            if job.streaming
            else '. Weights on the GPU.'
            if plan.card.vram_mib is not None
            else '.'
        ),
    )
    if given:
        lines += _sentences(
            f'Searched within {limits}. Changed from the given job: '
            + ('; '.join(_changes(plan, given)) or 'nothing')
            + '.'
        )
    if plan.card.vram_mib is None:
        import torch

        why = '' if torch.version.cuda else f': PyTorch {torch.__version__} has no CUDA'
        lines = [
            *_sentences(
                f'No NVIDIA GPU can be used here{why}. This is a plan for the CPU; '
                'name a card with --gpu, such as --gpu gtx1650.'
            ),
            '',
            *lines,
        ]
    return lines


def _model_name(job: Job) -> str:
    return name_of(
        embed_dims=job.arch.embed_dims, num_layers=job.arch.num_layers
    ).partition(' (')[0]


def _job(plan: Plan) -> dict:
    job = plan.job
    return dict(
        arch=_model_name(job),
        img_size=job.img_size,
        batch=job.batch,
        micro_batch=job.micro_batch,
        accumulative_counts=job.accumulation,
        effective_batch=job.effective_batch,
        max_epochs=job.max_epochs,
        warmup_epochs=min(job.warmup_epochs, job.max_epochs),
        frozen_stages=job.frozen_stages,
        trains=plan.phases[-1].name,
        streamed=job.streaming is not None,
        vram_budget=job.streaming and job.streaming.vram_budget,
        num_workers=job.workers,
    )


def _changes(plan: Plan, given: Job | None) -> list[str]:
    """Say in what a job that was found differs from the given one."""
    job = plan.job
    if given is None:
        return []
    texts = {
        'model': (_model_name(job), _model_name(given)),
        'input': tuple('{}×{}'.format(*each.img_size) for each in (job, given)),
        'layers that train': (job.trained_blocks, given.trained_blocks),
        'epochs': (epochs_in_words(job), epochs_in_words(given)),
        'images at a time': (job.micro_batch, given.micro_batch),
        'vram_budget': tuple(
            each.streaming and each.streaming.vram_budget for each in (job, given)
        ),
        'epochs between checkpoints': (
            job.checkpoints.interval,
            given.checkpoints.interval,
        ),
    }
    return [
        f'{name} {new}, not {old}' for name, (new, old) in texts.items() if new != old
    ]


def _fit(plan: Plan, limits: Limits | None) -> list[str]:
    card = plan.card
    if card.vram_mib is None:
        return [f'Memory to compute in: {size(plan.vram_peak)}, of the host here']
    asked = limits.vram_mib if limits else None
    source = ''
    if asked is not None:
        source = (
            ' (--vram)' if asked == card.vram_mib else f', less than --vram {asked:,}'
        )
    verdict = 'fits' if plan.fits else 'DOES NOT FIT'
    peak = f'GPU memory: {_ceil(plan.vram_peak, _MIB):,} MiB'
    lines = [f'{peak} of {card.vram_mib:,}{source}: {verdict}']
    if not plan.fits:
        parts = sorted(plan.largest.parts.items(), key=lambda part: -part[1])[:3]
        most = ', '.join(f'{_words(name)} {_mib(count)}' for name, count in parts)
        lines += _sentences(f'Most of it is {most} MiB.')
    return lines


def _instead(plan: Plan, alternatives: Sequence[Alternative]) -> list[str]:
    helpful = [each for each in alternatives if each.helps(plan)]
    others = [each for each in alternatives if not each.helps(plan)]
    lines = []
    if helpful:
        lines += ['', f'{"Instead":26}{"time":>9}{"MiB":>8}{"host":>10}']
    for alternative in helpful:
        other = alternative.plan
        lines += [
            f'{alternative.name:26}{duration(other.total_hours):>9}'
            f'{_mib(other.vram_peak):>8}{_total(other.host):>10}',
            *_wrapped(alternative.cost, indent=4),
        ]
    if others:
        why = 'Of no help here' if plan.fits else 'What does not fit either'
        listed = ', '.join(
            f'{each.name} ({duration(each.plan.total_hours)}, '
            f'{_mib(each.plan.vram_peak)} MiB)'
            for each in others
        )
        lines += ['', *_sentences(f'{why}: {listed}.')]
    if not (plan.fits or helpful):
        lines += _sentences(
            'The way out is a job that keeps its weights in host memory, with a '
            f'smaller input: {streamed_config(plan.job.arch)}.'
            if plan.job.streaming is None
            else 'The way out is a search, which changes more than one thing: --vram '
            f'{plan.card.vram_mib}MiB.'
        )
    return lines


def _device_parts(name: str, use: DeviceUse) -> list[str]:
    parts = ', '.join(
        f'{_words(part)} {_mib(count)}' for part, count in use.parts.items() if count
    )
    return _wrapped(f'{name} {_mib(use.total)} MiB: {parts}', indent=4)


def _parts(parts: dict[str, int]) -> list[str]:
    listed = ', '.join(
        f'{_words(part)} {size(count)}' for part, count in parts.items() if count
    )
    return _wrapped(listed, indent=4)


def _words(name: str) -> str:
    return name.replace('_', ' ').replace('gpu', 'GPU')


def _layout(use: DeviceUse) -> str | None:
    if use.layout is None:
        return None
    place = 'host' if use.layout.boundaries_on_host else 'device'
    return (
        f'{use.layout.slots} of {use.step.num_blocks} blocks, boundaries every '
        f'{use.layout.spacing} on the {place}'
    )


def _precision(plan: Plan) -> str:
    return str(plan.precision.dtype).removeprefix('torch.')


def _sum(name: str, hours: float) -> str:
    if hours >= 48:
        days = hours / 24
        name += f' ({days:,.0f} days)' if days >= 10 else f' ({days:.1f} days)'
    return f'{name:69}{duration(hours):>11}'


def _sentences(*sentences: str) -> list[str]:
    return [line for sentence in sentences for line in _wrapped(sentence)]


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    pad = ' ' * indent
    return textwrap.wrap(
        text, _WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
    )


def _mib(count: int) -> str:
    return f'{_ceil(count, _MIB):,}'


def _ceil(count: int, unit: int) -> int:
    return -(-count // unit)


def _total(parts: dict[str, int]) -> str:
    return size(sum(parts.values()))


def _gib(parts: dict[str, int]) -> float:
    return sum(parts.values()) / _GIB


def _scaled(parts: dict[str, int], unit: int) -> dict[str, float]:
    return {name: count / unit for name, count in parts.items()}
