"""Make sure that training starts from what was announced, and moves what it should."""

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.vit.lifting import compare_backbone, differing
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.weight_files.checkpoint import open_weights
from sapiens_plugin.core.weight_files.sampling import sample
from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.engine.utils.start import Start
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS

from .checkpoint_guard_hook import CheckpointGuardHook
from .step_guard_hook import StepGuardHook

# A step of Adam is no longer than the learning rate, and a fraction of it where
# gradients are small or change their signs.
_FRACTION = 1 / 32
_MAX_LISTED = 5


@HOOKS.register_module()
class WeightsGuardHook(Hook):
    """Stop a training that would come to nothing without a word.

    - Before the first step, weights announced in ``load_from``, or else in
      ``model.backbone.init_cfg.checkpoint``, are compared with the model's. A resumed
      run has its own.
    - Some steps after a start, a resumption or a phase switch, or when the phase ends
      before, every parameter that trains must have moved and every other one must not.
      Those whose learning rate is too small for float32 to show a step are left out.

    Up to 1024 values of each parameter are looked at.

    Args:
        steps: Optimizer steps after which parameters should have moved. Skipped ones
            do not count.

    Raises:
        InputError: ``steps`` is not positive.
    """

    def __init__(self, *, steps: int = 200):
        if steps < 1:
            raise InputError(f'WeightsGuardHook: steps={steps} should be 1 or more.')
        self.steps = steps
        self._watch: _Watch | None = None

    def before_train(self, runner: Runner) -> None:
        """Compare the weights, and note them.

        Raises:
            InputError: Weights that were announced are not in the model.
        """
        backbone = getattr(unwrap(runner.model), 'backbone', None)
        start = Start.of(runner)
        if start.path is not None and not start.resumes:
            _check_loaded(runner, Path(start.path))
        elif not start.has_loaded and isinstance(backbone, SapiensViT):
            _check_lifted(runner, backbone)
        self._watch = _Watch(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin anew where a phase does.

        Raises:
            InputError: As :meth:`after_train_iter`, of the phase before.
        """
        if self._watch.trains != _what_trains(runner):
            self._watch.check()
            self._watch = _Watch(runner)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Look whether the weights have moved, when it is time.

        Raises:
            InputError: A parameter that trains has not, or one that does not has.
        """
        if runner.optim_wrapper.should_update() and not self._watch.is_over:
            self._watch.note_rates()
            if self._watch.steps >= self.steps:
                self._watch.check()

    def after_train(self, runner: Runner) -> None:
        """Look at a phase that was shorter.

        Raises:
            InputError: As :meth:`after_train_iter`.
        """
        self._watch.check()


class _Watch:
    """What the parameters were, and how they learned since.

    Attributes:
        trains: Whether each parameter takes a gradient, by name.
        is_over: Whether they have been looked at again.
    """

    def __init__(self, runner: Runner):
        self._runner = runner
        self._first_step = _steps_taken(runner)
        self._flush()
        self._before = {
            name: sample(param) for name, param in _parameters(runner).items()
        }
        self._top_rates = [0.0] * len(self._groups)
        self.trains = _what_trains(runner)
        self.is_over = False

    @property
    def steps(self) -> int:
        """Optimizer steps taken since."""
        return _steps_taken(self._runner) - self._first_step

    def note_rates(self) -> None:
        """Note the learning rates of a step."""
        self._top_rates = [
            max(top, group['lr'])
            for top, group in zip(self._top_rates, self._groups, strict=True)
        ]

    def check(self) -> None:
        """Compare with what they are now, once.

        Raises:
            InputError: They have not done as they should.
        """
        if self.is_over:
            return
        self.is_over = True
        if not self.steps:
            return
        self._flush()
        group_of = {
            id(param): index
            for index, group in enumerate(self._groups)
            for param in group['params']
        }
        idle, astray, moved = [], [], 0
        for name, param in _parameters(self._runner).items():
            before = self._before[name]
            if not torch.equal(before, sample(param)):
                moved += 1
                if not self.trains[name]:
                    astray.append(name)
            elif self.trains[name]:
                index = group_of.get(id(param))
                if index is None or _shows(self._top_rates[index], before):
                    idle.append(name)
        if idle:
            raise InputError(
                f'{len(idle)} of {sum(self.trains.values())} parameters that train '
                f'have not moved in {self.steps} optimizer steps: {_listed(idle)}. '
                'They take no gradient from the loss, or the optimizer does not have '
                'them: a hook, a paramwise_cfg or a model of your own may detach or '
                'leave them out, or the loss is 0, as without a labelled keypoint '
                '(tools/check_dataset.py tells). Give what should not train '
                'requires_grad=False, as model.backbone.frozen_stages does.'
            )
        if astray:
            raise InputError(
                f'{len(astray)} of {len(self._before) - sum(self.trains.values())} '
                f'parameters that are frozen have moved in {self.steps} optimizer '
                f'steps: {_listed(astray)}. Something writes to them beside the '
                'optimizer, or thaws them for a time: look at custom_hooks.'
            )
        self._runner.logger.info(
            f'After {self.steps} optimizer steps {moved} tensors of parameters have '
            f'moved, and {len(self._before) - moved} have not, as they should.'
        )

    @property
    def _groups(self) -> list[dict]:
        return self._runner.optim_wrapper.optimizer.param_groups

    def _flush(self) -> None:
        optimizer = self._runner.optim_wrapper.optimizer
        if isinstance(optimizer, HostAdamW):
            optimizer.flush()


def _parameters(runner: Runner) -> dict[str, nn.Parameter]:
    return dict(unwrap(runner.model).named_parameters())


def _what_trains(runner: Runner) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in _parameters(runner).items()}


def _steps_taken(runner: Runner) -> int:
    wrapper = runner.optim_wrapper
    left_out = sum(h.left_out for h in runner.hooks if isinstance(h, StepGuardHook))
    return wrapper.inner_count // accumulation(wrapper) - left_out


def _shows(rate: float, values: Tensor) -> bool:
    """Tell whether steps at a rate change the smallest of some values."""
    smallest = values.abs().min()
    spacing = torch.nextafter(smallest, torch.full_like(smallest, torch.inf)) - smallest
    return rate * _FRACTION >= spacing.item()


def _check_loaded(runner: Runner, path: Path) -> None:
    if not path.is_file():  # an address of which MMEngine keeps a copy
        runner.logger.warning(
            f'load_from={path} is no file of this computer: whether its weights are in '
            'the model was not looked at.'
        )
        return
    file = {
        name.removeprefix('module.'): tensor
        for name, tensor in open_weights(path).items()
        if not name.startswith(CheckpointGuardHook.IGNORED)
    }
    state = unwrap(runner.model).state_dict()
    strange = sorted(file.keys() - state.keys())
    wrong = differing(state, {n: t for n, t in file.items() if n in state})
    _report(runner, 'load_from', path, len(file), strange + wrong)


def _check_lifted(runner: Runner, backbone: SapiensViT) -> None:
    if backbone.init_cfg is not None:
        path = Path(backbone.init_cfg['checkpoint'])
        count, wrong = compare_backbone(backbone, path)
        _report(runner, 'model.backbone.init_cfg', path, count, wrong)


def _report(
    runner: Runner, place: str, path: Path, count: int, wrong: list[str]
) -> None:
    if wrong:
        raise InputError(
            f'{len(wrong)} of {count} tensors of {path} are not in the model, though '
            f'{place} announces them: {_listed(wrong)}. Something has replaced them '
            'since they were loaded, or has kept them from being loaded, and training '
            'would start from other weights: look at custom_hooks and at modules of '
            f'your own. To start from random weights, leave {place} out.'
        )
    runner.logger.info(f'{count} tensors of {path} are in the model.')


def _listed(names: list[str]) -> str:
    return ', '.join(names[:_MAX_LISTED]) + (', …' if len(names) > _MAX_LISTED else '')
