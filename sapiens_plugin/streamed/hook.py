"""What a streamed model needs of a run."""

import psutil
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from sapiens_plugin.core.streaming.memory import (
    HOST_RESERVE,
    host_memory,
    narrower_setting,
)
from sapiens_plugin.core.utils.amounts import size
from sapiens_plugin.core.utils.unforked import set_forked
from sapiens_plugin.engine.utils.start import Start
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS

from .optim_wrapper import StreamedOptimWrapper
from .pose_estimator import StreamedTopdownPoseEstimator

# Where a checkpoint's meta keeps what the model has decided.
_DECISIONS = 'streaming'


@HOOKS.register_module()
class StreamingHook(Hook):
    """Refuse what does not go with a streamed model; keep its weights up to date.

    - What would read weights behind the model's back, or compile it, is refused by
      name, and so is a job that this computer's memory cannot hold.
    - The optimizer gets the moment type of the model's ``mode``.
    - Processes that are forked while it trains do not have the weights: a loader's
      worker would keep a copy of each state it has seen.
    - What a run has decided (precision, layout) is kept in its checkpoints.
    - Updates that wait for their block's next visit are made before anything else at
      an epoch's end sees the weights.
    """

    # Before hooks that look at the model, such as checkpoints, or freeze it.
    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        """Check the job, before any weights are loaded.

        Raises:
            InputError: The model is not a streamed one, a part of the job does not go
                with it, or the host's memory is too small.
        """
        model = unwrap(runner.model)
        if not isinstance(model, StreamedTopdownPoseEstimator):
            raise InputError(
                'StreamingHook is there for models of type '
                'sapiens_plugin.StreamedTopdownPoseEstimator, not '
                f'{type(model).__name__}. Set default_hooks.streaming=None.'
            )
        if not isinstance(runner.optim_wrapper, StreamedOptimWrapper):
            return  # a test; or train_step will say what it needs
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise InputError(
                'EMAHook cannot work with a streamed model: its average would be a '
                'second set of weights in host memory, taken while updates are still '
                'to come. Remove it from custom_hooks.'
            )
        for name in ('compile', 'activation_checkpointing'):
            if runner.cfg.get(name):
                raise InputError(
                    f'{name}={runner.cfg[name]} cannot work with a streamed model, '
                    'which runs its own layers in its own order. Leave it out.'
                )
        runner.optim_wrapper.optimizer.moment_dtype = model.moment_dtype
        if not Start.of(runner).resumes:  # or the checkpoint says what has been decided
            self._check_memory(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Decide as the run that is resumed, and check the memory for it.

        Raises:
            InputError: The GPU's or the host's memory is too small.
        """
        is_training = isinstance(runner.optim_wrapper, StreamedOptimWrapper)
        if is_training and Start.of(runner).resumes:
            if decisions := checkpoint['meta'].get(_DECISIONS):
                unwrap(runner.model).go_on_with(decisions)
            self._check_memory(runner)

    def before_train(self, runner: Runner) -> None:
        """Check the memory of a job that found nothing to resume, before workers start.

        Raises:
            InputError: The GPU's or the host's memory is too small.
        """
        start = Start.of(runner)
        if start.resumes and not start.has_loaded:
            self._check_memory(runner)
        set_forked(unwrap(runner.model).parameters(), forked=False)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what has been decided."""
        checkpoint['meta'][_DECISIONS] = unwrap(runner.model).decisions

    def after_train_epoch(self, runner: Runner) -> None:
        """Make the updates that are still to come."""
        runner.optim_wrapper.optimizer.flush()

    def after_train(self, runner: Runner) -> None:
        """Make the updates that are still to come."""
        runner.optim_wrapper.optimizer.flush()
        set_forked(unwrap(runner.model).parameters(), forked=True)

    def _check_memory(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        # All of phase 2 trains now: what fits today fits after the warm-up, too.
        boundaries = model.check_budget(runner.train_dataloader.batch_size)
        self._check_host_memory(model, boundaries)

    def _check_host_memory(
        self, model: StreamedTopdownPoseEstimator, boundary_bytes: int
    ) -> None:
        account = dict(
            num_params=sum(p.numel() for p in model.parameters()),
            num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            gradient_dtype=model.gradient_dtype,
            moment_dtype=model.moment_dtype,
            boundary_bytes=boundary_bytes,
        )
        need = host_memory(**account)
        # The weights are there already, with random values.
        free = psutil.virtual_memory().available + need.weights - HOST_RESERVE
        if need.total <= free:
            return
        if setting := narrower_setting(free, **account):
            way_out = 'Set model.{}={!r}, which fits.'.format(*setting)
        else:
            way_out = (
                "Not even model.mode='compact' fits. Close other programs, train fewer "
                'layers (model.backbone.frozen_stages) or a smaller model.'
            )
        raise InputError(
            f'Training needs {size(need.total)} of host memory beside the program '
            f'itself: {need}. Of that, {size(free)} can be had. {way_out}'
        )
