"""Leaving a run when somebody asks for it."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.engine.utils.dist import highest_of_all
from sapiens_plugin.registry import HOOKS
from sapiens_plugin.workbench.command import Interrupted, write_nowhere

from .checkpoint_hook import save_now

_SIGNALS = ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK')
# Launchers pass on what the terminal or SLURM has sent to all processes anyway: signals
# as close as that are one. In seconds.
_SAME = 1.0
_SHOW_CURSOR = b'\x1b[?25h'


@HOOKS.register_module()
class InterruptHook(Hook):
    """Save and leave on Ctrl-C, SIGTERM or SIGHUP, between two optimizer steps.

    The first signal is noted. When the optimizer step under way is done, or the batch
    of a validation, ``CheckpointHook`` saves, and the run ends with
    :class:`~sapiens_plugin.workbench.command.Interrupted`. A second signal ends the
    process at once; a checkpoint that was being written does not get its name then, and
    no other is touched.

    Several processes leave together, whichever got the signal. With another loop than
    ``ResumableTrainLoop``, which could not go on there, signals are what they were.
    """

    # The state that is saved is what all other hooks have left of the iteration.
    priority = 'LOWEST'

    def __init__(self):
        self._process: int | None = None  # where signals are noted
        self._signum = 0
        self._noted_at = 0.0
        self._common_val_batches = 0

    def before_train(self, runner: Runner) -> None:
        """Note signals from now on, until the training ends."""
        loop = runner.train_loop
        if not isinstance(loop, ResumableTrainLoop):
            return
        self._process, self._signum = os.getpid(), 0
        loop.at_end.callback(self._rest)
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # nohup and shells keep Ctrl-C from what runs in the background.
            if number is None or signal.getsignal(number) == signal.SIG_IGN:
                continue
            loop.at_end.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, self._note)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Leave, at the end of an optimizer step, if asked to."""
        if self._process and runner.optim_wrapper.should_update():
            self._leave_if_asked(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Count the batches after which all processes can leave."""
        # Weights and their average have changed places until it is over.
        averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        batches = torch.tensor(0 if averages else len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self._common_val_batches = int(batches)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Leave a validation if asked to; it is made up for when the run goes on."""
        if self._process and batch_idx < self._common_val_batches:
            self._leave_if_asked(runner)

    def _leave_if_asked(self, runner: Runner) -> None:
        signum = highest_of_all(self._signum)
        if signum:
            saved = save_now(runner)
            runner.logger.info(
                f'{signal.Signals(signum).name}: the run ends here. --resume goes on.'
            )
            raise Interrupted(signum, saved=saved)

    def _note(self, signum: int, frame: object) -> None:
        if os.getpid() != self._process:  # a child of fork
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif not self._signum:
            if signal.Signals(signum).name == 'SIGHUP':
                # Writing to a terminal that was closed is an error.
                write_nowhere(*filter(os.isatty, (1, 2)))
            self._signum, self._noted_at = signum, time.monotonic()
            _say(
                f'{signal.Signals(signum).name}: finishing this step, then saving. '
                'Once more leaves at once.'
            )
        elif time.monotonic() - self._noted_at > _SAME:
            if sys.stdout.isatty():  # the status bar has hidden it
                os.write(1, _SHOW_CURSOR)
            _say('Leaving at once. --resume goes on from the last checkpoint.')
            os._exit(128 + signum)

    def _rest(self) -> None:
        self._process = None


def _say(text: str) -> None:
    # Not print: the signal may have come in the middle of another one.
    if is_main_process():
        with suppress(OSError):  # whoever read it may have gone
            os.write(2, f'\n{text}\n'.encode())
