"""Amounts as a reader wants them."""

import pytest

from sapiens_plugin.workbench.planning.amounts import duration, size


@pytest.mark.parametrize(
    'count, text',
    [
        (0, '0 MiB'), (400_000, '0.4 MiB'), (31.7e6, '30 MiB'), (2**30 - 1, '1024 MiB'),
        (2**30, '1.0 GiB'), (1500 * 2**30, '1,500.0 GiB'),
    ],
)  # fmt: skip
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    'hours, text',
    [
        (9494.4, '9,494 h'), (26.41, '26.4 h'), (2, '2.00 h'), (1.9, '114 min'),
        (0.05, '3 min'), (0.02, '72.0 s'), (0.002, '7.20 s'),
    ],
)  # fmt: skip
def test_durations(hours, text):
    assert duration(hours) == text
