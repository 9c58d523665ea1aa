import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.setup_check.setup_checks import (
    check_image_directory,
    check_json_file,
    check_writable,
)


@pytest.mark.parametrize('text', ['{"a": 1}', '[1]\n\n', '\ufeff {}'])
def test_whole_json_passes(text, tmp_path):
    (tmp_path / 'a.json').write_text(text, encoding='utf-8')
    check_json_file(tmp_path / 'a.json', what='file', way_out='')


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is not JSON'),
        ('<html>', 'is not JSON'),
        ('{"images": [{"id": 1', 'cut short after 20 bytes'),
        ('[{"a": 1}', 'cut short'),
        (None, 'does not exist'),
    ],
)
def test_other_files_are_refused_with_the_way_out(text, message, tmp_path):
    if text is not None:
        (tmp_path / 'a.json').write_text(text, encoding='utf-8')
    with pytest.raises(
        InputError, match=rf'(?s)annotation file .*{message}.*Do this\.'
    ):
        check_json_file(tmp_path / 'a.json', what='annotation file', way_out='Do this.')


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
