"""Jobs near a given one that fit or end sooner, and the best one inside limits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sapiens_plugin.core.streaming.modes import read_streaming
from sapiens_plugin.core.utils.amounts import duration
from sapiens_plugin.core.vit.architectures import ARCHITECTURES, Architecture, name_of
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.job import Job

from .cards import Card
from .footprint import CONTEXT, Measure
from .limits import Limits
from .plan import Plan, make_plan

MIB = 2**20
WEEK = 7 * 24
"""Hours."""

PUBLISHED_AP = {
    'sapiens_0.3b': 79.6,
    'sapiens_0.6b': 81.2,
    'sapiens_1b': 82.1,
    'sapiens_2b': 82.2,
}
"""On COCO val at 1024×768; none is published for other inputs."""

IMG_SIZES = ((384, 288), (320, 240), (256, 192))
"""(height, width) in px, the larger first."""

FEW_BLOCKS = 16
"""Under layer decay 0.85, the layer before these learns at 7% of the head's rate."""

LEAST_EPOCHS = 6
"""Epochs of fine-tuning that a search does not go below. A choice, not a finding."""

WORTH_SAVING = 0.03
"""The share of a job's hours from which on another job is shorter. A choice, too."""

_STREAMED = {
    ARCHITECTURES['sapiens_0.3b']: 'configs/sapiens0.3b_gtx1650_week.py',
    ARCHITECTURES['sapiens_1b']: 'configs/sapiens1b_gtx1650.py',
    ARCHITECTURES['sapiens_2b']: 'configs/sapiens2b_gtx1650.py',
}


@dataclass(frozen=True)
class Alternative:
    """A job near another one.

    Attributes:
        name: What is changed.
        cost: What that costs, in a clause.
        plan: What it will take.
    """

    name: str
    cost: str
    plan: Plan

    def helps(self, plan: Plan) -> bool:
        """Whether it fits, and saves what ``plan`` has too little of, or hours."""
        if not self.plan.fits:
            return False
        return not plan.fits or self.plan.total_hours <= plan.total_hours * (
            1 - WORTH_SAVING
        )


def nearest_jobs(
    plan: Plan, measure: Measure, *, hours: float = WEEK
) -> list[Alternative]:
    """Plan the jobs that differ from a plan's in one thing.

    Args:
        plan: Of the job.
        measure: Describes passes to the memory model.
        hours: What a job with fewer epochs is to end in.
    """
    found = []
    for name, cost, job in _single_changes(plan, measure, hours):
        try:
            found.append(Alternative(name, cost, make_plan(job, plan.card, measure)))
        except InputError:
            continue  # its budget does not do
    return found


def _holds_the_model(plan: Plan) -> bool:
    """Whether a card has room for weights, gradients and moments."""
    needed = 16 * plan.job.num_params
    return plan.card.vram_mib is not None and needed < plan.card.vram_mib * MIB


def streamed_config(arch: Architecture) -> str:
    """Name the shipped config that streams a model, or else that of the 1B."""
    return _STREAMED.get(arch, _STREAMED[ARCHITECTURES['sapiens_1b']])


def _single_changes(
    plan: Plan, measure: Measure, hours: float
) -> Iterator[tuple[str, str, Job]]:
    job = plan.job
    if job.streaming is None and not plan.fits:
        yield (
            'weights streamed',
            'the same training, in more time; weights and moments in host memory, as '
            f'in {streamed_config(job.arch)}',
            streamed(job),
        )
    elif job.streaming and not plan.fits:
        budget = plan.card.vram_mib - CONTEXT // MIB
        yield (
            f'vram_budget {max(budget, 1)}',
            'the same training; more weights travel (model.vram_budget)',
            _with_budget(job, budget),
        )
    elif job.streaming and _holds_the_model(plan):
        yield (
            'weights on the GPU',
            'the same training, not streamed; start from configs/sapiens1b_a100.py',
            job.changed(streaming=None, micro_batch=job.batch, with_cp=True),
        )
    if job.micro_batch > 1:
        yield (
            f'micro-batch 1 × {job.effective_batch}',
            'matrix products of half the size or less, slower on a large GPU',
            one_at_a_time(job),
        )
    for size in _smaller_sizes(job):
        share = size[0] * size[1] / (job.img_size[0] * job.img_size[1])
        yield (
            f'{size[0]}×{size[1]}',
            f'{share:.0%} of the pixels: less AP, by how much nobody has published',
            job.changed(img_size=size),
        )
    if job.workers:
        yield (
            'no loader workers',
            'images load between the steps and not beside them',
            job.changed(loading=dict.fromkeys(job.loading, 0), worker_memory={}),
        )
    for name, arch in _smaller_models(job):
        yield (
            name,
            'a smaller model' + _published(arch, job.arch),
            _with_model(job, arch),
        )
    fewer = epochs_within(job, plan.card, measure, hours)
    if fewer is not None and fewer.max_epochs < job.max_epochs:
        limit = 'a week' if hours == WEEK else duration(hours)
        yield (
            f'{epochs_in_words(fewer)} epochs',
            f'what ends within {limit}, instead of {epochs_in_words(job)}; the '
            'published recipe has 210',
            fewer,
        )
    few = min(FEW_BLOCKS, max(job.arch.num_layers * 2 // 5, 1))
    if job.trained_blocks > few:
        yield (
            f'last {few} of {job.arch.num_layers} layers',
            f'the others keep their pre-trained weights; under layer decay 0.85 they '
            f"learn at {0.85**few:.0%} of the head's rate or less",
            job.changed(frozen_stages=job.arch.num_layers - few),
        )


def streamed(job: Job) -> Job:
    """Return the job with its weights in host memory, two images at a time.

    Its validations and tests take eight: the head takes a batch at once.
    """
    return job.changed(
        streaming=read_streaming(),
        precision='auto',
        with_cp=False,
        batch=job.effective_batch,
        accumulation=1,
        micro_batch=min(2, job.effective_batch),
        val_batch=min(8, job.val_batch),
        test_batch=min(8, job.test_batch),
    )


def one_at_a_time(job: Job) -> Job:
    """Return the job with one image at a time, and the same effective batch."""
    if job.streaming:
        return job.changed(micro_batch=1)
    return job.changed(batch=1, micro_batch=1, accumulation=job.effective_batch)


def epochs_within(job: Job, card: Card, measure: Measure, hours: float) -> Job | None:
    """Return the job with as many epochs as end in time.

    A job that is too long gets a warm-up of one epoch at most, and a checkpoint after
    every epoch.

    Returns:
        None if not even one epoch after the warm-up does.
    """
    if make_plan(job, card, measure).total_hours <= hours:
        return job
    warmup = min(job.warmup_epochs, 1)

    def total(epochs: int) -> float:
        fewer = job.changed(warmup_epochs=warmup, max_epochs=epochs)
        return make_plan(fewer, card, measure).total_hours

    # Hours grow with epochs: halve the interval until two numbers meet.
    fits, too_many = warmup, job.max_epochs
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if total(middle) <= hours:
            fits = middle
        else:
            too_many = middle
    if fits == warmup:
        return None
    return _with_epochs(job, warmup, fits)


def _with_epochs(job: Job, warmup: int, epochs: int) -> Job:
    # With so few epochs, one is too much to lose.
    checkpoints = replace(job.checkpoints, interval=1)
    return job.changed(warmup_epochs=warmup, max_epochs=epochs, checkpoints=checkpoints)


def best_within(
    job: Job,
    card: Card,
    measure: Measure,
    *,
    limits: Limits,
) -> Plan:
    """Search for the best plan inside limits.

    Best is, in this order: the largest model, the largest input, the most layers that
    train, the most epochs. Micro-batches are as given, or 1 where that does not fit.
    Nothing goes above the given job;
    models and inputs come in published sizes, layers are all or the last
    :data:`FEW_BLOCKS`, and fewer than :data:`LEAST_EPOCHS` epochs after the warm-up are
    not taken (unless the job itself has fewer).

    Args:
        job: Where to start from.
        card: Where it runs.
        measure: Describes passes to the memory model.
        limits: What to stay within; the card's memory is one in any case.

    Raises:
        InputError: Nothing fits.
    """
    least = min(LEAST_EPOCHS, job.max_epochs - min(job.warmup_epochs, job.max_epochs))
    sizes = [size for size in (limits.vram_mib, card.vram_mib) if size is not None]
    within = replace(limits, vram_mib=min(sizes, default=None))
    hours, plan = within.hours, None
    for candidate in _candidates(job):
        plan = _fitting(candidate, card, measure, within.vram_mib)
        if plan is None:
            continue
        if hours is None or plan.total_hours <= hours:
            return plan
        fewer = epochs_within(plan.job, card, measure, hours)
        if fewer and fewer.max_epochs - fewer.warmup_epochs >= least:
            return make_plan(fewer, card, measure)
    nothing = f'No job near {job.name} stays within {within} on {card.name}: not even '
    if plan is not None:
        warmup = min(job.warmup_epochs, 1)
        shortest = make_plan(
            _with_epochs(plan.job, warmup, warmup + least), card, measure
        )
        raise InputError(
            f'{nothing}{_smallest(job)} with {epochs_in_words(shortest.job)} epochs, '
            f'which takes {_at_least(shortest.total_hours)}. Allow that many.'
        )
    raise InputError(
        f'{nothing}{_smallest(job)}. Allow more'
        + (
            '.'
            if job.streaming
            else ', or start from a config that streams its weights, such as '
            f'{streamed_config(job.arch)}.'
        )
    )


def _fitting(
    job: Job, card: Card, measure: Measure, limit_mib: int | None
) -> Plan | None:
    """Plan a job inside a memory, one image at a time where more do not fit."""
    for variant in (job, one_at_a_time(job)) if job.micro_batch > 1 else (job,):
        if variant.streaming and limit_mib is not None:
            variant = _with_budget(variant, limit_mib - CONTEXT // MIB)
        try:
            plan = make_plan(variant, card, measure)
        except InputError:
            continue  # its budget does not do
        if limit_mib is None or plan.vram_peak <= limit_mib * MIB:
            return plan
    return None


def _candidates(job: Job) -> Iterator[Job]:
    """Yield the job and smaller ones, best first."""
    models = [job, *(_with_model(job, arch) for _, arch in _smaller_models(job))]
    for model in models:
        for size in (job.img_size, *_smaller_sizes(job)):
            depth = model.arch.num_layers
            fewer = [FEW_BLOCKS] if model.trained_blocks > FEW_BLOCKS else []
            for trained in (model.trained_blocks, *fewer):
                frozen = depth - trained
                same = trained == model.trained_blocks
                yield model.changed(
                    img_size=size,
                    frozen_stages=model.frozen_stages if same else frozen,
                )


def _with_model(job: Job, arch: Architecture) -> Job:
    """Exchange the model; as many of its last layers train as before."""
    if job.frozen_stages <= 0:
        return job.changed(arch=arch)
    frozen = arch.num_layers - min(job.trained_blocks, arch.num_layers)
    return job.changed(arch=arch, frozen_stages=frozen or -1)


def _with_budget(job: Job, budget_mib: int) -> Job:
    own = job.streaming.vram_budget or budget_mib
    budget = max(min(own, budget_mib), 1)
    return job.changed(streaming=replace(job.streaming, vram_budget=budget))


def _smaller_sizes(job: Job) -> list[tuple[int, int]]:
    height, width = job.img_size
    return [size for size in IMG_SIZES if size[0] < height and size[1] < width]


def _smaller_models(job: Job) -> list[tuple[str, Architecture]]:
    def size(arch: Architecture) -> int:
        return arch.num_layers * arch.embed_dims**2

    return [
        (name, arch)
        for name, arch in reversed(ARCHITECTURES.items())
        if size(arch) < size(job.arch)
    ]


def _published(arch: Architecture, instead_of: Architecture) -> str:
    ap = {ARCHITECTURES[name]: ap for name, ap in PUBLISHED_AP.items()}
    if instead_of not in ap:
        return ''
    return f': {ap[arch]} AP published at 1024×768, instead of {ap[instead_of]}'


def _at_least(hours: float) -> str:
    """Write hours so that a search within that many succeeds."""
    return f'{math.ceil(hours):,} hours' if hours > 2 else f'{hours + 0.001:.3f} hours'


def _smallest(job: Job) -> str:
    *_, last = _candidates(job)
    height, width = last.img_size
    model = name_of(embed_dims=last.arch.embed_dims, num_layers=last.arch.num_layers)
    return f'{model} at {height}×{width}'


def epochs_in_words(job: Job) -> str:
    """Write a job's epochs: ``'10 + 100'``, the warm-up first, or ``'110'``."""
    warmup = min(job.warmup_epochs, job.max_epochs)
    rest = job.max_epochs - warmup
    return f'{warmup} + {rest}' if warmup else f'{rest}'
