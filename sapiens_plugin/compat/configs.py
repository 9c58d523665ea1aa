"""Configs: their texts, formatted once; ``~`` in their paths; hooks turned off."""

from functools import cache, wraps
from typing import Any

from sapiens_plugin.core.utils.home import expand_texts
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.reader import hook_faults


@cache
def format_configs_once() -> None:
    """Format the text of a config once, not for every checkpoint.

    Symptom:
        A checkpoint of the smallest model takes a second, and a run's start three.

    Cause:
        ``Config.pretty_text`` has yapf format the whole config each time. ``Runner``
        asks for it three times, and then for every checkpoint's meta.

    Cure:
        What a text was made into is remembered.
    """
    from mmengine.config import config

    format_code, texts = config.FormatCode, {}

    def format_once(text: str, **style: Any) -> tuple[str, bool]:
        if text not in texts:
            texts.clear()  # a run has one config
            texts[text] = format_code(text, **style)
        return texts[text]

    config.FormatCode = format_once


@cache
def expand_home_in_configs() -> None:
    """Take ``~`` in the paths of a config for the home directory.

    Symptom:
        ``work_dir='~/runs'`` makes a folder that is named ``~``.

    Cause:
        MMEngine and MMPose open and join paths as they are written.

    Cure:
        ``Runner.from_cfg`` puts the home directory in its place.
    """
    from mmengine.runner import Runner

    from_cfg = Runner.from_cfg.__func__

    @wraps(from_cfg)
    def from_expanded(cls: type, cfg: Any) -> Any:
        expand_texts(getattr(cfg, '_cfg_dict', cfg))
        return from_cfg(cls, cfg)

    Runner.from_cfg = classmethod(from_expanded)


@cache
def let_none_turn_hooks_off() -> None:
    """Leave out a hook that a config sets to None, and refuse one that stands twice.

    Symptom:
        ``default_hooks.pictures=None`` ends in an AssertionError.

    Cause:
        ``Runner.register_default_hooks`` takes None for the names of MMEngine's own
        hooks alone.

    Cure:
        Other hooks that are None are not handed over to it.
    """
    from mmengine.runner import Runner

    register_hooks = Runner.register_hooks
    own = ('runtime_info', 'timer', 'sampler_seed')
    own += ('logger', 'param_scheduler', 'checkpoint')

    @wraps(register_hooks)
    def register_some(
        self: Runner, default_hooks: Any = None, custom_hooks: Any = None
    ) -> None:
        for fault in hook_faults(
            dict(default_hooks=default_hooks, custom_hooks=custom_hooks)
        ):
            raise InputError(fault)
        kept = {
            name: hook
            for name, hook in (default_hooks or {}).items()
            if hook is not None or name in own
        }
        register_hooks(self, kept, custom_hooks)

    Runner.register_hooks = register_some
