"""Flip testing where it is worth its time."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class FlipTestHook(Hook):
    """Average with the mirrored image in ``tools/test.py``, not while training.

    Flip testing runs the backbone twice a person. While training, AP is there to
    choose a checkpoint, for which half the time will do.

    Args:
        val: Flip in validation runs.
        test: Flip in test runs.
    """

    def __init__(self, *, val: bool = False, test: bool = True):
        self.val = val
        self.test = test

    def before_val(self, runner: Runner) -> None:
        """Set the model up for validation."""
        self._set(runner, self.val)

    def before_test(self, runner: Runner) -> None:
        """Set the model up for testing."""
        self._set(runner, self.test)

    def _set(self, runner: Runner, flip: bool) -> None:
        unwrap(runner.model).test_cfg['flip_test'] = flip
