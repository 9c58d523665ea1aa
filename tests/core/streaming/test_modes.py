"""What a streamed model may be set to."""

import pytest

from sapiens_plugin.core.streaming.modes import (
    CHOICES,
    MODES,
    check_choice,
    read_streaming,
)
from sapiens_plugin.errors import InputError


def test_a_mode_sets_what_is_not_given():
    assert vars(read_streaming()) == dict(MODES['compact'], vram_budget=None)
    given = read_streaming(mode='exact', moment_dtype='int8', boundary_dtype=None)
    assert vars(given) == dict(MODES['exact'], moment_dtype='int8', vram_budget=None)
    assert all(
        MODES[mode][name] in CHOICES[name] for mode in MODES for name in MODES[mode]
    )


@pytest.mark.parametrize(
    'setting',
    [
        dict(mode='tight'),
        dict(boundary_dtype='int8'),
        dict(gradient_dtype='float16'),
        dict(moment_dtype='float16'),
        dict(precision='int4'),
        dict(on_oom='wait'),
        dict(vram_budget='3GB'),
        dict(vram_budget=0),
    ],
)
def test_what_cannot_be_is_named_with_its_place(setting):
    ((name, value),) = setting.items()
    with pytest.raises(InputError, match=f'model.{name}={value!r} is not'):
        read_streaming(**setting)


def test_a_setting_alone_has_no_place():
    with pytest.raises(InputError, match=r'^precision=8 is not one of auto, float32'):
        check_choice('precision', 8)
