"""Two phases in one run: the head alone first, then everything."""

import gc

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class PhaseSwitchHook(Hook):
    """Train the head on a frozen backbone for some epochs, then train everything.

    In phase 1 the backbone is in eval mode and no gradient is computed through it. In
    phase 2 all of it trains that ``frozen_stages`` does not hold. The phase follows
    from the epoch alone, so a resumed run lands in the right one.

    - Parameters are frozen after the optimizer is built: it holds them from the
      start, with their own learning rates, and they gather no state in phase 1.
    - Gradients that accumulation left unfinished at the switch are dropped, as
      resuming at that epoch would.
    - A model wrapped for several processes is wrapped anew, since
      ``DistributedDataParallel`` fixes what it synchronises when it is built.

    Args:
        warmup_epochs: Length of phase 1; 0 trains everything from the start.

    Raises:
        InputError: ``warmup_epochs`` is negative.
    """

    # Before hooks that look at the model, such as EMA and checkpoints.
    priority = 'VERY_HIGH'

    def __init__(self, *, warmup_epochs: int = 10):
        if warmup_epochs < 0:
            raise InputError(
                f'PhaseSwitchHook: warmup_epochs={warmup_epochs} is negative; 0 '
                'trains everything from the start.'
            )
        self.warmup_epochs = warmup_epochs
        self._in_warmup: bool | None = None

    def before_train(self, runner: Runner) -> None:
        """Enter the phase of the epoch that the run starts or resumes in.

        Raises:
            InputError: The loop counts no epochs, the model has no backbone that can
                be frozen, or the optimizer lacks parameters that phase 2 trains.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise InputError(
                'PhaseSwitchHook counts epochs, and this job trains by iterations '
                f'({type(runner.train_loop).__name__}). Use train_cfg=dict('
                "type='sapiens_plugin.ResumableTrainLoop', max_epochs=...) or remove "
                'the hook.'
            )
        backbone = getattr(unwrap(runner.model), 'backbone', None)
        if not hasattr(backbone, 'set_frozen'):
            raise InputError(
                'PhaseSwitchHook freezes backbones of type '
                f'sapiens_plugin.SapiensBackbone, not {type(backbone).__name__}.'
            )
        self._check_optimizer(runner)
        if self.warmup_epochs >= runner.max_epochs:
            runner.logger.warning(
                'The backbone will not train at all: the warm-up of '
                f'{self.warmup_epochs} epochs takes all {runner.max_epochs}.'
            )
        self._enter_phase(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch when the warm-up is over."""
        if self._in_warmup and runner.epoch >= self.warmup_epochs:
            wrapper = runner.optim_wrapper
            unfinished = wrapper.inner_count % accumulation(wrapper)
            wrapper.zero_grad()
            if unfinished:
                runner.logger.info(
                    f'Phase switch: gradients of {unfinished} micro-batches that '
                    'filled no optimizer step were dropped.'
                )
            self._enter_phase(runner)

    def _enter_phase(self, runner: Runner) -> None:
        self._in_warmup = runner.epoch < self.warmup_epochs
        model = unwrap(runner.model)
        model.backbone.set_frozen(self._in_warmup)
        if is_model_wrapper(runner.model):
            # The old wrapper keeps buckets as large as the gradients, in a cycle of
            # references that would outlive it.
            runner.model = None
            gc.collect()
            runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), model)

        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        phase = '1 (head alone)' if self._in_warmup else '2 (full fine-tuning)'
        runner.logger.info(
            f'Phase {phase} from epoch {runner.epoch + 1}: {trainable:,} of {total:,} '
            'parameters train.'
        )

    def _check_optimizer(self, runner: Runner) -> None:
        held = {
            id(param)
            for group in runner.optim_wrapper.optimizer.param_groups
            for param in group['params']
        }
        model = unwrap(runner.model)
        model.backbone.set_frozen(False)
        missing = [
            name
            for name, param in model.named_parameters()
            if param.requires_grad and id(param) not in held
        ]
        if missing:
            raise InputError(
                f'{len(missing)} parameters that phase 2 should train are not in the '
                f'optimizer ({missing[0]} and on): they would stay as they are '
                'without a word. Something froze them before the optimizer was '
                'built; use frozen_stages for what should never train.'
            )
