"""What a job will take on a card: memory, disk and hours."""

from dataclasses import dataclass, replace

from sapiens_plugin.core.streaming.precision import Precision
from sapiens_plugin.workbench.job.job import Job

from .cards import Card
from .duration import StepTime, prediction, training_step
from .footprint import DeviceUse, Measure, device_use, host_use, with_all_params

HOUR = 3600  # s


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    Attributes:
        name: What trains.
        epochs: Its length.
        steps_per_epoch: Optimizer steps an epoch.
        step: How long one takes.
        memory: What it takes of the device.
    """

    name: str
    epochs: int
    steps_per_epoch: int
    step: StepTime
    memory: DeviceUse

    @property
    def hours_per_epoch(self) -> float:
        """Hours of an epoch, without validation."""
        return self.steps_per_epoch * self.step.seconds / HOUR

    @property
    def hours(self) -> float:
        """Hours of the phase, without validation."""
        return self.epochs * self.hours_per_epoch

    @property
    def floor_hours(self) -> float:
        """Hours it takes at least."""
        return self.epochs * self.steps_per_epoch * self.step.floor / HOUR


@dataclass(frozen=True)
class Pass:
    """A pass over persons without training.

    Attributes:
        persons: How many.
        flip: Whether each is looked at twice.
        times: How often the run makes it.
        batch: How long a batch takes.
        memory: What it takes of the device.
    """

    persons: int
    flip: bool
    times: int
    batch: StepTime
    memory: DeviceUse

    @property
    def hours(self) -> float:
        """Hours of one pass."""
        return self._hours(self.batch.seconds)

    @property
    def floor_hours(self) -> float:
        """Hours one pass takes at least."""
        return self._hours(self.batch.floor)

    def _hours(self, seconds: float) -> float:
        return self.persons / self.memory.step.batch * seconds / HOUR


@dataclass(frozen=True)
class Plan:
    """What a job will take on a card; all sizes in bytes.

    Attributes:
        job: The job.
        card: The card.
        precision: What matrix products are computed in there.
        phases: Those of training that have epochs.
        validation: Its validations.
        test: What ``tools/test.py`` does afterwards; not in the total.
        host: Host memory by part.
        disk: Checkpoints by part.
    """

    job: Job
    card: Card
    precision: Precision
    phases: tuple[Phase, ...]
    validation: Pass
    test: Pass
    host: dict[str, int]
    disk: dict[str, int]

    @property
    def largest(self) -> DeviceUse:
        """The pass that takes the most of the device's memory."""
        passes = [phase.memory for phase in self.phases]
        return max([*passes, self.validation.memory], key=lambda use: use.total)

    @property
    def vram_peak(self) -> int:
        """The most that training and validating take of the device's memory."""
        return self.largest.total

    @property
    def fits(self) -> bool:
        """Whether the card's memory holds it."""
        return self.card.vram_mib is None or self.vram_peak <= self.card.vram_mib << 20

    @property
    def validation_hours(self) -> float:
        """Hours of all validations."""
        return self.validation.times * self.validation.hours

    @property
    def total_hours(self) -> float:
        """Hours of the run, validations included."""
        return sum(phase.hours for phase in self.phases) + self.validation_hours

    @property
    def floor_hours(self) -> float:
        """Hours the run takes at least, by arithmetic."""
        training = sum(phase.floor_hours for phase in self.phases)
        return training + self.validation.times * self.validation.floor_hours


def make_plan(job: Job, card: Card, measure: Measure) -> Plan:
    """Compute what a job will take.

    Args:
        job: The job.
        card: Where it runs.
        measure: Describes its passes to the memory model.

    Raises:
        InputError: A streamed job's budget is too small, or its precision gives wrong
            values on this card.
    """
    requested = job.precision
    if job.streaming is None and card.vram_mib is None and requested == 'float16':
        requested = 'bfloat16'  # what --amp does on a CPU
    precision = card.precision(requested)
    dtype = precision.dtype

    given = job
    if job.streaming is not None and card.vram_mib is None:
        # A CPU computes in place, whatever the budget.
        job = job.changed(streaming=replace(job.streaming, vram_budget=None))

    def use(warmup: bool, training: bool, job: Job = job) -> DeviceUse:
        return device_use(
            job,
            measure,
            warmup=warmup,
            training=training,
            dtype=dtype,
            vram_mib=card.vram_mib,
            capability=card.capability,
        )

    warmup_epochs = min(job.warmup_epochs, job.max_epochs)
    phases = []
    for name, epochs, warmup in (
        ('head alone', warmup_epochs, True),
        (_describe(job), job.max_epochs - warmup_epochs, False),
    ):
        if epochs > 0:
            memory = use(warmup, True)
            step = training_step(job, memory, card, dtype, warmup=warmup)
            phases.append(Phase(name, epochs, job.steps_per_epoch, step, memory))

    def without_training(batch, persons, flip, times) -> Pass:
        memory = use(False, False, job.changed(test_batch=batch))
        return Pass(
            *(persons, flip, times),
            prediction(job, memory, card, dtype, flip=flip),
            memory,
        )

    last = phases[-1].memory
    job = with_all_params(job, last.step)
    to_the_end = dict(warmup=warmup_epochs == job.max_epochs)
    return Plan(
        job=given,
        card=card,
        precision=precision,
        phases=tuple(phases),
        validation=without_training(
            job.val_batch, job.persons.val, job.val_flip, len(job.validation_epochs)
        ),
        test=without_training(job.test_batch, job.persons.test, job.test_flip, 1),
        host=host_use(
            job,
            persons=job.persons.train + job.persons.val,
            boundary_bytes=last.host_boundaries,
            computing=last.parts if card.vram_mib is None else None,
            **to_the_end,
        ),
        disk=job.disk_use(**to_the_end),
    )


def _describe(job: Job) -> str:
    if job.frozen_stages < 0:
        return 'everything'
    if job.trained_blocks == 0:
        return 'head alone'
    return f'last {job.trained_blocks} of {job.arch.num_layers} layers'
