"""Schedules that move when the optimizer moves."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.runner import Runner

from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.jobs.schedule import schedule_notes
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class OptimStepParamSchedulerHook(ParamSchedulerHook):
    """Step iteration-based schedulers when the optimizer has stepped, not in between.

    Stock MMEngine steps them after every micro-batch, so under gradient accumulation
    the optimizer meets a learning rate from somewhere inside its own step. Here the
    schedule catches up right after each update: step k of the optimizer sees the
    value that k batches of the full size would have reached.
    """

    def before_train(self, runner: Runner) -> None:
        """Warn of schedules that do not fit the epochs of the job."""
        for note in schedule_notes(runner.cfg, len(runner.train_dataloader)):
            runner.logger.warning(note)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Catch up with the micro-batches of the step just made."""
        wrapper = runner.optim_wrapper
        if not wrapper.should_update():
            return
        counts = accumulation(wrapper)
        for _ in range(wrapper.inner_count % counts or counts):
            super().after_train_iter(runner, *args, **kwargs)
