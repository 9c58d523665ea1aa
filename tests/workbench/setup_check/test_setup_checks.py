import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.setup_check.setup_checks import (
    check_image_directory,
    check_writable,
)


def test_image_directories_must_hold_something(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        check_image_directory(tmp_path / 'images', way_out='')
    (tmp_path / 'images').mkdir()
    with pytest.raises(InputError, match='is empty'):
        check_image_directory(tmp_path / 'images', way_out='')
    (tmp_path / 'images' / 'a.jpg').touch()
    check_image_directory(tmp_path / 'images', way_out='')


def test_a_writable_directory_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / 'a' / 'b', way_out='')
    assert list((tmp_path / 'a' / 'b').iterdir()) == []
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=r'cannot be written: .+ Elsewhere\.'):
        check_writable(tmp_path / 'file' / 'b', way_out='Elsewhere.')
