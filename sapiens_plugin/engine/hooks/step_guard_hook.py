"""Leave out steps that would do harm; end a run in which all would."""

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.engine.optim.guarded_optim_wrapper import GuardedOptimWrapper
from sapiens_plugin.engine.optim.step_guard import StepGuard
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS

from .checkpoint_hook import save_to_stop

# Where runner.message_hub keeps StepGuard.state: checkpoints hold it.
_STATE = 'step_guard'


@HOOKS.register_module()
class StepGuardHook(Hook):
    """Skip optimizer steps whose loss or gradient is not finite, or whose loss is odd.

    A skipped step changes no weight; schedules go on. The log names its images. Where
    all steps are good, training has the bits of training without this hook. That
    float16 gradients overflow while a loss scale is looked for is no fault.

    Args:
        max_skips: Skipped steps in a row that end the run, with a checkpoint.
        spike_factor: Skip a step whose loss is more than so many times the median of
            the last ``window`` steps taken; None takes them all.
        window: Steps that the median is of; before there are as many, none is skipped
            for its loss.

    Raises:
        InputError: An argument is out of its range.
    """

    # After all hooks that belong to an iteration: the checkpoint must hold their part.
    priority = 'LOWEST'

    def __init__(
        self,
        *,
        max_skips: int = 20,
        spike_factor: float | None = 10.0,
        window: int = 100,
    ):
        for name, value in dict(max_skips=max_skips, window=window).items():
            if value < 1:
                raise InputError(f'StepGuardHook: {name}={value} should be 1 or more.')
        if spike_factor is not None and not spike_factor > 1:
            raise InputError(
                f'StepGuardHook: spike_factor={spike_factor} should be more than 1, or '
                'None to take steps with any loss.'
            )
        self.max_skips = max_skips
        self._guard = StepGuard(spike_factor=spike_factor, window=window)
        self._is_asked = False

    @property
    def left_out(self) -> int:
        """Steps of this start that were not taken, for whatever reason."""
        return self._guard.left_out

    def before_train(self, runner: Runner) -> None:
        """Stand before the optimizer wrapper."""
        hub, guard = runner.message_hub, self._guard
        guard.state = hub.get_info(_STATE, guard.state)  # as a checkpoint had it
        if guard.state['skipped_in_a_row'] >= self.max_skips:
            guard.state['skipped_in_a_row'] = 0  # a resumed run has as many tries again
        hub.update_info(_STATE, guard.state)
        wrapper, loop = runner.optim_wrapper, runner.train_loop
        if hasattr(wrapper, 'guard'):
            wrapper.guard = guard  # it asks before its steps
            self._is_asked = True
        elif hasattr(unwrap(runner.model), 'optim_wrapper_type'):
            return  # the model will say which wrapper it needs
        elif isinstance(wrapper, OptimWrapper) and isinstance(loop, ResumableTrainLoop):
            loop.optim_wrapper = GuardedOptimWrapper(wrapper, guard)
            self._is_asked = True
        else:
            runner.logger.warning(
                'StepGuardHook does not look at the steps of this run: it needs '
                "train_cfg.type='sapiens_plugin.ResumableTrainLoop' and one optimizer "
                f'wrapper, and this job has {type(loop).__name__} and '
                f'{type(wrapper).__name__}.'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Note what the annotation file calls the images."""
        if self._is_asked:  # nobody else forgets them
            samples = data_batch['data_samples']
            names = [str(sample.get('img_id', 'unknown')) for sample in samples]
            self._guard.images.append(names)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """End a run that no longer learns.

        Raises:
            InputError: ``max_skips`` steps in a row were skipped.
        """
        state = self._guard.state
        if state['skipped_in_a_row'] < self.max_skips:
            return
        raise InputError(
            f'{self.max_skips} steps in a row were skipped, since their losses or '
            'gradients were not finite or their losses far too high: this run learns '
            f'nothing any more. {save_to_stop(runner)} The log names the images. If '
            'nothing is wrong with them, go on with clip_grad, or in float32 '
            "(without --amp; model.precision='float32' of a streamed model, or "
            "model.boundary_dtype='bfloat16' where losses were finite and gradients "
            'were not). For a lower learning rate, which --resume would not take '
            'over, begin a new run from weights that were good: --cfg-options '
            'load_from=PATH, with another --work-dir. If such losses are right, set '
            'spike_factor=None in StepGuardHook.'
        )
