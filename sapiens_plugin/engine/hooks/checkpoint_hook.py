"""Checkpoints by time, beside those of epochs and of the best; what to resume from."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.logging import MessageHub
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from sapiens_plugin.core.checkpoints import frozen
from sapiens_plugin.core.checkpoints.choose import choose_for
from sapiens_plugin.core.checkpoints.run_files import (
    BY_TIME,
    by_time,
    folder_of,
    forget_last,
    is_by_time,
    last_of,
    set_last,
    unfinished,
)
from sapiens_plugin.core.checkpoints.run_identity import KEY, Run, identify
from sapiens_plugin.core.checkpoints.saving import (
    CheckpointNotWritten,
    to_the_last_byte,
)
from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.engine.utils.start import Place, Start
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.evaluation import best_rule
from sapiens_plugin.registry import HOOKS

_OTHER_DISK = '--cfg-options default_hooks.checkpoint.out_dir=PATH'
# Seconds until a checkpoint is tried again that the disk did not take.
_RETRY = 60


@HOOKS.register_module()
class CheckpointHook(StockCheckpointHook):
    """Save so often, and so carefully, that an interruption costs minutes.

    Besides what MMEngine's hook saves, there is a checkpoint each ``interval_minutes``,
    between two optimizer steps. It is for resuming: weights that do not train are in a
    file of their own beside it. ``epoch_N.pth`` and ``best_*.pth`` hold everything.

    - An old checkpoint goes when the new one is on the disk, ``last_checkpoint`` names
      it, and not before.
    - When the disk does not take one, the run goes on, warns, and tries again in a
      minute. Of two checkpoints by time, the older one makes room. Only a last state
      that cannot be saved is an error.
    - ``--resume`` takes the newest whole one of this run. Where all are damaged, it
      starts nothing.
    - Each says of which run it is. Those of another run are neither taken nor removed,
      wherever directories were copied or moved.

    Args:
        interval_minutes: Time from one checkpoint to the next; None saves none by
            time.
        max_keep_by_time: How many checkpoints by time are kept.
        **kwargs: Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        InputError: An argument is out of its range, or ``filename_tmpl`` names what
            this hook names.
    """

    def __init__(
        self,
        *,
        interval_minutes: float | None = 30,
        max_keep_by_time: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.args:
            raise InputError(
                f'CheckpointHook: there is no argument {next(iter(self.args))!r}.'
            )
        if interval_minutes is not None and not interval_minutes > 0:
            raise InputError(
                f'CheckpointHook: interval_minutes={interval_minutes} should be more '
                'than 0, or None for no checkpoints by time.'
            )
        if max_keep_by_time < 1:
            raise InputError(
                f'CheckpointHook: max_keep_by_time={max_keep_by_time} should be 1 or '
                'more; interval_minutes=None saves no checkpoints by time.'
            )
        self._has_by_time = not is_by_time(self.filename_tmpl.format(1))
        if interval_minutes is not None and not self._has_by_time:
            raise InputError(
                f'CheckpointHook: checkpoints by time have names like {BY_TIME}, and '
                'with by_epoch=False or filename_tmpl so have those of interval. Give '
                'another filename_tmpl, or set interval_minutes=None.'
            )
        self.interval_minutes = interval_minutes
        self.max_keep_by_time = max_keep_by_time
        self._folder: Path | None = None
        self._run: Run | None = None  # of the main process
        self._due = 0.0  # of time.monotonic()
        # Why the state of an epoch is in no checkpoint.
        self._owed: CheckpointNotWritten | None = None
        self._just_saved: Path | None = None
        self._leaves_frozen_out = False
        self._frozen_weights: tuple | None = None  # what self._note is about
        self._note: dict[str, str] | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from.

        Raises:
            InputError: The one that was asked for is damaged, or all are.
        """
        start = Start.of(runner)
        if not isinstance(runner.optim_wrapper, BaseOptimWrapper):
            # A test, with the config that a resumed run left.
            start._replace(resumes=False).hand_to(runner)
            return
        if self._folder is not None:
            return  # a test after the training
        answer: list[Any] = [None, None, None]
        if is_main_process():
            try:
                answer[:2] = self._begin(runner, start)
            except (InputError, OSError) as error:  # the others wait for an answer
                answer[2] = str(error)
        broadcast_object_list(answer)
        self._folder, path, problem = answer
        if problem:
            raise InputError(problem)
        if path is not None:
            start._replace(path=path).hand_to(runner)

    def _begin(self, runner: Runner, start: Start) -> tuple[Path, str | None]:
        """Tell where checkpoints go, and which one the run goes on from."""
        work_dir = Path(runner.work_dir)
        folder = folder_of(work_dir, self.out_dir if self._is_local else None)
        path = None
        run, taken = identify(
            work_dir, folder, anew=not start.resumes, logger=runner.logger
        )
        if taken != folder:
            runner.logger.info(
                f'{folder} has the checkpoints of another run. Those of this one go to '
                f'{taken}.'
            )
        if start.resumes and '://' not in str(start.path):
            path = choose_for(
                run,
                taken,
                logger=runner.logger,
                named=start.path,
                filename_tmpl=self.filename_tmpl,
            )
        self._run = run.started(Path(path) if path else None, taken)
        self._run.write(work_dir, runner.logger)
        return taken, path

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Tell the train loop where it goes on.

        Raises:
            InputError: That is within an epoch, and the loop is a stock one.
        """
        if not Start.of(runner).resumes:
            return
        place, loop = Place.of(checkpoint['meta']), runner.train_loop
        if isinstance(loop, ResumableTrainLoop):
            # Read by Runner.resume, which sets the loop's iteration by it.
            checkpoint['meta']['iter'] = loop.resume_from(place).iter
        elif (
            isinstance(loop, EpochBasedTrainLoop)
            and place.steps_per_epoch is not None
            and place.iter != place.epoch * place.steps_per_epoch
        ):
            raise InputError(
                'The checkpoint was saved within an epoch, and '
                f'{type(loop).__name__} can only begin one. Set '
                "train_cfg.type='sapiens_plugin.ResumableTrainLoop', or resume from an "
                'epoch_N.pth.'
            )

    def before_train(self, runner: Runner) -> None:
        """Clear up after saves that were cut short, and start the clock.

        Raises:
            InputError: The train loop cannot resume within an epoch.
        """
        if self.interval_minutes is not None and not isinstance(
            runner.train_loop, ResumableTrainLoop
        ):
            raise InputError(
                'Checkpoints by time are of use with a loop that can resume within an '
                f'epoch, and this job has train_cfg.type='
                f'{type(runner.train_loop).__name__}. '
                "Set train_cfg.type='sapiens_plugin.ResumableTrainLoop', or "
                'default_hooks.checkpoint.interval_minutes=None.'
            )
        kept = self._take_over(runner)
        super().before_train(runner)
        if self._is_local:
            self.out_dir = str(self._folder)
        for step in kept:
            self._remove_saved(runner, self._path_of(step))
        start = Start.of(runner)
        if start.resumes:
            self.last_ckpt = runner.message_hub.get_info('last_ckpt', None)
            if path := start.path:
                here = path if '://' in path else Path(path).absolute()
                self._point_at(runner, here)  # until there is a newer one
        if is_main_process():
            for part in unfinished(Path(runner.work_dir), self._folder):
                self._remove(runner, part)
        self._wait()

    def _take_over(self, runner: Runner) -> list[int]:
        """Take over which checkpoints a resumed run keeps.

        Returns:
            The steps of those that it keeps no longer.
        """
        infos = runner.message_hub.runtime_info
        start = Start.of(runner)
        if self._run is None or not start.resumes or not start.path:
            return []
        if self._is_local and not self._run.has_saved(Path(start.path), self._folder):
            for name in list(infos):
                if name.startswith(('keep_ckpt_ids', 'best_ckpt')):
                    del infos[name]  # files of the other run
        if self.max_keep_ckpts <= 0 or 'keep_ckpt_ids' not in infos:
            return []
        kept = list(infos['keep_ckpt_ids'])
        infos['keep_ckpt_ids'] = kept[-self.max_keep_ckpts :]
        return kept[: -self.max_keep_ckpts]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Save if it is time, between two optimizer steps."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if (
            self.interval_minutes is not None
            and time.monotonic() >= self._due
            and runner.optim_wrapper.should_update()
            and is_main_process()
        ):
            self._save_by_time(runner)

    def after_train(self, runner: Runner) -> None:
        """Try once more to save the last state, if that has failed.

        Raises:
            InputError: It cannot be saved.
        """
        if self._owed is not None:
            self._save_checkpoint_with_step(
                runner,
                runner.epoch if self.by_epoch else runner.iter,
                self._meta(runner, runner.epoch, runner.iter, validation_due=False),
            )
        if self._owed is not None:
            last = last_of(runner.work_dir)
            raise InputError(
                'The training is over, and its last state could not be saved in '
                f'{self._owed.path}: {self._owed.reason}. '
                + (
                    f'The newest checkpoint is {last}. Mend that, or name another disk '
                    f'with {_OTHER_DISK}, and run the command again with --resume: '
                    'what came after it is trained again.'
                    if last
                    else 'There is no other checkpoint. Mend that, or name another '
                    f'disk with {_OTHER_DISK}, and train again.'
                )
            ) from self._owed
        super().after_train(runner)
        if is_main_process() and self._is_last(runner):
            for path in self._by_time():
                self._remove(runner, path)
            self._note = None
            self._remove_by_time(runner)  # and what they needed

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name the run; leave weights that do not train out of a checkpoint by time.

        Raises:
            CheckpointNotWritten: The file that they go to instead was not taken.
        """
        if self._run is not None:
            checkpoint['meta'][KEY] = self._run.note
        # The average of the weights, where there is one, is what a test loads.
        if not self._leaves_frozen_out or 'ema_state_dict' in checkpoint:
            return
        state = checkpoint['state_dict']
        parameters = {
            name: parameter
            for name, parameter in unwrap(runner.model).named_parameters()
            if not parameter.requires_grad and name in state
        }
        if not parameters:
            self._note = self._frozen_weights = None
            return
        weights = {name: state.pop(name) for name in parameters}
        # The same memory, and not written to since.
        now = tuple((n, p.data_ptr(), p._version) for n, p in parameters.items())
        if now != self._frozen_weights or not frozen.is_whole(self._note, self._folder):
            self._note = frozen.set_aside(weights, self._folder, run=self._run)
            self._frozen_weights = now
        checkpoint[frozen.KEY] = self._note

    def save_now(self, runner: Runner) -> Path | None:
        """Save a checkpoint by time, though it may not be time, of a run that leaves.

        To be called by all processes, in ``after_train_iter`` between two optimizer
        steps or during a validation; the main process saves.

        Returns:
            The file, for every process; None if it could not be written, which the log
            tells, or if the train loop could not go on from it.
        """
        if not isinstance(runner.train_loop, ResumableTrainLoop):
            return None
        answer = [None]
        if is_main_process():
            with to_the_last_byte():
                answer = [self._save_by_time(runner, leaving=True)]
        broadcast_object_list(answer)
        return answer[0]

    def _is_last(self, runner: Runner) -> bool:
        """Tell whether a checkpoint of an epoch holds the last state."""
        return self.last_ckpt is not None and last_of(runner.work_dir) == self.last_ckpt

    # --- Saving -------------------------------------------------------------------

    def _save_by_time(self, runner: Runner, *, leaving: bool = False) -> Path | None:
        # In a validation the iteration has been counted already.
        in_validation = runner.train_loop.validation_due
        iteration = runner.iter if in_validation else runner.iter + 1
        meta = self._meta(runner, runner.epoch, iteration, validation_due=in_validation)
        path = self._folder / BY_TIME.format(iteration)
        if path == self._just_saved and path.exists():
            return path

        def save() -> None:
            self._leaves_frozen_out = True
            try:
                runner.save_checkpoint(
                    str(self._folder),
                    path.name,
                    save_optimizer=self.save_optimizer,
                    save_param_scheduler=self.save_param_scheduler,
                    meta=meta,
                    by_epoch=False,
                    **self.args,
                )
            finally:
                self._leaves_frozen_out = False

        started = time.monotonic()
        if error := self._write(runner, save):
            if leaving:
                runner.logger.warning(
                    f'{error.path} could not be written: {error.reason}.'
                )
            else:
                self._try_later(runner, error)
            return None
        seconds = time.monotonic() - started
        runner.logger.info(f'Saved {path} in {seconds:.1f} s.')
        self._point_at(runner, path)
        self._just_saved = path
        self._owed = None
        self._wait()
        self._remove_by_time(runner)
        return path

    def _save_checkpoint(self, runner: Runner) -> None:
        loop = runner.train_loop
        if self.by_epoch:
            step = runner.epoch + 1
            due = isinstance(loop, ResumableTrainLoop) and loop.validates_after(step)
            meta = self._meta(runner, step, runner.iter, validation_due=due)
        else:
            step = runner.iter + 1
            meta = self._meta(runner, runner.epoch, step, validation_due=False)
        self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        path, name = self._path_of(step), self.filename_tmpl.format(step)
        hub = runner.message_hub
        before = dict(hub.runtime_info)
        hub.update_info('last_ckpt', path)
        kept = []
        if self.max_keep_ckpts > 0:
            kept = [s for s in self.keep_ckpt_ids if s != step] + [step]
            # With one too many: a resumed run removes it if this one does not.
            hub.update_info('keep_ckpt_ids', kept)

        def save() -> None:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )

        if error := self._write(runner, save):
            _take_back(hub, before)
            self._try_later(runner, error)
            if self.last_ckpt != path:  # else the weights are in it all the same
                self._owed = error
            return
        self._point_at(runner, path)
        self._owed = None
        self.last_ckpt = path
        self._wait()
        if kept:
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :])
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            for outdated in kept[: -self.max_keep_ckpts]:
                self._remove_saved(runner, self._path_of(outdated))

    def _init_rule(self, rules: list[str | None], key_indicators: list[str]) -> None:
        if len(rules) == 1:
            rules = rules * len(key_indicators)
        derived = [
            rule if key == 'auto' else best_rule(key, rule)
            for rule, key in zip(rules, key_indicators, strict=True)
        ]
        super()._init_rule(derived, key_indicators)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        try:
            if 'auto' in self.key_indicators:
                self._init_rule(self.rules, [next(iter(metrics))])
            if missing := [key for key in self.key_indicators if key not in metrics]:
                raise InputError(
                    f'default_hooks.checkpoint.save_best={missing[0]!r} is no score of '
                    f'this validation, which has {", ".join(metrics)}. Take one of '
                    'those, or None.'
                )
        except InputError as error:
            raise InputError(f'{error} {save_to_stop(runner)}') from error
        unit = 'epoch' if self.by_epoch else 'iter'
        step = runner.epoch if self.by_epoch else runner.iter
        improved = [
            key
            for key in self.key_indicators
            if self._is_best(runner, key, metrics[key])
            and self._save_best(runner, key, metrics[key], step, unit)
        ]
        # So that the checkpoint to resume from knows of it.
        if improved and self.last_ckpt is not None:
            meta = self._meta(runner, runner.epoch, runner.iter, validation_due=False)
            self._save_checkpoint_with_step(runner, step, meta)

    def _is_best(self, runner: Runner, key: str, score: float | None) -> bool:
        rule = self.rules[self.key_indicators.index(key)]
        best = runner.message_hub.get_info(
            self._info('best_score', key), self.init_value_map[rule]
        )
        return score is not None and self.is_better_than[key](score, best)

    def _save_best(
        self, runner: Runner, key: str, score: float, step: int, unit: str
    ) -> bool:
        name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        path = self.file_backend.join_path(self.out_dir, name)
        hub = runner.message_hub
        before = dict(hub.runtime_info)
        hub.update_info(self._info('best_score', key), score)
        hub.update_info(self._info('best_ckpt', key), path)

        def save() -> None:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=False,
                save_param_scheduler=False,
                meta=dict(epoch=runner.epoch, iter=runner.iter),
                by_epoch=False,
                backend_args=self.backend_args,
            )

        if error := self._write(runner, save):
            _take_back(hub, before)
            runner.logger.warning(
                f'{error.path} could not be written: {error.reason}. The best '
                'checkpoint stays the one that there is, and the next better one '
                'takes its place.'
            )
            return False
        runner.logger.info(
            f'The best checkpoint with {score:0.4f} {key} at {step} {unit} is saved to '
            f'{name}.'
        )
        old = before.get(self._info('best_ckpt', key))
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path
        if old and (old := self._here(old)) != path:
            self._remove_saved(runner, old)
        return True

    def _path_of(self, step: int) -> str:
        return self._here(self.filename_tmpl.format(step))

    def _here(self, path: str) -> str:
        """Name a file in this folder: a path may be that of a run this is a copy of."""
        return self.file_backend.join_path(self.out_dir, Path(path).name)

    @property
    def _is_local(self) -> bool:
        return '://' not in str(self.out_dir) and not (
            self.backend_args or self.file_client_args
        )

    def _info(self, what: str, key: str) -> str:
        """Name what MMEngine keeps under ``runner.message_hub``."""
        return what if len(self.key_indicators) == 1 else f'{what}_{key}'

    def _meta(
        self, runner: Runner, epoch: int, iteration: int, *, validation_due: bool
    ) -> dict:
        steps = len(runner.train_dataloader)
        return Place(epoch, iteration, validation_due, steps)._asdict()

    def _write(
        self, runner: Runner, save: Callable[[], None]
    ) -> CheckpointNotWritten | None:
        """Save, on the main process; make room if there is none."""
        if not is_main_process():
            return None
        while True:
            try:
                save()
            except CheckpointNotWritten as error:
                if error.lacks is not None and self._make_room(runner, error.lacks):
                    continue
                return error
            return None

    def _point_at(self, runner: Runner, path: str | Path) -> None:
        """Name a checkpoint in ``last_checkpoint``; it is no worse without."""
        if not is_main_process():
            return
        try:
            set_last(runner.work_dir, path)
        except CheckpointNotWritten as error:
            with suppress(OSError):  # or --resume would go on from an older one
                forget_last(runner.work_dir)
            runner.logger.warning(
                f'{error.path} could not be written: {error.reason}. {path} is whole; '
                f'go on from it with --resume {path}.'
            )

    def _try_later(self, runner: Runner, error: CheckpointNotWritten) -> None:
        again = ''
        if self.interval_minutes is not None:
            self._due = time.monotonic() + _RETRY
            again = ' It is tried again in a minute.'
        runner.logger.warning(
            f'{error.path} could not be written: {error.reason}. The run goes on, and '
            f'older checkpoints are as they were.{again}'
        )

    def _wait(self) -> None:
        if self.interval_minutes is not None:
            self._due = time.monotonic() + 60 * self.interval_minutes

    # --- Removing -----------------------------------------------------------------

    def _remove_by_time(self, runner: Runner) -> None:
        """Remove what is too many of the checkpoints by time, and what they needed."""
        try:
            for path in self._oldest_first(runner)[: -self.max_keep_by_time]:
                self._remove(runner, path)
            frozen.remove_unused(
                # Somebody may have copied one under a name of their own.
                [p for p in self._folder.glob('*.pth') if not frozen.is_one(p)],
                self._folder,
                run=self._run,
                keep=self._note['file'] if self._note else '',
            )
        except OSError as error:
            _warn_of_rest(runner, error)

    def _make_room(self, runner: Runner, lacks: int) -> bool:
        """Give up the oldest of several checkpoints by time, where that is of use.

        Returns:
            Whether it has gone.
        """
        try:
            spare = self._oldest_first(runner)[:-1]
            if not spare or sum(path.stat().st_size for path in spare) < lacks:
                return False
        except OSError as error:
            _warn_of_rest(runner, error)
            return False
        runner.logger.info(f'{spare[0]} is given up: a newer one needs the room.')
        return self._remove(runner, spare[0])

    def _oldest_first(self, runner: Runner) -> list[Path]:
        # By the clock, which may have been put back; the last ones are last anyway.
        last = {self._just_saved}
        if name := last_of(runner.work_dir):
            last.add(self._folder / Path(name).name)
        return sorted(self._by_time(), key=lambda p: (p in last, p.stat().st_mtime_ns))

    def _by_time(self) -> list[Path]:
        # With by_epoch=False those of interval have such names: they are the user's.
        if not self._has_by_time:
            return []
        return [path for path in by_time(self._folder) if self._run.owns(path)]

    def _remove(self, runner: Runner, path: Path) -> bool:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _warn_of_rest(runner, error)
            return False
        return True

    def _remove_saved(self, runner: Runner, path: str) -> None:
        """Remove what may lie on another backend."""
        if not is_main_process():
            return
        try:
            if self.file_backend.isfile(path) and (
                not self._is_local or self._run.owns(Path(path))
            ):
                self.file_backend.remove(path)
        except OSError as error:
            _warn_of_rest(runner, error)


def save_now(runner: Runner) -> Path | None:
    """Save a checkpoint by time with the run's ``CheckpointHook``, if it has one.

    To be called as :meth:`CheckpointHook.save_now`.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            return hook.save_now(runner)
    return None


def save_to_stop(runner: Runner) -> str:
    """Save as :func:`save_now`, and return a sentence that tells where it is."""
    path = save_now(runner)
    if path is None:
        return f'Its checkpoints are in {runner.work_dir}.'
    return f'Its state is in {path}.'


def _take_back(hub: MessageHub, infos: dict) -> None:
    hub.runtime_info.clear()
    hub.runtime_info.update(infos)


def _warn_of_rest(runner: Runner, error: OSError) -> None:
    runner.logger.warning(
        f'The old file {error.filename} could not be removed: '
        f'{error.strerror or error}. Delete it when you can.'
    )
