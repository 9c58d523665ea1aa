"""Hooks that a run can do without."""

from collections.abc import Callable
from functools import wraps

from mmengine.hooks import Hook
from mmengine.runner import Runner


def only_warns(method: Callable) -> Callable:
    """Have a method of a hook warn where it fails, once a run, and not end the run.

    Data sets, metrics and disks are of many kinds; a picture is worth no training.
    """

    @wraps(method)
    def call(self: Hook, runner: Runner, *args, **kwargs) -> None:
        try:
            method(self, runner, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  (whatever it is)
            if not vars(self).get('_has_warned'):
                self._has_warned = True
                runner.logger.warning(
                    f'{type(self).__name__} has failed, and the run goes on: '
                    f'{type(error).__name__}: {error}. It is tried again the next time.'
                )

    return call
