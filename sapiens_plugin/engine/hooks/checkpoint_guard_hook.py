"""Refuse checkpoints that would load, or resume, in part."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.engine.utils.start import Start
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Fail when a checkpoint does not fill the whole model, or cannot be resumed.

    Stock MMEngine warns and goes on with random weights in the gaps: a test then
    reports an AP near zero, and a resumed run starts over without a word. It also
    resumes without the optimizer's state where there is none, and keeps the
    checkpoint's schedules when the config's have changed.
    """

    # Where a checkpoint may differ: input normalisation is a matter of the config.
    IGNORED = 'data_preprocessor.'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes before anything is copied.

        Raises:
            InputError: A name is missing, left over or of another shape; or the run is
                to be resumed, and the file holds weights alone.
        """
        if Start.of(runner).resumes:
            self._check_resume(runner, checkpoint)
        state = unwrap(runner.model).state_dict()
        own = {name: tuple(value.shape) for name, value in state.items()}
        weights = checkpoint.get('state_dict', checkpoint)
        loaded = {
            name.removeprefix('module.'): tuple(value.shape)
            for name, value in weights.items()
            if hasattr(value, 'shape') and not name.startswith(self.IGNORED)
        }
        wrong = sorted(
            name for name in own.keys() | loaded.keys()
            if own.get(name) != loaded.get(name) and not name.startswith(self.IGNORED)
        )  # fmt: skip
        if wrong:
            name = wrong[0]
            raise InputError(
                f'The checkpoint does not fit the model of this config: {len(wrong)} '
                f'of {len(own)} parameters differ, the first is {name} '
                f'({_describe(loaded.get(name))} in the file, '
                f'{_describe(own.get(name))} in the model). Use the config it was '
                'trained with. To take over its backbone alone, for another head or '
                'input size, name the file in model.backbone.init_cfg.checkpoint.'
            )

    def _check_resume(self, runner: Runner, checkpoint: dict) -> None:
        if not {'meta', 'optimizer'} <= checkpoint.keys():
            raise InputError(
                'The checkpoint holds weights alone, as best_*.pth do; no run can be '
                'resumed from it. Resume from an epoch_N.pth, or start anew from '
                'these weights with --cfg-options load_from=PATH and without --resume.'
            )
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        moments = checkpoint['optimizer'].get('state', {}).values()
        if any('exp_avg_int8' in state for state in moments) and not isinstance(
            optimizer, HostAdamW
        ):
            raise InputError(
                "The checkpoint's optimizer state is that of a streamed run in compact "
                'mode: its moments are int8, which no other optimizer can read. Resume '
                'it with its own config, or start anew from its weights with '
                '--cfg-options load_from=PATH and without --resume.'
            )
        saved = [_settings(state) for state in checkpoint.get('param_schedulers', [])]
        own = [_settings(s.state_dict()) for s in runner.param_schedulers or []]
        saved += [_steps(g) for g in checkpoint['optimizer'].get('param_groups', [])]
        own += [_steps(g) for g in getattr(optimizer, 'param_groups', [])]
        if saved != own:
            runner.logger.warning(
                'The optimizer (learning rate, weight_decay, betas, eps) or the '
                'param_scheduler of the config differs from that of the checkpoint. A '
                "resumed run goes on with the checkpoint's."
            )


def _settings(scheduler_state: dict) -> dict:
    """Leave out what changes as a scheduler steps."""
    moving = ('last_step', '_global_step', '_last_value', 'verbose')
    return {k: v for k, v in scheduler_state.items() if k not in moving}


def _steps(param_group: dict) -> dict:
    """Pick what decides a step and does not move."""
    return {name: param_group.get(name) for name in ('weight_decay', 'betas', 'eps')}


def _describe(shape: tuple | None) -> str:
    return 'absent' if shape is None else '×'.join(map(str, shape)) or 'a scalar'
