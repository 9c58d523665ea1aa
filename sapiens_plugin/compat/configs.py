"""Configs: their texts, formatted once."""

from functools import cache
from typing import Any


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
