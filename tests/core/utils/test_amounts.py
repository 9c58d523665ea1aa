"""Amounts as a reader wants them."""

import pytest

from sapiens_plugin.core.utils.amounts import (
    counted,
    duration,
    gigabytes,
    number,
    size,
    some,
    time_left,
)


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


@pytest.mark.parametrize(
    'seconds, text',
    [
        (0, '0 s'),
        (99.4, '99 s'),
        (99.6, '2 min'),
        (5900, '98 min'),
        (6000, '1 h 40 min'),
        (3600 * 24 - 1, '24 h 00 min'),
        (3600 * 48 + 1, '2 d 0 h'),
        (3600 * 24 * 351.2, '351 d 5 h'),
    ],
)
def test_times_to_wait_have_two_units(seconds, text):
    assert time_left(seconds) == text


@pytest.mark.parametrize(
    'count, text', [(0, '0.0 MB'), (252_907_541, '252.9 MB'), (10**9, '1.0 GB')]
)
def test_files_that_travel(count, text):
    assert gigabytes(count) == text


@pytest.mark.parametrize(
    'value, text', [(0, '0.00'), (9.5, '9.50'), (26.41, '26.4'), (9494.4, '9,494')]
)
def test_numbers(value, text):
    assert number(value) == text


def test_counts():
    assert [counted(n, 'file') for n in (0, 1, 2000)] == [
        '0 files',
        '1 file',
        '2,000 files',
    ]


def test_names():
    assert (some([]), some({'b', 'a'}), some('dcba')) == ('', 'a, b', 'a, b, c, …')
    assert some({3, 1, 2}, most=2) == '1, 2, …'
