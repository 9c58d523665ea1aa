"""What the disk refuses."""

import errno

import pytest

from sapiens_plugin.core.utils.free_space import is_full_disk


@pytest.mark.parametrize(
    'number, full',
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False), (None, False)],
)
def test_a_full_disk_is_told_from_other_errors(number, full):
    assert is_full_disk(OSError(number, 'told') if number else OSError()) is full
