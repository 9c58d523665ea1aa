"""How far a training is, and how long it will take."""

import sys
from pathlib import Path
from time import perf_counter

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from sapiens_plugin.engine.logging.job_clock import JobClock, Phase
from sapiens_plugin.engine.logging.status_bar import StatusBar
from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.announce_plan import leave_plan
from sapiens_plugin.jobs.read_config import planned_job
from sapiens_plugin.registry import HOOKS
from sapiens_plugin.workbench.job.job import Job, Persons
from sapiens_plugin.workbench.planning.arithmetic import person_work, training_work
from sapiens_plugin.workbench.report.work_dir import PLAN_NAME

_HEAD_ALONE = 'head alone'


@HOOKS.register_module()
class StatusHook(Hook):
    """Time the steps of a training, and draw its progress on a terminal.

    ``StatusLogProcessor`` puts what is measured here into the log. The time left is
    told for jobs that planning understands; for others the log says why not. Jobs that
    count iterations instead of epochs are left alone. Before a training starts, its
    plan is told and left in the work directory.

    Attributes:
        clock: What was measured; None before a training, and without epochs.
    """

    def __init__(self):
        self.clock: JobClock | None = None
        self._bar: StatusBar | None = None
        self._last = 0.0  # when the last step ended
        self._validated: bool | None = None  # since then; None before the first step

    def before_run(self, runner: Runner) -> None:
        """Plan a training: its data sets are there, its weights not yet."""
        is_training = isinstance(runner.optim_wrapper, BaseOptimWrapper)
        # Planning knows one GPU.
        if not is_training or self.clock is not None or get_world_size() > 1:
            return
        work_dir = Path(runner.work_dir)
        if not (runner.cfg.get('resume') and (work_dir / PLAN_NAME).exists()):
            runner.logger.info(leave_plan(runner.cfg, work_dir, **_persons(runner)))

    def before_train(self, runner: Runner) -> None:
        """Look at what there is to do."""
        self.clock = _make_clock(runner)
        if self.clock and is_main_process() and sys.stdout.isatty():
            self._bar = StatusBar(runner.logger.handlers)
            self._bar.start()
            if isinstance(runner.train_loop, ResumableTrainLoop):
                # However the training ends: what is said then is not to be wrapped.
                runner.train_loop.at_end.callback(self._bar.stop)

    def before_train_epoch(self, runner: Runner) -> None:
        """Take the time since the last epoch: for validation, checkpoints and so on."""
        if self.clock is None:
            return
        now = perf_counter()
        if self._validated is not None:
            self.clock.pause(now - self._last, validated=self._validated)
        steps = len(runner.train_dataloader)
        # Where the batch size was another one, the iterations so far are no place.
        done = (runner.iter - runner.epoch * steps) % steps
        self.clock.begin_epoch(runner.epoch, done=done)
        self._last = now

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Take the time of the step and its wait for data."""
        if self.clock is None:
            return
        now = perf_counter()
        persons = len(data_batch['inputs']) * get_world_size()
        self.clock.step(now - self._last, persons=persons)
        self._last, self._validated = now, False
        if self._bar and self._bar.is_due:
            name, note = 'training', f'loss {outputs["loss"].item():.4g}'
            if left := self.clock.left():
                name = self.clock.phase.name
                note += ', left {}, job {}'.format(*left)
            self._bar.show(
                f'{name} {runner.epoch + 1}/{runner.max_epochs}',
                done=batch_idx + 1,
                total=len(runner.train_dataloader),
                note=note,
            )

    def before_val(self, runner: Runner) -> None:
        """Note that the coming pause has a validation in it."""
        if self._validated is not None:
            self._validated = True

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Draw how far the validation is."""
        if self._bar and self._bar.is_due:
            self._bar.show(
                f'validation {runner.epoch}/{runner.max_epochs}',
                done=batch_idx + 1,
                total=len(runner.val_dataloader),
                note='',
            )

    def after_train(self, runner: Runner) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()


def _persons(runner: Runner) -> dict[str, int]:
    """Count the persons of the data sets that were built for a training."""
    validation = runner.val_loop
    return dict(
        train=len(runner.train_dataloader.dataset),
        val=len(validation.dataloader.sampler) if validation else 0,
    )


def _make_clock(runner: Runner) -> JobClock | None:
    """Describe a job to a clock; None if it has no epochs."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return None
    try:
        job = planned_job(runner.cfg, Persons(**_persons(runner), test=0))
    except InputError as error:
        runner.logger.info(f'The log will not tell the time left. {error}')
        return JobClock(
            (),
            steps_per_epoch=len(runner.train_dataloader),
            validation_epochs=(),
            validation_work=0.0,
        )
    recomputes = job.with_cp or job.streaming is not None
    head_alone = training_work(job, warmup=True, recomputed=0)
    everything = training_work(
        job, warmup=False, recomputed=job.trained_blocks * recomputes
    )
    warmup = min(job.warmup_epochs, job.max_epochs)
    phases = [
        Phase(_HEAD_ALONE, warmup, head_alone.flop * job.batch),
        Phase(_what_trains(job), job.max_epochs, everything.flop * job.batch),
    ]
    return JobClock(
        [p for p, begin in zip(phases, (0, warmup), strict=True) if p.end > begin],
        steps_per_epoch=len(runner.train_dataloader),
        validation_epochs=job.validation_epochs,
        validation_work=person_work(job, flip=job.val_flip).flop * job.persons.val,
        period=job.accumulation,
    )


def _what_trains(job: Job) -> str:
    layers, trained = job.arch.num_layers, job.trained_blocks
    if not trained:
        return _HEAD_ALONE
    return 'everything' if trained == layers else f'last {trained} of {layers} layers'
