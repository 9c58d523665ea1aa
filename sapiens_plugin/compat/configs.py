"""Configs: their texts, formatted once, and ``~`` in their paths."""

from functools import cache, wraps
from typing import Any

from sapiens_plugin.core.utils.home import expand_texts


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
