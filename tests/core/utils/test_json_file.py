import json

import pytest

from sapiens_plugin.core.utils.json_file import check_json_file, json_errors, load_json
from sapiens_plugin.core.utils.json_stream import read_lists
from sapiens_plugin.errors import InputError


@pytest.mark.parametrize('text', ['{"a": 1}', '[1]\n\n', '\n {}'])
def test_whole_json_passes(text, tmp_path):
    path = tmp_path / 'a.json'
    path.write_text(text, encoding='utf-8')
    check_json_file(path, what='file', way_out='')
    assert load_json(path) == json.loads(text)


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is not JSON'),
        ('<html>', 'is not JSON'),
        ('\ufeff{}', r'without a byte order mark \(BOM\)'),
        ('{"images": [{"id": 1', 'cut short after 20 bytes'),
        ('[{"a": 1}', 'cut short'),
        (None, 'does not exist'),
    ],
)
def test_other_files_are_refused_with_the_way_out(text, message, tmp_path):
    path = tmp_path / 'a.json'
    if text is not None:
        path.write_text(text, encoding='utf-8')
    with pytest.raises(
        InputError, match=rf'(?s)annotation file .*{message}.*Do this\.'
    ):
        check_json_file(path, what='annotation file', way_out='Do this.')
    with pytest.raises(InputError, match=r'a\.json (is not JSON|cannot be read)'):
        load_json(path)


@pytest.mark.parametrize(
    'content', ['{"ä": 1}'.encode('latin-1'), b'[' * 100_000], ids=['latin-1', 'deep']
)
@pytest.mark.parametrize('read', [load_json, lambda path: [*read_lists(path, 'ä')]])
def test_what_cannot_be_decoded_is_told_with_the_file(read, content, tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'a\.json .*Fetch or export it again'):
        read(path)


def test_what_was_said_of_the_file_already_stays(tmp_path):
    with pytest.raises(InputError, match=r'^Take another\.$'):
        with json_errors(tmp_path):
            raise InputError('Take another.')
